//! The stage after an operation.

use super::channel_variable::ChannelVariable;
use super::update::Update;
use crate::engine::chain::ChainStage;
use crate::error::Result;
use crate::grid::QuantSpec;
use qdrop_kernels::drop::Choices;
use qdrop_kernels::nhwc::stage::{self, groups_of_row, Bounds, Function, Sums, TensorGrid};
use qdrop_kernels::nhwc::Layout;
use qdrop_kernels::rounding::round_half_even;

/// An activation function and a quantizer.
pub struct Site {
    activation: Option<Function<Bounds>>,
    /// The grid, if there is a quantizer; a learned scale and zero point replace those in it.
    grid: Option<TensorGrid>,
    scale: Option<ChannelVariable>,
    zero_point: Option<ChannelVariable>,
    spec: Option<QuantSpec>,
    /// LSQ's factor of the gradients of both.
    factor: f64,
    /// Gradients of earlier passes of the same step, with their factors.
    earlier: Sums,
    /// The site's number in the order of execution, from 1.
    pub number: usize,
}

impl Site {
    /// `elements` is the number of elements of a batch's value at this site.
    pub fn new(stage: ChainStage, elements: usize) -> Result<Self> {
        let activation = stage.activation.map(|f| f.map(|bounds| Bounds::new(&bounds)));
        let number = stage.site;
        let Some(quantizer) = stage.quantizer else {
            let (grid, scale, zero_point, spec, earlier) = Default::default();
            return Ok(Self { activation, grid, scale, zero_point, spec, factor: 1.0, earlier, number });
        };
        let (spec, scale, zero_point) = (quantizer.spec, quantizer.scale, quantizer.zero_point);
        Ok(Self {
            activation,
            grid: Some(TensorGrid { scale, zero_point, qmin: spec.qmin(), qmax: spec.qmax() }),
            scale: quantizer.learned_scale.map(|v| ChannelVariable::new(v, 1)).transpose()?,
            zero_point: quantizer.learned_zero_point.map(|v| ChannelVariable::new(v, 1)).transpose()?,
            spec: Some(spec),
            factor: spec.lsq_gradient_scale(elements),
            earlier: Sums::default(),
            number,
        })
    }

    pub fn is_quantized(&self) -> bool {
        self.grid.is_some()
    }

    /// Projects the learned scale and zero point onto their valid ranges.
    pub fn prepare(&mut self) {
        if let Some(grid) = &mut self.grid {
            if let Some(scale) = &mut self.scale {
                scale.project_scale();
                grid.scale = scale.of_channel(0);
            }
            if let Some(zero_point) = &mut self.zero_point {
                zero_point.project(|zero_point| zero_point.clamp(grid.qmin, grid.qmax));
                grid.zero_point = round_half_even(zero_point.of_channel(0));
            }
        }
    }

    pub fn stage(&self) -> stage::Stage<&Bounds> {
        stage::Stage { activation: self.activation.as_ref().map(Function::as_ref), grid: self.grid }
    }

    /// Keeps the gradients of a pass while another one of the same step is computed.
    pub fn keep(&mut self, sums: Sums) {
        self.earlier.scale += sums.scale * self.factor;
        self.earlier.zero_point += sums.zero_point * self.factor;
    }

    /// Forgets what was kept.
    pub fn forget(&mut self) {
        self.earlier = Sums::default();
    }

    /// One update from the mean of the gradients of so many passes: the last one's, and those that were kept.
    pub fn learn(&mut self, sums: Sums, passes: usize, update: Update<'_>) -> Result<()> {
        let earlier = std::mem::take(&mut self.earlier);
        let learned =
            [(&mut self.scale, sums.scale, earlier.scale), (&mut self.zero_point, sums.zero_point, earlier.zero_point)];
        for (variable, gradient, earlier) in learned {
            if let Some(variable) = variable {
                variable.sums[0] = (gradient * self.factor + earlier) / passes as f64;
                variable.learn(update)?;
            }
        }
        Ok(())
    }

    /// The learned scale and zero point.
    pub fn variables(&self) -> impl Iterator<Item = &ChannelVariable> {
        self.scale.iter().chain(&self.zero_point)
    }

    /// The learned scale and zero point, mutable.
    pub fn variables_mut(&mut self) -> impl Iterator<Item = &mut ChannelVariable> {
        self.scale.iter_mut().chain(self.zero_point.iter_mut())
    }
}

/// A site with the buffers of its passes.
pub struct Stage {
    pub site: Site,
    /// Which values were dropped, for the backward pass; unused where values are mixed with weights.
    pub kept: Vec<Choices>,
    /// Sums of the current chunk, row by row.
    pub rows: Vec<Sums>,
    /// Sums of the batch so far.
    pub sums: Sums,
}

impl Stage {
    /// For chunks of values of this layout.
    pub fn new(site: Site, layout: Layout) -> Self {
        Self {
            site,
            kept: vec![Choices::default(); layout.batch * layout.height * groups_of_row(layout)],
            rows: vec![Sums::default(); layout.batch * layout.height],
            sums: Sums::default(),
        }
    }

    /// Goes over to chunks of another layout, of batches with so many elements.
    pub fn reshape(&mut self, layout: Layout, elements: usize) {
        if let Some(spec) = &self.site.spec {
            self.site.factor = spec.lsq_gradient_scale(elements);
        }
        self.kept.resize(layout.batch * layout.height * groups_of_row(layout), Choices::default());
        self.rows.resize(layout.batch * layout.height, Sums::default());
    }

    /// Adds the sums of the current chunk to those of the batch.
    pub fn add_up(&mut self) {
        self.sums = self.rows.iter().fold(self.sums, |sum, row| sum + *row);
    }
}
