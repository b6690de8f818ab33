//! Registration of strategies, and look-up by name.
//!
//! A crate declares a strategy with one of the `register_*!` macros, and `inventory` collects the
//! declarations of all linked crates. A [`Registry`] checks the
//! declarations of one kind and finds them by name.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// One declared strategy. `F` is the type of its constructor; it is different for each kind.
#[derive(Debug)]
pub struct Entry<F: 'static> {
    /// Canonical name, as written in recipes.
    pub name: &'static str,
    /// Other accepted names, such as the class names of the reference implementation.
    pub aliases: &'static [&'static str],
    /// One line for `qdrop list`.
    pub summary: &'static str,
    /// The crate that declares the strategy.
    pub defined_in: &'static str,
    /// A record that can be read from the file without running it.
    #[doc(hidden)]
    pub record: &'static [u8],
    /// The constructor; `build` calls it.
    #[doc(hidden)]
    pub constructor: F,
}

/// A kind of strategy, identified by the type of its constructor.
pub trait Kind: Sized + 'static {
    /// Name of the kind in messages, such as "observer".
    const NAME: &'static str;
}

/// All strategies of one kind, by name.
pub struct Registry<F: Kind> {
    entries: BTreeMap<&'static str, &'static Entry<F>>,
    names: BTreeMap<&'static str, &'static Entry<F>>,
}

impl<F: Kind> Registry<F>
where
    Entry<F>: inventory::Collect,
{
    /// Collects the strategies that the linked crates declare.
    ///
    /// # Errors
    /// [`Error::DuplicateName`] when two declarations share a name or alias.
    pub fn collect() -> Result<Self> {
        Self::new(inventory::iter::<Entry<F>>)
    }
}

impl<F: Kind> Registry<F> {
    /// A registry of the given declarations.
    ///
    /// # Errors
    /// [`Error::DuplicateName`] when two declarations share a name or alias.
    pub fn new(declared: impl IntoIterator<Item = &'static Entry<F>>) -> Result<Self> {
        let mut registry = Self { entries: BTreeMap::new(), names: BTreeMap::new() };
        for entry in declared {
            registry.entries.insert(entry.name, entry);
            for name in std::iter::once(&entry.name).chain(entry.aliases) {
                if let Some(other) = registry.names.insert(name, entry) {
                    return Err(Error::DuplicateName {
                        kind: F::NAME,
                        name: (*name).into(),
                        first: other.defined_in.into(),
                        second: entry.defined_in.into(),
                    });
                }
            }
        }
        Ok(registry)
    }

    /// Finds the strategy `name`. `path` is the place of the name in the recipe, for messages.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with all known names and the most similar one.
    pub fn get(&self, name: &str, path: &str) -> Result<&'static Entry<F>> {
        self.names.get(name).copied().ok_or_else(|| Error::UnknownName {
            path: path.into(),
            kind: F::NAME,
            name: name.into(),
            suggestion: nearest(name, self.names.keys().copied()),
            known: self.entries.keys().map(|n| (*n).into()).collect(),
        })
    }

    /// All strategies, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Entry<F>> + '_ {
        self.entries.values().copied()
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&wanted, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= (c.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c.into())
}

/// Implements the `register_*!` macros.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($kind:ty, $name:expr, [$($alias:expr),*], $summary:expr, $build:expr) => {
        const _: () = {
            const KIND: &str = <$kind as $crate::registry::Kind>::NAME;
            const ORIGIN: &str = env!("CARGO_PKG_NAME");
            #[cfg_attr(target_os = "macos", link_section = "__DATA,qdrop_plugin")]
            #[cfg_attr(not(target_os = "macos"), link_section = ".qdrop_plugin")]
            static RECORD: [u8; $crate::plugin::record_len($crate::plugin::STAMP, KIND, $name, ORIGIN)] =
                $crate::plugin::record($crate::plugin::STAMP, KIND, $name, ORIGIN);
            $crate::inventory::submit! {
                $crate::registry::Entry::<$kind> {
                    name: $name,
                    aliases: &[$($alias),*],
                    summary: $summary,
                    defined_in: ORIGIN,
                    record: &RECORD,
                    constructor: <$kind>::new($build),
                }
            }
        };
    };
}

/// Defines the constructor type of a kind of strategy, for its registration macro.
macro_rules! define_kind {
    ($(#[$doc:meta])* $kind:ident, $what:literal, $function:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $kind(pub $function);

        impl $kind {
            /// Wraps the constructor function.
            pub const fn new(build: $function) -> Self {
                Self(build)
            }
        }

        impl $crate::registry::Kind for $kind {
            const NAME: &'static str = $what;
        }

        inventory::collect!($crate::registry::Entry<$kind>);
    };
}
pub(crate) use define_kind;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Build;
    impl Kind for Build {
        const NAME: &'static str = "observer";
    }

    const fn entry(name: &'static str, aliases: &'static [&'static str], defined_in: &'static str) -> Entry<Build> {
        Entry { name, aliases, summary: "", defined_in, record: &[], constructor: Build }
    }

    #[test]
    fn unknown_names_suggest_and_list() {
        static ENTRIES: [Entry<Build>; 2] =
            [entry("mse", &["MSEObserver"], "a"), entry("minmax", &["MinMaxObserver"], "a")];
        let registry = Registry::new(&ENTRIES).unwrap();
        assert_eq!(registry.get("MSEObserver", "p").unwrap().name, "mse");
        let error = registry.get("minmx", "quant.weight.observer").unwrap_err().to_string();
        assert_eq!(
            error,
            "quant.weight.observer: unknown observer 'minmx', did you mean 'minmax'?; known: minmax, mse"
        );
        let error = registry.get("histogram", "o").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn duplicates_name_both_crates() {
        static ENTRIES: [Entry<Build>; 2] = [entry("mse", &[], "one"), entry("other", &["mse"], "two")];
        let error = Registry::new(&ENTRIES).err().unwrap().to_string();
        assert!(error.contains("'mse' is registered twice, by one and by two"), "{error}");
    }
}
