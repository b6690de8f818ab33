//! Learned step size (LSQ, arXiv 1902.08153) and learned offset (LSQ+, arXiv 2004.09576).

use super::grid_state::GridState;
use qdrop_core::prelude::*;

struct Lsq {
    spec: QuantSpec,
    grid: GridState,
    /// Also learn the zero point (LSQ+).
    learn_zero_point: bool,
    learning: bool,
}

impl Lsq {
    /// LSQ's gradient scale `1 / sqrt(n * qmax)`, n the elements that share a step (section 2.2).
    fn gradient_scale(&self, x: &Tensor, channels: usize) -> f64 {
        let elements = (x.elem_count() / channels.max(1)) as f64;
        1.0 / (elements * f64::from(self.spec.qmax().max(1.0))).sqrt()
    }

    /// Brings learned values back into their domain before they are used.
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
        let factor = self.gradient_scale(x, scale.elem_count());
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
        let parameter = |name, var: &Var| Parameter { name, var: var.clone(), group: ParameterGroup::Scale };
        let mut parameters = vec![parameter("scale", scale)];
        if self.learn_zero_point {
            parameters.push(parameter("zero_point", zero_point));
        }
        Ok(parameters)
    }

    fn kernel(&self) -> Result<Option<FusedKernel>> {
        let (scale, zero_point) = self.grid.get()?;
        let (scale, zero_point) = (scale.clone(), zero_point.clone());
        Ok(Some(match self.learn_zero_point {
            true => FusedKernel::LearnedScaleAndZeroPoint { scale, zero_point },
            false => FusedKernel::LearnedScale { scale },
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
