//! Calibration only.

use qdrop_core::prelude::*;

struct NoReconstruction;

impl Reconstructor for NoReconstruction {
    fn grouping(&self) -> Grouping {
        Grouping::None
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, _context: &Context<'_>) -> Result<UnitReport> {
        Ok(UnitReport { name: unit.name.into(), ..Default::default() })
    }
}

register_reconstructor! {
    name: "none", aliases: [], summary: "calibration only: every weight rounds to nearest",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(NoReconstruction))
    }
}
