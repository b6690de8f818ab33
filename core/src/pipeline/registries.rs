//! All registered strategies.

use crate::architecture::ArchitectureKind;
use crate::dataset::DatasetKind;
use crate::error::Result;
use crate::observer::ObserverKind;
use crate::quantizer::QuantizerKind;
use crate::reconstructor::ReconstructorKind;
use crate::registry::Registry;

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
        })
    }
}
