//! A compiled unit and its step.

use super::data::Samples;
use super::layer::{Images, Layer};
use super::learned::{Number, Rounding};
use super::weight::Weight;
use super::{broken, compile};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::model::QuantModel;
use crate::ops::Keep;
use crate::optim::adam_step;
use crate::reconstructor::UnitSamples;
use candle_core::{DType, Tensor};
use qdrop_kernels::drop as kernel;
use qdrop_kernels::in_pool;
use qdrop_kernels::nhwc::rounding::Regularizer;
use qdrop_kernels::nhwc::stage::{self, Sums};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is added to the chain's value at the unit's end.
pub(super) enum Shortcut {
    None,
    /// The unit's input.
    Identity,
    /// A layer of the unit's input, with its value.
    Projection(Box<Weight>, Images),
}

/// Learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of rounding variables.
    pub rounding: f64,
    /// Of scales and zero points.
    pub scale: f64,
}

/// Losses of one step, before its update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLosses {
    /// As [`reconstruction_loss`](crate::ops::reconstruction_loss).
    pub reconstruction: f64,
    /// The weighted regularizer; 0 without one.
    pub rounding: f64,
}

/// Time that all steps so far spent.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Reading samples, and all that leads to the loss.
    pub forward: Duration,
    /// Gradients.
    pub backward: Duration,
}

/// A unit compiled for one batch size.
pub struct FusedUnit {
    batch: usize,
    chunk: usize,
    samples: Samples,
    x: Images,
    layers: Vec<Layer>,
    shortcut: Shortcut,
    /// What is kept in this step: of the input, then of every layer.
    choices: Vec<Choice>,
    times: StepTimes,
    /// Updates done.
    steps: usize,
}

impl FusedUnit {
    pub(crate) fn compile(
        model: &QuantModel,
        nodes: &[NodeId],
        ends: (NodeId, NodeId),
        samples: &UnitSamples,
        batch: usize,
    ) -> Result<std::result::Result<Self, String>> {
        compile::compile(model, nodes, ends, samples, batch)
    }

    pub(super) fn new(
        batch: usize,
        chunk: usize,
        samples: Samples,
        x: Images,
        layers: Vec<Layer>,
        shortcut: Shortcut,
    ) -> Self {
        Self {
            batch,
            chunk,
            samples,
            x,
            choices: Vec::with_capacity(layers.len() + 1),
            layers,
            shortcut,
            times: StepTimes::default(),
            steps: 0,
        }
    }

    /// One step on the given samples, as many as the batch size. `keep(i)` says which elements keep their
    /// quantized value: 0 is the unit's input, then its activation quantizers in the order of execution.
    /// `regularizer` is its weight and its sharpness.
    ///
    /// # Errors
    /// The cached values cannot be read, or the loss is not finite.
    pub fn step(
        &mut self,
        indices: &[usize],
        keep: &dyn Fn(usize) -> Keep,
        regularizer: Option<(f64, f64)>,
        rates: Rates,
    ) -> Result<StepLosses> {
        if indices.len() != self.batch {
            return Err(broken(&format!("{} samples for a batch of {}", indices.len(), self.batch)));
        }
        self.choose(keep)?;
        in_pool(|| {
            self.prepare();
            let mut chunks = indices.chunks(self.chunk).enumerate();
            chunks.try_for_each(|(i, chunk)| self.chunk(chunk, i * self.chunk))
        })?;
        let last = self.layers.last().map_or(0.0, |l| l.sums.loss);
        let reconstruction = last * f64::from(self.factor());
        if !reconstruction.is_finite() {
            let message = format!(
                "the reconstruction loss became {reconstruction}; lower the learning rates or check the weights"
            );
            return Err(Error::message(message));
        }
        let rounding = in_pool(|| self.update(regularizer, rates));
        Ok(StepLosses { reconstruction, rounding })
    }

    /// One over the positions that the loss is averaged over.
    fn factor(&self) -> f32 {
        let layout = self.layers.last().map_or(self.x.layout, |l| l.z.layout);
        (1.0 / (self.batch * layout.height * layout.width) as f64) as f32
    }

    fn prepare(&mut self) {
        for layer in &mut self.layers {
            layer.site.prepare();
            layer.sums = Sums::default();
        }
    }

    /// What is kept at the sites of this step.
    fn choose(&mut self, keep: &dyn Fn(usize) -> Keep) -> Result<()> {
        let sites = self.layers.iter().map(|l| (l.site.is_quantized().then_some(l.site.number), l.z.layout));
        self.choices.clear();
        for (site, layout) in std::iter::once((Some(0), self.x.layout)).chain(sites) {
            self.choices.push(site.map_or(Ok(Choice::All), |s| Choice::new(keep(s), layout.channels))?);
        }
        Ok(())
    }

