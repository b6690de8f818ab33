//! Learned rounding of weights (AdaRound, arXiv 2004.10568), optionally with a learned scale (Genie-M, arXiv
//! 2212.04780, section 3.2).

use super::grid_state::GridState;
use qdrop_core::kernels::adaround::alpha_of;
use qdrop_core::prelude::*;

/// Parameters: `quantizer: {name: adaround, params: {learn_scale: true}}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdaRoundParams {
    /// Whether to learn the scale of each channel too, in the group `weight_scale`. The rounding still chooses between
    /// the integers of the initial scale s0: the weight is `(clamp(floor(w / s0) + h(alpha) + z) - z) * s`. The learning rate
    /// is relative to s0: scales of 8 bits are up to 85 times as small as those of 2 bits.
    learn_scale: bool,
    /// Whether passes compute with the hard roundings while alpha learns from the gradient of the soft ones, as AutoRound
    /// (arXiv 2309.05516) learns roundings. Learning then knows the error of what will be deployed, and there is nothing to
    /// settle at its end: reconstruction needs no regularizer, and few steps.
    straight_through: bool,
}

/// An alpha whose rounding is settled: h is 1 at it, and 0 at its negative.
const SETTLED: f64 = 10.0;

struct AdaRound {
    spec: QuantSpec,
    params: AdaRoundParams,
    grid: GridState,
    learned: Option<Learned>,
}

/// The learned variables during reconstruction.
struct Learned {
    alpha: Var,
    /// `floor(weight / scale)`, with the scale at the beginning of learning.
    floor: Tensor,
    /// The scale at the beginning of learning.
    scale: Tensor,
}

impl AdaRound {
    /// The scale, reshaped so that it broadcasts to a weight with this number of dimensions.
    fn broadcast(&self, scale: &Tensor, rank: usize) -> Result<Tensor> {
        let mut dims = vec![1; rank];
        if let Granularity::PerAxis(axis) = self.spec.granularity {
            dims[axis] = scale.elem_count();
        }
        Ok(scale.reshape(dims)?)
    }

    /// `(clamp(floor + h(alpha) + zero_point) - zero_point) * scale`. With `straight_through` its value is that of the hard
    /// rounding, where h is 0 or 1.
    fn rounded(&self, alpha: &Tensor, learned: &Learned, scale: &Tensor, zero_point: &Tensor) -> Result<Tensor> {
        let grid = (&self.spec).into();
        let soft = ops::adaround(alpha, &learned.floor, scale, zero_point, &grid)?;
        if !self.params.straight_through {
            return Ok(soft);
        }
        let hard = self.hard(learned, scale, zero_point)?;
        Ok(ops::composite::with_gradient(&hard, &[(&soft, &soft.ones_like()?)])?)
    }

    /// The same with hard roundings.
    fn hard(&self, Learned { alpha, floor, .. }: &Learned, scale: &Tensor, zero_point: &Tensor) -> Result<Tensor> {
        // At plus or minus a large alpha, h is 1 or 0 exactly.
        let settled = (alpha.as_detached_tensor().ge(0.0)?.to_dtype(alpha.dtype())?.affine(2.0, -1.0)? * SETTLED)?;
        Ok(ops::adaround(&settled, floor, scale, zero_point, &(&self.spec).into())?)
    }

    /// Projects a learned scale onto its valid range.
    fn project(&self) -> Result<()> {
        let (scale, _) = self.grid.get()?;
        Ok(scale.set(&scale.as_detached_tensor().abs()?.maximum(f64::from(f32::EPSILON))?)?)
    }
}

impl Quantizer for AdaRound {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        self.grid.set(params, device)
    }

    fn qparams(&self) -> Result<QParams> {
        self.grid.qparams()
    }

    /// Outside of reconstruction rounds to the nearest integer, during reconstruction softly, or hard with the gradient of
    /// the soft rounding.
    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let Some(learned) = &self.learned else { return self.grid.fake_quantize(x, &self.spec) };
        let alpha = learned.alpha.as_tensor();
        if !self.params.learn_scale {
            let (scale, zero_point) = self.grid.fixed()?;
            return self.rounded(alpha, learned, &scale, &zero_point);
        }
        self.project()?;
        let (scale, zero_point) = self.grid.get()?;
        let steps = self.rounded(alpha, learned, &scale.ones_like()?, zero_point)?;
        Ok(steps.broadcast_mul(&self.broadcast(scale, learned.floor.rank())?)?)
    }

    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        let weight = weight.ok_or_else(|| Error::message("adaround rounds weights; use lsq for activations"))?;
        let params = self.qparams()?;
        let channels = self.spec.granularity.channels(weight.dims())?;
        let (floor, alpha): (Vec<f32>, Vec<f32>) = ops::host_values(weight, |w| {
            let steps = w.iter().enumerate().map(|(i, v)| v / params.scale[i / channels.inner % channels.count]);
            steps.map(|t| (t.floor(), alpha_of(t - t.floor()))).unzip()
        })?;
        let tensor = |values| Tensor::from_vec(values, weight.shape(), weight.device());
        let scale = self.grid.fixed()?.0.copy()?;
        self.learned = Some(Learned { alpha: Var::from_tensor(&tensor(alpha)?)?, floor: tensor(floor)?, scale });
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let Some(Learned { alpha, scale, .. }) = &self.learned else { return Ok(Vec::new()) };
        let mut parameters = vec![Parameter::new("alpha", alpha, groups::ROUNDING)];
        if self.params.learn_scale {
            let learned = Parameter::new("scale", self.grid.get()?.0, groups::WEIGHT_SCALE);
            parameters.push(learned.relative_to(scale.clone()));
        }
        Ok(parameters)
    }

    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let soft = self.learned.as_ref().filter(|_| !self.params.straight_through);
        let term = soft.map(|l| ops::adaround_regularizer(l.alpha.as_tensor(), b));
        Ok(term.transpose()?)
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        let Some(Learned { alpha, floor, .. }) = &self.learned else { return Ok(None) };
        let AdaRoundParams { learn_scale, straight_through } = self.params;
        let scale = match learn_scale {
            true => Some(self.grid.get()?.0.clone()),
            false => None,
        };
        let (alpha, floor) = (alpha.clone(), floor.clone());
        Ok(Some(QuantizerKernel::SoftRounding { alpha, floor, scale, straight_through }))
    }

    fn hard_weight(&self, weight: &Tensor) -> Result<Tensor> {
        let Some(learned) = &self.learned else {
            return Ok(self.fake_quantize(weight)?.detach());
        };
        if self.params.learn_scale {
            self.project()?;
        }
        let (scale, zero_point) = self.grid.fixed()?;
        Ok(self.hard(learned, &scale, &zero_point)?.detach())
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        let hard = match (&self.learned, weight) {
            (Some(_), Some(weight)) => Some(self.hard_weight(weight)?),
            _ => None,
        };
        self.learned = None;
        Ok(hard)
    }
}

register_quantizer! {
    name: "adaround", aliases: ["AdaRoundFakeQuantize"], summary: "learns for each weight whether to round up or down",
    build: |spec, params| {
        Ok(Box::new(AdaRound { spec: *spec, params: params.parse()?, grid: GridState::default(), learned: None }))
    }
}
