//! Finds the tensors of a network among those of a checkpoint.
//!
//! Training scripts nest the parameters in dictionaries, and wrappers put names before those of the network. Both are
//! prefixes of a path here, and the prefix under which most of the network's tensors are found is the right one.

use super::entries::Entry;
use super::KeyMap;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The tensors of a network in a checkpoint.
#[derive(Debug)]
pub(super) struct Choice {
    /// What stands before the network's names, without the dot at its end.
    pub prefix: String,
    /// The checkpoint's name for each parameter, and the index of its entry if there is one.
    pub found: Vec<(String, Option<usize>)>,
    /// Indices of entries beside those of the network.
    pub unexpected: Vec<usize>,
    /// Other prefixes under which all tensors of the network are found too.
    pub others: Vec<String>,
}

/// Where the network's tensors lie under one prefix with one naming.
struct Candidate<'a> {
    prefix: &'a str,
    map: &'a KeyMap,
    /// Indices of entries by parameter.
    entries: BTreeMap<usize, usize>,
    /// How many have the right shape.
    fitting: usize,
}

/// Chooses among the prefixes that are `allowed` and the namings `maps`. `shape` gives the shape of an entry.
pub(super) fn choose<T>(
    entries: &[Entry<T>],
    shape: impl Fn(&T) -> &[usize],
    wanted: &[(String, Vec<usize>)],
    maps: &[KeyMap],
    allowed: impl Fn(&str) -> bool,
) -> Choice {
    let mut candidates = Vec::new();
    for map in maps {
        let names: Vec<String> = wanted.iter().map(|(name, _)| map.checkpoint_name(name)).collect();
        let index: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let mut by_prefix: HashMap<&str, usize> = HashMap::new();
        for (e, entry) in entries.iter().enumerate() {
            for (prefix, rest) in splits(&entry.path) {
                let Some(parameter) = index.get(rest) else { continue };
                let at = *by_prefix.entry(prefix).or_insert_with(|| {
                    candidates.push(Candidate { prefix, map, entries: BTreeMap::new(), fitting: 0 });
                    candidates.len() - 1
                });
                let candidate: &mut Candidate<'_> = &mut candidates[at];
                if let std::collections::btree_map::Entry::Vacant(place) = candidate.entries.entry(*parameter) {
                    place.insert(e);
                    candidate.fitting += usize::from(shape(&entry.tensor) == wanted[*parameter].1);
                }
            }
        }
    }
    let value = |c: &Candidate<'_>| (c.fitting, c.entries.len(), is_average(c.prefix));
    // Of equal ones the first is used; `max_by_key` would return the last.
    let best =
        candidates.iter().filter(|c| allowed(c.prefix)).reduce(|best, c| if value(c) > value(best) { c } else { best });
    let names = |map: &KeyMap| wanted.iter().map(|(name, _)| map.checkpoint_name(name)).collect::<Vec<_>>();
    let Some(best) = best else {
        let found = names(maps.first().unwrap_or(&KeyMap::identity())).into_iter().map(|name| (name, None)).collect();
        let unexpected = (0..entries.len()).collect();
        return Choice { prefix: String::new(), found, unexpected, others: Vec::new() };
    };
    let complete = candidates.iter().filter(|c| c.fitting == wanted.len() && c.prefix != best.prefix);
    let mut others: Vec<String> = complete.map(|c| c.prefix.trim_end_matches('.').to_string()).collect();
    others.dedup();
    let used: HashSet<usize> = best.entries.values().copied().collect();
    let containers: HashSet<usize> = used.iter().map(|e| entries[*e].container).collect();
    // Another set of weights below this one is none of the network's tensors.
    let of_other =
        |path: &str| others.iter().any(|o| !o.is_empty() && path.starts_with(o) && path[o.len()..].starts_with('.'));
    let beside = |(_, entry): &(usize, &Entry<T>)| {
        let same = containers.contains(&entry.container) || entry.in_module;
        entry.path.starts_with(best.prefix) && same && !(best.prefix.is_empty() && of_other(&entry.path))
    };
    let unexpected = entries.iter().enumerate().filter(beside).map(|(e, _)| e).filter(|e| !used.contains(e)).collect();
    Choice {
        prefix: best.prefix.trim_end_matches('.').to_string(),
        found: names(best.map).into_iter().enumerate().map(|(i, n)| (n, best.entries.get(&i).copied())).collect(),
        unexpected,
        others,
    }
}

/// All ways to cut a path after a dot, the whole path among them.
fn splits(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let cuts = std::iter::once(0).chain(path.match_indices('.').map(|(at, _)| at + 1));
    cuts.map(|at| path.split_at(at))
}

/// Whether a prefix says that the weights are averages over the training (EMA), which are the better ones.
fn is_average(prefix: &str) -> bool {
    prefix.split(['.', '_', '-']).any(|part| part.eq_ignore_ascii_case("ema"))
}
