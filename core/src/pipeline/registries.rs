//! All registered strategies.

use crate::architecture::ArchitectureKind;
use crate::dataset::DatasetKind;
use crate::error::Result;
use crate::observer::ObserverKind;
use crate::plugin::Declaration;
use crate::quantizer::QuantizerKind;
use crate::recipe::RecipeKind;
use crate::reconstructor::ReconstructorKind;
use crate::registry::{Entry, Kind, Registry};
use crate::task::TaskKind;

/// One registry for each kind of strategy.
pub struct Registries {
    /// Networks.
    pub architectures: Registry<ArchitectureKind>,
    /// Statistics.
    pub observers: Registry<ObserverKind>,
    /// Mappings.
    pub quantizers: Registry<QuantizerKind>,
    /// Optimizations.
    pub reconstructors: Registry<ReconstructorKind>,
    /// Data.
    pub datasets: Registry<DatasetKind>,
    /// What networks are for.
    pub tasks: Registry<TaskKind>,
    /// Recipes that come with strategies.
    pub recipes: Registry<RecipeKind>,
}

/// Everything that is registered in this process, twice where two crates use one name.
pub(crate) fn declared() -> Vec<Declaration> {
    fn of<F: Kind>() -> impl Iterator<Item = Declaration>
    where
        Entry<F>: inventory::Collect,
    {
        inventory::iter::<Entry<F>>.into_iter().map(|e| Declaration {
            kind: F::NAME.into(),
            name: e.name.into(),
            defined_in: e.defined_in.into(),
        })
    }
    of::<ArchitectureKind>()
        .chain(of::<ObserverKind>())
        .chain(of::<QuantizerKind>())
        .chain(of::<ReconstructorKind>())
        .chain(of::<DatasetKind>())
        .chain(of::<TaskKind>())
        .chain(of::<RecipeKind>())
        .collect()
}

impl Registries {
    /// Everything that the linked crates declare.
    ///
    /// # Errors
    /// Two declarations share a name.
    pub fn collect() -> Result<Self> {
        Ok(Self {
            architectures: Registry::collect()?,
            observers: Registry::collect()?,
            quantizers: Registry::collect()?,
            reconstructors: Registry::collect()?,
            datasets: Registry::collect()?,
            tasks: Registry::collect()?,
            recipes: Registry::collect()?,
        })
    }
}
