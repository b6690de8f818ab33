//! The native part of the Python package `qdrop`: the command line, and the functions of the library that the package calls.
//!
//! Everything about Python's types is in the package's own files; here are paths, texts and JSON.

mod error;
mod recipe;
mod work;

use error::python_error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use qdrop::core::progress::Event;
use qdrop::core::run_directory::RunDirectory;
use qdrop::{Error, Evaluation, Export, Run, Stage};
use std::ffi::OsString;
use std::path::PathBuf;

/// As in the program: freed memory is kept, because the next step allocates large tensors of the same sizes again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of a program of Rust that panics.
const PANICKED: u8 = 101;

/// Runs the program with these arguments, of which the first is its own name, and returns the exit status.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| std::panic::catch_unwind(|| qdrop::cli::run(arguments)).unwrap_or(PANICKED))
}

/// Quantizes a network as a recipe says, and saves the result in the folder `out`.
#[pyfunction]
fn quantize(
    py: Python<'_>,
    recipe: recipe::Request,
    device: String,
    out: PathBuf,
    listener: Py<PyAny>,
) -> PyResult<()> {
    work::run(py, listener, move |progress| {
        let run = Run::new(recipe.load(progress)?)?.device(&device)?.progress(progress);
        // Mistakes in the recipe are reported before the folder is made.
        run.session()?;
        run.out(out)?.quantize()?;
        Ok(())
    })
}

/// Checks that a run can be saved in the folder `out`, without making it.
#[pyfunction]
fn check_out(py: Python<'_>, out: PathBuf) -> PyResult<()> {
    let stage = Stage::RunDirectory;
    let checked = RunDirectory::check_usable(&out).map_err(|cause| Error::Stage { stage, cause: Box::new(cause) });
    checked.map_err(|error| python_error(py, &error))
}

/// Measures the result in the folder `dir`: JSON with the values of all metrics.
#[pyfunction]
fn evaluate(
    py: Python<'_>,
    dir: PathBuf,
    data: Option<PathBuf>,
    changes: Vec<String>,
    device: String,
    listener: Py<PyAny>,
) -> PyResult<String> {
    let measured = work::run(py, listener, move |progress| {
        let mut evaluation = Evaluation::new(dir).device(device).progress(progress);
        if let Some(data) = data {
            evaluation = evaluation.data(data);
        }
        for change in changes {
            evaluation = evaluation.set(change);
        }
        Ok(evaluation.run()?.measured)
    })?;
    json(&measured)
}

/// Writes the result in the folder `dir` in a format of another program, and returns the files.
#[pyfunction]
fn export(
    py: Python<'_>,
    dir: PathBuf,
    format: String,
    changes: Vec<String>,
    out: PathBuf,
    listener: Py<PyAny>,
) -> PyResult<Vec<PathBuf>> {
    work::run(py, listener, move |progress| {
        let mut export = Export::new(dir, format).out(out).progress(progress);
        for change in changes {
            export = export.set(change);
        }
        let exported = export.run()?;
        exported.notes.into_iter().for_each(|note| progress.event(Event::Warning(note)));
        Ok(exported.files)
    })
}

/// The report of the result in the folder `dir`: its table, and its summary as JSON.
#[pyfunction]
fn report(py: Python<'_>, dir: PathBuf) -> PyResult<(String, String)> {
    let report = py.detach(|| qdrop::saved_report(&dir));
    let report = report.map_err(|error| python_error(py, &error))?;
    Ok((report.table, json(&report.summary)?))
}

/// The dataset of the recipe of a result: JSON with its name and parameters.
#[pyfunction]
fn dataset(py: Python<'_>, dir: PathBuf) -> PyResult<String> {
    json(&qdrop::recipes::load(dir).map_err(|error| python_error(py, &error))?.data)
}

/// The names of the built-in recipes.
#[pyfunction]
fn recipes() -> Vec<String> {
    qdrop::recipes::names()
}

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{check_out, dataset, evaluate, export, main, quantize, recipes, report};

    /// The version, the commit and the features of the build.
    #[pymodule_export]
    const VERSION: &str = qdrop::VERSION;
}
