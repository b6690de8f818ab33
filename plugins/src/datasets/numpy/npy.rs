//! The `.npy` format of NumPy, of which the header is read first and then single rows.
//!
//! Source: numpy.lib.format, versions 1.0 to 3.0: the magic bytes, two bytes of version, the length of the header (two
//! bytes, from version 2.0 on four), and the header, a Python dictionary with `descr`, `fortran_order` and `shape`.

use qdrop_core::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read, as in NumPy. That of an array of numbers has 128 bytes.
const MAX_HEADER: usize = 10_000;

/// The type of an array's elements, which are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// f32.
    Float,
    /// An unsigned integer of 1, 2, 4 or 8 bytes.
    Unsigned(usize),
    /// A signed integer of 1, 2, 4 or 8 bytes.
    Signed(usize),
}

impl ElementType {
    /// The type that `descr` names, such as `<f4` or `|u1`.
    fn new(descr: &str) -> Option<Self> {
        let (order, kind) = descr.split_at_checked(1)?;
        let bytes: usize = kind.get(1..)?.parse().ok()?;
        let known = match kind.get(..1)? {
            "f" if bytes == 4 => Self::Float,
            "u" if [1, 2, 4, 8].contains(&bytes) => Self::Unsigned(bytes),
            "i" if [1, 2, 4, 8].contains(&bytes) => Self::Signed(bytes),
            _ => return None,
        };
        // A single byte has no order.
        (order == "<" || (bytes == 1 && order == "|")).then_some(known)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes,
        }
    }
}

/// An array in a file, whose header was read.
#[derive(Debug)]
pub struct NpyFile {
    /// The file.
    pub file: PathBuf,
    /// The type of its elements.
    pub element: ElementType,
    /// Its shape, of at least one dimension; elements are in C order.
    pub shape: Vec<usize>,
    /// Where its data begins.
    offset: u64,
    /// Bytes of a row, which has one index in the first dimension.
    row: usize,
}

impl NpyFile {
    /// Reads the header of a file and compares it with the file's length.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or holds an array of a type or order that is not supported.
    pub fn open(file: &Path) -> Result<Self> {
        let refused = |message: String| Error::data(file, message);
        let mut reader = File::open(file).map_err(Error::io("read", file))?;
        let length = reader.metadata().map_err(Error::io("read", file))?.len();
        let mut take = |count: usize| {
            let mut bytes = Vec::new();
            reader.by_ref().take(count as u64).read_to_end(&mut bytes).map_err(Error::io("read", file))?;
            match bytes.len() {
                read if read == count => Ok(bytes),
                _ => Err(refused("ends within its header; is it truncated?".into())),
            }
        };
        let magic = take(MAGIC.len())?;
        if magic.starts_with(b"PK") {
            return Err(refused("is a .npz archive; save each array in a file of its own with numpy.save".into()));
        }
        if magic != MAGIC {
            return Err(refused("is no .npy file; save the array with numpy.save".into()));
        }
        let version = take(2)?;
        let wide = match version[0] {
            1 => false,
            2 | 3 => true,
            major => {
                return Err(refused(format!(
                    "has version {major}.{} of the .npy format, 1.0 to 3.0 are known",
                    version[1]
                )))
            }
        };
        let size = take(if wide { 4 } else { 2 })?;
        let size = size.iter().rev().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
        if size > MAX_HEADER {
            return Err(refused(format!(
                "announces a header of {size} bytes, more than the {MAX_HEADER} that are read"
            )));
        }
        let header = take(size)?;
        let damaged = || refused("has a damaged header; save the array again with numpy.save".into());
        let header = std::str::from_utf8(&header).ok().and_then(Header::parse).ok_or_else(damaged)?;
        let element = ElementType::new(&header.descr).ok_or_else(|| {
            let message = format!(
                "holds elements of the type '{}'; images are uint8 or float32 and labels are integers, little-endian (convert \
                 with array.astype)",
                header.descr
            );
            refused(message)
        })?;
        if header.fortran_order {
            return Err(refused("is in Fortran order; save numpy.ascontiguousarray(array)".into()));
        }
        let Some((_, inner)) = header.shape.split_first() else {
            return Err(refused("holds a single number, not an array".into()));
        };
        let product = |dims: &[usize]| dims.iter().try_fold(element.bytes(), |bytes, dim| bytes.checked_mul(*dim));
        let impossible = || refused(format!("its header announces the impossible shape {:?}", header.shape));
        let (bytes, row) = (product(&header.shape).ok_or_else(impossible)?, product(inner).ok_or_else(impossible)?);
        let offset = (MAGIC.len() + 2 + if wide { 4 } else { 2 } + size) as u64;
        let held = length.saturating_sub(offset);
        if held != bytes as u64 {
            let message = format!(
                "holds {held} bytes of data, its header announces {bytes} (shape {:?}); is it truncated or damaged?",
                header.shape
            );
            return Err(refused(message));
        }
        Ok(Self { file: file.into(), element, shape: header.shape, offset, row })
    }

