//! Computes the steps of a unit on a device.

use super::groups::Groups;
use super::queue::{Launches, Queue, TOGETHER};
use super::samples::Samples;
use super::sites::Sites;
use super::weight::Weight;
use crate::cuda::abi::{Choices, Draw, Rates, Regularizer as RoundingRegularizer, Rows};
use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels::{self, StageInput};
use crate::engine::chain::{Block, Shortcut as BlockShortcut};
use crate::engine::checks::{check_batch, check_gradients, no_gradients, no_mixing, one_pass};
use crate::engine::interface::{EngineState, Regularizer, Step, StepPass, StepTimes, UnitEngine};
use crate::engine::samples::UnitSamples;
use crate::error::Result;
use crate::ops::{host_values, Keep};
use crate::optim::finite;
use candle_core::{DType, Device as TensorDevice, Tensor};
use qdrop_kernels::drop::GROUP;
use qdrop_kernels::nhwc::stage::Function;
use std::sync::Arc;
use std::time::Instant;

/// A unit on a device, for one batch size.
pub struct DeviceUnit {
    device: Arc<dyn Device>,
    /// Where the caller's tensors are.
    tensors: TensorDevice,
    batch: usize,
    /// Shape of the output, including the batch.
    output: Vec<usize>,
    samples: Samples,
    x: Buffer<f32>,
    x_rows: Rows,
    layers: Vec<Layer>,
    shortcut: Shortcut,
    sites: Sites,
    groups: Groups,
    rates: Buffer<Rates>,
    regularizer: Buffer<RoundingRegularizer>,
    /// Terms of the regularizer of all weights, and their sum.
    terms: Buffer<f64>,
    term: Buffer<f64>,
    /// Random numbers of the input and of each layer's stage, and what they choose.
    draws: Buffer<Draw>,
    kept: Vec<Buffer<Choices>>,
    /// Room for the output or its gradient as planes, if the caller has a loss of its own.
    planes: Option<Buffer<f32>>,
    pending: bool,
    has_gradients: bool,
    /// Steps that the device does not wait for.
    queue: Queue,
    times: StepTimes,
    /// Number of updates so far.
    updates: usize,
}

/// A convolution of the chain with the stage after it.
struct Layer {
    weight: Weight,
    /// A clip has one bound for each channel.
    activation: Option<Function<Buffer<f32>>>,
    /// The number of its quantizer, from 1; `None` without a quantizer.
    site: Option<usize>,
    rows: Rows,
    /// The convolution's output.
    z: Buffer<f32>,
    /// The stage's output.
    a: Buffer<f32>,
    /// The gradient with respect to `a`, then that with respect to `z`.
    gz: Buffer<f32>,
}

/// What is added to the chain's output at the unit's end.
enum Shortcut {
    None,
    Identity,
    Projection(Box<Weight>, Buffer<f32>),
}

impl DeviceUnit {
    /// Prepares a block whose quantizers have begun to learn, for batches of this size. `tensors` is where the tensors are
    /// that the engine returns.
    ///
    /// # Errors
    /// There is not enough memory, or cached values cannot be read.
    pub fn new(
        device: Arc<dyn Device>,
        tensors: TensorDevice,
        block: Block,
        samples: &UnitSamples,
        batch: usize,
        tf32: bool,
    ) -> Result<Self> {
        let Block { input, output: image, output_is_image, layers: described, shortcut } = block;
        let dims = if output_is_image { &image[..] } else { &image[..1] };
        let output = [&[batch], dims].concat();
        let d = &*device;
        let (mut groups, mut terms) = (Groups::default(), 0);
        let x_rows = Rows::new(batch, input);
        let mut kept = vec![Buffer::zeros(d, x_rows.groups as usize)?];
        let (mut layers, mut stages) = (Vec::new(), Vec::new());
        for (i, (convolution, mut stage)) in described.into_iter().enumerate() {
            let convolution = convolution.of_batch(batch);
            let size = convolution.output();
            let (rows, len) = (Rows::new(batch, size), convolution.shape.output_len());
            kept.push(Buffer::zeros(d, rows.groups as usize)?);
            let activation = stage.activation.take();
            layers.push(Layer {
                weight: Weight::new(d, convolution, &mut groups, &mut terms, i > 0, tf32)?,
                activation: activation.map(|f| f.try_map(|bounds| Buffer::new(d, &bounds))).transpose()?,
                site: stage.quantizer.is_some().then_some(stage.site),
                rows,
                z: Buffer::zeros(d, len)?,
                a: Buffer::zeros(d, len)?,
                gz: Buffer::zeros(d, len)?,
            });
            stages.push((stage, len, rows.blocks() as usize));
        }
        let shortcut = match shortcut {
            BlockShortcut::None => Shortcut::None,
            BlockShortcut::Identity => Shortcut::Identity,
            BlockShortcut::Projection(projection) => {
                let projection = projection.of_batch(batch);
                let z = Buffer::zeros(d, projection.shape.output_len())?;
                Shortcut::Projection(Box::new(Weight::new(d, projection, &mut groups, &mut terms, false, tf32)?), z)
            }
        };
        Ok(Self {
            samples: Samples::new(d, samples, input, image, batch)?,
            x: Buffer::zeros(d, batch * input.iter().product::<usize>())?,
            sites: Sites::new(d, stages, &mut groups)?,
            rates: Buffer::zeros(d, groups.len())?,
            regularizer: Buffer::zeros(d, 1)?,
            terms: Buffer::zeros(d, terms)?,
            term: Buffer::zeros(d, 1)?,
            draws: Buffer::zeros(d, kept.len())?,
            tensors,
            batch,
            output,
            x_rows,
            layers,
            shortcut,
            groups,
            kept,
            planes: None,
            pending: false,
            has_gradients: false,
            queue: Queue::new(d)?,
            times: StepTimes::default(),
            updates: 0,
            device,
        })
    }

