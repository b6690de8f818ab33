//! The names that a family of checkpoints uses for a network's parameters.

use std::collections::HashMap;

/// Maps canonical parameter names to a checkpoint's names.
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    /// By prefix: the node's name; the parameter's own name (weight, bias, ...) stays.
    prefixes: HashMap<String, String>,
}

impl KeyMap {
    /// Every name as it is.
    pub fn identity() -> Self {
        Self::default()
    }

    /// Checkpoint names for nodes; nodes that are not listed keep their name.
    pub fn of_nodes(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { prefixes: pairs.into_iter().collect() }
    }

    /// The checkpoint's name for a parameter.
    pub fn checkpoint_name(&self, parameter: &str) -> String {
        match parameter.rsplit_once('.') {
            Some((node, own)) => match self.prefixes.get(node) {
                Some(prefix) => format!("{prefix}.{own}"),
                None => parameter.into(),
            },
            None => parameter.into(),
        }
    }
}
