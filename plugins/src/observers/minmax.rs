//! Smallest and largest value.

use super::statistics::{Combine, RunningRange};
use qdrop_core::prelude::*;
use qdrop_core::rows::Rows;

struct MinMax {
    granularity: Granularity,
    running: RunningRange,
}

impl Observer for MinMax {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        self.running.update(Rows::new(x, self.granularity)?.extremes()?)
    }

    fn range(&self) -> Result<Range> {
        self.running.get()
    }

    fn consistency(&self) -> Result<Consistency> {
        Ok(self.running.consistency())
    }
}

fn build(spec: &QuantSpec, params: &Params, combine: Combine) -> Result<Box<dyn Observer>> {
    params.expect_none()?;
    combine.check(spec, params)?;
    Ok(Box::new(MinMax { granularity: spec.granularity, running: RunningRange::new(combine) }))
}

register_observer! {
    name: "minmax", aliases: ["MinMaxObserver"], summary: "smallest and largest value over all calls",
    build: |spec, params| build(spec, params, Combine::Extremes)
}

register_observer! {
    name: "avg_minmax", aliases: ["AvgMinMaxObserver"], summary: "mean over calls of smallest and largest value",
    build: |spec, params| build(spec, params, Combine::Average)
}
