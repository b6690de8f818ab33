//! Learned rounding of weights (AdaRound, arXiv 2004.10568).

use super::grid_state::GridState;
use qdrop_core::kernels::adaround::alpha_of;
use qdrop_core::prelude::*;

struct AdaRound {
    spec: QuantSpec,
    grid: GridState,
    learned: Option<Learned>,
}

/// What is learned during reconstruction.
struct Learned {
    alpha: Var,
    /// `floor(weight / scale)`.
    floor: Tensor,
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

    /// Rounds to nearest outside of reconstruction, softly inside.
    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        match &self.learned {
            None => self.grid.fake_quantize(x, &self.spec),
            Some(Learned { alpha, floor }) => {
                let (scale, zero_point) = self.grid.fixed()?;
                Ok(ops::adaround(alpha.as_tensor(), floor, &scale, &zero_point, &(&self.spec).into())?)
            }
        }
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
        self.learned = Some(Learned { alpha: Var::from_tensor(&tensor(alpha)?)?, floor: tensor(floor)? });
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let alpha = self.learned.iter().map(|l| l.alpha.clone());
        Ok(alpha.map(|var| Parameter { name: "alpha", var, group: ParameterGroup::Rounding }).collect())
    }

    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let term = self.learned.as_ref().map(|l| ops::adaround_regularizer(l.alpha.as_tensor(), b));
        Ok(term.transpose()?)
    }

    fn kernel(&self) -> Result<Option<FusedKernel>> {
        let learned = self.learned.as_ref();
        Ok(learned.map(|l| FusedKernel::SoftRounding { alpha: l.alpha.clone(), floor: l.floor.clone() }))
    }

    fn finish_reconstruction(&mut self, _weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(Learned { alpha, floor }) = self.learned.take() else { return Ok(None) };
        let up = alpha.as_detached_tensor().ge(0.0)?.to_dtype(floor.dtype())?;
        let (scale, _) = self.grid.fixed()?;
        let scale = match self.spec.granularity {
            Granularity::PerTensor => scale.reshape(vec![1; floor.rank()])?,
            Granularity::PerAxis(axis) => {
                let mut dims = vec![1; floor.rank()];
                dims[axis] = scale.elem_count();
                scale.reshape(dims)?
            }
        };
        // On the grid before clamping; rounding to nearest then only clamps.
        let rounded = (floor + up)?.broadcast_mul(&scale)?;
        Ok(Some(self.grid.fake_quantize(&rounded, &self.spec)?.detach()))
    }
}

register_quantizer! {
    name: "adaround", aliases: ["AdaRoundFakeQuantize"], summary: "learns for each weight whether to round up or down",
    build: |spec, params| {
        params.expect_none()?;
        Ok(Box::new(AdaRound { spec: *spec, grid: GridState::default(), learned: None }))
    }
}
