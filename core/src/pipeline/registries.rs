//! All registered strategies.

use crate::architecture::ArchitectureKind;
use crate::dataset::DatasetKind;
use crate::error::Result;
use crate::observer::ObserverKind;
use crate::quantizer::QuantizerKind;
use crate::recipe::RecipeKind;
use crate::reconstructor::ReconstructorKind;
use crate::registry::Registry;
use crate::task::TaskKind;

/// Defines [`Registries`] and everything else that goes through all kinds.
macro_rules! registries {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)+) => {
        /// One registry for each kind of strategy.
        pub struct Registries {
            $($(#[$doc])* pub $field: Registry<$kind>,)+
        }

        impl Registries {
            /// Everything that the linked crates declare.
            ///
            /// # Errors
            /// Two declarations share a name.
            pub fn collect() -> Result<Self> {
                Ok(Self { $($field: Registry::collect()?,)+ })
            }
        }

        /// Everything that is registered in this process, twice where two crates use one name.
        #[cfg(all(unix, feature = "dynamic-plugins"))]
        pub(crate) fn declared() -> Vec<crate::plugin::Declaration> {
            let mut all = Vec::new();
            $(all.extend(inventory::iter::<crate::registry::Entry<$kind>>.into_iter().map(declaration));)+
            all
        }
    };
}

/// What a registration says of itself.
#[cfg(all(unix, feature = "dynamic-plugins"))]
fn declaration<F: crate::registry::Kind>(entry: &crate::registry::Entry<F>) -> crate::plugin::Declaration {
    let (kind, name, defined_in) = (F::NAME.into(), entry.name.into(), entry.defined_in.into());
    crate::plugin::Declaration { kind, name, defined_in }
}

registries! {
    /// Networks.
    architectures: ArchitectureKind,
    /// Statistics.
    observers: ObserverKind,
    /// Mappings.
    quantizers: QuantizerKind,
    /// Optimizations.
    reconstructors: ReconstructorKind,
    /// Data.
    datasets: DatasetKind,
    /// What networks are for.
    tasks: TaskKind,
    /// Recipes that come with strategies.
    recipes: RecipeKind,
}
