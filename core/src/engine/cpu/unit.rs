//! Computes the steps of a unit from its plan.

use super::addition::{Addition, Projection};
use super::images::Images;
use super::plan::Plan;
use super::samples::Samples;
use super::stage::Layer;
use super::update::Update;
use super::weight::Weight;
use crate::engine::chain::Chain;
use crate::engine::checks::{check_batch, check_gradients, no_gradients};
use crate::engine::interface::{EngineState, Regularizer, StepTimes, UnitEngine};
use crate::engine::samples::UnitSamples;
use crate::error::{Error, Result};
use crate::ops::{host_values, Keep};
use crate::optim::finite;
use candle_core::{DType, Device, Tensor};
use qdrop_kernels::drop::{self as kernel, Mixing};
use qdrop_kernels::in_pool;
use qdrop_kernels::nhwc::stage::{self, Read, Sums};
use qdrop_kernels::nhwc::{accumulate, from_planes, pool, rounding, to_planes, Layout};
use qdrop_kernels::random::Stream;
use std::time::Instant;

/// A unit on the fused CPU engine, for one batch size.
pub struct CpuUnit {
    batch: usize,
    chunk: usize,
    /// Shape of the output, including the batch.
    output: Vec<usize>,
    samples: Samples,
    x: Images,
    layers: Vec<Layer>,
    /// What each site keeps in this step: first the input, then every layer.
    choices: Vec<Choice>,
    /// Samples of a forward pass that waits for the caller's gradient, and a buffer for the output of a chunk.
    pending: Option<Vec<usize>>,
    value: Option<Images>,
    /// Whether there are gradients that no update has used yet.
    has_gradients: bool,
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
    /// Prepares a chain whose quantizers have begun to learn, for batches of this size.
    ///
    /// # Errors
    /// Cached values cannot be read.
    pub fn new(chain: Chain, samples: &UnitSamples, batch: usize) -> Result<Self> {
        let dims = if chain.output_is_image { &chain.output[..] } else { &chain.output[..1] };
        let output = [&[batch], dims].concat();
        let Plan { chunk, samples, x, layers } = Plan::new(chain, samples, batch)?;
        if layers.is_empty() {
            return Err(Error::message("a chain without layers cannot be computed"));
        }
        Ok(Self {
            batch,
            chunk,
            output,
            samples,
            x,
            choices: Vec::with_capacity(layers.len() + 1),
            layers,
            pending: None,
            value: None,
            has_gradients: false,
            times: StepTimes::default(),
            updates: 0,
        })
    }

    /// One divided by the number of positions that the loss averages over.
    fn factor(&self) -> f32 {
        let layout = self.layers.last().map_or(self.x.layout, |l| l.z.layout);
        (1.0 / (self.batch * layout.height * layout.width) as f64) as f32
    }

    /// The loss of the last pass.
    fn summed_loss(&self) -> Result<f64> {
        let sum = self.layers.last().map_or(0.0, |l| l.sums.loss);
        finite(sum * f64::from(self.factor()), "reconstruction loss")
    }

