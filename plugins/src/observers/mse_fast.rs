//! The range with the smallest quantization error, by bounded scalar minimization.

use super::brent::minimize;
use super::mse::{MseParams, Side};
use super::statistics::{Combine, RunningRange};
use qdrop_core::grid::MIN_SCALE;
use qdrop_core::kernels::range_search::{Bounds, Candidate};
use qdrop_core::kernels::rounding::round_half_even;
use qdrop_core::prelude::*;
use qdrop_core::rows::{Row, Rows};

struct MseFast {
    spec: QuantSpec,
    params: MseParams,
    side: Option<Side>,
    running: RunningRange,
}

impl Observer for MseFast {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        let rows = Rows::new(x, self.spec.granularity)?;
        let extremes = rows.extremes()?;
        let side = *self.side.get_or_insert_with(|| Side::of(&extremes));
        let (spec, p) = (self.spec, self.params.p);
        let ranges = rows.map(|i, row| {
            let (min, max) = extremes[i];
            if side != Side::Both || spec.symmetric {
                by_width(row, min.abs().max(max), side, &spec, p)
            } else {
                let (low, high) = by_width_and_shift(row, max - min, &spec, p)?;
                Ok((low.max(min), high.min(max)))
            }
        })?;
        self.running.update(ranges)
    }

    fn range(&self) -> Result<Range> {
        self.running.get()
    }

    /// The first call decides on which side of zero the values are.
    fn consistency(&self) -> Result<Consistency> {
        Ok(Consistency::Order)
    }
}

/// The error of a range. The grid is computed in f64, because ranges of equal width and zero point must have
/// exactly the same scale. Otherwise the search would follow the rounding noise of the scale.
fn range_error(x: Row<'_>, min: f64, max: f64, spec: &QuantSpec, p: f32) -> Result<f64> {
    let (min, max) = (min.min(0.0), max.max(0.0));
    let (qmin, qmax) = (f64::from(spec.qmin()), f64::from(spec.qmax()));
    let (scale, zero_point) = if spec.symmetric {
        ((-min).max(max) / ((qmax - qmin) / 2.0), 0.0)
    } else {
        let scale = ((max - min) / (qmax - qmin)).max(f64::from(MIN_SCALE));
        (scale, (qmin - f64::from(round_half_even((min / scale) as f32))).clamp(qmin, qmax))
    };
    let candidate = Candidate { scale: scale.max(f64::from(MIN_SCALE)) as f32, zero_point: zero_point as f32 };
    x.error(candidate, Bounds { qmin: spec.qmin(), qmax: spec.qmax(), power: p })
}

/// Bounds of the search for the range's width, for a tensor with values of width `width`.
fn widths(width: f32) -> (f64, f64) {
    ((0.01 * f64::from(width)).min(0.1), f64::from(width))
}

fn by_width(x: Row<'_>, width: f32, side: Side, spec: &QuantSpec, p: f32) -> Result<(f32, f32)> {
    let (lower, upper) = widths(width);
    let (t, _) = minimize(lower, upper, |t| {
        let (min, max) = side.range(t as f32);
        range_error(x, min.into(), max.into(), spec, p)
    })?;
    Ok(side.range(t as f32))
}

fn by_width_and_shift(x: Row<'_>, width: f32, spec: &QuantSpec, p: f32) -> Result<(f32, f32)> {
    let best_shift = |t: f64| {
        let delta = t / f64::from(spec.qmax() - spec.qmin());
        let (lower, upper) = (delta * f64::from(spec.qmin()), delta * f64::from(spec.qmax()));
        minimize(lower, upper, |shift| range_error(x, -shift, t - shift, spec, p))
    };
    let (lower, upper) = widths(width);
    let (t, _) = minimize(lower, upper, |t| Ok(best_shift(t)?.1))?;
    let (shift, _) = best_shift(t)?;
    Ok((-shift as f32, (t - shift) as f32))
}

fn build(spec: &QuantSpec, params: &Params, combine: Combine) -> Result<Box<dyn Observer>> {
    combine.check(spec, params)?;
    Ok(Box::new(MseFast {
        spec: *spec,
        params: MseParams::of(params)?,
        side: None,
        running: RunningRange::new(combine),
    }))
}

register_observer! {
    name: "mse_fast", aliases: ["MSEFastObserver"],
    summary: "range with the least quantization error by scalar minimization; extremes over calls",
    build: |spec, params| build(spec, params, Combine::Extremes)
}

register_observer! {
    name: "avg_mse_fast", aliases: ["AvgMSEFastObserver"],
    summary: "range with the least quantization error by scalar minimization; mean over calls",
    build: |spec, params| build(spec, params, Combine::Average)
}
