//! Reads packed files.

use super::bits::{length, unpack};
use super::container::{Container, Refusal};
use super::description::{Description, Site, ZeroPoints};
use super::{tensor_name, DESCRIPTION, FLOATS, ZERO_POINTS};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::grid::{QParams, QuantSpec};
use crate::run_directory::Manifest;
use crate::summary::Summary;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The content of a packed file.
#[derive(Debug)]
pub struct Packed {
    /// Version of qdrop that wrote it.
    pub qdrop: String,
    /// The recipe as it ran, as YAML text.
    pub recipe: String,
    /// The measurements, if they were known.
    pub summary: Option<Summary>,
    /// SHA-256 of the checkpoint with the float weights as hexadecimal text, if it was known.
    pub float_weights: Option<String>,
    /// The network's graph with batch normalization folded and preparations applied; `None` if an operator of a plugin is in
    /// it.
    pub graph: Option<Graph>,
    /// The quantized weights in the order of execution.
    pub weights: Vec<PackedWeight>,
    /// The quantizers of activations in the order of execution.
    pub activations: Vec<PackedSite>,
    /// All other parameters by name.
    pub parameters: Vec<PackedParameter>,
}

/// A quantizer's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSite {
    /// The name of its site: the layer or operation.
    pub name: String,
    /// Bits, symmetry and granularity.
    pub spec: QuantSpec,
    /// Scales and zero points, of equal number.
    pub params: QParams,
}

/// A quantized weight.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    /// Its quantizer.
    pub site: PackedSite,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its dequantized values in row-major order.
    pub values: Vec<f32>,
}

/// A parameter that is not quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedParameter {
    /// Its full name, such as `conv1.bias`.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f32>,
}

impl Packed {
    /// Whether a file may be a packed one: whether it begins as safetensors files do. Anything else in it is an error of
    /// [`read`](Self::read).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn recognizes(file: &Path) -> Result<bool> {
        if !file.is_file() {
            return Ok(false);
        }
        let mut start = [0; 9];
        let read = File::open(file).and_then(|mut file| file.read_exact(&mut start));
        match read {
            // The length of the header, which is less than 100 MB, and its first character.
            Ok(()) => Ok(start[4..] == *b"\0\0\0\0{"),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io("read", file)(e)),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no packed file or one of another version, is truncated or damaged; the message says which.
    pub fn read(file: &Path) -> Result<Self> {
        with(file, |container, description| Ok(unpacked(&container, description)?))
    }

    /// Reads the recipe of a file alone, as YAML text.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn recipe(file: &Path) -> Result<String> {
        with(file, |_, description| Ok(description.recipe))
    }
}

/// Opens a file, and what it says about its tensors.
fn with<T>(file: &Path, read: impl FnOnce(Container<'_>, Description) -> Result<T, Refusal>) -> Result<T> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let opened = Container::open(&bytes).and_then(|container| {
        let description = Description::decompress(container.bytes(DESCRIPTION)?)?;
        read(container, description)
    });
    opened.map_err(|refusal| match refusal {
        Refusal::Other(message) => Error::data(file, message),
        Refusal::Unpacked => {
            // A file of a run has a manifest beside it.
            let manifest = file.parent().and_then(|folder| Manifest::read(folder).ok());
            let program = manifest.map_or("a qdrop".into(), |manifest| format!("a qdrop {}", manifest.version));
            let message = format!(
                "has unpacked weights: {program} from before packed files wrote it, and can measure it; this is qdrop {}, \
                 with which the recipe has to run again",
                env!("CARGO_PKG_VERSION")
            );
            Error::data(file, message)
        }
    })
}

