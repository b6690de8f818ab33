//! How a convolution is computed.

use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Read;
use qdrop_kernels::nhwc::{
    depthwise_backward_input, depthwise_backward_weight, depthwise_forward, gradient_of_weight, mirrored, rotate,
    transformed, transformed_len, winograd_applies, Buffer, Layout, PackedShape, Packing, RowPlan, WeightPlan,
    WinogradPlan, WinogradWeightPlan,
};

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

/// A convolution of a step.
pub struct Convolution {
    shape: Conv2dShape,
    form: Form,
}

impl Convolution {
    pub fn new(shape: &Conv2dShape, layouts: Layouts, learns: bool) -> Self {
        Self { shape: *shape, form: Form::new(shape, layouts, learns) }
    }

    pub fn prepare(&mut self, weight: &[f32]) {
        self.form.prepare(&self.shape, weight);
    }

    pub fn forward(&self, x: Read<'_>, weight: &[f32], bias: Option<&[f32]>, z: (&mut [f32], Layout)) {
        match &self.form {
            Form::Depthwise => depthwise_forward(&self.shape, x, weight, bias, z),
            Form::Direct { forward, .. } => forward.run(x.0, weight, bias, z.0),
            Form::Winograd { forward, value, .. } => forward.run(x.0, value, bias, z.0),
        }
    }

    pub fn backward_input(&self, gz: Read<'_>, weight: &[f32], gx: (&mut [f32], Layout)) {
        match &self.form {
            Form::Depthwise => depthwise_backward_input(&self.shape, gz, weight, gx),
            Form::Direct { backward_input: Some((plan, rotated)), .. } => plan.run(gz.0, rotated, None, gx.0),
            Form::Winograd { backward_input: Some((plan, _, spread)), .. } => plan.run(gz.0, spread, None, gx.0),
            _ => {}
        }
    }

    pub fn backward_weight(&mut self, x: Read<'_>, gz: Read<'_>, grad: &mut [f32], replace: bool) {
        match &mut self.form {
            Form::Depthwise => depthwise_backward_weight(&self.shape, x, gz, grad, replace),
            Form::Direct { backward_weight: Some(plan), .. } => plan.run(x.0, gz.0, grad, replace),
            Form::Winograd { backward_weight: Some((plan, spread)), .. } => plan.run(x.0, gz.0, spread, replace),
            _ => {}
        }
    }

    pub fn finish_gradient(&self, grad: &mut [f32]) {
        if let Form::Winograd { backward_weight: Some((_, spread)), .. } = &self.form {
            gradient_of_weight(&PackedShape::of(&self.shape), spread, grad);
        }
    }
}
