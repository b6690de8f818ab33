//! Turns panics of strategies into errors that name the strategy and its crate.
//!
//! Registry entries build every strategy, and wrap it in a guard: the type next to the trait, which passes every call
//! on through [`Origin::call`]. This includes the built-in strategies.

use crate::error::{Error, Result};
use crate::registry::{Entry, Kind};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The strategy whose code runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The crate.
    pub plugin: &'static str,
    /// Kind of the strategy, such as "observer".
    pub kind: &'static str,
    /// Name of the strategy.
    pub name: &'static str,
}

impl Origin {
    pub(crate) fn of<F: Kind>(entry: &Entry<F>) -> Self {
        Self { plugin: entry.defined_in, kind: F::NAME, name: entry.name }
    }

    /// Runs `body` and turns its panic into an error. The strategy may be in any state
    /// afterwards, so the error must end the run. Files stay valid, because they are written atomically.
    pub(crate) fn call<R>(self, call: &'static str, body: impl FnOnce() -> Result<R>) -> Result<R> {
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let Self { plugin, kind, name } = self;
            let message = text.unwrap_or_else(|| "no message".into());
            Err(Error::Panicked { plugin, kind, name, call, message })
        })
    }

    /// As [`call`](Self::call), for functions that do not return a `Result`.
    pub(crate) fn ask<R>(self, call: &'static str, body: impl FnOnce() -> R) -> Result<R> {
        self.call(call, || Ok(body()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Names of the functions between the line that begins with `start` and the next line that is `}`.
    fn functions(source: &str, start: &str) -> BTreeSet<String> {
        let lines = source.lines().skip_while(|line| !line.starts_with(start)).take_while(|line| *line != "}");
        let name = |line: &str| Some(line.strip_prefix("    fn ")?.split(['(', '<']).next()?.to_string());
        lines.filter_map(name).collect()
    }

    /// A guard that does not override a default function would compile, but hide the strategy's own.
    #[test]
    fn guards_pass_on_every_function_of_their_trait() {
        let task = [include_str!("task/interface.rs"), include_str!("task/guard.rs")];
        let preparation = [include_str!("preparation/interface.rs"), include_str!("preparation/guard.rs")];
        for (name, [of_trait, of_guard]) in [
            ("Architecture", [include_str!("architecture.rs"); 2]),
            ("Dataset", [include_str!("dataset.rs"); 2]),
            ("Observer", [include_str!("observer.rs"); 2]),
            ("Preparation", preparation),
            ("Quantizer", [include_str!("quantizer.rs"); 2]),
            ("Reconstructor", [include_str!("reconstructor/mod.rs"); 2]),
            ("Task", task),
            ("Exporter", [include_str!("exporter.rs"); 2]),
            ("Meter", task),
            ("Comparison", task),
        ] {
            let of_trait = functions(of_trait, &format!("pub trait {name}"));
            let mut of_guard = functions(of_guard, &format!("impl {name} for Guarded{name}"));
            if name == "Dataset" {
                // The default implementation uses `len`.
                of_guard.insert("is_empty".into());
            }
            assert!(!of_trait.is_empty(), "{name}");
            assert_eq!(of_trait, of_guard, "{name}");
        }
    }
}
