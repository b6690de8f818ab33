//! The learned rounding of one weight, in the packed layout that its convolution reads.

use super::channel_variable::ChannelVariable;
use super::update::Update;
use crate::engine::chain::SoftRounding;
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::nhwc::rounding::{self, LaneGrid, Learned, Regularizer};
use qdrop_kernels::nhwc::{Buffer, Packing};

/// The rounding of one weight.
pub struct Rounding {
    variable: Variable,
    packing: Packing,
    alpha: Buffer,
    floor: Buffer,
    mean: Buffer,
    square: Buffer,
    /// Scales and zero points, one for each lane.
    scale: Buffer,
    zero_point: Buffer,
    bounds: [f32; 2],
    /// Whether passes compute with hard roundings, and gradients with soft ones.
    straight_through: bool,
    /// Partial sums of the regularizer.
    sums: Vec<f64>,
    learned_scale: Option<LearnedScale>,
}

/// Scales that are learned together with the rounding.
struct LearnedScale {
    channels: ChannelVariable,
    /// The scales before the update, one for each lane.
    before: Buffer,
    /// Gradients, one for each lane.
    sums: Vec<f64>,
}

/// The grid of each lane. A free function, so that other fields can be borrowed at the same time.
fn grid<'a>(scale: &'a [f32], zero_point: &'a [f32], bounds: [f32; 2], hard: bool) -> LaneGrid<'a> {
    LaneGrid { scale, zero_point, qmin: bounds[0], qmax: bounds[1], hard }
}

impl Rounding {
    pub fn new(rounding: SoftRounding, packing: Packing) -> Result<Self> {
        let packed = |x: &Tensor| host_values(x, |v| packing.pack(v));
        let scale = packing.pack_lanes(&rounding.scale);
        let learned_scale = match rounding.learned_scale {
            None => None,
            Some(variable) => Some(LearnedScale {
                channels: ChannelVariable::new(variable, rounding.scale.len())?,
                before: scale.clone(),
                sums: vec![0.0; packing.lanes()],
            }),
        };
        Ok(Self {
            alpha: packed(rounding.alpha.var.as_tensor())?,
            floor: packed(&rounding.floor)?,
            mean: Buffer::zeros(packing.len()),
            square: Buffer::zeros(packing.len()),
            zero_point: packing.pack_lanes(&rounding.zero_point),
            bounds: [rounding.qmin, rounding.qmax],
            straight_through: rounding.straight_through,
            sums: vec![0.0; rounding::sums(packing.lane_shape(), packing.len())],
            variable: rounding.alpha,
            scale,
            packing,
            learned_scale,
        })
    }

    /// The weight that the next pass computes with.
    pub fn weight(&self, out: &mut [f32]) {
        self.weight_on(self.straight_through, out);
    }

    /// The weight with hard roundings.
    pub fn hard_weight(&self, out: &mut [f32]) {
        self.weight_on(true, out);
    }

    fn weight_on(&self, hard: bool, out: &mut [f32]) {
        let grid = grid(&self.scale, &self.zero_point, self.bounds, hard);
        rounding::soft_weight(self.packing.lane_shape(), &self.alpha, &self.floor, grid, out);
    }

    /// One update from `grad`, the gradient of the weight, which takes its next value. Returns the regularizer before the update.
    pub fn learn(
        &mut self,
        grad: &[f32],
        weight: &mut [f32],
        regularizer: Option<Regularizer>,
        update: Update<'_>,
    ) -> Result<f64> {
        let (shape, hard) = (self.packing.lane_shape(), self.straight_through);
        let adam = update.of(&self.variable)?;
        if let Some(learned) = &mut self.learned_scale {
            learned.before.copy_from_slice(&self.scale);
            let before = grid(&learned.before, &self.zero_point, self.bounds, hard);
            rounding::scale_gradient(shape, &self.alpha, &self.floor, grad, before, &mut learned.sums);
            for channel in 0..learned.channels.sums.len() {
                learned.channels.sums[channel] = learned.sums[self.packing.lane(channel)];
            }
            learned.channels.learn(update)?;
            learned.channels.project_scale();
            learned.channels.to_lanes(&self.packing, &mut self.scale);
        }
        // The gradient of alpha belongs to the scales that the step computed with, not to the updated ones.
        let used = self.learned_scale.as_ref().map_or(&self.scale, |l| &l.before);
        let [used, next] = [used, &self.scale].map(|scale| grid(scale, &self.zero_point, self.bounds, hard));
        // Nothing is left for it to settle where passes round hard.
        let regularizer = regularizer.filter(|_| !hard);
        let learned = Learned { alpha: &mut self.alpha, mean: &mut self.mean, square: &mut self.square, weight };
        Ok(rounding::learn(shape, learned, &self.floor, grad, used, next, regularizer, adam, &mut self.sums))
    }

    fn tensor(&self, packed: &[f32]) -> Result<Tensor> {
        let var = &self.variable.var;
        Ok(Tensor::from_vec(self.packing.unpack(packed), var.shape(), var.device())?)
    }

    pub fn keep(&self, state: &mut EngineState) -> Result<()> {
        let tensors = [self.tensor(&self.alpha)?, self.tensor(&self.mean)?, self.tensor(&self.square)?];
        self.variable.keep(state, tensors);
        self.learned_scale.as_ref().map_or(Ok(()), |l| l.channels.keep(state))
    }

    pub fn restore(&mut self, state: &EngineState) -> Result<()> {
        let kept = self.variable.kept(state)?;
        for (own, tensor) in [&mut self.alpha, &mut self.mean, &mut self.square].into_iter().zip(kept) {
            *own = host_values(tensor, |v| self.packing.pack(v))?;
        }
        if let Some(learned) = &mut self.learned_scale {
            learned.channels.restore(state)?;
            learned.channels.to_lanes(&self.packing, &mut self.scale);
        }
        Ok(())
    }

    pub fn write_back(&self) -> Result<()> {
        self.variable.var.set(&self.tensor(&self.alpha)?)?;
        self.learned_scale.as_ref().map_or(Ok(()), |l| l.channels.write_back())
    }
}
