//! Exporting saved results in formats of other programs.

use crate::error::{At, Result, Stage};
use crate::evaluation::{float_weights, Evaluation};
use crate::kept::check_output;
use crate::recipes::absolute;
use crate::VERSION;
use qdrop_core::exporter::{ExportRequest, ExportedFile};
use qdrop_core::model::Precision;
use qdrop_core::params::Params;
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::recipe::apply_set;
use qdrop_core::run_directory::{write_file, MODEL_FILE};
use qdrop_core::Error as Core;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Bits of a float network in reports.
const FLOAT_BITS: &str = "w32a32";

/// Writes a saved network in a format (`onnx`, `onnx-float`, `packed`, or that of a plugin): see
/// [`Export`].
///
/// # Errors
/// Those of [`Export::run`].
pub fn export(dir: impl Into<PathBuf>, format: impl Into<String>) -> Result<Exported> {
    Export::new(dir, format).run()
}

/// The files of an exported network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The files, the main one first.
    pub files: Vec<PathBuf>,
    /// What the user should know, such as a layer that could not be written in the usual way.
    pub notes: Vec<String>,
}

/// Writes the network that a run saved in a format of another program.
#[must_use = "`run` writes"]
pub struct Export<'a> {
    dir: PathBuf,
    format: String,
    changes: Vec<String>,
    out: Option<PathBuf>,
    progress: &'a dyn Progress,
}

impl Export<'_> {
    /// For the result in the folder `dir`, or the packed file `dir`; `format` is the name of an exporter.
    pub fn new(dir: impl Into<PathBuf>, format: impl Into<String>) -> Self {
        Self { dir: dir.into(), format: format.into(), changes: Vec::new(), out: None, progress: &Silent }
    }

    /// Sets a parameter of the format, as `exact=true`. The value is YAML.
    pub fn set(mut self, change: impl Into<String>) -> Self {
        self.changes.push(change.into());
        self
    }

    /// Sets the name of the (main) file. By default it is `model` with the format's extension, in the result's folder; for a
    /// packed file it is that file's name with the format's extension.
    pub fn out(mut self, file: impl Into<PathBuf>) -> Self {
        self.out = Some(file.into());
        self
    }
}

impl<'a> Export<'a> {
    /// Sets the receiver of events.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// Writes the files. Each is complete as soon as it exists, and none replaces another file.
    ///
    /// # Errors
    /// The folder holds no saved result or a damaged one, a plugin cannot be loaded, the format is unknown or has no such
    /// parameter, it cannot express the network, or a file exists already or cannot be written; or the float network is
    /// exported, and its checkpoint is not that of the run.
    pub fn run(&self) -> Result<Exported> {
        let (recipe, registries, saved) = Evaluation::new(&self.dir).progress(self.progress).open()?;
        let entry = registries.exporters.get(&self.format, "--format").at(Stage::Export)?;
        let mut params = Value::Null;
        self.changes.iter().try_for_each(|change| apply_set(&mut params, change)).at(Stage::Export)?;
        let exporter = entry.build(&Params::new("", params)).at(Stage::Export)?;
        let session = saved.session(recipe, &registries).at(Stage::Setup)?;
        let float;
        let (model, bits) = match exporter.precision() {
            Precision::Quantized => (&saved.model, session.recipe().bits()),
            Precision::Float => {
                float_weights(&self.dir, &saved, &session)?;
                float = session.float_model().at(Stage::FloatNetwork)?;
                (&float, FLOAT_BITS.into())
            }
        };
        let request = ExportRequest {
            model,
            recipe: session.recipe(),
            bits: &bits,
            version: VERSION,
            summary: saved.summary.as_ref(),
            float_weights: saved.float_weights.as_deref(),
        };
        let exported = exporter.export(&request).at(Stage::Export)?;
        let files = self.write(&exported.files)?;
        Ok(Exported { files, notes: exported.notes })
    }

    fn write(&self, files: &[ExportedFile]) -> Result<Vec<PathBuf>> {
        let default = || match self.dir.is_file() {
            true => self.dir.with_extension(""),
            false => Path::new(MODEL_FILE).file_stem().map(|stem| self.dir.join(stem)).unwrap_or_default(),
        };
        let extended = |stem: &Path, file: &ExportedFile| {
            let mut name = stem.as_os_str().to_os_string();
            name.push(format!(".{}", file.extension));
            PathBuf::from(name)
        };
        let path = |(i, file): (usize, &ExportedFile)| match (&self.out, i) {
            (Some(out), 0) => out.clone(),
            (Some(out), _) => extended(&out.with_extension(""), file),
            (None, _) => extended(&default(), file),
        };
        let paths: Vec<PathBuf> =
            files.iter().enumerate().map(path).map(|path| absolute(&path)).collect::<Result<_>>()?;
        if let Some(path) = paths.iter().find(|path| path.exists()) {
            let message = "exists already; remove it, or choose another name with --out";
            return Err(Core::data(path, message)).at(Stage::Export);
        }
        // A name that a file of a run has, even of one that is not there.
        paths.iter().try_for_each(|path| check_output(path, &[])).at(Stage::Export)?;
        for (path, file) in paths.iter().zip(files) {
            write_file(path, &file.content).at(Stage::Export)?;
        }
        Ok(paths)
    }
}