    /// Channels and pixels of an image of the output.
    fn size(&self) -> [usize; 2] {
        let channels = self.output[1];
        [channels, self.output[2..].iter().product()]
    }

    /// Brings to the device what a step reads. Returns which sites draw what they keep; the others were told.
    fn upload(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<bool>> {
        let d = &*self.device;
        check_batch(samples, self.batch)?;
        self.pending = false;
        self.samples.begin(d, samples)?;
        let sites = std::iter::once((Some(0), self.x_rows)).chain(self.layers.iter().map(|l| (l.site, l.rows)));
        let mut draws = Vec::new();
        for (i, (site, rows)) in sites.enumerate() {
            let draw = match site.map(keep) {
                // Nothing is rounded without a quantizer.
                None => Some(Draw::constant(false)),
                Some(Keep::All) => Some(Draw::constant(true)),
                Some(Keep::Random { stream, probability }) => Some(Draw::new(stream, probability)),
                Some(Keep::Mixed { .. }) => return Err(no_mixing()),
                Some(Keep::Mask(mask)) => {
                    self.kept[i].write(d, 0, &choices_of(&mask, rows)?)?;
                    None
                }
            };
            draws.push(draw);
        }
        let all: Vec<Draw> = draws.iter().map(|draw| draw.unwrap_or_default()).collect();
        self.draws.write(d, 0, &all)?;
        Ok(draws.iter().map(Option::is_some).collect())
    }

    /// Draws what sites keep, and projects learned values onto their valid ranges.
    fn draw(&self, drawn: &[bool]) -> Result<()> {
        let d = &*self.device;
        for (i, kept) in self.kept.iter().enumerate().filter(|(i, _)| drawn[*i]) {
            kernels::draw_choices(d, kept, &self.draws, i)?;
        }
        self.sites.prepare(d)
    }

    /// Begins a step.
    fn begin(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<()> {
        let drawn = self.upload(samples, keep)?;
        self.draw(&drawn)
    }

    /// What the stage of a layer reads; that of the last one comes after the addition of the shortcut.
    fn stage(&self, layer: usize) -> StageInput<'_> {
        let l = &self.layers[layer];
        let (shortcut, shortcut_bias) = match &self.shortcut {
            _ if layer + 1 < self.layers.len() => (None, None),
            Shortcut::None => (None, None),
            Shortcut::Identity => (Some(&self.x), None),
            Shortcut::Projection(weight, z) => (Some(z), weight.bias.as_ref()),
        };
        StageInput {
            z: &l.z,
            bias: l.weight.bias.as_ref(),
            shortcut,
            shortcut_bias,
            kept: &self.kept[layer + 1],
            sites: self.sites.buffer(),
            site: layer,
            activation: l.activation.as_ref().map(Function::as_ref),
            rows: l.rows,
        }
    }

    /// Computes the batch up to the values that the end of the unit reads.
    fn forward_pass(&self) -> Result<()> {
        let d = &*self.device;
        kernels::gather_mix(d, self.samples.inputs(), &self.kept[0], &self.x, self.x_rows)?;
        let mut read = &self.x;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.weight.forward(d, read, &layer.z)?;
            if i + 1 < self.layers.len() {
                kernels::forward(d, self.stage(i), &layer.a)?;
            }
            read = &layer.a;
        }
        match &self.shortcut {
            Shortcut::Projection(weight, z) => weight.forward(d, &self.x, z),
            Shortcut::None | Shortcut::Identity => Ok(()),
        }
    }

    /// The factor of the sum of squared errors in the loss.
    fn factor(&self) -> f32 {
        let [_, pixels] = self.size();
        (1.0 / (self.batch * pixels) as f64) as f32
    }

