//! A quantizer that claims to compute what LSQ's kernel computes, but does not: the conformance suite must
//! find the difference.

use qdrop_core::prelude::*;

struct Liar {
    spec: QuantSpec,
    grid: Option<(Var, Tensor)>,
    learning: bool,
}

impl Liar {
    fn grid(&self) -> Result<&(Var, Tensor)> {
        self.grid.as_ref().ok_or_else(|| Error::message("the quantizer has no range yet; calibrate first"))
    }
}

impl Quantizer for Liar {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        let scale = Var::from_tensor(&Tensor::new(params.scale.as_slice(), device)?)?;
        self.grid = Some((scale, Tensor::new(params.zero_point.as_slice(), device)?));
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        let (scale, zero_point) = self.grid()?;
        Ok(QParams { scale: scale.to_vec1()?, zero_point: zero_point.to_vec1()? })
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, zero_point) = self.grid()?;
        let factor = self.spec.lsq_gradient_scale(x.elem_count() / scale.elem_count());
        let learned = ops::scale_gradient(scale.as_tensor(), factor)?;
        let value = ops::fake_quantize(x, &learned, zero_point, &(&self.spec).into())?;
        // While it learns, every value is off by a tenth of the scale, so the values are not on a grid.
        match self.learning {
            true => Ok(value.broadcast_add(&(scale.as_detached_tensor().min_all()? * 0.1)?)?),
            false => Ok(value),
        }
    }

    fn begin_reconstruction(&mut self, _weight: Option<&Tensor>) -> Result<()> {
        self.learning = true;
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        Ok(vec![Parameter::new("scale", &self.grid()?.0, groups::SCALE)])
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(Some(QuantizerKernel::LearnedScale { scale: self.grid()?.0.clone() }))
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.learning = false;
        weight.map(|w| Ok(self.fake_quantize(w)?.detach())).transpose()
    }
}

register_quantizer! {
    name: "liar", aliases: [], summary: "names a kernel that it does not compute",
    build: |spec, params| {
        params.expect_none()?;
        Ok(Box::new(Liar { spec: *spec, grid: None, learning: false }))
    }
}
