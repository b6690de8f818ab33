//! The quantization grid: bit width, integer bounds, scale and zero point.

use crate::error::{Error, Result};
use qdrop_kernels::rounding::round_half_even;
use serde::{Deserialize, Serialize};

/// Smallest scale, against a division by zero.
pub const MIN_SCALE: f32 = 1e-8;

/// Which elements of a tensor share a scale and zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// All elements with the same index along this axis.
    PerAxis(usize),
}

impl Granularity {
    /// How the elements of a tensor with these dimensions are divided into channels.
    ///
    /// # Errors
    /// The axis does not exist.
    pub fn channels(self, dims: &[usize]) -> Result<qdrop_kernels::segments::Channels> {
        use qdrop_kernels::segments::Channels;
        match self {
            Self::PerTensor => Ok(Channels::whole(dims.iter().product())),
            Self::PerAxis(axis) if axis < dims.len() => Ok(Channels::along(dims, axis)),
            Self::PerAxis(axis) => {
                Err(Error::message(format!("a tensor of shape {dims:?} has no axis {axis} to quantize along")))
            }
        }
    }
}

/// A quantizer's grid: bit width, symmetry, and which elements share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantSpec {
    /// Bit width, 1 to 16.
    pub bits: u32,
    /// Whether the grid is symmetric around zero, with zero point 0.
    pub symmetric: bool,
    /// Which elements share a scale.
    pub granularity: Granularity,
}

impl QuantSpec {
    /// Checks the bit width. `path` is its place in the recipe, for messages.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `bits` is between 1 and 16.
    pub fn new(bits: u32, symmetric: bool, granularity: Granularity, path: &str) -> Result<Self> {
        if !(1..=16).contains(&bits) {
            return Err(Error::setting(path, format!("{bits} bits are not supported; use 1 to 16")));
        }
        Ok(Self { bits, symmetric, granularity })
    }

    /// Smallest integer: 0, or `-2^(bits - 1)` when symmetric.
    pub fn qmin(&self) -> f32 {
        if self.symmetric {
            -((1_i64 << (self.bits - 1)) as f32)
        } else {
            0.0
        }
    }

    /// Largest integer: `2^bits - 1`, or `2^(bits - 1) - 1` when symmetric.
    pub fn qmax(&self) -> f32 {
        let bits = if self.symmetric { self.bits - 1 } else { self.bits };
        ((1_i64 << bits) - 1) as f32
    }

    /// The integer of a value, counted from qmin, so from 0 to `2^bits - 1`: `round(value / scale) + zero_point - qmin`. `None`
    /// if it lies outside of the grid.
    pub fn code(&self, value: f32, scale: f32, zero_point: f32) -> Option<u16> {
        let code = round_half_even(value / scale) + zero_point - self.qmin();
        (0.0..=self.qmax() - self.qmin()).contains(&code).then_some(code as u16)
    }

    /// The value of an integer counted from qmin. All but the product is exact with integers of up to 16 bits as zero points.
    pub fn dequantize(&self, code: u16, scale: f32, zero_point: f32) -> f32 {
        (f32::from(code) + self.qmin() - zero_point) * scale
    }
}

impl QuantSpec {
    /// LSQ's factor for the gradients of scale and zero point: `1 / sqrt(n * qmax)`, where n is the number of
    /// elements that share the scale (arXiv 1902.08153, section 2.2).
    pub fn lsq_gradient_scale(&self, elements: usize) -> f64 {
        1.0 / (elements as f64 * f64::from(self.qmax().max(1.0))).sqrt()
    }
}

/// The observed range of a tensor: one minimum and maximum for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// Smallest value of each channel.
    pub min: Vec<f32>,
    /// Largest value of each channel.
    pub max: Vec<f32>,
}

/// Scale and zero point of each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct QParams {
    /// Distance between two points of the grid.
    pub scale: Vec<f32>,
    /// The integer that represents zero.
    pub zero_point: Vec<f32>,
}

impl QParams {
    /// Computes the grid that covers a range and zero.
    ///
    /// Symmetric: `scale = max(-min, max) / ((qmax - qmin) / 2)`, `zero_point = 0`. Asymmetric:
    /// `scale = (max - min) / (qmax - qmin)`, `zero_point = clamp(qmin - round(min / scale))`
    /// (the reference's `calculate_qparams`).
    ///
    /// # Errors
    /// The range is empty or not finite.
    pub fn from_range(range: &Range, spec: &QuantSpec) -> Result<Self> {
        let mut params = Self { scale: Vec::new(), zero_point: Vec::new() };
        for (channel, (min, max)) in range.min.iter().zip(&range.max).enumerate() {
            if !(min.is_finite() && max.is_finite()) {
                return Err(Error::message(format!(
                    "the observed range of channel {channel} is [{min}, {max}]; the tensor was empty or holds NaN or infinity"
                )));
            }
            let (scale, zero_point) = Self::of_pair(*min, *max, spec);
            params.scale.push(scale);
            params.zero_point.push(zero_point);
        }
        Ok(params)
    }

    /// Scale and zero point for the range of one channel.
    pub fn of_pair(min: f32, max: f32, spec: &QuantSpec) -> (f32, f32) {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let (qmin, qmax) = (spec.qmin(), spec.qmax());
        if spec.symmetric {
            return (((-min).max(max) / ((qmax - qmin) / 2.0)).max(MIN_SCALE), 0.0);
        }
        let scale = ((max - min) / (qmax - qmin)).max(MIN_SCALE);
        (scale, (qmin - round_half_even(min / scale)).clamp(qmin, qmax))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_bits() {
        let spec = |bits, symmetric| QuantSpec::new(bits, symmetric, Granularity::PerTensor, "quant.weight.bits");
        let s = spec(4, true).unwrap();
        assert_eq!((s.qmin(), s.qmax()), (-8.0, 7.0));
        let s = spec(16, false).unwrap();
        assert_eq!((s.qmin(), s.qmax()), (0.0, 65535.0));
        for (spec, first, last) in [(spec(4, true).unwrap(), -8.0, 7.0), (spec(4, false).unwrap(), -5.0, 10.0)] {
            let zero_point = spec.qmin() - first;
            for (code, value) in [(0, first), (15, last)] {
                assert_eq!(spec.code(0.5 * value + 0.1, 0.5, zero_point), Some(code));
                assert_eq!(spec.dequantize(code, 0.5, zero_point), 0.5 * value);
            }
            assert_eq!(spec.code(0.5 * first - 0.5, 0.5, zero_point), None);
            assert_eq!(spec.code(0.5 * last + 0.5, 0.5, zero_point), None);
        }
        for bits in [0, 17] {
            let error = spec(bits, false).unwrap_err().to_string();
            assert_eq!(error, format!("quant.weight.bits: {bits} bits are not supported; use 1 to 16"));
        }
    }

    #[test]
    fn ranges_become_grids() {
        let spec = QuantSpec { bits: 2, symmetric: false, granularity: Granularity::PerTensor };
        assert_eq!(QParams::of_pair(0.5, 3.0, &spec), (1.0, 0.0));
        assert_eq!(QParams::of_pair(-1.0, 2.0, &spec), (1.0, 1.0));
        assert_eq!(QParams::of_pair(0.0, 0.0, &spec), (MIN_SCALE, 0.0));
        let bad = Range { min: vec![f32::NAN], max: vec![1.0] };
        assert!(QParams::from_range(&bad, &spec).is_err());
    }
}
