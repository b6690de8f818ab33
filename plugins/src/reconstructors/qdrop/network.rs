//! The last stage: the whole network learns as one unit to predict what the float network predicts. Layers make up for
//! errors that no unit alone can see, after EPTQ (arXiv 2309.11531) and AE-QDrop (Electronics 2024, 13, 644), which also
//! end with a stage for the whole network.

use super::params::{Decay, QdropParams};
use super::prediction::PredictionDifference;
use qdrop_core::kernels::rounding::round_half_even;
use qdrop_core::prelude::*;
use std::collections::BTreeMap;

/// Parameters of the last stage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkParams {
    /// Steps.
    pub iters: usize,
    /// Samples in each step.
    pub batch_size: usize,
    /// The temperature T, by which outputs are divided before their softmax.
    pub temperature: f64,
    /// Probability of keeping an element's quantized value at the first step; it grows to 1 at the last one.
    pub drop_prob: f32,
    /// How far roundings are opened again: from hard ones to this distance, towards the float weight. 0 to 0.5.
    pub open: f32,
    /// Initial learning rate of rounding variables. All rates decay to 0 along a cosine.
    pub lr: f64,
    /// Initial learning rate of scales.
    pub scale_lr: f64,
    /// Initial learning rates of further groups, as in [`QdropParams::rates`].
    pub rates: BTreeMap<String, f64>,
    /// Weight of the rounding regularizer.
    pub weight: f64,
    /// Share of the steps before the regularizer begins.
    pub warm_up: f64,
    /// Exponent of the regularizer at the end of warm-up and at the last step.
    pub b_range: [f64; 2],
}

impl Default for NetworkParams {
    fn default() -> Self {
        Self {
            iters: 300,
            batch_size: 32,
            temperature: 1.0,
            drop_prob: 0.5,
            open: 0.2,
            lr: 2e-2,
            scale_lr: 2e-4,
            rates: BTreeMap::new(),
            weight: 1e-4,
            warm_up: 0.2,
            b_range: [10.0, 2.0],
        }
    }
}

impl NetworkParams {
    /// The same optimization as that of a unit, with the divergence of the predictions as its loss.
    pub(super) fn optimization(&self) -> QdropParams {
        QdropParams {
            iters: self.iters,
            batch_size: self.batch_size,
            drop_prob: self.drop_prob,
            last_drop_prob: Some(1.0),
            lr: self.lr,
            lr_decay: Decay::Cosine,
            scale_lr: self.scale_lr,
            rates: self.rates.clone(),
            weight: self.weight,
            warm_up: self.warm_up,
            b_range: self.b_range,
            prediction_difference: Some(PredictionDifference { weight: 1.0, temperature: self.temperature }),
            only_prediction: true,
            ..Default::default()
        }
    }

    pub(super) fn validate(&self, params: &Params) -> Result<()> {
        let checks = [
            ("temperature", self.temperature > 0.0 && self.temperature.is_finite(), "must be positive"),
            ("open", (0.0..0.5).contains(&self.open), "lies between 0 and 0.5"),
        ];
        if let Some((key, _, message)) = checks.into_iter().find(|(_, ok, _)| !ok) {
            return Err(params.error(&format!("network.{key}"), message));
        }
        self.optimization().checked().map_err(|(key, message)| params.error(&format!("network.{key}"), message))
    }
}

/// Opens the hard roundings of a network again: each weight moves from its integer towards the float weight, by `open`
/// steps of the grid. Learning can then still choose the other neighbour of the float weight.
pub fn open_roundings(network: &mut UnitTask<'_>, open: f32) -> Result<()> {
    let layers: Vec<NodeId> =
        network.nodes().iter().copied().filter(|id| network.model().weight_site(*id).is_some()).collect();
    for node in layers {
        let model = network.model();
        let (hard, Some(site)) = (model.weight(node)?, model.weight_site(node)) else { continue };
        let channels = site.quantizer.spec().granularity.channels(hard.dims())?;
        let scale = site.quantizer.qparams()?.scale;
        let opened: Vec<f32> = ops::host_values(hard, |hard| {
            ops::host_values(network.float_weight(node)?, |float| {
                let opened = |(i, (hard, float)): (usize, (&f32, &f32))| {
                    let s = scale[i / channels.inner % channels.count];
                    let step = round_half_even(hard / s);
                    (step + if *float < step * s { -open } else { open }) * s
                };
                hard.iter().zip(float).enumerate().map(opened).collect()
            })
            .map_err(Error::from)
        })??;
        let opened = Tensor::from_vec(opened, hard.dims(), hard.device())?;
        network.set_weight(node, opened)?;
    }
    Ok(())
}
