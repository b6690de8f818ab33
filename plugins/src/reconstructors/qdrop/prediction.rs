//! The prediction difference (PD-Quant, arXiv 2212.07048, section 3.2): how far the network's predictions move when only this
//! unit is quantized.

use qdrop_core::ops::Keep;
use qdrop_core::prelude::*;

/// Samples whose predictions are computed together before the first step.
const TOGETHER: usize = 32;

/// Parameters of the prediction difference; the defaults are those of the paper, with the temperature for MobileNetV2 and
/// MNASNet (4 for ResNets and RegNets).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PredictionDifference {
    /// Its weight in the loss.
    pub weight: f64,
    /// The temperature T, by which outputs of the network are divided before their softmax.
    pub temperature: f64,
    /// How many samples of each batch it is computed for; all of them, if none is given. It costs far more time than the
    /// rest of a step.
    pub samples: Option<usize>,
}

impl Default for PredictionDifference {
    fn default() -> Self {
        Self { weight: 10.0, temperature: 1.0, samples: None }
    }
}

/// The loss of a unit with the prediction difference.
pub struct Prediction<'a> {
    params: PredictionDifference,
    /// Whether the reconstruction loss is left out.
    alone: bool,
    unit: &'a UnitTask<'a>,
    rest: Rest<'a>,
    /// The float network's outputs for all samples.
    float: Vec<Tensor>,
}

/// The outputs of the network for all samples that follow from the unit's targets.
pub fn predictions(unit: &UnitTask<'_>, rest: &Rest<'_>) -> Result<Vec<Tensor>> {
    let mut parts: Vec<Vec<Tensor>> = Vec::new();
    let count = unit.sample_count();
    for first in (0..count).step_by(TOGETHER) {
        let samples: Vec<usize> = (first..count.min(first + TOGETHER)).collect();
        let outputs = rest.forward(&unit.targets(&samples)?, &samples)?;
        parts.resize(outputs.len(), Vec::new());
        parts.iter_mut().zip(outputs).for_each(|(part, output)| part.push(output.detach()));
    }
    parts.iter().map(|part| Ok(Tensor::cat(part, 0)?)).collect()
}

impl<'a> Prediction<'a> {
    /// The loss relative to the float network's outputs for all samples; those that follow from the unit's targets, if none
    /// are given.
    pub fn new(
        (params, alone): (PredictionDifference, bool),
        unit: &'a UnitTask<'a>,
        float: Option<Vec<Tensor>>,
        context: &Context<'_>,
    ) -> Result<Self> {
        let rest = unit.rest(context)?;
        let float = float.map_or_else(|| predictions(unit, &rest), Ok)?;
        Ok(Self { params, alone, unit, rest, float })
    }

    /// The reconstruction loss of a step plus the weighted prediction difference, with their gradients.
    pub fn loss(&self, engine: &mut dyn UnitEngine, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        let outputs = engine.forward(samples, keep)?;
        let outputs: Vec<Var> = outputs.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
        let tensors: Vec<Tensor> = outputs.iter().map(|var| var.as_tensor().clone()).collect();
        let mut loss = Tensor::zeros((), DType::F32, tensors[0].device())?;
        if !self.alone {
            loss = (loss + self.unit.loss(&tensors, samples)?)?;
        }
        // Batches are drawn at random, so their first samples are too.
        let some = &samples[..self.params.samples.unwrap_or(samples.len()).min(samples.len())];
        let rows = Tensor::new(some.iter().map(|s| *s as u32).collect::<Vec<_>>(), tensors[0].device())?;
        let of_some: Vec<Tensor> =
            tensors.iter().map(|output| output.narrow(0, 0, some.len())).collect::<candle_core::Result<_>>()?;
        for (quantized, float) in self.rest.forward(&of_some, some)?.iter().zip(&self.float) {
            let difference = divergence(&float.index_select(&rows, 0)?, quantized, self.params.temperature)?;
            loss = (loss + (difference * self.params.weight)?)?;
        }
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(self
                .unit
                .error("the loss with the prediction difference is not finite; lower the learning rates"));
        }
        let gradients = loss.backward()?;
        let zeros = |var: &Var| var.zeros_like();
        let gradients = outputs.iter().map(|var| gradients.get(var).map_or_else(|| zeros(var), |g| Ok(g.clone())));
        engine.backward(&gradients.collect::<candle_core::Result<Vec<_>>>()?)?;
        Ok(value)
    }
}

/// KL(softmax(float / T) || softmax(quantized / T)) along the first axis after the samples (N, C, ...), summed over positions
/// and averaged over samples.
fn divergence(float: &Tensor, quantized: &Tensor, temperature: f64) -> candle_core::Result<Tensor> {
    let [float, quantized] = [log_softmax(&(float / temperature)?)?, log_softmax(&(quantized / temperature)?)?];
    let terms = (float.exp()? * (float - &quantized)?)?;
    terms.sum_all()? / quantized.dim(0)? as f64
}

fn log_softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    // Without the largest one, exponentials could overflow. It cancels, so it needs no gradient.
    let x = x.broadcast_sub(&x.detach().max_keepdim(1)?)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(1)?.log()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_formula() {
        let (float, quantized) = ([2.0_f64, -1.0, 0.5, 300.0, 299.0, 0.0], [1.0_f64, 0.0, 0.5, 298.0, 300.0, 1.0]);
        let softmax = |x: &[f64], t: f64| -> Vec<f64> {
            let largest = x.iter().fold(f64::MIN, |m, v| m.max(*v));
            let e: Vec<f64> = x.iter().map(|v| ((v - largest) / t).exp()).collect();
            e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
        };
        let tensor =
            |x: &[f64]| Tensor::new(x, &Device::Cpu).unwrap().reshape((2, 3)).unwrap().to_dtype(DType::F32).unwrap();
        for t in [1.0, 4.0] {
            let want: f64 = (0..2)
                .map(|row| {
                    let [p, q] = [&float, &quantized].map(|x| softmax(&x[row * 3..][..3], t));
                    p.iter().zip(q).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum::<f64>() / 2.0
                })
                .sum();
            let got = divergence(&tensor(&float), &tensor(&quantized), t).unwrap().to_scalar::<f32>().unwrap();
            assert!((f64::from(got) - want).abs() < 1e-5 * want, "{got} {want}");
        }
    }
}
