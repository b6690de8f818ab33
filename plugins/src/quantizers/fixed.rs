//! Rounds to the nearest integer; nothing is learned.

use super::grid_state::GridState;
use qdrop_core::prelude::*;

struct Fixed {
    spec: QuantSpec,
    grid: GridState,
}

impl Quantizer for Fixed {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        self.grid.set(params, device)
    }

    fn qparams(&self) -> Result<QParams> {
        self.grid.qparams()
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(Some(QuantizerKernel::Nearest))
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        self.grid.fake_quantize(x, &self.spec)
    }
}

register_quantizer! {
    name: "fixed", aliases: ["FixedFakeQuantize"], summary: "rounds to nearest, learns nothing",
    build: |spec, params| {
        params.expect_none()?;
        Ok(Box::new(Fixed { spec: *spec, grid: GridState::default() }))
    }
}
