//! What quantization did to a weight.

use super::tally::Tally;
use super::{clipping, BINS};
use crate::error::Result;
use crate::graph::SiteKind;
use crate::grid::{QParams, QuantSpec};
use crate::ops::host_values;
use crate::report::{Shares, SiteReport};
use candle_core::Tensor;
use qdrop_kernels::rounding::round_half_even;

/// Looks at a weight in full precision and quantized. Distributions are in steps of each channel's grid, so that channels with
/// different scales have the grid in common.
pub fn report(
    name: &str,
    (spec, params): (QuantSpec, QParams),
    began: &QParams,
    [full, hard]: [&Tensor; 2],
) -> Result<SiteReport> {
    let of_channel = spec.granularity.channels(full.dims())?;
    let (qmin, qmax) = (spec.qmin(), spec.qmax());
    let mut float = steps(&spec);
    let mut quantized = float.clone();
    let (mut moved, mut clipped) = (0_usize, 0_usize);
    let mut alive = vec![false; of_channel.count];
    let mut kept = vec![false; of_channel.count];
    let tally = host_values(full, |full| {
        host_values(hard, |hard| {
            for (i, (value, rounded)) in full.iter().zip(hard).enumerate() {
                let c = i / of_channel.inner % of_channel.count;
                let grid = |p: &QParams| Some((*p.scale.get(c)?, *p.zero_point.get(c)?));
                let (Some((scale, zero_point)), Some((old_scale, old_zero_point))) = (grid(&params), grid(began))
                else {
                    continue;
                };
                let step = value / scale + zero_point;
                let code = round_half_even(rounded / scale) + zero_point;
                float.add(f64::from(step));
                quantized.add(f64::from(code));
                clipped += usize::from(step < qmin - 0.5 || step > qmax + 0.5);
                let nearest = (round_half_even(value / old_scale) + old_zero_point).clamp(qmin, qmax);
                moved += usize::from(code != nearest);
                alive[c] |= *value != 0.0;
                kept[c] |= *rounded != 0.0;
            }
            Tally::of(full, hard)
        })
    })??;
    let count = full.elem_count().max(1) as f64;
    float.divide(count);
    quantized.divide(count);
    let lost = alive.iter().zip(&kept).filter(|(alive, kept)| **alive && !**kept).count();
    Ok(SiteReport {
        name: name.into(),
        kind: SiteKind::Weight,
        bits: spec.bits,
        before: clipping(&spec, began),
        after: clipping(&spec, &params),
        float,
        quantized: Some(quantized),
        grid: if spec.bits <= 4 {
            (0..1_u32 << spec.bits).map(|i| f64::from(qmin) + f64::from(i)).collect()
        } else {
            Vec::new()
        },
        noise_alone: tally.decibels(),
        noise_accumulated: None,
        moved: Some(moved as f64 / count),
        clipped: clipped as f64 / count,
        channels: of_channel.count,
        dead_channels: alive.iter().filter(|alive| !**alive).count(),
        lost_channels: lost,
    })
}

/// Empty bins in steps of the grid, half of its width beyond it at each side. A point of the grid is in the middle of a bin where bins are
/// narrower than a step, and wider bins hold as many points each.
fn steps(spec: &QuantSpec) -> Shares {
    let points = f64::from(spec.qmax() - spec.qmin()) + 1.0;
    let width = 2.0 * points / BINS as f64;
    let low = f64::from(spec.qmin()) - points / 2.0 - width.min(1.0) / 2.0;
    Shares { low, high: low + 2.0 * points, shares: vec![0.0; BINS] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Granularity;
    use candle_core::Device;

    #[test]
    fn a_weight_of_two_channels() {
        let spec = QuantSpec { bits: 2, symmetric: false, granularity: Granularity::PerAxis(0) };
        // Steps of 1 from 0, and of 0.5 from -0.5.
        let params = QParams { scale: vec![1.0, 0.5], zero_point: vec![0.0, 1.0] };
        let full = Tensor::new(&[[0.2_f32, 1.4, 3.0, 4.0], [-0.5, 0.2, 0.3, 0.0]], &Device::Cpu).unwrap();
        // 1.4 went up, 4 was clipped, and 0.2 of the second channel went up.
        let hard = Tensor::new(&[[0.0_f32, 2.0, 3.0, 3.0], [-0.5, 0.5, 0.5, 0.0]], &Device::Cpu).unwrap();
        let report = report("w", (spec, params.clone()), &params, [&full, &hard]).unwrap();
        assert_eq!((report.moved, report.clipped), (Some(0.25), 0.125));
        assert_eq!((report.channels, report.dead_channels, report.lost_channels), (2, 0, 0));
        assert_eq!((report.after.low, report.after.high), (-0.5, 3.0));
        assert_eq!(report.grid, [0.0, 1.0, 2.0, 3.0]);
        let quantized = report.quantized.unwrap();
        // Codes 0, 2, 3, 3 and 0, 2, 2, 1.
        let share_at = |code: f64| {
            let width = (quantized.high - quantized.low) / quantized.shares.len() as f64;
            quantized.shares[((code - quantized.low) / width) as usize]
        };
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(share_at), [0.25, 0.125, 0.375, 0.25]);
        assert!((report.float.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let signal: f64 = [0.2_f64, 1.4, 3.0, 4.0, 0.5, 0.2, 0.3].iter().map(|v| v * v).sum();
        let noise: f64 = [0.2_f64, 0.6, 1.0, 0.3, 0.2].iter().map(|v| v * v).sum();
        assert!((report.noise_alone.unwrap() - 10.0 * (signal / noise).log10()).abs() < 1e-5);
    }

    #[test]
    fn points_lie_in_the_middle_of_bins() {
        for bits in [1, 2, 3, 4, 5, 8, 16] {
            let spec = QuantSpec { bits, symmetric: false, granularity: Granularity::PerTensor };
            let shares = steps(&spec);
            let width = (shares.high - shares.low) / BINS as f64;
            let place = (0.0 - shares.low) / width;
            let inside = place - place.floor();
            if width <= 1.0 {
                assert!((inside - 0.5).abs() < 1e-9, "{bits} bits: {inside}");
            } else {
                // The first of as many points as a bin holds.
                assert!((inside - 0.5 / width).abs() < 1e-9, "{bits} bits: {inside}");
            }
        }
    }
}