    /// Begins a step: draws what its sites keep, projects learned values onto their valid ranges and clears sums.
    fn begin(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<()> {
        check_batch(samples, self.batch)?;
        self.pending = None;
        let sites = self.layers.iter().map(|l| (l.site.is_quantized().then_some(l.site.number), l.z.layout));
        self.choices.clear();
        for (site, layout) in std::iter::once((Some(0), self.x.layout)).chain(sites) {
            self.choices.push(site.map_or(Ok(Choice::All), |s| Choice::new(keep(s), layout.channels))?);
        }
        Ok(())
    }

    fn prepare(&mut self) {
        for layer in &mut self.layers {
            layer.site.prepare();
            layer.sums = Sums::default();
        }
    }

    /// Computes a chunk up to the values that the end of the unit reads; `first` is the number of images before it.
    fn chunk_forward(&mut self, indices: &[usize], first: usize) -> Result<()> {
        let Self { samples, x, layers, choices, .. } = self;
        samples.mixed_input(indices, choices[0].mixing(), first, x)?;
        let last = layers.len() - 1;
        for i in 0..=last {
            let (before, rest) = layers.split_at_mut(i);
            let Layer { mean, weight, added, site, z, a, kept, .. } = &mut rest[0];
            let read = value(before, i.checked_sub(1), x);
            match mean {
                None => weight.forward(read, z.write()),
                Some([pixel, _]) => {
                    pool::mean(read, pixel.write());
                    weight.forward(pixel.read(), z.write());
                }
            }
            if let Some(Addition { from, projection: Some(projection) }) = added {
                projection.weight.forward(value(before, *from, x), projection.z.write());
            }
            if i < last {
                let rows = (choices[i + 1].mixing(), first * z.layout.height);
                let added = added.as_ref().map(|added| added.value(value(before, added.from, x)));
                stage::forward(site.stage(), z.read(), added, rows, a.write(), kept);
            }
        }
        Ok(())
    }

    /// Computes a chunk up to the gradient of its last layer's output, and adds up the loss.
    fn chunk_end(&mut self, indices: &[usize], first: usize, ending: &Ending<'_>) -> Result<()> {
        // If the forward pass computed the whole batch as one chunk, its values are still in the buffers.
        let computed = matches!(ending, Ending::Given(_)) && self.chunk == self.batch;
        if !computed {
            self.chunk_forward(indices, first)?;
        }
        let factor = self.factor();
        let Self { samples, x, layers, choices, value: output, .. } = self;
        let last = layers.len() - 1;
        let (before, end) = layers.split_at_mut(last);
        let end = &mut end[0];
        let added = end.added.as_ref().map(|added| added.value(value(before, added.from, x)));
        let rows = (choices[last + 1].mixing(), first * end.z.layout.height);
        match ending {
            Ending::Loss => {
                let range = samples.range;
                let (target, target_layout) = samples.outputs(indices)?;
                stage::end(
                    end.site.stage(),
                    end.z.read(),
                    added,
                    (&|i| target.image(i), target_layout),
                    (factor, range),
                    rows,
                    end.gz.write(),
                    &mut end.rows,
                );
            }
            Ending::Given(planes) => {
                let layout = end.gz.layout;
                let each = layout.height * layout.values();
                let planes = planes[first * each..].chunks_exact(each);
                for (planes, image) in planes.zip(end.gz.values.chunks_exact_mut(layout.image())) {
                    from_planes(planes, Layout { batch: 1, ..layout }, image);
                }
                if let (false, Some(output)) = (computed, output) {
                    stage::forward(end.site.stage(), end.z.read(), added, rows, output.write(), &mut end.kept);
                }
                stage::backward(end.site.stage(), end.z.read(), added, rows, &end.kept, end.gz.write(), &mut end.rows);
            }
        }
        end.add_up();
        Ok(())
    }

    /// Computes a chunk and its backward pass.
    fn chunk_backward(&mut self, indices: &[usize], first: usize, ending: &Ending<'_>) -> Result<()> {
        let start = Instant::now();
        self.chunk_end(indices, first, ending)?;
        let middle = Instant::now();
        let Self { x, layers, choices, times, .. } = self;
        backward(x, layers, choices, first);
        times.forward += middle - start;
        times.backward += middle.elapsed();
        Ok(())
    }

    /// Computes all chunks of a batch, forward and backward.
    fn pass(&mut self, indices: &[usize], ending: &Ending<'_>) -> Result<()> {
        in_pool(|| {
            self.prepare();
            let size = self.chunk;
            let mut chunks = indices.chunks(size).enumerate();
            chunks.try_for_each(|(i, chunk)| self.chunk_backward(chunk, i * size, ending))
        })
    }

    fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.layers.iter().flat_map(|Layer { weight, added, .. }| {
            let projection = added.as_ref().and_then(|added| added.projection.as_ref());
            std::iter::once(weight).chain(projection.map(|projection| &projection.weight))
        })
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        self.layers.iter_mut().flat_map(|Layer { weight, added, .. }| {
            let projection = added.as_mut().and_then(|added| added.projection.as_mut());
            std::iter::once(weight).chain(projection.map(|projection| &mut projection.weight))
        })
    }
}

