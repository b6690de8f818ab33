//! FlexRound (arXiv 2306.00317): learns the rounding of weights by division.
//!
//! `W = s1 * round(W / (s1 * S2 * s3))` (equation 2): the scale s1, a factor S2 for each weight and a
//! factor s3 for each output channel are learned together. A large weight can thereby move across several
//! integers of the grid more easily than a small one.

use qdrop_core::prelude::*;

/// Lower bound of the factors, which must stay positive.
const MIN_FACTOR: f64 = 1e-2;

struct FlexRound {
    spec: QuantSpec,
    /// s1 and the zero point of each channel; `None` before calibration.
    grid: Option<(Var, Tensor)>,
    learned: Option<Factors>,
}

/// The learned factors besides the scale.
struct Factors {
    /// S2, in the weight's shape.
    element: Var,
    /// s3, one for each output channel, in a shape that broadcasts to the weight.
    channel: Var,
}

impl FlexRound {
    fn grid(&self) -> Result<&(Var, Tensor)> {
        self.grid.as_ref().ok_or_else(|| Error::message("the quantizer has no range yet; calibrate first"))
    }
}

impl Quantizer for FlexRound {
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
        let grid = (&self.spec).into();
        match &self.learned {
            // Rounds to nearest, which does not change a weight that finish_reconstruction returned.
            None => Ok(ops::fake_quantize(x, &scale.as_detached_tensor(), zero_point, &grid)?),
            Some(Factors { element, channel }) => {
                scale.set(&scale.as_detached_tensor().abs()?.maximum(f64::from(f32::EPSILON))?)?;
                // Straight-through estimator: the rounding passes its gradient on to scale and factors.
                let factors = element.broadcast_mul(channel)?.maximum(MIN_FACTOR)?;
                Ok(ops::fake_quantize(&(x / factors)?, scale.as_tensor(), zero_point, &grid)?)
            }
        }
    }

    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        let weight = weight.ok_or_else(|| Error::message("flexround rounds weights; use lsq for activations"))?;
        let mut channels = vec![1; weight.rank()];
        channels[0] = weight.dim(0)?;
        let ones = |dims: &[usize]| Var::ones(dims, DType::F32, weight.device());
        self.learned = Some(Factors { element: ones(weight.dims())?, channel: ones(&channels)? });
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let (scale, _) = self.grid()?;
        let Some(Factors { element, channel }) = &self.learned else { return Ok(Vec::new()) };
        let named = [("scale", scale), ("element", element), ("channel", channel)];
        // Factors are near 1 and change as slowly as scales, so both use the learning rate of scales.
        Ok(named.map(|(name, var)| Parameter::new(name, var, groups::SCALE)).into())
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        let hard = weight.map(|w| self.fake_quantize(w)).transpose()?;
        self.learned = None;
        Ok(hard.map(|w| w.detach()))
    }
}

register_quantizer! {
    name: "flexround", aliases: [], summary: "learns the rounding of weights by division (FlexRound)",
    build: |spec, params| {
        params.expect_none()?;
        Ok(Box::new(FlexRound { spec: *spec, grid: None, learned: None }))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn conforms() {
        qdrop_core::conformance::conforms("quantizer", "flexround").unwrap();
    }
}
