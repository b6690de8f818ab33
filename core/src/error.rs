//! The errors of the library. Each message names the file, the key or the tensor and says what to do.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library.
///
/// Each message is complete: it includes the cause, so there is no `source` to print.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No registration has this name.
    #[error("{path}: unknown {kind} '{name}'{}; known: {}", did_you_mean(.suggestion), .known.join(", "))]
    UnknownName {
        /// Where the name was written, as a path in the recipe.
        path: String,
        /// The kind of strategy, such as "observer".
        kind: &'static str,
        /// The unknown name.
        name: String,
        /// The most similar known name, if there is one.
        suggestion: Option<String>,
        /// All known names.
        known: Vec<String>,
    },
    /// Two registrations have the same name.
    #[error("{kind} '{name}' is registered twice, by {first} and by {second}; rename one of them")]
    DuplicateName {
        /// The kind of strategy.
        kind: &'static str,
        /// The name or alias.
        name: String,
        /// Crate of the first registration.
        first: String,
        /// Crate of the second registration.
        second: String,
    },
    /// A value of a recipe, or of a strategy's parameters, is invalid.
    #[error("{}{message}", place(.path))]
    Setting {
        /// Path of the value in the recipe, such as `quant.weight.bits`.
        path: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A required input is given neither in the recipe nor on the command line.
    #[error("{path}: no {} is given; set it in the recipe or with {}", .what.long_name(), .what.option())]
    NotGiven {
        /// Path of the value in the recipe, such as `data.params.root`.
        path: String,
        /// What is missing.
        what: Input,
    },
    /// A network cannot be built or executed.
    #[error("graph node '{node}': {message}")]
    Graph {
        /// Name of the node or unit.
        node: String,
        /// What is wrong.
        message: String,
    },
    /// A checkpoint cannot be used.
    #[error("weights {}: {message}", .file.display())]
    Weights {
        /// The checkpoint.
        file: PathBuf,
        /// What is wrong, with the names of the tensors.
        message: String,
    },
    /// A plugin cannot be used.
    #[error("plugin {}: {message}", .file.display())]
    Plugin {
        /// The plugin's file or folder.
        file: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A strategy panicked, which is a defect of the crate that defines it.
    #[error("plugin '{plugin}': its {kind} '{name}' panicked in `{call}`: {message}; this is a defect of the plugin, report it to its author")]
    Panicked {
        /// The crate that defines the strategy.
        plugin: &'static str,
        /// Kind of the strategy.
        kind: &'static str,
        /// Its name.
        name: &'static str,
        /// The function that panicked.
        call: &'static str,
        /// The panic's message.
        message: String,
    },
    /// Images or labels, or another data file, cannot be used.
    #[error("data {}: {message}", .path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A file system operation failed.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// The operation, such as "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// The requested device cannot be used.
    #[error("device '{device}': {message}")]
    Device {
        /// The requested device.
        device: String,
        /// Why it cannot be used, and what to do.
        message: String,
    },
    /// A GPU's memory is used up.
    #[error(
        "{context}: the GPU has not enough free memory; lower cache.limit, reconstruction.params.batch_size or \
         evaluation.batch_size, merge fewer units, or free the memory that other programs use"
    )]
    DeviceMemory {
        /// What was being done.
        context: String,
    },
    /// An operation of candle failed.
    #[error("{context}: {cause}")]
    Tensor {
        /// What was being computed.
        context: String,
        /// Candle's error.
        cause: Box<candle_core::Error>,
    },
    /// Any other error.
    #[error("{0}")]
    Message(String),
    /// The caller requested to stop.
    #[error("stopped on request")]
    Cancelled,
}

/// An input that a recipe may leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The checkpoint with the float weights.
    Weights,
    /// The folder with the images.
    Data,
    /// The file with the network and its weights.
    Network,
}

impl Input {
    fn long_name(self) -> &'static str {
        match self {
            Self::Weights => "checkpoint",
            Self::Data => "data folder",
            Self::Network => "file with a network",
        }
    }

    /// The command line option for this input.
    fn option(self) -> &'static str {
        match self {
            Self::Weights => "--weights FILE",
            Self::Data => "--data DIR",
            Self::Network => "`model: {onnx: FILE}`",
        }
    }
}

impl Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Weights => "weights",
            Self::Data => "data",
            Self::Network => "network",
        })
    }
}

/// A path before a message; a recipe as a whole has none.
fn place(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!("{path}: "),
    }
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|s| format!(", did you mean '{s}'?")).unwrap_or_default()
}

impl Error {
    /// An [`Error::Setting`].
    pub fn setting(path: impl Into<String>, message: impl Display) -> Self {
        Self::Setting { path: path.into(), message: message.to_string() }
    }

    /// An [`Error::NotGiven`].
    pub fn not_given(path: impl Into<String>, what: Input) -> Self {
        Self::NotGiven { path: path.into(), what }
    }

    /// An [`Error::Graph`].
    pub fn graph(node: impl Into<String>, message: impl Display) -> Self {
        Self::Graph { node: node.into(), message: message.to_string() }
    }

    /// An [`Error::Weights`].
    pub fn weights(file: impl AsRef<Path>, message: impl Display) -> Self {
        Self::Weights { file: file.as_ref().into(), message: message.to_string() }
    }

    /// An [`Error::Plugin`].
    pub fn plugin(file: impl AsRef<Path>, message: impl Display) -> Self {
        Self::Plugin { file: file.as_ref().into(), message: message.to_string() }
    }

    /// An [`Error::Data`].
    pub fn data(path: impl AsRef<Path>, message: impl Display) -> Self {
        Self::Data { path: path.as_ref().into(), message: message.to_string() }
    }

    /// Returns a closure for `map_err` that wraps an I/O error in [`Error::Io`].
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().into();
        move |cause| Self::Io { action, path, cause }
    }

    /// An [`Error::Message`].
    pub fn message(message: impl Display) -> Self {
        Self::Message(message.to_string())
    }
}

impl From<candle_core::Error> for Error {
    fn from(cause: candle_core::Error) -> Self {
        of_candle("tensor operation".into(), cause)
    }
}

fn of_candle(context: String, cause: candle_core::Error) -> Error {
    #[cfg(feature = "cuda")]
    if is_out_of_memory(&cause) {
        return Error::DeviceMemory { context };
    }
    Error::Tensor { context, cause: Box::new(cause) }
}

/// Whether the driver of a GPU had no memory to give.
#[cfg(feature = "cuda")]
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    use candle_core::cuda_backend::cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    use candle_core::cuda_backend::CudaError;
    match error {
        candle_core::Error::Cuda(cause) => {
            matches!(cause.downcast_ref(), Some(CudaError::Cuda(e)) if e.0 == CUDA_ERROR_OUT_OF_MEMORY)
        }
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => {
            is_out_of_memory(inner)
        }
        _ => false,
    }
}

/// Adds a description of the computation to an error of candle.
pub trait TensorContext<T> {
    /// Wraps the error with `context`.
    ///
    /// # Errors
    /// The wrapped error.
    fn doing(self, context: impl Display) -> Result<T>;
}

impl<T> TensorContext<T> for candle_core::Result<T> {
    fn doing(self, context: impl Display) -> Result<T> {
        self.map_err(|cause| of_candle(context.to_string(), cause))
    }
}
