//! What preparations did, for readers.

use serde::{Deserialize, Serialize};

/// What a preparation did to a part of the network, for readers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The part, such as a node's name.
    pub part: String,
    /// What was done to it, such as "16 channels divided by 0.02 to 1".
    pub what: String,
}

/// What a recipe's preparations did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The name of each preparation, and its changes.
    pub changes: Vec<(String, Vec<Change>)>,
    /// Wall-clock time of all of them.
    pub seconds: f64,
}