fn unpacked(container: &Container<'_>, description: Description) -> Result<Packed, String> {
    let Description { recipe, summary, float_weights, graph, weights, activations, parameters } = description;
    let graph = graph.map(|graph| Graph::from_json(&graph.to_string()));
    let graph = graph.transpose().map_err(|e| format!("has a graph that cannot be computed: {e}"))?;
    let mut values = Values { floats: container.bytes(FLOATS)?, zero_points: container.bytes(ZERO_POINTS)? };
    let mut read_weights = Vec::new();
    for weight in weights {
        let name = &weight.site.name;
        let count = elements(name, &weight.shape)?;
        let site = values.site(&weight.site)?;
        let channels = site.spec.granularity.channels(&weight.shape).map_err(|e| format!("{name}: {e}"))?;
        if channels.count != site.params.scale.len() {
            let scales = site.params.scale.len();
            return Err(format!("has {scales} scales for {} channels of '{name}'", channels.count));
        }
        let dequantized = match weight.packed {
            false => values.floats(name, count)?,
            true => {
                let (codes, bits) = (container.bytes(&tensor_name(name))?, site.spec.bits);
                if length(count, bits) != Some(codes.len()) {
                    let (bytes, shape) = (codes.len(), &weight.shape);
                    return Err(format!("has {bytes} bytes for '{name}' of shape {shape:?} and {bits} bits"));
                }
                let QParams { scale, zero_point } = &site.params;
                let value = |(i, code)| {
                    let c = i / channels.inner % channels.count;
                    site.spec.dequantize(code, scale[c], zero_point[c])
                };
                unpack(codes, bits, count).enumerate().map(value).collect()
            }
        };
        read_weights.push(PackedWeight { site, shape: weight.shape, values: dequantized });
    }
    let activations = activations.iter().map(|site| values.site(site)).collect::<Result<_, _>>()?;
    let mut read_parameters = Vec::new();
    for parameter in parameters {
        let count = elements(&parameter.name, &parameter.shape)?;
        let values = values.floats(&parameter.name, count)?;
        read_parameters.push(PackedParameter { name: parameter.name, shape: parameter.shape, values });
    }
    if !(values.floats.is_empty() && values.zero_points.is_empty()) {
        return Err("holds more values than its description names".into());
    }
    Ok(Packed {
        qdrop: container.metadata.get("qdrop").cloned().unwrap_or_default(),
        recipe,
        summary,
        float_weights,
        graph,
        weights: read_weights,
        activations,
        parameters: read_parameters,
    })
}

/// The number of elements of a tensor.
fn elements(name: &str, shape: &[usize]) -> Result<usize, String> {
    // Dimensions of 0 must not hide an overflow of the others.
    let fits = shape.iter().try_fold(1_usize, |n, d| n.checked_mul((*d).max(1))).is_some();
    let too_large = || format!("has the shape {shape:?} for '{name}', which is too large to exist");
    fits.then(|| shape.iter().product()).ok_or_else(too_large)
}

/// What is not read yet of the values of sites and parameters.
struct Values<'a> {
    floats: &'a [u8],
    zero_points: &'a [u8],
}

impl Values<'_> {
    fn floats(&mut self, name: &str, count: usize) -> Result<Vec<f32>, String> {
        let split = count.checked_mul(4).and_then(|bytes| self.floats.split_at_checked(bytes));
        let (own, rest) = split.ok_or_else(|| format!("holds too few values for '{name}'"))?;
        self.floats = rest;
        Ok(own.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn site(&mut self, site: &Site) -> Result<PackedSite, String> {
        let spec = site.spec()?;
        let scale = self.floats(&site.name, site.channels)?;
        let zero_point = match site.zero_points {
            ZeroPoints::Zero => vec![0.0; scale.len()],
            ZeroPoints::Float => self.floats(&site.name, site.channels)?,
            ZeroPoints::Packed => {
                let split = length(scale.len(), spec.bits).and_then(|bytes| self.zero_points.split_at_checked(bytes));
                let (own, rest) = split.ok_or_else(|| format!("holds too few zero points for '{}'", site.name))?;
                self.zero_points = rest;
                unpack(own, spec.bits, scale.len()).map(|code| f32::from(code) + spec.qmin()).collect()
            }
        };
        Ok(PackedSite { name: site.name.clone(), spec, params: QParams { scale, zero_point } })
    }
}
