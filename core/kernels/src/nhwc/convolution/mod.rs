//! Convolutions of channels-last images. How one is computed is decided here, by its shape alone.

#[cfg(test)]
mod tests;

use super::buffer::Buffer;
use super::depthwise::{depthwise_backward_input, depthwise_backward_weight, depthwise_forward};
use super::layout::{Layout, Read, Written};
use super::pack::PackedShape;
use super::packing::Packing;
use super::rows::{border_of_gradient, exchange_channels, RowPlan};
use super::weight::WeightPlan;
use super::winograd::{gradient_of_weight, mirrored, transformed, transformed_len, winograd_applies};
use super::winograd::{WinogradPlan, WinogradWeightPlan};
use crate::conv::Conv2dShape;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Channel by channel.
    Depthwise,
    /// Row by row, from the taps of the kernel.
    Direct(PackedShape),
    /// Winograd's F(4 x 4, 3 x 3).
    Winograd(PackedShape),
}

impl Method {
    fn of(shape: &Conv2dShape) -> Self {
        match Packing::of(shape).tiles() {
            None => Self::Depthwise,
            Some(packed) if winograd_applies(shape) => Self::Winograd(packed),
            Some(packed) => Self::Direct(packed),
        }
    }
}

/// Layouts of what a convolution reads and writes, and of the gradients of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layouts {
    /// The input. Its border of zeros is at least the padding of every side.
    pub x: Layout,
    /// The output.
    pub z: Layout,
    /// The gradient of the output. Its border of zeros is at least that of [`border_of_gradient`].
    pub gz: Layout,
    /// The gradient of the input; None where it is not needed.
    pub gx: Option<Layout>,
}

/// A convolution in a step that learns: forward, and backward to its input and its weight. It takes weights in the
/// order of [`Packing`].
#[derive(Debug, Clone)]
pub struct Convolution {
    shape: Conv2dShape,
    layouts: Layouts,
    passes: Passes,
}

/// The passes of each method. The gradient of the weight has a plan where something is learned, that of the input
/// where it is needed.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer")]
enum Passes {
    Depthwise,
    Direct {
        forward: RowPlan,
        /// With the weight that it reads.
        backward_input: Option<(RowPlan, Buffer)>,
        backward_weight: Option<WeightPlan>,
    },
    Winograd {
        forward: WinogradPlan,
        /// The weight that it reads.
        weight: Buffer,
        /// With the weight that it reads, and room for what that is made from.
        backward_input: Option<(WinogradPlan, Buffer, Buffer)>,
        /// With the gradient of the transformed weight.
        backward_weight: Option<(WinogradWeightPlan, Buffer)>,
    },
}

impl Convolution {
    /// A convolution for batches of these layouts. With `learns` the gradient of its weight can be computed.
    ///
    /// # Panics
    /// A layout has other sizes than the convolution, or its border is too narrow.
    pub fn new(shape: &Conv2dShape, layouts: Layouts, learns: bool) -> Self {
        Self::with(Method::of(shape), shape, layouts, learns)
    }

