//! Wraps preparations of registry entries: panics become errors that name the preparation.

use super::change::Change;
use super::context::Preparing;
use super::interface::Preparation;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::guard::Origin;
use crate::model::QuantModel;

/// Wraps the preparation of a registry entry. Its tolerance is read once.
pub(super) struct GuardedPreparation {
    origin: Origin,
    tolerance: f64,
    inner: Box<dyn Preparation>,
}

impl GuardedPreparation {
    pub fn new(origin: Origin, inner: Box<dyn Preparation>) -> Result<Self> {
        let tolerance = origin.ask("tolerance", || inner.tolerance())?;
        if !(tolerance.is_finite() && tolerance > 0.0) {
            let Origin { plugin, kind, name } = origin;
            return Err(Error::message(format!(
                "plugin '{plugin}': the tolerance of its {kind} '{name}' is {tolerance}, not a positive number"
            )));
        }
        Ok(Self { origin, tolerance, inner })
    }
}

impl Preparation for GuardedPreparation {
    fn tolerance(&self) -> f64 {
        self.tolerance
    }

    fn rewrite(&self, model: &mut QuantModel) -> Result<()> {
        self.origin.call("rewrite", || self.inner.rewrite(model))
    }

    fn outline(&self, graph: &Graph) -> Result<Vec<String>> {
        self.origin.call("outline", || self.inner.outline(graph))
    }

    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>> {
        self.origin.call("apply", || self.inner.apply(network))
    }
}
