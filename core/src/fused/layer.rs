//! One convolution of a fused unit, with what follows it.

use super::learned::{Number, Packing, Rounding};
use qdrop_kernels::activation::Activation;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::{Stage, Step, Sums};
use qdrop_kernels::nhwc::{
    border_of_gradient, depthwise_backward_input, depthwise_backward_weight, depthwise_forward, rotate, Buffer, Layout,
    PackedShape, RowPlan, WeightPlan,
};
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

/// A weight and how it is used.
pub struct Weight {
    pub shape: Conv2dShape,
    /// What is learned of it, if anything.
    pub rounding: Option<Rounding>,
    value: Buffer,
    grad: Buffer,
    bias: Option<Buffer>,
    plans: Option<Plans>,
}

/// Plans of a convolution that is not depthwise.
struct Plans {
    forward: RowPlan,
    /// With the weights that it reads, where the gradient of the input is needed.
    backward_input: Option<(RowPlan, Buffer)>,
    backward_weight: WeightPlan,
}

impl Weight {
    /// A weight for images of these layouts; `value` is what it is where nothing is learned.
    pub fn new(
        shape: Conv2dShape,
        (x, z, gz, gx): (Layout, Layout, Layout, Option<Layout>),
        value: &[f32],
        bias: Option<&[f32]>,
        rounding: Option<Rounding>,
    ) -> Self {
        let packing = Packing::of(&shape);
        let plans = match packing {
            Packing::Depthwise { .. } => None,
            Packing::Tiles(packed) => {
                let rotated = PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed };
                let backward = |gx| (RowPlan::backward_input(&shape, gz, gx), Buffer::zeros(rotated.len()));
                Some(Plans {
                    forward: RowPlan::forward(&shape, x, z),
                    backward_input: gx.map(backward),
                    backward_weight: WeightPlan::new(&shape, x, gz),
                })
            }
        };
        let mut weight = Self {
            value: packing.pack(value),
            grad: Buffer::zeros(if rounding.is_some() { packing.len() } else { 0 }),
            bias: bias.map(|b| packing.pack_lanes(b)),
            shape,
            rounding,
            plans,
        };
        weight.prepare_rotated();
        weight
    }

    pub fn packing(shape: &Conv2dShape) -> Packing {
        Packing::of(shape)
    }

    fn prepare_rotated(&mut self) {
        if let Some(Plans { backward_input: Some((_, rotated)), .. }) = &mut self.plans {
            rotate(&self.shape, &self.value, rotated);
        }
    }

    /// Computes the weight of this step.
    pub fn prepare(&mut self) {
        if let Some(rounding) = &self.rounding {
            rounding.soft_weight(&mut self.value);
            self.prepare_rotated();
        }
    }

    pub fn forward(&self, x: (&[f32], Layout), z: (&mut [f32], Layout)) {
        match &self.plans {
            Some(plans) => plans.forward.run(x.0, &self.value, self.bias.as_deref(), z.0),
            None => depthwise_forward(&self.shape, x, &self.value, self.bias.as_deref(), z),
        }
    }

    pub fn backward_input(&self, gz: (&[f32], Layout), gx: (&mut [f32], Layout)) {
        match &self.plans {
            Some(Plans { backward_input: Some((plan, rotated)), .. }) => plan.run(gz.0, rotated, None, gx.0),
            _ => depthwise_backward_input(&self.shape, gz, &self.value, gx),
        }
    }

    /// Adds to the weight's gradient, or replaces it.
    pub fn backward_weight(&mut self, x: (&[f32], Layout), gz: (&[f32], Layout), replace: bool) {
        if self.rounding.is_none() {
            return;
        }
        match &self.plans {
            Some(plans) => plans.backward_weight.run(x.0, gz.0, &mut self.grad, replace),
            None => depthwise_backward_weight(&self.shape, x, gz, &mut self.grad, replace),
        }
    }

    /// The gradient that was summed, and what learns from it.
    pub fn learned(&mut self) -> Option<(&mut Rounding, &[f32])> {
        let grad = &self.grad;
        self.rounding.as_mut().map(|r| (r, &**grad))
    }

    /// The border that the gradient of this weight's output needs.
    pub fn border_of_gradient(shape: &Conv2dShape) -> usize {
        border_of_gradient(shape)
    }
}

/// Activation function and quantizer after a convolution or at the unit's end.
pub struct Site {
    pub activation: Option<Activation>,
    /// The grid, if there is a quantizer; learned numbers replace its scale and zero point.
    step: Option<Step>,
    pub scale: Option<Number>,
    pub zero_point: Option<Number>,
    /// Number of the site in the order of execution, from 1.
    pub number: usize,
}

impl Site {
    pub fn new(activation: Option<Activation>, number: usize) -> Self {
        Self { activation, step: None, scale: None, zero_point: None, number }
    }

    pub fn quantize(&mut self, step: Step, scale: Option<Number>, zero_point: Option<Number>) {
        (self.step, self.scale, self.zero_point) = (Some(step), scale, zero_point);
    }

    pub fn is_quantized(&self) -> bool {
        self.step.is_some()
    }

    /// Brings learned numbers into their domain and returns the stage of this step.
    pub fn prepare(&mut self) -> Stage {
        if let Some(step) = &mut self.step {
            if let Some(scale) = &mut self.scale {
                scale.set(scale.value().abs().max(f32::EPSILON));
                step.scale = scale.value();
            }
            if let Some(zero_point) = &mut self.zero_point {
                zero_point.set(zero_point.value().clamp(step.qmin, step.qmax));
                step.zero_point = round_half_even(zero_point.value());
            }
        }
        self.stage()
    }

    pub fn stage(&self) -> Stage {
        Stage { activation: self.activation, step: self.step }
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
    /// Gradients with respect to `a` and `z`.
    pub ga: Images,
    pub gz: Images,
    /// Sums of the current chunk, row by row, and of the batch so far.
    pub rows: Vec<Sums>,
    pub sums: Sums,
}