    fn with(method: Method, shape: &Conv2dShape, layouts: Layouts, learns: bool) -> Self {
        let Layouts { x, z, gz, gx } = layouts;
        check_forward(shape, x, z);
        let batch = x.batch;
        assert_eq!(Layout { batch, border: 0, ..gz }, Layout { border: 0, ..z }, "the gradient of the output");
        if let Some(gx) = gx {
            assert_eq!(Layout { batch, border: 0, ..gx }, Layout { border: 0, ..x }, "the gradient of the input");
            assert!(gz.border >= border_of_gradient(shape), "the border of the gradient is too narrow");
        }
        let exchanged = |packed: PackedShape| PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed };
        let passes = match method {
            Method::Depthwise => Passes::Depthwise,
            Method::Direct(packed) => {
                let backward = |gx| (RowPlan::backward_input(shape, gz, gx), Buffer::zeros(exchanged(packed).len()));
                Passes::Direct {
                    forward: RowPlan::forward(shape, x, z),
                    backward_input: gx.map(backward),
                    backward_weight: learns.then(|| WeightPlan::new(shape, x, gz)),
                }
            }
            Method::Winograd(packed) => {
                let spread = |packed| Buffer::zeros(transformed_len(&packed));
                let room = || Buffer::zeros(exchanged(packed).len());
                let backward = |gx| (WinogradPlan::backward_input(shape, gz, gx), spread(exchanged(packed)), room());
                Passes::Winograd {
                    forward: WinogradPlan::forward(shape, x, z),
                    weight: spread(packed),
                    backward_input: gx.map(backward),
                    backward_weight: learns.then(|| (WinogradWeightPlan::new(shape, x, gz), spread(packed))),
                }
            }
        };
        Self { shape: *shape, layouts, passes }
    }

    /// Brings a new weight into the forms that the passes read. They must be given the same weight.
    pub fn prepare(&mut self, packed_weight: &[f32]) {
        match &mut self.passes {
            Passes::Depthwise => {}
            Passes::Direct { backward_input, .. } => {
                if let Some((_, exchanged)) = backward_input {
                    exchange_channels(&self.shape, packed_weight, exchanged);
                }
            }
            Passes::Winograd { weight, backward_input, .. } => {
                transformed(&PackedShape::of(&self.shape), packed_weight, weight);
                if let Some((_, spread, room)) = backward_input {
                    mirrored(&self.shape, packed_weight, room, spread);
                }
            }
        }
    }

    /// `z = conv(x, weight) + bias`. `bias` has one value for each [lane](Packing::lanes).
    pub fn forward(&self, x: Read<'_>, packed_weight: &[f32], bias: Option<&[f32]>, z: Written<'_>) {
        assert_eq!([x.1, z.1], [self.layouts.x, self.layouts.z], "layouts");
        match &self.passes {
            Passes::Depthwise => depthwise_forward(&self.shape, x, packed_weight, bias, z),
            Passes::Direct { forward, .. } => forward.run(x.0, packed_weight, bias, z.0),
            Passes::Winograd { forward, weight, .. } => forward.run(x.0, weight, bias, z.0),
        }
    }

    /// The gradient of the input, from that of the output.
    ///
    /// # Panics
    /// The convolution was made without a layout of this gradient.
    pub fn backward_input(&self, gz: Read<'_>, packed_weight: &[f32], gx: Written<'_>) {
        assert_eq!((gz.1, Some(gx.1)), (self.layouts.gz, self.layouts.gx), "layouts");
        match &self.passes {
            Passes::Depthwise => depthwise_backward_input(&self.shape, gz, packed_weight, gx),
            Passes::Direct { backward_input, .. } => {
                let (plan, weight) = backward_input.as_ref().expect("made with a layout of this gradient");
                plan.run(gz.0, weight, None, gx.0);
            }
            Passes::Winograd { backward_input, .. } => {
                let (plan, weight, _) = backward_input.as_ref().expect("made with a layout of this gradient");
                plan.run(gz.0, weight, None, gx.0);
            }
        }
    }

    /// Adds the gradient of the packed weight to `grad`, or replaces it where `replace` is set. `grad` holds the
    /// gradient after [`finish_gradient`](Self::finish_gradient) alone: until then, it may be kept elsewhere.
    ///
    /// # Panics
    /// The convolution does not learn.
    pub fn backward_weight(&mut self, x: Read<'_>, gz: Read<'_>, grad: &mut [f32], replace: bool) {
        assert_eq!([x.1, gz.1], [self.layouts.x, self.layouts.gz], "layouts");
        match &mut self.passes {
            Passes::Depthwise => depthwise_backward_weight(&self.shape, x, gz, grad, replace),
            Passes::Direct { backward_weight, .. } => {
                backward_weight.as_ref().expect("a convolution that learns").run(x.0, gz.0, grad, replace);
            }
            Passes::Winograd { backward_weight, .. } => {
                let (plan, spread) = backward_weight.as_mut().expect("a convolution that learns");
                plan.run(x.0, gz.0, spread, replace);
            }
        }
    }

    /// Completes the gradient that all calls of [`backward_weight`](Self::backward_weight) since the last that
    /// replaced it have summed.
    pub fn finish_gradient(&self, grad: &mut [f32]) {
        if let Passes::Winograd { backward_weight: Some((_, spread)), .. } = &self.passes {
            gradient_of_weight(&PackedShape::of(&self.shape), spread, grad);
        }
    }
}

