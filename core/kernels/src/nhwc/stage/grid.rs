//! The grid of the quantizer of a stage.

/// The quantization grid of a whole tensor (granularity per tensor).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorGrid {
    /// Distance between neighbouring values of the grid.
    pub scale: f32,
    /// Integer that stands for zero.
    pub zero_point: f32,
    /// Smallest integer.
    pub qmin: f32,
    /// Largest integer.
    pub qmax: f32,
}