/// The value of an earlier layer, or the unit's input.
fn value<'a>(before: &'a [Layer], from: Option<usize>, x: &'a Images) -> Read<'a> {
    from.map_or(x.read(), |from| before[from].a.read())
}

/// The backward pass of a chunk from the gradient of the last layer's output: the first one replaces the gradients of all
/// weights, others add to them. `first` is the number of images before it.
fn backward(x: &Images, layers: &mut [Layer], choices: &[Choice], first: usize) {
    let replace = first == 0;
    for i in (0..layers.len()).rev() {
        let (before, after) = layers.split_at_mut(i);
        let Layer { mean, weight, added, gz, .. } = &mut after[0];
        let read = mean.as_ref().map_or(value(before, i.checked_sub(1), x), |[pixel, _]| pixel.read());
        weight.backward_weight(read, gz.read(), replace);
        if let Some(Addition { from, projection: Some(projection) }) = added {
            projection.weight.backward_weight(value(before, *from, x), gz.read(), replace);
        }
        let Some((previous, earlier)) = before.split_last_mut() else { return };
        match mean {
            None => weight.backward_input(gz.read(), previous.gz.write()),
            Some([_, gradient]) => {
                weight.backward_input(gz.read(), gradient.write());
                pool::mean_backward(gradient.read(), previous.gz.write());
            }
        }
        // Later layers, of which all gradients are known, may have added the value too.
        for Layer { added, gz, .. } in after {
            let Some(added) = added.as_mut().filter(|added| added.from == Some(i - 1)) else { continue };
            match &mut added.projection {
                None => accumulate(gz.read(), previous.gz.write()),
                Some(Projection { weight, gx: Some(gx), .. }) => {
                    weight.backward_input(gz.read(), gx.write());
                    accumulate(gx.read(), previous.gz.write());
                }
                // Reads the unit's input, which needs no gradient.
                Some(Projection { gx: None, .. }) => {}
            }
        }
        let Layer { added, site, z, gz, kept, rows, .. } = previous;
        let added = added.as_ref().map(|added| added.value(value(earlier, added.from, x)));
        let mixing = (choices[i].mixing(), first * z.layout.height);
        stage::backward(site.stage(), z.read(), added, mixing, kept, gz.write(), rows);
        previous.add_up();
    }
}

impl UnitEngine for CpuUnit {
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        self.begin(samples, keep)?;
        let mut output = self.value.take().unwrap_or_else(|| {
            let layout = self.layers.last().map_or(self.x.layout, |l| l.z.layout);
            Images::new(layout)
        });
        let each = output.layout.height * output.layout.values();
        let mut planes = vec![0.0; self.batch * each];
        let run = || {
            self.prepare();
            for (i, (indices, out)) in samples.chunks(self.chunk).zip(planes.chunks_mut(self.chunk * each)).enumerate()
            {
                let first = i * self.chunk;
                self.chunk_forward(indices, first)?;
                let (Some((end, before)), Some(choice)) = (self.layers.split_last_mut(), self.choices.last()) else {
                    continue;
                };
                let Layer { added, site, z, kept, .. } = end;
                let added = added.as_ref().map(|added| added.value(value(before, added.from, &self.x)));
                let rows = (choice.mixing(), first * z.layout.height);
                stage::forward(site.stage(), z.read(), added, rows, output.write(), kept);
                let one = Layout { batch: 1, ..output.layout };
                for (image, planes) in output.values.chunks_exact(one.image()).zip(out.chunks_exact_mut(each)) {
                    to_planes(image, one, planes);
                }
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
        host_values(gradient, |planes| self.pass(&samples, &Ending::Given(planes)))??;
        self.has_gradients = true;
        Ok(())
    }

    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        self.begin(samples, keep)?;
        self.pass(samples, &Ending::Loss)?;
        let loss = self.summed_loss()?;
        self.has_gradients = true;
        Ok(loss)
    }