/// A convolution in a forward pass, which shares its weight with those of other batch sizes.
#[derive(Debug, Clone)]
pub struct ForwardConvolution {
    shape: Conv2dShape,
    layouts: [Layout; 2],
    pass: Pass,
}

/// The forward pass of each method.
#[derive(Debug, Clone)]
enum Pass {
    Depthwise,
    Direct(RowPlan),
    Winograd(WinogradPlan),
}

impl ForwardConvolution {
    /// A convolution that reads images of layout `x`, whose border of zeros is at least the padding of every side,
    /// and writes images of layout `z`.
    ///
    /// # Panics
    /// A layout has other sizes than the convolution, or its border is too narrow.
    pub fn new(shape: &Conv2dShape, x: Layout, z: Layout) -> Self {
        check_forward(shape, x, z);
        let pass = match Method::of(shape) {
            Method::Depthwise => Pass::Depthwise,
            Method::Direct(_) => Pass::Direct(RowPlan::forward(shape, x, z)),
            Method::Winograd(_) => Pass::Winograd(WinogradPlan::forward(shape, x, z)),
        };
        Self { shape: *shape, layouts: [x, z], pass }
    }

    /// A weight, given in the order (O, I, H, W), in the form that [`run`](Self::run) reads, whatever the number of
    /// images.
    pub fn weight(shape: &Conv2dShape, values: &[f32]) -> Buffer {
        let weight = Packing::of(shape).pack(values);
        match Method::of(shape) {
            Method::Depthwise | Method::Direct(_) => weight,
            Method::Winograd(packed) => {
                let mut spread = Buffer::zeros(transformed_len(&packed));
                transformed(&packed, &weight, &mut spread);
                spread
            }
        }
    }

    /// Whether the [weight](Self::weight) that one convolution reads is also that of another one, which differs in the size of
    /// its images alone.
    pub fn share_weight(one: &Conv2dShape, other: &Conv2dShape) -> bool {
        Method::of(one) == Method::of(other)
    }

    /// `z = conv(x, weight) + bias`. The weight is that of [`weight`](Self::weight); `bias` has one value for each
    /// [lane](Packing::lanes).
    pub fn run(&self, x: Read<'_>, weight: &[f32], bias: Option<&[f32]>, z: Written<'_>) {
        assert_eq!([x.1, z.1], self.layouts, "layouts");
        match &self.pass {
            Pass::Depthwise => depthwise_forward(&self.shape, x, weight, bias, z),
            Pass::Direct(plan) => plan.run(x.0, weight, bias, z.0),
            Pass::Winograd(plan) => plan.run(x.0, weight, bias, z.0),
        }
    }
}

/// Checks the layouts of input and output.
fn check_forward(shape: &Conv2dShape, x: Layout, z: Layout) {
    let sizes = |l: Layout| [l.batch, l.height, l.width, l.channels];
    assert_eq!(sizes(x), [x.batch, shape.in_height, shape.in_width, shape.in_channels], "the input");
    assert_eq!(sizes(z), [x.batch, shape.out_height(), shape.out_width(), shape.out_channels], "the output");
    let padding = shape.padding;
    let widest = padding.top.max(padding.bottom).max(padding.left).max(padding.right);
    assert!(x.border >= widest, "a border of {} pixels for a padding of {widest}", x.border);
}
