//! A weight of a fused unit and its convolution.

use super::learned::Rounding;
use crate::error::Result;
use candle_core::Tensor;
use qdrop_kernels::adam::AdamStep;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::rounding::Regularizer;
use qdrop_kernels::nhwc::{Buffer, Convolution, Layout, Layouts, Packing};

/// A weight and how it is used.
pub struct Weight {
    /// What is learned of it, if anything.
    pub rounding: Option<Rounding>,
    value: Buffer,
    grad: Buffer,
    bias: Option<Buffer>,
    convolution: Convolution,
}

impl Weight {
    /// A weight for images of these layouts; `value` is what it is where nothing is learned.
    pub fn new(
        shape: Conv2dShape,
        layouts: Layouts,
        value: &[f32],
        bias: Option<&[f32]>,
        rounding: Option<Rounding>,
    ) -> Self {
        let packing = Packing::of(&shape);
        let convolution = Convolution::new(&shape, layouts, rounding.is_some());
        let value = packing.pack(value);
        let grad = Buffer::zeros(if rounding.is_some() { packing.len() } else { 0 });
        let mut weight = Self { value, grad, bias: bias.map(|b| packing.pack_lanes(b)), rounding, convolution };
        weight.prepare();
        weight
    }

    /// Computes the weight from what is learned of it.
    fn prepare(&mut self) {
        if let Some(rounding) = &self.rounding {
            rounding.soft_weight(&mut self.value);
        }
        self.convolution.prepare(&self.value);
    }

    pub fn forward(&self, x: (&[f32], Layout), z: (&mut [f32], Layout)) {
        self.convolution.forward(x, &self.value, self.bias.as_deref(), z);
    }

    pub fn backward_input(&self, gz: (&[f32], Layout), gx: (&mut [f32], Layout)) {
        self.convolution.backward_input(gz, &self.value, gx);
    }

    /// Adds to the weight's gradient, or replaces it.
    pub fn backward_weight(&mut self, x: (&[f32], Layout), gz: (&[f32], Layout), replace: bool) {
        if self.rounding.is_some() {
            self.convolution.backward_weight(x, gz, &mut self.grad, replace);
        }
    }

    /// One update of what is learned, from the gradient that was summed; returns the regularizer before it.
    pub fn learn(&mut self, regularizer: Option<Regularizer>, adam: AdamStep) -> f64 {
        let Some(rounding) = &mut self.rounding else { return 0.0 };
        self.convolution.finish_gradient(&mut self.grad);
        let sum = rounding.learn(&self.grad, &mut self.value, regularizer, adam);
        self.convolution.prepare(&self.value);
        sum
    }

    /// Goes on from this [`state`](Rounding::state) of what is learned.
    pub fn restore(&mut self, state: [&Tensor; 3]) -> Result<()> {
        if let Some(rounding) = &mut self.rounding {
            rounding.restore(state)?;
        }
        self.prepare();
        Ok(())
    }
}
