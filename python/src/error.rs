//! Errors of the library as exceptions of the package.

use pyo3::prelude::*;
use pyo3::types::PyType;
use qdrop::core::Error as Core;
use qdrop::Error;

/// Where the package defines its exceptions.
const MODULE: &str = "qdrop._errors";

/// The exception for an error, with the same text.
pub fn python_error(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, class(error), error.to_string())
}

/// The exception for a defect of the library, which has panicked.
pub fn defect(py: Python<'_>, message: &str) -> PyErr {
    exception(py, "InternalError", format!("{message}; this is a defect of qdrop, please report it"))
}

/// Makes an exception; if the package is damaged, the one that says so.
fn exception(py: Python<'_>, class: &str, message: String) -> PyErr {
    let class = py.import(MODULE).and_then(|module| Ok(module.getattr(class)?.cast_into::<PyType>()?));
    class.map_or_else(|missing| missing, |class| PyErr::from_type(class, message))
}

/// The name of the exception's class.
fn class(error: &Error) -> &'static str {
    match error.core() {
        // What stands in a recipe or in an argument.
        None => "InputError",
        Some(core) => match core {
            Core::UnknownName { .. }
            | Core::DuplicateName { .. }
            | Core::Setting { .. }
            | Core::NotGiven { .. }
            | Core::Graph { .. }
            | Core::Weights { .. }
            | Core::Plugin { .. }
            | Core::Data { .. } => "InputError",
            Core::Io { .. } => "FileError",
            Core::Device { .. } => "DeviceError",
            Core::Panicked { .. } | Core::Tensor { .. } => "InternalError",
            _ => "Error",
        },
    }
}
