//! The tensors in a pickle, with the paths by which a program would reach them.

use super::value::{Id, TensorRef, Value, Values};
use std::collections::HashSet;

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry<T> {
    /// The keys that lead to the tensor, joined by dots.
    pub path: String,
    /// The dictionary that holds it: entries of one dictionary have the same number.
    pub container: usize,
    /// Whether it is a parameter of a pickled module, and not an item of a dictionary of parameters.
    pub in_module: bool,
    /// Where the tensor is.
    pub tensor: T,
}

/// Parts of a path that wrappers and modules add and that no network has in its names.
const TRANSPARENT: [&str; 6] =
    ["_modules", "_parameters", "_buffers", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Deeper values are not looked at. It bounds the length of paths.
const MAX_DEPTH: usize = 64;

/// Removes the parts of a path that are not part of a network's names.
pub(super) fn plain(path: &str) -> String {
    path.split('.').filter(|part| !TRANSPARENT.contains(part)).collect::<Vec<_>>().join(".")
}

/// All tensors below `root` in the order of the pickle. A value that is reached in several ways counts once.
pub(super) fn entries(values: &Values, root: Id) -> Vec<Entry<TensorRef>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    // The last one comes first, so that the order is that of the pickle.
    let mut todo = vec![Visit { id: root, path: String::new(), container: root, in_module: false, depth: 0 }];
    while let Some(Visit { id, path, container, in_module, depth }) = todo.pop() {
        if let Value::Tensor(tensor) = values.get(id) {
            found.push(Entry { path: plain(&path), container, in_module, tensor: tensor.clone() });
            continue;
        }
        if depth == MAX_DEPTH || !seen.insert(id) {
            continue;
        }
        let below = |key: String, child: Id| {
            let module = in_module || key == "_modules" || key == "_parameters" || key == "_buffers";
            let path = if path.is_empty() { key } else { format!("{path}.{key}") };
            Visit { id: child, path, container: id, in_module: module, depth: depth + 1 }
        };
        let start = todo.len();
        match values.get(id) {
            Value::Sequence(elements) => {
                todo.extend(elements.iter().enumerate().map(|(i, child)| below(i.to_string(), *child)));
            }
            Value::Map { items, state } => {
                let key = |id: Id| match values.get(id) {
                    Value::Text(text) => Some(text.clone()),
                    Value::Int(i) => Some(i.to_string()),
                    _ => None,
                };
                todo.extend(items.iter().filter_map(|[k, child]| Some(below(key(*k)?, *child))));
                // An object's attributes have its path. They may be a pair, of which the second has those in slots.
                let attributes = state.map(|id| values.sequence(id).map_or(vec![id], <[Id]>::to_vec));
                todo.extend(attributes.into_iter().flatten().map(|id| Visit {
                    id,
                    path: path.clone(),
                    container: id,
                    in_module,
                    depth: depth + 1,
                }));
            }
            _ => {}
        }
        todo[start..].reverse();
    }
    found
}

struct Visit {
    id: Id,
    path: String,
    container: usize,
    in_module: bool,
    depth: usize,
}