    /// The bytes of a row, which is opened anew: several threads read at the same time.
    ///
    /// # Errors
    /// The file cannot be read.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> Result<Vec<u8>> {
        assert!(index < self.shape[0], "row {index} of {}", self.shape[0]);
        self.read(index as u64 * self.row as u64, self.row)
    }

    /// All elements as integers.
    ///
    /// # Errors
    /// They are not integers, one of them does not fit into i64, or the file cannot be read.
    pub fn integers(&self) -> Result<Vec<i64>> {
        let bytes = self.read(0, self.row * self.shape[0])?;
        let signed = match self.element {
            ElementType::Float => {
                return Err(Error::data(&self.file, "holds floats; labels are integers (convert with array.astype)"))
            }
            ElementType::Unsigned(_) => false,
            ElementType::Signed(_) => true,
        };
        let integer = |bytes: &[u8]| {
            let value = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            let unused = 64 - 8 * bytes.len() as u32;
            match signed {
                // The sign is the highest bit.
                true => Some((value << unused) as i64 >> unused),
                false => i64::try_from(value).ok(),
            }
        };
        let integers = bytes.chunks_exact(self.element.bytes()).map(integer);
        integers.collect::<Option<_>>().ok_or_else(|| Error::data(&self.file, "holds a number that is no label"))
    }

    /// Reads bytes of the data. Their number is known not to exceed the file's.
    fn read(&self, start: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut read = || {
            let mut reader = File::open(&self.file)?;
            reader.seek(SeekFrom::Start(self.offset + start))?;
            reader.read_exact(&mut bytes)
        };
        read().map_err(Error::io("read", &self.file))?;
        Ok(bytes)
    }
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses the text of a header, such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`. A type with
    /// fields, which is a list, is no text and not understood.
    fn parse(text: &str) -> Option<Self> {
        let mut text = Text(text.trim());
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        text.skip("{")?;
        while text.skip("}").is_none() {
            let key = text.quoted()?;
            text.skip(":")?;
            match key {
                "descr" => descr = Some(text.quoted()?.to_string()),
                "fortran_order" => {
                    fortran_order = Some(text.skip("True").is_some() || text.skip("False").map(|()| false)?)
                }
                "shape" => shape = Some(text.numbers()?),
                _ => return None,
            }
            if text.skip(",").is_none() {
                text.skip("}")?;
                break;
            }
        }
        // Nothing may follow.
        if !text.0.is_empty() {
            return None;
        }
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// The part of a header that is not read yet.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Skips `token` and the space after it.
    fn skip(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?.trim_start();
        Some(())
    }

    /// The text between quotation marks.
    fn quoted(&mut self) -> Option<&'a str> {
        let mark = self.0.chars().next().filter(|mark| matches!(mark, '\'' | '"'))?;
        let (quoted, rest) = self.0[1..].split_once(mark)?;
        self.0 = rest.trim_start();
        Some(quoted)
    }

    /// A tuple of numbers: `()`, `(3,)` or `(3, 4)`.
    fn numbers(&mut self) -> Option<Vec<usize>> {
        let mut numbers = Vec::new();
        self.skip("(")?;
        while self.skip(")").is_none() {
            let digits = self.0.find(|c: char| !c.is_ascii_digit())?;
            numbers.push(self.0[..digits].parse().ok()?);
            self.0 = self.0[digits..].trim_start();
            if self.skip(",").is_none() {
                self.skip(")")?;
                break;
            }
        }
        Some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_numpy_writes_them() {
        let parsed = Header::parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }          \n").unwrap();
        assert_eq!(parsed, Header { descr: "<f4".into(), fortran_order: false, shape: vec![3, 4] });
        // Other writers leave out spaces and the last comma, and use other quotation marks.
        let parsed = Header::parse("{\"shape\":(7,),'fortran_order':True,\"descr\":'|u1'}").unwrap();
        assert_eq!(parsed, Header { descr: "|u1".into(), fortran_order: true, shape: vec![7] });
        assert_eq!(Header::parse("{'descr': '<i8', 'fortran_order': False, 'shape': ()}").unwrap().shape, [0; 0]);
        for damaged in [
            "",
            "{",
            "{}",
            "[]",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} {}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3",
            "{'é': '<f4'}",
        ] {
            assert_eq!(Header::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn types_are_those_of_numpy() {
        assert_eq!(ElementType::new("<f4"), Some(ElementType::Float));
        assert_eq!(ElementType::new("|u1"), Some(ElementType::Unsigned(1)));
        assert_eq!(ElementType::new("<i8").map(ElementType::bytes), Some(8));
        for other in ["", "<", "f4", ">f4", "<f8", "<f2", "|O", "<U3", "|b1", "<i16", "<u0", "é4", "<é", "|i2"] {
            assert_eq!(ElementType::new(other), None, "{other}");
        }
    }

    #[test]
    fn labels_keep_their_sign() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels.npy");
        let labels = |descr: &str, count: usize, data: &[u8]| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},)}}");
            let bytes = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat();
            std::fs::write(&file, bytes).unwrap();
            NpyFile::open(&file).unwrap().integers().map_err(|e| e.to_string())
        };
        assert_eq!(labels("|i1", 2, &[255, 7]).unwrap(), [-1, 7]);
        assert_eq!(labels("|u1", 2, &[255, 7]).unwrap(), [255, 7]);
        assert_eq!(labels("<i4", 1, &(-2_i32).to_le_bytes()).unwrap(), [-2]);
        assert_eq!(labels("<i8", 1, &i64::MIN.to_le_bytes()).unwrap(), [i64::MIN]);
        assert_eq!(labels("<u2", 1, &[1, 2]).unwrap(), [513]);
        assert!(labels("<u8", 1, &u64::MAX.to_le_bytes()).unwrap_err().ends_with("holds a number that is no label"));
        assert!(labels("<f4", 1, &[0; 4]).unwrap_err().contains("holds floats; labels are integers"));
    }
}
