//! The errors of the library.

use qdrop_core::error::Input;
use qdrop_core::Error as Core;
use std::fmt::Display;
use std::path::PathBuf;

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
///
/// Each message is complete: it includes the cause, so there is no `source` to print.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A stage failed.
    #[error("{stage}: {cause}")]
    Stage {
        /// The stage.
        stage: Stage,
        /// The framework's error.
        cause: Box<Core>,
    },
    /// A variant of a recipe failed.
    #[error("variant '{name}': {cause}")]
    Variant {
        /// The variant's name.
        name: String,
        /// The variant's error.
        cause: Box<Error>,
    },
    /// No recipe has this name.
    #[error("there is no file and no built-in recipe '{name}'{}; built in: {}", did_you_mean(.suggestion), .known.join(", "))]
    UnknownRecipe {
        /// The name as given.
        name: String,
        /// The most similar name of a built-in recipe, if there is one.
        suggestion: Option<String>,
        /// The names of all built-in recipes.
        known: Vec<String>,
    },
    /// A recipe's `extends` or `plugins` are invalid.
    #[error("recipe '{name}': {message}")]
    Recipe {
        /// The recipe's name or file.
        name: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A recipe that another one extends cannot be read.
    #[error("recipe '{name}' extends '{parent}': {cause}")]
    Extends {
        /// The recipe's name or file.
        name: String,
        /// The recipe that it extends.
        parent: String,
        /// Why that recipe cannot be read.
        cause: Box<Error>,
    },
    /// A configuration file of the reference implementation cannot be converted to a recipe.
    #[error("configuration {}: {cause}", .file.display())]
    Configuration {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        cause: Box<Core>,
    },
    /// The number of threads is not possible, or was set after the thread pool had started.
    #[error("setting the number of threads: {message}")]
    Threads {
        /// What is wrong.
        message: String,
    },
}

/// A name that was perhaps meant, as a part of a message; empty if there is none.
pub(crate) fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|s| format!(", did you mean '{s}'?")).unwrap_or_default()
}

impl Error {
    /// The framework's error, if there is one.
    pub fn core(&self) -> Option<&Core> {
        match self {
            Self::Stage { cause, .. } | Self::Configuration { cause, .. } => Some(cause),
            Self::Variant { cause, .. } | Self::Extends { cause, .. } => cause.core(),
            Self::UnknownRecipe { .. } | Self::Recipe { .. } | Self::Threads { .. } => None,
        }
    }

    /// Whether [`Progress::cancelled`](qdrop_core::progress::Progress::cancelled) requested to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.core(), Some(Core::Cancelled))
    }

    /// The missing input, if the error is that an input is not given.
    pub fn not_given(&self) -> Option<Input> {
        match self.core() {
            Some(Core::NotGiven { what, .. }) => Some(*what),
            _ => None,
        }
    }
}

/// The stage of a run in which an error occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Loading plugins.
    Plugins,
    /// Reading a recipe.
    Recipe,
    /// Looking up everything that the recipe names.
    Setup,
    /// Opening the device.
    Device,
    /// Loading the float network.
    FloatNetwork,
    /// Opening the images.
    Data,
    /// Comparing the float network with its published result.
    FloatCheck,
    /// Preparing the float network, such as equalizing it.
    Preparation,
    /// Estimating time and memory.
    Estimate,
    /// Preparing the run directory or writing to it.
    RunDirectory,
    /// Loading the calibration images.
    CalibrationImages,
    /// Evaluating the float network.
    FloatEvaluation,
    /// Drawing what networks found.
    Drawing,
    /// Measuring layers and units alone.
    Analysis,
    /// Measuring the loss around the weights of a result.
    Flatness,
    /// Writing the report of a run.
    Report,
    /// Calibration and reconstruction.
    Quantization,
    /// Evaluating the quantized network.
    Evaluation,
    /// Saving the result.
    Saving,
    /// Loading a saved result.
    SavedResult,
    /// Comparing two saved results.
    Comparison,
    /// Exporting a saved result.
    Export,
}

impl Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plugins => "loading plugins",
            Self::Recipe => "reading the recipe",
            Self::Setup => "checking the recipe",
            Self::Device => "opening the device",
            Self::FloatNetwork => "loading the float network",
            Self::Data => "opening the images",
            Self::FloatCheck => "checking the float network",
            Self::Preparation => "preparing the float network",
            Self::Estimate => "estimating time and memory",
            Self::RunDirectory => "preparing the run directory",
            Self::CalibrationImages => "loading the calibration images",
            Self::FloatEvaluation => "evaluating the float network",
            Self::Drawing => "drawing",
            Self::Analysis => "analyzing layers",
            Self::Flatness => "measuring flatness",
            Self::Report => "writing the report",
            Self::Quantization => "quantizing",
            Self::Evaluation => "evaluating the quantized network",
            Self::Saving => "saving the result",
            Self::SavedResult => "loading the saved result",
            Self::Comparison => "comparing the results",
            Self::Export => "exporting the result",
        })
    }
}

/// Adds the stage to an error of the framework.
pub(crate) trait At<T> {
    /// Wraps the framework's error.
    fn at(self, stage: Stage) -> Result<T>;
}

impl<T> At<T> for qdrop_core::Result<T> {
    fn at(self, stage: Stage) -> Result<T> {
        self.map_err(|cause| Error::Stage { stage, cause: Box::new(cause) })
    }
}
