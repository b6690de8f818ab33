//! Bias correction: rounding weights and values shifts the mean of a layer's output; the bias of the quantized network
//! takes the shift back (Nagel et al., arXiv 1906.04721, section 4.2, measured on images as in appendix D).

use qdrop_core::prelude::*;

/// Parameters: `prepare: [{name: bias_correction, params: {images: 32}}]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BiasCorrectionParams {
    /// Images over which means are taken.
    images: usize,
}

impl Default for BiasCorrectionParams {
    fn default() -> Self {
        Self { images: 32 }
    }
}

struct BiasCorrection(BiasCorrectionParams);

/// The mean of each channel of (N, C, ...).
fn means(x: &Tensor) -> Result<Vec<f64>> {
    let mut sums = Vec::new();
    let count = ops::add_channel_sums(x, &mut sums)? as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    Ok(sums)
}

impl Preparation for BiasCorrection {
    /// The float network does not change at all.
    fn tolerance(&self) -> f64 {
        f64::MIN_POSITIVE
    }

    fn outline(&self, graph: &Graph) -> Result<Vec<String>> {
        let layers = graph.nodes().filter(|(_, node)| has_bias(&node.op)).count();
        Ok(vec![format!("the biases of {layers} layers")])
    }

    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>> {
        let quantized = network.calibrated()?;
        let (mut corrected, mut changes) = (Vec::new(), Vec::new());
        let model = &*network.model;
        network.walk(self.0.images, |id, [full, rounded]| {
            let node = model.graph().node(id);
            let float = model.raw_value(id, full, Precision::Float)?;
            let mut own = quantized.raw_value(id, rounded, Precision::Quantized)?;
            if let (true, Some(bias)) = (has_bias(&node.op), model.bias(id)) {
                let shift: Vec<f32> = means(&float)?.iter().zip(means(&own)?).map(|(f, q)| (f - q) as f32).collect();
                let largest = shift.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                let shift = Tensor::from_vec(shift, bias.shape(), bias.device())?;
                corrected.push((id, (bias + &shift)?));
                own = own.broadcast_add(&shift.reshape(column(&own, shift.elem_count()))?)?;
                changes.push(Change { part: node.name.clone(), what: format!("bias shifted by up to {largest:.3}") });
            }
            if let Some(site) = quantized.activation_site(id) {
                own = site.quantizer.fake_quantize(&own)?.detach();
            }
            Ok([float, own])
        })?;
        corrected.into_iter().try_for_each(|(id, bias)| network.model.correct_bias(id, bias))?;
        Ok(changes)
    }
}

/// The shape in which one value for each channel is added to (N, C, ...).
fn column(value: &Tensor, channels: usize) -> Vec<usize> {
    let mut shape = vec![1; value.rank()];
    shape[1] = channels;
    shape
}

fn has_bias(op: &Op) -> bool {
    matches!(op, Op::Conv2d { bias: true, .. } | Op::Linear { bias: true, .. })
}

register_preparation! {
    name: "bias_correction", aliases: [], summary: "takes back what rounding adds to the mean of each layer's channels",
    build: |params| {
        let parsed: BiasCorrectionParams = params.parse()?;
        params.at_least_one(&[("images", parsed.images)])?;
        Ok(Box::new(BiasCorrection(parsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_channels() {
        let x = Tensor::arange(0.0_f32, 24.0, &Device::Cpu).unwrap();
        assert_eq!(means(&x.reshape((2, 3, 2, 2)).unwrap()).unwrap(), [7.5, 11.5, 15.5]);
        assert_eq!(means(&x.reshape((8, 3)).unwrap()).unwrap(), [10.5, 11.5, 12.5]);
    }
}
