//! Exporters: formats in which a network leaves qdrop.

use crate::error::{Error, Result};
use crate::guard::Origin;
use crate::model::{Precision, QuantModel};
use crate::params::Params;
use crate::recipe::Recipe;
use crate::registry::{define_kind, Entry};
use crate::summary::Summary;

/// What is exported.
#[derive(Clone, Copy)]
pub struct ExportRequest<'a> {
    /// The network: the quantized one with all its quantizers, or the float network without any, as
    /// [`Exporter::precision`] says. Batch normalization is folded where it can be. The names of its input and outputs are
    /// [`Graph::ends`](crate::graph::Graph::ends).
    pub model: &'a QuantModel,
    /// The recipe as it ran.
    pub recipe: &'a Recipe,
    /// Bit widths as reports name them, such as `w4a4`; `w32a32` for the float network.
    pub bits: &'a str,
    /// The version of qdrop.
    pub version: &'a str,
    /// The measurements of the run, if they are known.
    pub summary: Option<&'a Summary>,
    /// SHA-256 of the files with the float weights as hexadecimal text, if it is known.
    pub float_weights: Option<&'a str>,
}

/// One file of an exported network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// What follows the name and a dot, such as `onnx`.
    pub extension: String,
    /// The content.
    pub content: Vec<u8>,
}

/// An exported network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedNetwork {
    /// The files, the main one first. Further ones lie beside it, with the same name and another extension.
    pub files: Vec<ExportedFile>,
    /// What the user should know, such as a layer that could not be written in the usual way: sentences that name the layer.
    pub notes: Vec<String>,
}

/// Writes networks in a format of another program.
pub trait Exporter: Send + Sync {
    /// Which network it writes. The default is the quantized one.
    fn precision(&self) -> Precision {
        Precision::Quantized
    }

    /// Writes the network. The same network must give the same bytes.
    ///
    /// # Errors
    /// The format cannot express a part of the network; the error names the node and its operation. A note is for what can
    /// be expressed in another way, and computes the same.
    fn export(&self, request: &ExportRequest<'_>) -> Result<ExportedNetwork>;
}

/// Wraps the exporter of a registry entry, so that its panics become errors.
struct GuardedExporter {
    origin: Origin,
    precision: Precision,
    inner: Box<dyn Exporter>,
}

impl Exporter for GuardedExporter {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn export(&self, request: &ExportRequest<'_>) -> Result<ExportedNetwork> {
        let exported = self.origin.call("export", || self.inner.export(request))?;
        let Origin { plugin, kind, name } = self.origin;
        let refused = |what: &str| Err(Error::message(format!("plugin '{plugin}': its {kind} '{name}' {what}")));
        if exported.files.is_empty() {
            return refused("wrote no file");
        }
        let usable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        for (i, file) in exported.files.iter().enumerate() {
            let extension = file.extension.as_str();
            let named = extension.starts_with(|c: char| c.is_ascii_alphanumeric()) && extension.chars().all(usable);
            if !named || exported.files[..i].iter().any(|other| other.extension == extension) {
                return refused(&format!("names a file '{extension}', which is no extension, or one that it has used"));
            }
        }
        Ok(exported)
    }
}

define_kind!(
    /// Constructor of an exporter.
    ExporterKind,
    "exporter",
    fn(&Params) -> Result<Box<dyn Exporter>>
);

impl Entry<ExporterKind> {
    /// Builds the exporter.
    ///
    /// # Errors
    /// A parameter is wrong.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Exporter>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params))?;
        let precision = origin.ask("precision", || inner.precision())?;
        Ok(Box::new(GuardedExporter { origin, precision, inner }))
    }
}

/// Registers an exporter. The fields are those of [`register_observer!`](crate::register_observer), except that `build`
/// takes only the parameters.
#[macro_export]
macro_rules! register_exporter {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::exporter::ExporterKind, $name, [$($alias),*], $summary, $build);
    };
}