    fn hard_loss(&mut self, samples: &[usize]) -> Result<f64> {
        let start = Instant::now();
        self.begin(samples, &|_| Keep::All)?;
        self.has_gradients = false;
        in_pool(|| {
            self.prepare();
            self.weights_mut().for_each(Weight::harden);
            let size = self.chunk;
            let mut chunks = samples.chunks(size).enumerate();
            let computed = chunks.try_for_each(|(i, chunk)| self.chunk_end(chunk, i * size, &Ending::Loss));
            self.weights_mut().for_each(Weight::prepare);
            computed
        })?;
        self.times.forward += start.elapsed();
        self.summed_loss()
    }

    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64> {
        if !std::mem::take(&mut self.has_gradients) {
            return Err(no_gradients());
        }
        self.updates += 1;
        let update = Update { rates, number: self.updates };
        let regularizer = regularizer.map(|r| rounding::Regularizer { weight: r.weight as f32, b: r.b as f32 });
        in_pool(|| {
            for layer in &mut self.layers {
                layer.site.learn(layer.sums, update)?;
            }
            self.weights_mut().map(|w| w.learn(regularizer, update)).sum()
        })
    }

    fn state(&mut self) -> Result<EngineState> {
        let mut state = EngineState::new();
        self.weights().try_for_each(|w| w.keep(&mut state))?;
        self.layers.iter().flat_map(|l| l.site.variables()).try_for_each(|v| v.keep(&mut state))?;
        Ok(state)
    }

    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()> {
        self.weights_mut().try_for_each(|w| w.restore(state))?;
        self.layers.iter_mut().flat_map(|l| l.site.variables_mut()).try_for_each(|v| v.restore(state))?;
        self.updates = updates;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.weights().try_for_each(Weight::write_back)?;
        self.layers.iter().flat_map(|l| l.site.variables()).try_for_each(|v| v.write_back())
    }

    fn times(&self) -> StepTimes {
        self.times
    }
}

/// What one site keeps, for a whole batch.
enum Choice {
    All,
    Random(Stream, f32),
    Weighted(Stream),
    /// In the order (image, row, column, channel).
    Mask(Vec<u8>),
}

impl Choice {
    fn new(keep: Keep, channels: usize) -> Result<Self> {
        Ok(match keep {
            Keep::All => Self::All,
            Keep::Random { probability, .. } if probability >= 1.0 => Self::All,
            Keep::Random { stream, probability } => Self::Random(stream, probability),
            Keep::Mixed { stream } => Self::Weighted(stream),
            Keep::Mask(mask) => {
                let planes = mask.dims().iter().skip(2).product::<usize>();
                let mask: Vec<u8> = mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
                let image = (channels * planes).max(1);
                // Index of a channels-last element in the planes.
                let at = |i: usize| i / image * image + i % image % channels * planes + i % image / channels;
                Self::Mask((0..mask.len()).map(|i| mask[at(i)]).collect())
            }
        })
    }

    fn mixing(&self) -> Mixing<'_> {
        Mixing::Chosen(match self {
            Self::All => kernel::Keep::All,
            Self::Random(stream, probability) => kernel::Keep::Random { stream: *stream, probability: *probability },
            Self::Mask(mask) => kernel::Keep::Mask(mask),
            Self::Weighted(stream) => return Mixing::Weighted(*stream),
        })
    }
}
