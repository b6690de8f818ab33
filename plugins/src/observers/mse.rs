//! The range with the smallest quantization error, by exhaustive search.

use super::statistics::{Combine, RunningRange};
use qdrop_core::kernels::range_search::{Bounds, Candidate, POWER};
use qdrop_core::prelude::*;
use qdrop_core::rows::{Row, Rows};

/// Number of widths of the range that are tried.
const WIDTHS: usize = 100;
/// A candidate with a larger error is never chosen (the reference's initial score).
const MAX_ERROR: f64 = 1e10;

/// Parameters of the observers that look for the smallest error: `observer: {name: avg_mse, params: {p: 1.0}}`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MseParams {
    /// Exponent of the error, `|fake_quantize(x) - x|^p`. With a small one, a few values that are far from all others do
    /// not widen the range.
    pub p: f32,
}

impl Default for MseParams {
    /// The reference implementation's exponent.
    fn default() -> Self {
        Self { p: POWER }
    }
}

impl MseParams {
    /// Reads and checks them.
    pub fn of(params: &Params) -> Result<Self> {
        let parsed: Self = params.parse()?;
        match (0.1..=10.0).contains(&parsed.p) {
            true => Ok(parsed),
            false => Err(params.error("p", "lies between 0.1 and 10")),
        }
    }
}

/// The side of zero on which a tensor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Positive,
    Negative,
    Both,
}

impl Side {
    /// The side of a whole tensor whose rows have the given extremes.
    pub fn of(extremes: &[(f32, f32)]) -> Self {
        if extremes.iter().all(|(min, _)| *min >= 0.0) {
            Self::Positive
        } else if extremes.iter().all(|(_, max)| *max <= 0.0) {
            Self::Negative
        } else {
            Self::Both
        }
    }

    /// The range of width `t`, for a one-sided or symmetric grid.
    pub fn range(self, t: f32) -> (f32, f32) {
        match self {
            Self::Positive => (0.0, t),
            Self::Negative => (-t, 0.0),
            Self::Both => (-t, t),
        }
    }
}

struct Mse {
    spec: QuantSpec,
    params: MseParams,
    side: Option<Side>,
    running: RunningRange,
}

impl Observer for Mse {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        let rows = Rows::new(x, self.spec.granularity)?;
        let extremes = rows.extremes()?;
        let side = *self.side.get_or_insert_with(|| Side::of(&extremes));
        let (spec, params) = (self.spec, self.params);
        let ranges = rows.map(|i, row| {
            let (min, max) = extremes[i];
            let candidates = if side != Side::Both || spec.symmetric {
                one_dimensional(min, max, side)
            } else if spec.granularity == Granularity::PerTensor {
                two_dimensional(max - min, &spec)
            } else {
                two_dimensional(max.max(0.0) - min.min(0.0), &spec)
            };
            Ok(best(row, &candidates, &spec, params)?.unwrap_or((min, max)))
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

/// Ranges that begin or end at zero, or are symmetric around it.
fn one_dimensional(min: f32, max: f32, side: Side) -> Vec<(f32, f32)> {
    let width = min.abs().max(max);
    (1..=WIDTHS).map(|i| side.range(width / WIDTHS as f32 * i as f32)).collect()
}

/// Ranges of every width, shifted so that zero is at each integer of the grid.
fn two_dimensional(width: f32, spec: &QuantSpec) -> Vec<(f32, f32)> {
    let (qmin, qmax) = (spec.qmin(), spec.qmax());
    let zero_points = (qmax - qmin) as usize + 1;
    (1..=WIDTHS)
        .flat_map(|i| {
            let t = width / WIDTHS as f32 * i as f32;
            let delta = t / (qmax - qmin);
            (0..zero_points).map(move |z| {
                let z = qmin + z as f32;
                (-z * delta, t - z * delta)
            })
        })
        .collect()
}

/// The first of the candidates with the smallest error.
fn best(x: Row<'_>, ranges: &[(f32, f32)], spec: &QuantSpec, params: MseParams) -> Result<Option<(f32, f32)>> {
    let candidates: Vec<Candidate> = ranges
        .iter()
        .map(|(min, max)| {
            let (scale, zero_point) = QParams::of_pair(*min, *max, spec);
            Candidate { scale, zero_point }
        })
        .collect();
    let bounds = Bounds { qmin: spec.qmin(), qmax: spec.qmax(), power: params.p };
    let found = x.search(&candidates, bounds)?;
    Ok(found.filter(|(_, error)| *error < MAX_ERROR).map(|(index, _)| ranges[index]))
}

fn build(spec: &QuantSpec, params: &Params, combine: Combine) -> Result<Box<dyn Observer>> {
    combine.check(spec, params)?;
    Ok(Box::new(Mse { spec: *spec, params: MseParams::of(params)?, side: None, running: RunningRange::new(combine) }))
}

register_observer! {
    name: "mse", aliases: ["MSEObserver"],
    summary: "range with the least quantization error by exhaustive search; extremes over calls",
    build: |spec, params| build(spec, params, Combine::Extremes)
}

register_observer! {
    name: "avg_mse", aliases: ["AvgMSEObserver"],
    summary: "range with the least quantization error by exhaustive search; mean over calls",
    build: |spec, params| build(spec, params, Combine::Average)
}
