//! Computes the steps of a unit from its plan.

use super::choice::Choice;
use super::images::{Images, Order};
use super::pass::Pass;
use super::plan::{chunk, Plan};
use super::samples::Samples;
use super::stage::Stage;
use super::update::Update;
use super::weight::Weight;
use crate::engine::chain::{AnySize, Chain};
use crate::engine::checks::{check_batch, check_gradients, no_gradients};
use crate::engine::interface::{EngineState, Regularizer, StepTimes, UnitEngine};
use crate::engine::samples::UnitSamples;
use crate::error::{Error, Result};
use crate::ops::{host_values, Keep};
use crate::optim::finite;
use candle_core::{Device, Tensor};
use qdrop_kernels::in_pool;
use qdrop_kernels::nhwc::rounding;
use qdrop_kernels::nhwc::stage::Sums;
use std::time::Instant;

/// A unit on the fused CPU engine, for one batch size.
pub struct CpuUnit {
    batch: usize,
    /// Shape of the output, including the batch.
    output: Vec<usize>,
    /// How sizes are found, where images may have any.
    any_size: Option<AnySize>,
    /// The shape of the last step's inputs.
    shape: Vec<usize>,
    samples: Samples,
    plan: Plan,
    /// What each site keeps in this step: first the input, then every step of the chain.
    choices: Vec<Choice>,
    /// Samples of a forward pass that waits for the caller's gradient, and a buffer for the output of a chunk.
    pending: Option<Vec<usize>>,
    value: Option<Images>,
    /// Passes whose gradients no update has used yet.
    passes: usize,
    times: StepTimes,
    /// Number of updates so far.
    updates: usize,
}

/// Where the gradient of the unit's output comes from for a chunk.
enum Ending<'a> {
    /// The built-in loss.
    Loss,
    /// Given by the caller, as planes (C, H, W) of all images of the batch.
    Given(&'a [f32]),
}

impl CpuUnit {
    /// Prepares a chain whose quantizers have begun to learn, for batches of this size. With `any_size` the images of a step may
    /// have others than those of the chain.
    ///
    /// # Errors
    /// Cached values cannot be read.
    pub fn new(chain: Chain, any_size: Option<AnySize>, samples: &UnitSamples, batch: usize) -> Result<Self> {
        let shape = match samples.quantized_inputs.first() {
            Some(values) if any_size.is_some() => values.shape_of(0)?.to_vec(),
            _ => chain.input.to_vec(),
        };
        let chain = match &any_size {
            Some(any_size) => chain.with_sizes(&any_size.sizes(&shape)?),
            None => chain,
        };
        let output = [&[batch], chain.output_dims()].concat();
        let chunk = chunk(&chain, batch);
        let plan = Plan::new(chain, [chunk, batch], false)?;
        let samples = Samples::new(samples, plan.values[0].layout, plan.end())?;
        Ok(Self {
            batch,
            output,
            any_size,
            shape,
            samples,
            choices: Vec::with_capacity(plan.values.len()),
            plan,
            pending: None,
            value: None,
            passes: 0,
            times: StepTimes::default(),
            updates: 0,
        })
    }

    /// One divided by the number of positions that the loss averages over.
    fn factor(&self) -> f32 {
        let layout = self.plan.end();
        (1.0 / (self.batch * layout.height * layout.width) as f64) as f32
    }

    /// The loss of the last pass.
    fn summed_loss(&self) -> Result<f64> {
        let sum = self.stages().next_back().map_or(0.0, |stage| stage.sums.loss);
        finite(sum * f64::from(self.factor()), "reconstruction loss")
    }

