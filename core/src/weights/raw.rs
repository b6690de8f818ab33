//! A tensor as it is stored in a file.

/// Order of the bytes of an element in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// The order of PyTorch's file `byteorder`.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        match text.trim_ascii() {
            b"little" => Ok(Self::Little),
            b"big" => Ok(Self::Big),
            other => Err(format!("unknown byte order '{}'; expected little or big", String::from_utf8_lossy(other))),
        }
    }
}

/// Data type of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawDtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    BF16,
    /// Any integer or boolean type, with its size in bytes.
    Integer(usize),
    /// Any other type, such as complex or quantized numbers, with its size in bytes.
    Other(usize),
}

impl RawDtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Integer(size) | Self::Other(size) => size,
        }
    }
}

/// A tensor as it is stored in a file, contiguous in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// Data type of the elements.
    pub dtype: RawDtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// The elements as f32.
    ///
    /// # Errors
    /// The elements are not floating-point numbers.
    pub fn to_f32(&self) -> Result<Vec<f32>, String> {
        fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
            bytes.chunks_exact(N).map(|c| {
                let mut word = [0; N];
                word.copy_from_slice(c);
                word
            })
        }
        match self.dtype {
            RawDtype::F32 => Ok(words(&self.bytes).map(f32::from_le_bytes).collect()),
            RawDtype::F64 => Ok(words(&self.bytes).map(|b| f64::from_le_bytes(b) as f32).collect()),
            RawDtype::BF16 => {
                Ok(words(&self.bytes).map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)).collect())
            }
            RawDtype::F16 => Ok(words(&self.bytes).map(|b| half_to_f32(u16::from_le_bytes(b))).collect()),
            RawDtype::Integer(_) => Err("holds integers, not floating-point numbers".into()),
            RawDtype::Other(_) => {
                Err("holds numbers of a type that is not supported (complex, quantized or 8-bit floating-point)".into())
            }
        }
    }

    /// Copies a strided view of `storage` into a contiguous tensor.
    pub(super) fn from_strided(
        dtype: RawDtype,
        storage: &[u8],
        order: Order,
        offset: usize,
        shape: Vec<usize>,
        stride: &[usize],
    ) -> Result<Self, String> {
        let size = dtype.size();
        if shape.len() != stride.len() {
            return Err(format!("has {} dimensions and {} strides", shape.len(), stride.len()));
        }
        let count = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).ok_or("is too large to exist")?;
        let reach = shape
            .iter()
            .zip(stride)
            .try_fold(offset, |at, (d, s)| at.checked_add(d.saturating_sub(1).checked_mul(*s)?));
        let enough = reach.and_then(|r| r.checked_add(1)?.checked_mul(size)).is_some_and(|end| end <= storage.len());
        if count > 0 && !enough {
            return Err(format!(
                "has the shape {shape:?} and reaches beyond its storage of {} bytes; the file is truncated",
                storage.len()
            ));
        }
        // A stride of 0 repeats elements: without this bound, a small file could ask for any amount of memory.
        if count.saturating_mul(size) > storage.len() {
            return Err(format!("has the shape {shape:?}, but only {} bytes; save a contiguous copy", storage.len()));
        }
        let mut bytes = Vec::with_capacity(count * size);
        let mut index = vec![0; shape.len()];
        for _ in 0..count {
            let at = offset + index.iter().zip(stride).map(|(i, s)| i * s).sum::<usize>();
            bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
            if order == Order::Big {
                let start = bytes.len() - size;
                bytes[start..].reverse();
            }
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(Self { dtype, shape, bytes })
    }
}

/// Converts IEEE 754 half precision to single precision.
fn half_to_f32(half: u16) -> f32 {
    let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f32::from(half & 0x3ff) / 1024.0);
    sign * match exponent {
        0 => fraction * 2.0_f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2.0_f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_values() {
        for (bits, want) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x3555, 0.333_251_95), (0x0001, 5.960_464_5e-8), (0x7bff, 65504.0)]
        {
            assert_eq!(half_to_f32(bits), want);
        }
        assert!(half_to_f32(0x7e00).is_nan());
    }

    #[test]
    fn strided_views_become_contiguous() {
        let storage: Vec<u8> = (0..6_u8).collect();
        let t = RawTensor::from_strided(RawDtype::Integer(1), &storage, Order::Little, 0, vec![3, 2], &[1, 3]).unwrap();
        assert_eq!(t.bytes, [0, 3, 1, 4, 2, 5]);
        let error = RawTensor::from_strided(RawDtype::Integer(1), &storage, Order::Little, 1, vec![3, 2], &[1, 3]);
        assert!(error.unwrap_err().contains("truncated"));
    }
}
