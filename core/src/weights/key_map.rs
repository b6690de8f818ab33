//! Maps the names of a network's parameters to those that a family of checkpoints uses.

use std::collections::HashMap;

/// Maps canonical parameter names to a checkpoint's names.
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    /// Prefixes by node name. The last part of a parameter's name (weight, bias, ...) does not change.
    prefixes: HashMap<String, String>,
}

impl KeyMap {
    /// Keeps every name.
    pub fn identity() -> Self {
        Self::default()
    }

    /// Maps the names of nodes; nodes that are not listed keep their name.
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
