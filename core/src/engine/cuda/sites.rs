//! The quantizers of a unit's activations, what is learned of them, and the sums of a step.

use super::groups::Groups;
use crate::cuda::abi::{Rates, Site, Sums};
use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels::{self, Chosen, StageInput};
use crate::engine::chain::ChainStage;
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;

/// All sites, one for each layer; a layer without a quantizer has one that nothing uses.
pub struct Sites {
    buffer: Buffer<Site>,
    learned: Vec<Learned>,
    /// Sums of the blocks of all stages, where each stage's begin, and their totals.
    sums: Buffer<Sums>,
    first: Vec<usize>,
    ranges: Buffer<u32>,
    totals: Buffer<Sums>,
}

/// The learned variables of a site.
#[derive(Default)]
struct Learned {
    scale: Option<Variable>,
    zero_point: Option<Variable>,
}

impl Sites {
    /// `stages` are the layers' stages with the number of their values and of their blocks.
    pub fn new(device: &dyn Device, stages: Vec<(ChainStage, usize, usize)>, groups: &mut Groups) -> Result<Self> {
        let (mut sites, mut learned, mut first, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (stage, elements, blocks) in stages {
            first.push(count);
            count += blocks;
            let mut site = Site::UNUSED;
            let mut own = Learned::default();
            if let Some(q) = stage.quantizer {
                let mut value = |variable: &Option<Variable>, fixed: f32| -> Result<(f32, i32, f32)> {
                    let Some(variable) = variable else { return Ok((fixed, -1, 1.0)) };
                    let value = host_values(variable.var.as_tensor(), |values| values[0])?;
                    Ok((value, groups.number(variable.group) as i32, variable.sizes()?[0]))
                };
                (site.scale[0], site.scale_rates, site.scale_size) = value(&q.learned_scale, q.scale)?;
                (site.zero_point[0], site.zero_point_rates, site.zero_point_size) =
                    value(&q.learned_zero_point, q.zero_point)?;
                (site.step_scale, site.step_zero_point) = (q.scale, q.zero_point);
                (site.qmin, site.qmax) = (q.spec.qmin(), q.spec.qmax());
                site.factor = q.spec.lsq_gradient_scale(elements);
                own = Learned { scale: q.learned_scale, zero_point: q.learned_zero_point };
            }
            sites.push(site);
            learned.push(own);
        }
        let ranges: Vec<u32> = first.iter().chain([&count]).map(|n| *n as u32).collect();
        Ok(Self {
            buffer: Buffer::new(device, &sites)?,
            sums: Buffer::zeros(device, count)?,
            ranges: Buffer::new(device, &ranges)?,
            totals: Buffer::zeros(device, sites.len())?,
            learned,
            first,
        })
    }

    pub fn buffer(&self) -> &Buffer<Site> {
        &self.buffer
    }

    /// Projects learned values onto their valid ranges.
    pub fn prepare(&self, device: &dyn Device) -> Result<()> {
        kernels::prepare_sites(device, &self.buffer)
    }

    pub fn backward(&self, device: &dyn Device, layer: usize, input: StageInput<'_>, g: &Buffer<f32>) -> Result<()> {
        kernels::backward(device, input, g, &self.sums, self.first[layer])
    }

    pub fn end(
        &self,
        device: &dyn Device,
        layer: usize,
        input: StageInput<'_>,
        target: Chosen<'_>,
        loss: (f32, [f32; 2]),
        gradient: &Buffer<f32>,
    ) -> Result<()> {
        kernels::end(device, input, target, loss, gradient, &self.sums, self.first[layer])
    }

    /// Adds the sums of all stages' blocks.
    pub fn add_up(&self, device: &dyn Device) -> Result<()> {
        kernels::add_sums(device, &self.sums, &self.ranges, &self.totals)
    }

    /// The sums of the last step, one for each site; those of the last site have the loss.
    pub fn totals(&self) -> &Buffer<Sums> {
        &self.totals
    }

    /// The sum of squared errors of the last step.
    pub fn loss(&self, device: &dyn Device) -> Result<f64> {
        let mut totals = vec![Sums::default(); self.totals.len()];
        self.totals.read(device, &mut totals)?;
        Ok(totals.last().map_or(0.0, |sums| sums.loss))
    }

    pub fn learn(&self, device: &dyn Device, rates: &Buffer<Rates>) -> Result<()> {
        kernels::learn_sites(device, &self.buffer, &self.totals, rates)
    }

    /// The sites as they are now.
    fn read(&self, device: &dyn Device) -> Result<Vec<Site>> {
        let mut sites = vec![Site::UNUSED; self.buffer.len()];
        self.buffer.read(device, &mut sites)?;
        Ok(sites)
    }

    pub fn keep(&self, device: &dyn Device, state: &mut EngineState) -> Result<()> {
        for (site, learned) in self.read(device)?.iter().zip(&self.learned) {
            for (variable, values) in [(&learned.scale, site.scale), (&learned.zero_point, site.zero_point)] {
                let Some(variable) = variable else { continue };
                let [value, mean, square] = values.map(|value| tensor(variable, value));
                variable.keep(state, [value?, mean?, square?]);
            }
        }
        Ok(())
    }

    pub fn restore(&self, device: &dyn Device, state: &EngineState) -> Result<()> {
        let mut sites = self.read(device)?;
        for (site, learned) in sites.iter_mut().zip(&self.learned) {
            for (variable, values) in [(&learned.scale, &mut site.scale), (&learned.zero_point, &mut site.zero_point)] {
                let Some(variable) = variable else { continue };
                for (own, tensor) in values.iter_mut().zip(variable.kept(state)?) {
                    *own = host_values(tensor, |values| values[0])?;
                }
            }
        }
        self.buffer.write(device, 0, &sites)
    }

    pub fn write_back(&self, device: &dyn Device) -> Result<()> {
        for (site, learned) in self.read(device)?.iter().zip(&self.learned) {
            for (variable, value) in [(&learned.scale, site.scale[0]), (&learned.zero_point, site.zero_point[0])] {
                if let Some(variable) = variable {
                    variable.var.set(&tensor(variable, value)?)?;
                }
            }
        }
        Ok(())
    }
}

fn tensor(variable: &Variable, value: f32) -> Result<Tensor> {
    Ok(Tensor::from_vec(vec![value], variable.var.shape(), variable.var.device())?)
}