    /// Begins a step: draws what its sites keep, projects learned values onto their valid ranges and clears sums.
    fn begin(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<()> {
        check_batch(samples, self.batch)?;
        self.pending = None;
        self.reshape(samples)?;
        let Plan { steps, values, .. } = &self.plan;
        let sites = steps
            .iter()
            .map(|step| step.stage.as_ref().filter(|stage| stage.site.is_quantized()).map(|stage| stage.site.number));
        self.choices.clear();
        for (site, value) in std::iter::once(Some(0)).chain(sites).zip(values) {
            self.choices.push(site.map_or(Ok(Choice::All), |s| Choice::new(keep(s), value.layout.channels))?);
        }
        Ok(())
    }

    /// Goes over to the size of the images of some samples.
    fn reshape(&mut self, samples: &[usize]) -> Result<()> {
        let Some(any_size) = &self.any_size else { return Ok(()) };
        let shape = self.samples.shape(samples)?;
        if shape != self.shape {
            let sizes = any_size.sizes(shape)?;
            self.shape = shape.to_vec();
            self.plan.reshape(&sizes, self.batch);
            let end = self.plan.end();
            self.samples.reshape(self.plan.values[0].layout, end);
            self.output = match self.output.len() {
                2 => vec![self.batch, end.channels],
                _ => vec![self.batch, end.channels, end.height, end.width],
            };
            self.value = None;
        }
        Ok(())
    }

    /// Keeps the gradients of the last pass, to which those of the next one are added.
    fn keep_gradients(&mut self) {
        self.weights_mut().for_each(Weight::keep_gradients);
        self.stages_mut().for_each(|stage| stage.site.keep(stage.sums));
    }

    /// Forgets all gradients.
    fn forget_gradients(&mut self) {
        self.passes = 0;
        self.weights_mut().for_each(Weight::forget_gradients);
        self.stages_mut().for_each(|stage| stage.site.forget());
    }

    fn prepare(&mut self) {
        for stage in self.stages_mut() {
            stage.site.prepare();
            stage.sums = Sums::default();
        }
    }

    /// The values of a chunk; `first` is the number of images before it.
    fn chunk(&mut self, first: usize) -> Pass<'_> {
        Pass { plan: &mut self.plan, choices: &self.choices, first }
    }

    /// Computes a chunk up to the values that the end of the unit reads; `first` is the number of images before it.
    fn chunk_forward(&mut self, indices: &[usize], first: usize) -> Result<()> {
        self.samples.mixed_input(indices, self.choices[0].mixing(), first, &mut self.plan.values[0])?;
        self.chunk(first).forward();
        Ok(())
    }

    /// Computes a chunk up to the gradient of its last layer's output, and adds up the loss.
    fn chunk_end(&mut self, indices: &[usize], first: usize, ending: &Ending<'_>) -> Result<()> {
        // If the forward pass computed the whole batch as one chunk, its values are still in the buffers.
        let computed = matches!(ending, Ending::Given(_)) && self.plan.chunk() == self.batch;
        if !computed {
            self.chunk_forward(indices, first)?;
        }
        let factor = self.factor();
        let Self { samples, plan, choices, value: output, .. } = self;
        let each = plan.end().height * plan.end().values();
        let mut pass = Pass { plan, choices, first };
        match ending {
            Ending::Loss => {
                let range = samples.range;
                let (target, layout) = samples.outputs(indices)?;
                pass.loss((&|i| target.image(i), layout), (factor, range));
            }
            Ending::Given(planes) => {
                if let (false, Some(output)) = (computed, output) {
                    pass.output(output);
                }
                pass.output_gradient(&planes[first * each..], Order::Planes);
            }
        }
        Ok(())
    }

    /// Computes a chunk and its backward pass.
    fn chunk_backward(&mut self, indices: &[usize], first: usize, ending: &Ending<'_>) -> Result<()> {
        let start = Instant::now();
        self.chunk_end(indices, first, ending)?;
        let middle = Instant::now();
        self.chunk(first).backward();
        self.times.forward += middle - start;
        self.times.backward += middle.elapsed();
        Ok(())
    }

    /// Computes all chunks of a batch, forward and backward.
    fn pass(&mut self, indices: &[usize], ending: &Ending<'_>) -> Result<()> {
        in_pool(|| {
            self.prepare();
            let size = self.plan.chunk();
            let mut chunks = indices.chunks(size).enumerate();
            chunks.try_for_each(|(i, chunk)| self.chunk_backward(chunk, i * size, ending))
        })
    }

    fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.plan.steps.iter().filter_map(|step| step.operation.weight())
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        self.plan.steps.iter_mut().filter_map(|step| step.operation.weight_mut())
    }

    fn stages(&self) -> impl DoubleEndedIterator<Item = &Stage> {
        self.plan.steps.iter().filter_map(|step| step.stage.as_ref())
    }

    fn stages_mut(&mut self) -> impl Iterator<Item = &mut Stage> {
        self.plan.steps.iter_mut().filter_map(|step| step.stage.as_mut())
    }
}

impl UnitEngine for CpuUnit {
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        self.begin(samples, keep)?;
        let mut output = self.value.take().unwrap_or_else(|| Images::new(self.plan.end()));
        let each = output.each();
        let mut planes = vec![0.0; self.batch * each];
        let run = || {
            self.prepare();
            let chunk = self.plan.chunk();
            for (i, (indices, out)) in samples.chunks(chunk).zip(planes.chunks_mut(chunk * each)).enumerate() {
                let first = i * chunk;
                self.chunk_forward(indices, first)?;
                self.chunk(first).output(&mut output);
                output.give(out, Order::Planes);
            }
            Ok::<(), Error>(())
        };
        in_pool(run)?;
        (self.value, self.pending) = (Some(output), Some(samples.to_vec()));
        self.times.forward += start.elapsed();
        Ok(vec![Tensor::from_vec(planes, self.output.as_slice(), &Device::Cpu)?])
    }

    /// Computes the chunks a second time, because the forward pass does not keep their values.
    fn backward(&mut self, gradients: &[Tensor]) -> Result<()> {
        let outputs: &[&[usize]] = if self.pending.is_some() { &[&self.output] } else { &[] };
        check_gradients(gradients.iter().map(Tensor::dims), outputs.iter().copied())?;
        let (Some(samples), [gradient]) = (self.pending.take(), gradients) else { return Ok(()) };
        self.forget_gradients();
        host_values(gradient, |planes| self.pass(&samples, &Ending::Given(planes)))??;
        self.passes = 1;
        Ok(())
    }

    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        self.forget_gradients();
        self.add_loss(samples, keep)
    }

    fn add_loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        if self.passes > 0 {
            self.keep_gradients();
        }
        self.begin(samples, keep)?;
        self.pass(samples, &Ending::Loss)?;
        let loss = self.summed_loss()?;
        self.passes += 1;
        Ok(loss)
    }

    fn hard_loss(&mut self, samples: &[usize]) -> Result<f64> {
        let start = Instant::now();
        self.begin(samples, &|_| Keep::All)?;
        self.forget_gradients();
        in_pool(|| {
            self.prepare();
            self.weights_mut().for_each(Weight::harden);
            let size = self.plan.chunk();
            let mut chunks = samples.chunks(size).enumerate();
            let computed = chunks.try_for_each(|(i, chunk)| self.chunk_end(chunk, i * size, &Ending::Loss));
            self.weights_mut().for_each(Weight::prepare);
            computed
        })?;
        self.times.forward += start.elapsed();
        self.summed_loss()
    }

    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64> {
        let passes = std::mem::take(&mut self.passes);
        if passes == 0 {
            return Err(no_gradients());
        }
        self.updates += 1;
        let update = Update { rates, number: self.updates };
        let regularizer = regularizer.map(|r| rounding::Regularizer { weight: r.weight as f32, b: r.b as f32 });
        in_pool(|| {
            for stage in self.stages_mut() {
                stage.site.learn(stage.sums, passes, update)?;
            }
            self.weights_mut().map(|w| w.learn(regularizer, passes, update)).sum()
        })
    }

    fn state(&mut self) -> Result<EngineState> {
        let mut state = EngineState::new();
        self.weights().try_for_each(|w| w.keep(&mut state))?;
        self.stages().flat_map(|stage| stage.site.variables()).try_for_each(|v| v.keep(&mut state))?;
        Ok(state)
    }

    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()> {
        self.weights_mut().try_for_each(|w| w.restore(state))?;
        self.stages_mut().flat_map(|stage| stage.site.variables_mut()).try_for_each(|v| v.restore(state))?;
        self.updates = updates;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.weights().try_for_each(Weight::write_back)?;
        self.stages().flat_map(|stage| stage.site.variables()).try_for_each(|v| v.write_back())
    }

    fn times(&self) -> StepTimes {
        self.times
    }
}
