//! Learned scale (LSQ, arXiv 1902.08153) and learned zero point (LSQ+, arXiv 2004.09576).

use super::grid_state::GridState;
use qdrop_core::prelude::*;

struct Lsq {
    spec: QuantSpec,
    grid: GridState,
    /// Whether to learn the zero point too (LSQ+).
    learn_zero_point: bool,
    learning: bool,
}

impl Lsq {
    /// Projects learned values onto their valid ranges before they are used.
    fn project(&self, scale: &Var, zero_point: &Var) -> Result<()> {
        scale.set(&scale.as_detached_tensor().abs()?.maximum(f64::from(f32::EPSILON))?)?;
        if self.learn_zero_point {
            zero_point.set(&zero_point.as_detached_tensor().clamp(self.spec.qmin(), self.spec.qmax())?)?;
        }
        Ok(())
    }
}

impl Quantizer for Lsq {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        self.grid.set(params, device)
    }

    fn qparams(&self) -> Result<QParams> {
        let mut params = self.grid.qparams()?;
        for z in &mut params.zero_point {
            *z = qdrop_core::kernels::rounding::round_half_even(*z);
        }
        Ok(params)
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, zero_point) = self.grid.get()?;
        if !self.learning {
            let rounded = ops::composite::round_half_even(&zero_point.as_detached_tensor())?;
            return Ok(ops::fake_quantize(x, &scale.as_detached_tensor(), &rounded, &(&self.spec).into())?);
        }
        self.project(scale, zero_point)?;
        let factor = self.spec.lsq_gradient_scale(x.elem_count() / scale.elem_count().max(1));
        let z = zero_point.as_tensor();
        let rounded = ops::composite::round_half_even(&z.detach())?;
        let z = if self.learn_zero_point {
            let straight_through = ops::composite::with_gradient(&rounded, &[(z, &z.ones_like()?)])?;
            ops::scale_gradient(&straight_through, factor)?
        } else {
            rounded
        };
        let s = ops::scale_gradient(scale.as_tensor(), factor)?;
        Ok(ops::fake_quantize(x, &s, &z, &(&self.spec).into())?)
    }

    fn begin_reconstruction(&mut self, _weight: Option<&Tensor>) -> Result<()> {
        self.learning = true;
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let (scale, zero_point) = self.grid.get()?;
        let mut parameters = vec![Parameter::new("scale", scale, groups::SCALE)];
        if self.learn_zero_point {
            parameters.push(Parameter::new("zero_point", zero_point, groups::ZERO_POINT));
        }
        Ok(parameters)
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        let (scale, zero_point) = self.grid.get()?;
        let (scale, zero_point) = (scale.clone(), zero_point.clone());
        Ok(Some(match self.learn_zero_point {
            true => QuantizerKernel::LearnedScaleAndZeroPoint { scale, zero_point },
            false => QuantizerKernel::LearnedScale { scale },
        }))
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        let (scale, zero_point) = self.grid.get()?;
        self.project(scale, zero_point)?;
        self.learning = false;
        weight.map(|w| Ok(self.fake_quantize(w)?.detach())).transpose()
    }
}

fn build(spec: &QuantSpec, params: &Params, learn_zero_point: bool) -> Result<Box<dyn Quantizer>> {
    params.expect_none()?;
    Ok(Box::new(Lsq { spec: *spec, grid: GridState::default(), learn_zero_point, learning: false }))
}

register_quantizer! {
    name: "lsq", aliases: ["LSQFakeQuantize"], summary: "learns the scale",
    build: |spec, params| build(spec, params, false)
}

register_quantizer! {
    name: "lsq_plus", aliases: ["LSQPlusFakeQuantize"], summary: "learns the scale and the zero point",
    build: |spec, params| build(spec, params, true)
}
