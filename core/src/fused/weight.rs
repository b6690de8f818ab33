//! A weight of a fused unit, in the form that its convolution computes with.

use super::learned::Rounding;
use crate::error::Result;
use candle_core::Tensor;
use qdrop_kernels::adam::AdamStep;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::rounding::Regularizer;
use qdrop_kernels::nhwc::{
    depthwise_backward_input, depthwise_backward_weight, depthwise_forward, gradient_of_weight, mirrored, rotate,
    transformed, transformed_len, winograd_applies, Buffer, Layout, PackedShape, Packing, RowPlan, WeightPlan,
    WinogradPlan, WinogradWeightPlan,
};

/// A weight and how it is used.
pub struct Weight {
    pub shape: Conv2dShape,
    /// What is learned of it, if anything.
    pub rounding: Option<Rounding>,
    value: Buffer,
    grad: Buffer,
    bias: Option<Buffer>,
    form: Form,
}

/// How a convolution is computed. The gradient of the weight has a plan where something is learned, that of
/// the input where it is needed.
#[allow(clippy::large_enum_variant, reason = "one for each layer")]
enum Form {
    Depthwise,
    Direct {
        forward: RowPlan,
        /// With the weights that it reads.
        backward_input: Option<(RowPlan, Buffer)>,
        backward_weight: Option<WeightPlan>,
    },
    Winograd {
        forward: WinogradPlan,
        /// The weights that it reads.
        value: Buffer,
        /// With its weights, and room for what they are made from.
        backward_input: Option<(WinogradPlan, Buffer, Buffer)>,
        /// With the gradient of the transformed weight.
        backward_weight: Option<(WinogradWeightPlan, Buffer)>,
    },
}

/// Layouts of a convolution: what it reads and writes, and the gradients of both.
#[derive(Debug, Clone, Copy)]
pub struct Layouts {
    pub x: Layout,
    pub z: Layout,
    pub gz: Layout,
    /// None where the gradient of the input is not needed.
    pub gx: Option<Layout>,
}

impl Form {
    fn new(shape: &Conv2dShape, layouts: Layouts, learns: bool) -> Self {
        let Packing::Tiles(packed) = Packing::of(shape) else { return Self::Depthwise };
        let Layouts { x, z, gz, gx } = layouts;
        let exchanged = PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed };
        if !winograd_applies(shape) {
            let backward = |gx| (RowPlan::backward_input(shape, gz, gx), Buffer::zeros(exchanged.len()));
            return Self::Direct {
                forward: RowPlan::forward(shape, x, z),
                backward_input: gx.map(backward),
                backward_weight: learns.then(|| WeightPlan::new(shape, x, gz)),
            };
        }
        let spread = |shape| Buffer::zeros(transformed_len(shape));
        let backward =
            |gx| (WinogradPlan::backward_input(shape, gz, gx), Buffer::zeros(exchanged.len()), spread(&exchanged));
        Self::Winograd {
            forward: WinogradPlan::forward(shape, x, z),
            value: spread(&packed),
            backward_input: gx.map(backward),
            backward_weight: learns.then(|| (WinogradWeightPlan::new(shape, x, gz), spread(&packed))),
        }
    }

    /// Brings the packed weight into the forms that are read.
    fn prepare(&mut self, shape: &Conv2dShape, weight: &[f32]) {
        match self {
            Self::Depthwise => {}
            Self::Direct { backward_input, .. } => {
                if let Some((_, rotated)) = backward_input {
                    rotate(shape, weight, rotated);
                }
            }
            Self::Winograd { value, backward_input, .. } => {
                transformed(&PackedShape::of(shape), weight, value);
                if let Some((_, exchanged, spread)) = backward_input {
                    mirrored(shape, weight, exchanged, spread);
                }
            }
        }
    }
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
        let form = Form::new(&shape, layouts, rounding.is_some());
        let value = packing.pack(value);
        let grad = Buffer::zeros(if rounding.is_some() { packing.len() } else { 0 });
        let mut weight = Self { value, grad, bias: bias.map(|b| packing.pack_lanes(b)), shape, rounding, form };
        weight.prepare();
        weight
    }

    /// Computes the weight from what is learned of it.
    fn prepare(&mut self) {
        if let Some(rounding) = &self.rounding {
            rounding.soft_weight(&mut self.value);
        }
        self.form.prepare(&self.shape, &self.value);
    }

    pub fn forward(&self, x: (&[f32], Layout), z: (&mut [f32], Layout)) {
        let bias = self.bias.as_deref();
        match &self.form {
            Form::Depthwise => depthwise_forward(&self.shape, x, &self.value, bias, z),
            Form::Direct { forward, .. } => forward.run(x.0, &self.value, bias, z.0),
            Form::Winograd { forward, value, .. } => forward.run(x.0, value, bias, z.0),
        }
    }

    pub fn backward_input(&self, gz: (&[f32], Layout), gx: (&mut [f32], Layout)) {
        match &self.form {
            Form::Depthwise => depthwise_backward_input(&self.shape, gz, &self.value, gx),
            Form::Direct { backward_input: Some((plan, rotated)), .. } => plan.run(gz.0, rotated, None, gx.0),
            Form::Winograd { backward_input: Some((plan, _, spread)), .. } => plan.run(gz.0, spread, None, gx.0),
            _ => {}
        }
    }

    /// Adds to the weight's gradient, or replaces it.
    pub fn backward_weight(&mut self, x: (&[f32], Layout), gz: (&[f32], Layout), replace: bool) {
        if self.rounding.is_none() {
            return;
        }
        match &mut self.form {
            Form::Depthwise => depthwise_backward_weight(&self.shape, x, gz, &mut self.grad, replace),
            Form::Direct { backward_weight: Some(plan), .. } => plan.run(x.0, gz.0, &mut self.grad, replace),
            Form::Winograd { backward_weight: Some((plan, spread)), .. } => plan.run(x.0, gz.0, spread, replace),
            _ => {}
        }
    }

    /// One update of what is learned, from the gradient that was summed; returns the regularizer before it.
    pub fn learn(&mut self, regularizer: Option<Regularizer>, adam: AdamStep) -> f64 {
        let Some(rounding) = &mut self.rounding else { return 0.0 };
        if let Form::Winograd { backward_weight: Some((_, spread)), .. } = &self.form {
            gradient_of_weight(&PackedShape::of(&self.shape), spread, &mut self.grad);
        }
        let sum = rounding.learn(&self.grad, &mut self.value, regularizer, adam);
        self.form.prepare(&self.shape, &self.value);
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
