//! A reconstructor with its own loss, the cosine distance between the unit's outputs and the float network's. It passes
//! gradients of the outputs to the engine, so it works with every engine.

use qdrop_core::prelude::*;
use qdrop_core::progress::Event;

/// Parameters in a recipe: `reconstruction: {name: cosine, params: {iters: 100}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(crate = "qdrop_core::serde", deny_unknown_fields, default)]
pub struct CosineParams {
    /// Steps for each unit.
    pub iters: usize,
    /// Samples in each step.
    pub batch_size: usize,
    /// Learning rate of rounding variables; that of scales is a hundredth of it.
    pub lr: f64,
    /// Probability of keeping an element's quantized value.
    pub drop_prob: f32,
}

impl Default for CosineParams {
    fn default() -> Self {
        Self { iters: 100, batch_size: 16, lr: 0.05, drop_prob: 0.5 }
    }
}

/// Block by block.
pub struct Cosine(pub CosineParams);

/// The mean over samples of `1 - cos(output, target)`, a scalar.
fn distance(output: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (output, target) = (output.flatten_from(1)?, target.flatten_from(1)?);
    let dot = (&output * &target)?.sum(1)?;
    let sizes = (output.sqr()?.sum(1)? * target.sqr()?.sum(1)?)?;
    let cosine = (dot / (sizes + 1e-12)?.sqrt()?)?;
    Ok((1.0 - cosine)?.mean_all()?)
}

/// The distance summed over all outputs, and its gradient with respect to each output.
fn loss(outputs: &[Tensor], targets: &[Tensor]) -> Result<(f64, Vec<Tensor>)> {
    let mut sum = 0.0;
    let mut gradients = Vec::new();
    for (output, target) in outputs.iter().zip(targets) {
        let output = Var::from_tensor(output)?;
        let own = distance(output.as_tensor(), target)?;
        sum += f64::from(own.to_scalar::<f32>()?);
        let gradient = own.backward()?.remove(output.as_tensor());
        gradients.push(gradient.ok_or_else(|| Error::message("no gradient reaches the output"))?);
    }
    Ok((sum, gradients))
}

impl Reconstructor for Cosine {
    fn grouping(&self) -> Grouping {
        Grouping::Block
    }

    fn steps(&self) -> usize {
        self.0.iters
    }

    fn shorten(&mut self, iters: usize) -> Result<()> {
        self.0.lr *= self.0.iters as f64 / iters.max(1) as f64;
        self.0.iters = iters.max(1);
        Ok(())
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        let start = std::time::Instant::now();
        let CosineParams { iters, batch_size, lr, drop_prob } = self.0;
        let rates = [(groups::ROUNDING, lr), (groups::SCALE, lr * 0.01), (groups::ZERO_POINT, lr * 0.01)];
        unit.begin(&rates.map(|(group, _)| group))?;
        let mut engine = unit.engine(batch_size, context)?;
        let mut losses = Vec::new();
        if let Some(state) = context.interruption.resume()? {
            engine.restore(state.losses.len(), &state.tensors)?;
            losses = state.losses;
        }
        context.progress.event(Event::Started { stage: unit.name, total: iters });
        for step in losses.len()..iters {
            if context.progress.cancelled() {
                context.interruption.keep(&Interrupted { losses, tensors: engine.state()? })?;
                return Err(Error::Cancelled);
            }
            let samples = context.random.batch(unit.index, step, batch_size, unit.sample_count());
            let keep = |site| context.random.keep(unit.index, step, site, drop_prob);
            let outputs = engine.forward(&samples, &keep)?;
            let (reconstruction, gradients) = loss(&outputs, &unit.targets(&samples)?)?;
            engine.backward(&gradients)?;
            let b = 20.0 - 18.0 * step as f64 / iters as f64;
            let regularizer = (5 * step >= iters).then_some(Regularizer { weight: 1e-4, b });
            let rounding = engine.update(&rates, regularizer)?;
            let point = LossPoint { reconstruction, rounding, b };
            losses.push(point);
            context.progress.event(Event::Step { step: step + 1, loss: point });
        }
        engine.finish()?;
        drop(engine);
        context.progress.event(Event::Finished);
        unit.finish()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(UnitReport { name: unit.name.into(), losses, seconds, ..Default::default() })
    }
}

register_reconstructor! {
    name: "cosine", aliases: [], summary: "block by block, by the cosine distance of outputs",
    build: |params| Ok(Box::new(Cosine(params.parse()?)))
}