    /// Computes the batch up to the gradient of the last layer's `z`.
    fn end_pass(&self) -> Result<()> {
        self.forward_pass()?;
        let (d, last) = (&*self.device, self.layers.len() - 1);
        let (target, loss) = (self.samples.targets(), (self.factor(), self.samples.range));
        self.sites.end(d, last, self.stage(last), target, loss, &self.layers[last].gz)
    }

    /// Brings to the device what an update reads.
    fn upload_update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<()> {
        let d = &*self.device;
        self.updates += 1;
        self.rates.write(d, 0, &self.groups.rates(rates, self.updates)?)?;
        let terms = |r: Regularizer| RoundingRegularizer { weight: r.weight as f32, b: r.b as f32 };
        self.regularizer.write(d, 0, &[regularizer.map(terms).unwrap_or_default()])
    }

    /// Updates everything that is learned.
    fn learn(&self) -> Result<()> {
        let d = &*self.device;
        self.sites.learn(d, &self.rates)?;
        self.weights().try_for_each(|w| w.learn(d, &self.rates, &self.regularizer, &self.terms))
    }

    /// All launches of a whole step, which keeps its losses among those of the queue.
    fn whole_step(&self, drawn: &[bool]) -> Result<()> {
        let d = &*self.device;
        self.draw(drawn)?;
        self.end_pass()?;
        self.backward_pass()?;
        self.learn()?;
        kernels::add_up(d, &self.terms, &self.term)?;
        self.queue.keep(d, self.sites.totals(), &self.term)
    }

    /// Queues a whole step. The first one is launched as it is, so that libraries have allocated what they need when the
    /// second one is recorded; later ones are replayed.
    fn queue(&mut self, step: &Step<'_>) -> Result<()> {
        let [StepPass { samples, keep }] = step.passes else { return Err(one_pass()) };
        let drawn = self.upload(samples, keep)?;
        self.samples.load_targets(&*self.device, samples)?;
        self.upload_update(step.rates, step.regularizer)?;
        if !drawn.iter().all(|drawn| *drawn) {
            return self.whole_step(&drawn);
        }
        match &self.queue.launches {
            Launches::First => self.queue.launches = Launches::Warm,
            Launches::Warm => {
                let recording = self.device.record(&mut || self.whole_step(&drawn))?;
                self.queue.launches = recording.map_or(Launches::Unrecorded, Launches::Recorded);
            }
            Launches::Recorded(_) | Launches::Unrecorded => {}
        }
        match &self.queue.launches {
            Launches::Recorded(recording) => recording.replay(),
            Launches::First | Launches::Warm | Launches::Unrecorded => self.whole_step(&drawn),
        }
    }

    /// Computes the gradients from that of the last layer's `z`.
    fn backward_pass(&self) -> Result<()> {
        let d = &*self.device;
        let last = self.layers.len() - 1;
        if let Shortcut::Projection(weight, _) = &self.shortcut {
            weight.backward_weight(d, &self.x, &self.layers[last].gz)?;
        }
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let before = i.checked_sub(1).map(|i| &self.layers[i]);
            layer.weight.backward_weight(d, before.map_or(&self.x, |l| &l.a), &layer.gz)?;
            if let Some(before) = before {
                layer.weight.backward_input(d, &layer.gz, &before.gz)?;
                self.sites.backward(d, i - 1, self.stage(i - 1), &before.gz)?;
            }
        }
        self.sites.add_up(d)
    }

    fn weights(&self) -> impl Iterator<Item = &Weight> {
        let projection = match &self.shortcut {
            Shortcut::Projection(weight, _) => Some(&**weight),
            Shortcut::None | Shortcut::Identity => None,
        };
        self.layers.iter().map(|l| &l.weight).chain(projection)
    }
}

/// The choices that a mask (N, C, ...) gives for these rows.
fn choices_of(mask: &Tensor, rows: Rows) -> Result<Vec<Choices>> {
    let mask: Vec<u8> = mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
    let (row, channels, height) = (rows.row as usize, rows.channels as usize, rows.rows_of_image as usize);
    let (width, groups) = (row / channels, row.div_ceil(GROUP));
    let mut all = vec![Choices::default(); rows.groups as usize];
    for (i, kept) in mask.iter().enumerate() {
        let (n, c, y, x) =
            (i / (channels * height * width), i / (height * width) % channels, i / width % height, i % width);
        let at = x * channels + c;
        let choices = &mut all[(n * height + y) * groups + at / GROUP];
        choices.0[at % GROUP % 16] |= u8::from(*kept != 0) << (at % GROUP / 16);
    }
    Ok(all)
}

