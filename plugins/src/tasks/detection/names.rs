//! The categories of labels.

use qdrop_core::prelude::*;

/// The category, a number and a name, of a label; `None` if the dataset has none for it.
pub fn category(label: usize, labels: Labels, categories: &[(u64, String)]) -> Option<&(u64, String)> {
    match labels {
        Labels::InOrder { .. } => categories.get(label),
        Labels::ByCategory { .. } => categories.iter().find(|(id, _)| *id == label as u64),
    }
}
