//! Reads an ONNX file and the files beside it that hold its large tensors.

use crate::proto::tensor_proto::{DataLocation, DataType};
use crate::proto::{ModelProto, TensorProto};
use prost::Message;
use qdrop_core::prelude::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Newest version of the file's format (IR version) that is understood, and the newest operator set.
const NEWEST: (i64, i64) = (13, 27);
/// Oldest operator set that is understood.
const OLDEST_OPSET: i64 = 7;

/// A model as it stands in a file.
pub struct OnnxFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its content.
    pub model: ModelProto,
}

impl OnnxFile {
    /// Reads a model. Large tensors in other files stay there until [`floats`](Self::floats) reads them.
    ///
    /// # Errors
    /// The file cannot be read, is no ONNX model, or is of a version that is not understood.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let error = |message: String| Error::data(path, message);
        let model = ModelProto::decode(&bytes[..])
            .map_err(|e| error(format!("is no ONNX model, or is damaged ({e}); was the download complete?")))?;
        if model.graph.is_none() || model.ir_version == 0 {
            return Err(error("is no ONNX model: it has no graph or no version".into()));
        }
        let (newest_ir, newest_opset) = NEWEST;
        if model.ir_version > newest_ir {
            let message = format!(
                "has version {} of the ONNX format, newer than {newest_ir}; export it with an older `onnx` package",
                model.ir_version
            );
            return Err(error(message));
        }
        let opset = model.opset_import.iter().filter(|set| is_standard(&set.domain)).map(|set| set.version).next();
        match opset {
            Some(version) if (OLDEST_OPSET..=newest_opset).contains(&version) => {}
            Some(version) => {
                let message = format!(
                    "uses version {version} of the ONNX operators, but {OLDEST_OPSET} to {newest_opset} are understood; \
                     export it with `opset_version=18`"
                );
                return Err(error(message));
            }
            None => return Err(error("does not say which version of the ONNX operators it uses".into())),
        }
        Ok(Self { path: path.into(), model })
    }

    /// The file itself, and the files that hold its large tensors.
    ///
    /// # Errors
    /// A tensor names a file that is not beside this one.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let graph = self.model.graph.as_ref();
        let tensors = graph.map_or(&[][..], |graph| &graph.initializer);
        let external = tensors.iter().filter(|t| is_external(t));
        let others: BTreeSet<PathBuf> = external.map(|t| self.beside(t)).collect::<Result<_>>()?;
        Ok(std::iter::once(self.path.clone()).chain(others).collect())
    }

    fn error(&self, tensor: &TensorProto, message: impl std::fmt::Display) -> Error {
        Error::data(&self.path, format!("tensor '{}' {message}", tensor.name))
    }

    /// The file with the values of an external tensor.
    fn beside(&self, tensor: &TensorProto) -> Result<PathBuf> {
        let location =
            entry(tensor, "location").ok_or_else(|| self.error(tensor, "is in another file, without its name"))?;
        let relative = Path::new(location);
        if relative.as_os_str().is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_))) {
            let message = format!("is in the file '{location}', which is not in the model's folder");
            return Err(self.error(tensor, message));
        }
        Ok(self.path.parent().unwrap_or(Path::new("")).join(relative))
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// A side is negative, or there are more elements than can be counted.
    pub fn dims(&self, tensor: &TensorProto) -> Result<Vec<usize>> {
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let count = |dims: &Vec<usize>| dims.iter().try_fold(1_usize, |p, d| p.checked_mul(*d));
        dims.filter(|dims| count(dims).is_some_and(|n| n < 1 << 40))
            .ok_or_else(|| self.error(tensor, format!("has the shape {:?}", tensor.dims)))
    }

    /// The bytes of a tensor that holds them as such, here or in another file.
    fn bytes(&self, tensor: &mut TensorProto, wanted: usize) -> Result<Option<Vec<u8>>> {
        if !is_external(tensor) {
            let Some(bytes) = tensor.raw_data.take() else { return Ok(None) };
            if bytes.len() != wanted {
                let message = format!("has {} bytes where {wanted} are expected; is the file damaged?", bytes.len());
                return Err(self.error(tensor, message));
            }
            return Ok(Some(bytes));
        }
        let number = |key: &str| -> Result<Option<u64>> {
            let parse = |text: &str| text.parse().map_err(|_| self.error(tensor, format!("has the {key} '{text}'")));
            entry(tensor, key).map(parse).transpose()
        };
        let path = self.beside(tensor)?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(wanted as u64));
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        let there = file.metadata().map_err(Error::io("read", &path))?.len();
        if length != wanted as u64 || offset.checked_add(length).is_none_or(|end| end > there) {
            let message = format!(
                "needs {wanted} bytes, but has {length} from byte {offset} of {}, which has {there}; is that file complete?",
                path.display()
            );
            return Err(self.error(tensor, message));
        }
        let mut bytes = vec![0; wanted];
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(Error::io("read", &path))?;
        Ok(Some(bytes))
    }

    /// The values of a tensor of floating-point numbers, in f32; `None` for other types. Takes them out of the tensor.
    ///
    /// # Errors
    /// Their number does not fit the shape, or another file with them cannot be read.
    pub fn floats(&self, tensor: &mut TensorProto) -> Result<Option<Vec<f32>>> {
        let count = self.dims(tensor)?.iter().product::<usize>();
        let values: Vec<f32> = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) => match self.bytes(tensor, 4 * count)? {
                Some(bytes) => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                None => std::mem::take(&mut tensor.float_data),
            },
            Ok(DataType::Double) => match self.bytes(tensor, 8 * count)? {
                Some(bytes) => bytes
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
                    .collect(),
                None => std::mem::take(&mut tensor.double_data).into_iter().map(|v| v as f32).collect(),
            },
            Ok(kind @ (DataType::Float16 | DataType::Bfloat16)) => {
                let value = |bits: u16| match kind {
                    DataType::Float16 => half::f16::from_bits(bits).to_f32(),
                    _ => half::bf16::from_bits(bits).to_f32(),
                };
                match self.bytes(tensor, 2 * count)? {
                    Some(bytes) => bytes.chunks_exact(2).map(|b| value(u16::from_le_bytes([b[0], b[1]]))).collect(),
                    None => std::mem::take(&mut tensor.int32_data).into_iter().map(|v| value(v as u16)).collect(),
                }
            }
            _ => return Ok(None),
        };
        self.check_count(tensor, values.len(), count)?;
        Ok(Some(values))
    }

    /// The values of a tensor of integers or booleans; `None` for other types.
    ///
    /// # Errors
    /// Those of [`floats`](Self::floats).
    pub fn integers(&self, tensor: &mut TensorProto) -> Result<Option<Vec<i64>>> {
        let count = self.dims(tensor)?.iter().product::<usize>();
        let values: Vec<i64> = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Int64) => match self.bytes(tensor, 8 * count)? {
                Some(bytes) => bytes
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                    .collect(),
                None => std::mem::take(&mut tensor.int64_data),
            },
            Ok(DataType::Int32) => match self.bytes(tensor, 4 * count)? {
                Some(bytes) => {
                    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect()
                }
                None => std::mem::take(&mut tensor.int32_data).into_iter().map(i64::from).collect(),
            },
            Ok(DataType::Bool | DataType::Uint8) => match self.bytes(tensor, count)? {
                Some(bytes) => bytes.into_iter().map(i64::from).collect(),
                None => std::mem::take(&mut tensor.int32_data).into_iter().map(i64::from).collect(),
            },
            _ => return Ok(None),
        };
        self.check_count(tensor, values.len(), count)?;
        Ok(Some(values))
    }

    fn check_count(&self, tensor: &TensorProto, found: usize, wanted: usize) -> Result<()> {
        match found == wanted {
            true => Ok(()),
            false => Err(self.error(tensor, format!("has {found} values, its shape {:?} needs {wanted}", tensor.dims))),
        }
    }
}

/// Whether this is the domain of ONNX's own operators.
pub fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == DataLocation::External as i32
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str())
}
