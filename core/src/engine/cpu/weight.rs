//! A weight of a fused unit with its bias and its convolution.

use super::channel_variable::ChannelVariable;
use super::rounding::Rounding;
use super::update::Update;
use crate::engine::chain::{ChainConvolution, ChainWeight};
use crate::engine::interface::EngineState;
use crate::error::Result;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::rounding::Regularizer;
use qdrop_kernels::nhwc::stage::Read;
use qdrop_kernels::nhwc::{bias_gradient, Buffer, Convolution, Layout, Layouts, Packing};

/// A weight, its bias and the convolution that uses them.
pub struct Weight {
    convolution: Convolution,
    packing: Packing,
    /// The packed weight, and its gradient if anything of it is learned.
    value: Buffer,
    grad: Buffer,
    /// Gradients of earlier passes of the same step: of the weight, and of the bias.
    earlier: Option<(Buffer, Vec<f64>)>,
    rounding: Option<Rounding>,
    /// The bias, one element for each lane.
    bias: Option<Buffer>,
    learned_bias: Option<ChannelVariable>,
}

impl Weight {
    /// Prepares a weight for images of these layouts.
    pub fn new(convolution: ChainConvolution, layouts: Layouts) -> Result<Self> {
        let ChainConvolution { shape, weight, bias } = convolution;
        let packing = Packing::of(&shape);
        let (value, rounding) = match weight {
            ChainWeight::Fixed(value) => (packing.pack(&value), None),
            ChainWeight::SoftRounding(rounding) => {
                (Buffer::zeros(packing.len()), Some(Rounding::new(rounding, packing)?))
            }
        };
        let (bias, learned) = bias.map_or((None, None), |b| (Some(packing.pack_lanes(&b.value)), b.learned));
        let mut weight = Self {
            convolution: Convolution::new(&shape, layouts, rounding.is_some()),
            grad: Buffer::zeros(if rounding.is_some() { packing.len() } else { 0 }),
            learned_bias: learned.map(|v| ChannelVariable::new(v, shape.out_channels)).transpose()?,
            packing,
            value,
            earlier: None,
            rounding,
            bias,
        };
        weight.prepare();
        Ok(weight)
    }

    /// Goes over to images of another size.
    pub fn reshape(&mut self, shape: &Conv2dShape, layouts: Layouts) {
        self.convolution = Convolution::new(shape, layouts, self.rounding.is_some());
        self.convolution.prepare(&self.value);
    }

    /// Keeps the gradients of a pass while another one of the same step is computed.
    pub fn keep_gradients(&mut self) {
        let bias = self.learned_bias.as_ref().map_or(&[][..], |bias| &bias.sums);
        if self.rounding.is_some() {
            self.convolution.finish_gradient(&mut self.grad);
        }
        match &mut self.earlier {
            Some((grad, sums)) => {
                grad.iter_mut().zip(&*self.grad).for_each(|(sum, own)| *sum += own);
                sums.iter_mut().zip(bias).for_each(|(sum, own)| *sum += own);
            }
            None => self.earlier = Some((self.grad.clone(), bias.to_vec())),
        }
    }

    /// Forgets the gradients that were kept.
    pub fn forget_gradients(&mut self) {
        self.earlier = None;
    }

    /// Makes roundings hard, until [`prepare`](Self::prepare) makes them soft again.
    pub fn harden(&mut self) {
        if let Some(rounding) = &self.rounding {
            rounding.hard_weight(&mut self.value);
            self.convolution.prepare(&self.value);
        }
    }

    /// Computes the weight and the bias from their learned variables.
    pub fn prepare(&mut self) {
        if let Some(rounding) = &self.rounding {
            rounding.weight(&mut self.value);
        }
        self.convolution.prepare(&self.value);
        self.prepare_bias();
    }

    fn prepare_bias(&mut self) {
        if let (Some(learned), Some(bias)) = (&self.learned_bias, &mut self.bias) {
            learned.to_lanes(&self.packing, bias);
        }
    }

    pub fn forward(&self, x: Read<'_>, z: (&mut [f32], Layout)) {
        self.convolution.forward(x, &self.value, self.bias.as_deref(), z);
    }

    pub fn backward_input(&self, gz: Read<'_>, gx: (&mut [f32], Layout)) {
        self.convolution.backward_input(gz, &self.value, gx);
    }

    /// Adds to the gradients of weight and bias, or replaces them.
    pub fn backward_weight(&mut self, x: Read<'_>, gz: Read<'_>, replace: bool) {
        if let Some(bias) = &mut self.learned_bias {
            if replace {
                bias.sums.fill(0.0);
            }
            bias_gradient(gz, &mut bias.sums);
        }
        if self.rounding.is_some() {
            self.convolution.backward_weight(x, gz, &mut self.grad, replace);
        }
    }

    /// One update of the learned variables from the mean of the gradients of so many passes: the last one's, and those that
    /// were kept. Returns the regularizer before the update.
    pub fn learn(&mut self, regularizer: Option<Regularizer>, passes: usize, update: Update<'_>) -> Result<f64> {
        let earlier = self.earlier.take();
        if let Some(bias) = &mut self.learned_bias {
            if let Some((_, sums)) = &earlier {
                bias.sums.iter_mut().zip(sums).for_each(|(own, sum)| *own = (*own + sum) / passes as f64);
            }
            bias.learn(update)?;
            self.prepare_bias();
        }
        let Some(rounding) = &mut self.rounding else { return Ok(0.0) };
        self.convolution.finish_gradient(&mut self.grad);
        if let Some((sum, _)) = &earlier {
            let share = 1.0 / passes as f32;
            self.grad.iter_mut().zip(&**sum).for_each(|(own, sum)| *own = (*own + sum) * share);
        }
        let sum = rounding.learn(&self.grad, &mut self.value, regularizer, update)?;
        self.convolution.prepare(&self.value);
        Ok(sum)
    }

    pub fn keep(&self, state: &mut EngineState) -> Result<()> {
        self.rounding.as_ref().map_or(Ok(()), |r| r.keep(state))?;
        self.learned_bias.as_ref().map_or(Ok(()), |b| b.keep(state))
    }

    pub fn restore(&mut self, state: &EngineState) -> Result<()> {
        self.rounding.as_mut().map_or(Ok(()), |r| r.restore(state))?;
        self.learned_bias.as_mut().map_or(Ok(()), |b| b.restore(state))?;
        self.prepare();
        Ok(())
    }

    pub fn write_back(&self) -> Result<()> {
        self.rounding.as_ref().map_or(Ok(()), Rounding::write_back)?;
        self.learned_bias.as_ref().map_or(Ok(()), ChannelVariable::write_back)
    }
}
