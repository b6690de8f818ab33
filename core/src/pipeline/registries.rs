//! All registered strategies.

use crate::architecture::ArchitectureKind;
use crate::dataset::DatasetKind;
use crate::error::Result;
use crate::exporter::ExporterKind;
use crate::observer::ObserverKind;
use crate::preparation::PreparationKind;
use crate::quantizer::QuantizerKind;
use crate::recipe::{Recipe, RecipeKind};
use crate::reconstructor::ReconstructorKind;
use crate::registry::Registry;
use crate::task::{Task, TaskKind};

/// Defines [`Registries`] and the functions that go through all kinds of strategies.
macro_rules! registries {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)+) => {
        /// One registry for each kind of strategy.
        pub struct Registries {
            $($(#[$doc])* pub $field: Registry<$kind>,)+
        }

        impl Registries {
            /// Collects everything that the linked crates declare.
            ///
            /// # Errors
            /// Two declarations have the same name.
            pub fn collect() -> Result<Self> {
                Ok(Self { $($field: Registry::collect()?,)+ })
            }
        }

        /// All registrations in this process, including several of the same name.
        #[cfg(all(unix, feature = "dynamic-plugins"))]
        pub(crate) fn declared() -> Vec<crate::plugin::Declaration> {
            let mut all = Vec::new();
            $(all.extend(inventory::iter::<crate::registry::Entry<$kind>>.into_iter().map(declaration));)+
            all
        }
    };
}

impl Registries {
    /// Builds the task of a recipe.
    ///
    /// # Errors
    /// The name is unknown, or a parameter is wrong.
    pub fn task_of(&self, recipe: &Recipe) -> Result<Box<dyn Task>> {
        self.tasks.get(&recipe.task.name, "task")?.build(&recipe.task.params_at("task"))
    }
}

/// The public facts of a registration.
#[cfg(all(unix, feature = "dynamic-plugins"))]
fn declaration<F: crate::registry::Kind>(entry: &crate::registry::Entry<F>) -> crate::plugin::Declaration {
    let (kind, name, defined_in) = (F::NAME.into(), entry.name.into(), entry.defined_in.into());
    crate::plugin::Declaration { kind, name, defined_in }
}

registries! {
    /// Networks.
    architectures: ArchitectureKind,
    /// What is done to the float network before calibration.
    preparations: PreparationKind,
    /// Statistics for ranges.
    observers: ObserverKind,
    /// Mappings to the grid.
    quantizers: QuantizerKind,
    /// Optimizations.
    reconstructors: ReconstructorKind,
    /// Data.
    datasets: DatasetKind,
    /// What networks are for.
    tasks: TaskKind,
    /// Formats in which networks leave.
    exporters: ExporterKind,
    /// Recipes that come with strategies.
    recipes: RecipeKind,
}
