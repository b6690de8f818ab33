//! The scale and zero point of a quantizer, as tensors.

use qdrop_core::prelude::*;

/// Scale and zero point, one element for each channel; empty before calibration.
#[derive(Debug, Default)]
pub struct GridState(Option<(Var, Var)>);

impl GridState {
    /// Sets new values.
    pub fn set(&mut self, params: &QParams, device: &Device) -> Result<()> {
        let var = |values: &[f32]| Var::from_tensor(&Tensor::new(values, device)?);
        self.0 = Some((var(&params.scale)?, var(&params.zero_point)?));
        Ok(())
    }

    /// Scale and zero point.
    pub fn get(&self) -> Result<(&Var, &Var)> {
        let (scale, zero_point) =
            self.0.as_ref().ok_or_else(|| Error::message("the quantizer has no range yet; calibrate first"))?;
        Ok((scale, zero_point))
    }

    /// Scale and zero point, detached from the gradient.
    pub fn fixed(&self) -> Result<(Tensor, Tensor)> {
        let (scale, zero_point) = self.get()?;
        Ok((scale.as_detached_tensor(), zero_point.as_detached_tensor()))
    }

    /// Rounds to the nearest integer, with the straight-through estimator.
    pub fn fake_quantize(&self, x: &Tensor, spec: &QuantSpec) -> Result<Tensor> {
        let (scale, zero_point) = self.fixed()?;
        Ok(ops::fake_quantize(x, &scale, &zero_point, &spec.into())?)
    }

    /// Scale and zero point on the host.
    pub fn qparams(&self) -> Result<QParams> {
        let (scale, zero_point) = self.get()?;
        Ok(QParams { scale: scale.to_vec1()?, zero_point: zero_point.to_vec1()? })
    }
}