    fn chunk(&mut self, indices: &[usize], first: usize) -> Result<()> {
        let start = Instant::now();
        let factor = self.factor();
        let Self { samples, x, layers, shortcut, choices, times, .. } = self;
        samples.mixed_input(indices, choices[0].keep(), first, x)?;
        let last = layers.len() - 1;
        for i in 0..=last {
            let (before, rest) = layers.split_at_mut(i);
            let layer = &mut rest[0];
            layer.weight.forward(before.last().map_or(x.read(), |l| l.a.read()), layer.z.write());
            if i < last {
                let keep = choices[i + 1].keep();
                let first_row = first * layer.z.layout.height;
                let Layer { site, z, a, kept, .. } = layer;
                stage::forward(site.stage(), z.read(), None, keep, first_row, a.write(), kept);
            }
        }
        if let Shortcut::Projection(weight, z) = shortcut {
            weight.forward(x.read(), z.write());
        }
        let (target, target_layout) = samples.outputs(indices)?;
        let end = &mut layers[last];
        let added = match shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x.read()),
            Shortcut::Projection(_, z) => Some(z.read()),
        };
        let rows = first * end.z.layout.height;
        let (z, gz) = (end.z.read(), end.gz.write());
        stage::end(
            end.site.stage(),
            z,
            added,
            (&|i| target.image(i), target_layout),
            factor,
            choices[last + 1].keep(),
            rows,
            gz,
            &mut end.rows,
        );
        end.sums = end.rows.iter().fold(end.sums, |sum, row| sum + *row);
        let middle = Instant::now();
        let replace = first == 0;
        if let Shortcut::Projection(weight, _) = shortcut {
            weight.backward_weight(x.read(), end.gz.read(), replace);
        }
        for i in (0..=last).rev() {
            let (before, rest) = layers.split_at_mut(i);
            let layer = &mut rest[0];
            let read = before.last().map_or(x.read(), |l| l.a.read());
            layer.weight.backward_weight(read, layer.gz.read(), replace);
            if let Some(previous) = before.last_mut() {
                layer.weight.backward_input(layer.gz.read(), previous.gz.write());
                let Layer { site, z, gz, kept, rows, .. } = previous;
                stage::backward(site.stage(), z.read(), None, kept, gz.write(), rows);
                previous.sums = previous.rows.iter().fold(previous.sums, |sum, row| sum + *row);
            }
        }
        times.forward += middle - start;
        times.backward += middle.elapsed();
        Ok(())
    }

    /// Updates all that is learned; returns the weighted regularizer.
    fn update(&mut self, regularizer: Option<(f64, f64)>, rates: Rates) -> f64 {
        self.steps += 1;
        let regularizer = regularizer.map(|(weight, b)| Regularizer { weight: weight as f32, b: b as f32 });
        let (rounding, scale) = (adam_step(rates.rounding, self.steps), adam_step(rates.scale, self.steps));
        for layer in &mut self.layers {
            layer.site.learn(layer.sums, scale);
        }
        self.weights().map(|w| w.learn(regularizer, rounding)).sum()
    }

    /// Time spent so far.
    pub fn times(&self) -> StepTimes {
        self.times
    }

    fn weights(&mut self) -> impl Iterator<Item = &mut Weight> {
        let projection = match &mut self.shortcut {
            Shortcut::Projection(weight, _) => Some(&mut **weight),
            _ => None,
        };
        self.layers.iter_mut().map(|l| &mut l.weight).chain(projection)
    }

    fn numbers(&mut self) -> impl Iterator<Item = &mut Number> {
        self.layers.iter_mut().flat_map(|l| l.site.numbers())
    }

    /// Value, mean and mean of squares of everything that is learned, by the name of its variable.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn state(&mut self) -> Result<BTreeMap<String, [Tensor; 3]>> {
        let mut all = BTreeMap::new();
        for rounding in self.weights().filter_map(|w| w.rounding.as_ref()) {
            all.insert(rounding.name.clone(), rounding.state()?);
        }
        for number in self.numbers() {
            all.insert(number.name.clone(), number.state()?);
        }
        Ok(all)
    }

    /// Goes on as after `steps` updates that ended in this [`state`](Self::state).
    ///
    /// # Errors
    /// A variable is missing, or has another shape.
    pub fn restore(&mut self, steps: usize, state: &BTreeMap<String, [Tensor; 3]>) -> Result<()> {
        let of = |name: &str| {
            let found = state.get(name).map(|s| [&s[0], &s[1], &s[2]]);
            found.ok_or_else(|| Error::message(format!("the interrupted state has no '{name}'")))
        };
        for weight in self.weights() {
            if let Some(rounding) = &weight.rounding {
                weight.restore(of(&rounding.name)?)?;
            }
        }
        for number in self.numbers() {
            number.restore(of(&number.name)?)?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Writes all that was learned into the quantizers' variables.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn write_back(&mut self) -> Result<()> {
        self.weights().filter_map(|w| w.rounding.as_ref()).try_for_each(Rounding::write_back)?;
        self.numbers().try_for_each(|n| n.write_back())
    }
}

/// The choices of one site for a whole batch.
enum Choice {
    All,
    Random(qdrop_kernels::random::Stream, f32),
    /// In the order (image, row, column, channel).
    Mask(Vec<u8>),
}

impl Choice {
    fn new(keep: Keep, channels: usize) -> Result<Self> {
        Ok(match keep {
            Keep::All => Self::All,
            Keep::Random { probability, .. } if probability >= 1.0 => Self::All,
            Keep::Random { stream, probability } => Self::Random(stream, probability),
            Keep::Mask(mask) => {
                let planes = mask.dims().iter().skip(2).product::<usize>();
                let mask: Vec<u8> = mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
                let image = (channels * planes).max(1);
                // From planes to channels that lie together.
                let at = |i: usize| i / image * image + i % image % channels * planes + i % image / channels;
                Self::Mask((0..mask.len()).map(|i| mask[at(i)]).collect())
            }
        })
    }

    fn keep(&self) -> kernel::Keep<'_> {
        match self {
            Self::All => kernel::Keep::All,
            Self::Random(stream, probability) => kernel::Keep::Random { stream: *stream, probability: *probability },
            Self::Mask(mask) => kernel::Keep::Mask(mask),
        }
    }
}
