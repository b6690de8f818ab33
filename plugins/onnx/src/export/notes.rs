//! What the user should know about a file.

use std::collections::BTreeMap;

/// Names that a note lists; of more it tells the number.
const LISTED: usize = 8;

/// Notes, each with the names of the nodes that it is about.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<String, Vec<String>>);

impl Notes {
    /// Notes something about a node.
    pub fn add(&mut self, what: &str, node: &str) {
        self.0.entry(what.into()).or_default().push(node.into());
    }

    /// The notes as sentences.
    pub fn sentences(self) -> Vec<String> {
        let sentence = |(what, nodes): (String, Vec<String>)| {
            let listed: Vec<String> = nodes.iter().take(LISTED).map(|name| format!("'{name}'")).collect();
            let more = match nodes.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{what} ({} in all: {}{more})", nodes.len(), listed.join(", "))
        };
        self.0.into_iter().map(sentence).collect()
    }
}
