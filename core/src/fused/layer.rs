//! One convolution of a fused unit, with what follows it.

use super::learned::Number;
use super::weight::Weight;
use qdrop_kernels::activation::Activation;
use qdrop_kernels::drop::Choices;
use qdrop_kernels::nhwc::stage::{Stage, Sums, TensorGrid};
use qdrop_kernels::nhwc::{Buffer, Layout};
use qdrop_kernels::rounding::round_half_even;

/// A buffer of images.
#[derive(Debug, Clone)]
pub struct Images {
    pub values: Buffer,
    pub layout: Layout,
}

impl Images {
    pub fn new(layout: Layout) -> Self {
        Self { values: Buffer::zeros(layout.len()), layout }
    }

    pub fn read(&self) -> (&[f32], Layout) {
        (&self.values, self.layout)
    }

    pub fn write(&mut self) -> (&mut [f32], Layout) {
        (&mut self.values, self.layout)
    }
}

/// Activation function and quantizer after a convolution or at the unit's end.
pub struct Site {
    pub activation: Option<Activation>,
    /// The grid, if there is a quantizer; learned numbers replace its scale and zero point.
    grid: Option<TensorGrid>,
    pub scale: Option<Number>,
    pub zero_point: Option<Number>,
    /// Number of the site in the order of execution, from 1.
    pub number: usize,
}

impl Site {
    pub fn new(activation: Option<Activation>, number: usize) -> Self {
        Self { activation, grid: None, scale: None, zero_point: None, number }
    }

    pub fn quantize(&mut self, grid: TensorGrid, scale: Option<Number>, zero_point: Option<Number>) {
        (self.grid, self.scale, self.zero_point) = (Some(grid), scale, zero_point);
    }

    pub fn is_quantized(&self) -> bool {
        self.grid.is_some()
    }

    /// Brings learned numbers into their domain and returns the stage of this step.
    pub fn prepare(&mut self) -> Stage {
        if let Some(grid) = &mut self.grid {
            if let Some(scale) = &mut self.scale {
                scale.set(scale.value().abs().max(f32::EPSILON));
                grid.scale = scale.value();
            }
            if let Some(zero_point) = &mut self.zero_point {
                zero_point.set(zero_point.value().clamp(grid.qmin, grid.qmax));
                grid.zero_point = round_half_even(zero_point.value());
            }
        }
        self.stage()
    }

    pub fn stage(&self) -> Stage {
        Stage { activation: self.activation, grid: self.grid }
    }

    pub fn learn(&mut self, sums: Sums, adam: qdrop_kernels::adam::AdamStep) {
        if let Some(scale) = &mut self.scale {
            scale.learn(sums.scale, adam);
        }
        if let Some(zero_point) = &mut self.zero_point {
            zero_point.learn(sums.zero_point, adam);
        }
    }

    /// Its learned numbers.
    pub fn numbers(&mut self) -> impl Iterator<Item = &mut Number> {
        self.scale.iter_mut().chain(self.zero_point.iter_mut())
    }
}

/// A convolution of the chain with the stage after it.
pub struct Layer {
    pub weight: Weight,
    /// The stage, unless the layer is the last: then the unit's end stands there.
    pub site: Site,
    pub z: Images,
    /// The stage's value, which the next layer reads.
    pub a: Images,
    /// The gradient with respect to `a`, then that with respect to `z`.
    pub gz: Images,
    /// What the stage's drop chose, for the backward pass.
    pub kept: Vec<Choices>,
    /// Sums of the current chunk, row by row, and of the batch so far.
    pub rows: Vec<Sums>,
    pub sums: Sums,
}