impl UnitEngine for DeviceUnit {
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        self.begin(samples, keep)?;
        self.forward_pass()?;
        let (last, [channels, pixels]) = (self.layers.len() - 1, self.size());
        let d = self.device.clone();
        if self.planes.is_none() {
            self.planes = Some(Buffer::zeros(&*d, self.layers[last].a.len())?);
        }
        let Some(planes) = &self.planes else { return Ok(Vec::new()) };
        kernels::forward(&*d, self.stage(last), &self.layers[last].a)?;
        kernels::transpose(&*d, &self.layers[last].a, planes, [self.batch, pixels, channels], 0)?;
        let output = Tensor::from_vec(planes.to_vec(&*d)?, self.output.as_slice(), &self.tensors)?;
        self.pending = true;
        self.times.forward += start.elapsed();
        Ok(vec![output])
    }

    fn backward(&mut self, gradients: &[Tensor]) -> Result<()> {
        let start = Instant::now();
        let outputs: &[&[usize]] = if self.pending { &[&self.output] } else { &[] };
        check_gradients(gradients.iter().map(Tensor::dims), outputs.iter().copied())?;
        let (Some(planes), [gradient], [channels, pixels]) = (&self.planes, gradients, self.size()) else {
            return Ok(());
        };
        let (d, last) = (&*self.device, self.layers.len() - 1);
        host_values(gradient, |values| planes.write(d, 0, values))??;
        let end = &self.layers[last];
        kernels::transpose(d, planes, &end.gz, [self.batch, channels, pixels], 0)?;
        self.sites.backward(d, last, self.stage(last), &end.gz)?;
        self.backward_pass()?;
        (self.pending, self.has_gradients) = (false, true);
        self.times.backward += start.elapsed();
        Ok(())
    }

    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        let start = Instant::now();
        self.begin(samples, keep)?;
        self.samples.load_targets(&*self.device, samples)?;
        self.end_pass()?;
        self.backward_pass()?;
        let loss = finite(self.sites.loss(&*self.device)? * f64::from(self.factor()), "reconstruction loss")?;
        self.has_gradients = true;
        self.times.forward += start.elapsed();
        Ok(loss)
    }

    fn add_loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        if self.has_gradients {
            return Err(one_pass());
        }
        self.loss(samples, keep)
    }

    fn hard_loss(&mut self, samples: &[usize]) -> Result<f64> {
        let start = Instant::now();
        self.begin(samples, &|_| Keep::All)?;
        self.has_gradients = false;
        let d = &*self.device;
        self.samples.load_targets(d, samples)?;
        self.weights().try_for_each(|w| w.harden(d))?;
        let passed = self.end_pass();
        self.weights().try_for_each(|w| w.prepare(d))?;
        passed?;
        self.sites.add_up(d)?;
        let loss = finite(self.sites.loss(d)? * f64::from(self.factor()), "reconstruction loss")?;
        self.times.forward += start.elapsed();
        Ok(loss)
    }

    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64> {
        if !std::mem::take(&mut self.has_gradients) {
            return Err(no_gradients());
        }
        let start = Instant::now();
        self.upload_update(rates, regularizer)?;
        self.learn()?;
        let d = &*self.device;
        let mut sum = [0.0];
        if regularizer.is_some() {
            kernels::add_up(d, &self.terms, &self.term)?;
            self.term.read(d, &mut sum)?;
        }
        self.times.backward += start.elapsed();
        finite(sum[0], "rounding regularizer")
    }

    fn together(&self) -> usize {
        TOGETHER
    }

    fn steps(&mut self, steps: &[Step<'_>]) -> Result<Vec<[f64; 2]>> {
        let (start, mut all) = (Instant::now(), Vec::new());
        for some in steps.chunks(TOGETHER) {
            self.queue.begin(&*self.device)?;
            some.iter().try_for_each(|step| self.queue(step))?;
            for (step, [sum, rounding]) in some.iter().zip(self.queue.losses(&*self.device)?) {
                let loss = finite(sum * f64::from(self.factor()), "reconstruction loss")?;
                let rounding = if step.regularizer.is_some() { rounding } else { 0.0 };
                all.push([loss, finite(rounding, "rounding regularizer")?]);
            }
        }
        self.has_gradients = false;
        // Passes are not apart.
        self.times.forward += start.elapsed();
        Ok(all)
    }

    fn state(&mut self) -> Result<EngineState> {
        let (d, mut state) = (&*self.device, EngineState::new());
        self.weights().try_for_each(|w| w.keep(d, &mut state))?;
        self.sites.keep(d, &mut state)?;
        Ok(state)
    }

    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()> {
        let d = &*self.device;
        self.weights().try_for_each(|w| w.restore(d, state))?;
        self.sites.restore(d, state)?;
        self.updates = updates;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let d = &*self.device;
        self.weights().try_for_each(|w| w.write_back(d))?;
        self.sites.write_back(d)
    }

    fn times(&self) -> StepTimes {
        self.times
    }
}
