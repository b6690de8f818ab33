//! Exhaustive search for the quantization range with the least error.
//!
//! The error of a candidate is the mean of `|fake_quantize(x) - x|^p`. The search returns
//! exactly the winner of trying every candidate on every element, but discards candidates early:
//! on large arrays by bounds from a histogram, on small ones as soon as their partial sum exceeds
//! the best total.

use crate::fake_quantize::Grid;
use crate::math::power;
use crate::rounding::round_half_even;
use crate::segments::{map_pieces, PIECE};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Exponent p of the error in the reference implementation.
pub const POWER: f32 = 2.4;
/// Bins of the successive histograms.
const LEVELS: [usize; 2] = [1 << 12, 1 << 16];
/// Partial sums kept side by side.
const LANES: usize = 16;
/// Arrays below this size are searched without histogram.
const SMALL: usize = 1 << 16;

/// A grid to try.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Distance between neighbouring values of the grid.
    pub scale: f32,
    /// Integer that stands for zero, between the bounds of the grid.
    pub zero_point: f32,
}

impl Candidate {
    /// Dividing takes as long as the rest of a distance. Multiplying may round the other way where an
    /// element lies halfway between two grid points; its distance is the same from both.
    #[inline(always)]
    fn inverse(self) -> f32 {
        1.0 / self.scale
    }
}

/// What all candidates of a search have in common.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Smallest integer of the grid.
    pub qmin: f32,
    /// Largest integer of the grid.
    pub qmax: f32,
    /// Exponent p of the error, above 0. The smaller it is, the less do few values that are far from all others count.
    pub power: f32,
}

#[inline(always)]
fn distance(x: f32, c: Candidate, inverse: f32, b: Bounds) -> f32 {
    let q = round_half_even(x * inverse) + c.zero_point;
    let q = if q < b.qmin { b.qmin } else { q };
    let q = if q > b.qmax { b.qmax } else { q };
    ((q - c.zero_point) * c.scale - x).abs()
}

/// The sum of errors over a short run, in f64 from 16 lanes of f32.
#[inline(always)]
fn run_error(x: &[f32], c: Candidate, b: Bounds) -> f64 {
    let inverse = c.inverse();
    let mut total = 0.0_f64;
    for stretch in x.chunks(1024) {
        let mut lanes = [0.0_f32; LANES];
        let mut chunks = stretch.chunks_exact(LANES);
        for chunk in &mut chunks {
            for l in 0..LANES {
                lanes[l] += power(distance(chunk[l], c, inverse, b), b.power);
            }
        }
        total += lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
        for v in chunks.remainder() {
            total += f64::from(power(distance(*v, c, inverse, b), b.power));
        }
    }
    total
}

/// The error of one candidate: mean of `|fake_quantize(x) - x|^p`.
pub fn error(x: &[f32], candidate: Candidate, bounds: Bounds) -> f64 {
    let run = |start, end| {
        vectorize(
            #[inline(always)]
            || run_error(&x[start..end], candidate, bounds),
        )
    };
    map_pieces(x.len(), run).into_iter().sum::<f64>() / x.len().max(1) as f64
}

/// The first candidate with the least error, and that error.
///
/// Returns `None` when there is no candidate or no element.
pub fn search(x: &[f32], candidates: &[Candidate], bounds: Bounds) -> Option<(usize, f64)> {
    if x.is_empty() || candidates.is_empty() {
        return None;
    }
    let (index, sum) = if x.len() < SMALL {
        search_small(x, candidates, bounds)
    } else {
        let alive = prune(x, candidates, bounds);
        search_large(x, candidates, &alive, bounds)
    };
    Some((index, sum / x.len() as f64))
}

/// Tries all candidates in order, leaving one as soon as it cannot win. The best of a coarse
/// look at some candidates and elements sets the first limit; the elements farthest from zero come first,
/// because a range that clips them is lost at once.
fn search_small(x: &[f32], candidates: &[Candidate], bounds: Bounds) -> (usize, f64) {
    const STRETCH: usize = 32;
    // A prime: the candidates are ordered by width and zero point, and some of each are looked at.
    const FIRST_LOOK: usize = 11;
    // Zero lies on every grid: padding to whole vectors adds no error.
    let padded = |mut values: Vec<f32>| {
        values.resize(values.len().next_multiple_of(LANES), 0.0);
        values
    };
    let sample = padded(x.iter().step_by(8).copied().collect());
    let mut sorted = x.to_vec();
    sorted.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
    let sorted = padded(sorted);
    vectorize(
        #[inline(always)]
        || {
            let mut first = (0, f64::INFINITY);
            for (i, c) in candidates.iter().enumerate().step_by(FIRST_LOOK) {
                let sum = run_error(&sample, *c, bounds);
                if sum < first.1 {
                    first = (i, sum);
                }
            }
            let mut best = (first.0, run_error(&sorted, candidates[first.0], bounds));
            for (i, c) in candidates.iter().enumerate() {
                let mut sum = 0.0;
                for stretch in sorted.chunks(STRETCH) {
                    sum += run_error(stretch, *c, bounds);
                    if sum > best.1 {
                        break;
                    }
                }
                if sum < best.1 || (sum == best.1 && i < best.0) {
                    best = (i, sum);
                }
            }
            best
        },
    )
}

/// Exact errors of the candidates that are still alive, one pass over the array.
fn search_large(x: &[f32], candidates: &[Candidate], alive: &[usize], bounds: Bounds) -> (usize, f64) {
    let parts = map_pieces(x.len(), |start, end| {
        vectorize(
            #[inline(always)]
            || {
                let mut sums = Vec::with_capacity(alive.len());
                for i in alive {
                    sums.push(run_error(&x[start..end], candidates[*i], bounds));
                }
                sums
            },
        )
    });
    let mut sums = vec![0.0; alive.len()];
    for part in parts {
        for (s, p) in sums.iter_mut().zip(part) {
            *s += p;
        }
    }
    let winner = sums.iter().enumerate().fold((0, f64::INFINITY), |a, (i, s)| if *s < a.1 { (i, *s) } else { a });
    (alive[winner.0], winner.1)
}

/// The candidates whose lower bound does not exceed the least upper bound.
///
/// The distance to the nearest grid point changes by at most the change of x, so within a bin it
/// differs from that at the bin's middle by at most half the bin's width.
fn prune(x: &[f32], candidates: &[Candidate], bounds: Bounds) -> Vec<usize> {
    let (low, high) = min_max(x);
    let mut alive: Vec<usize> = (0..candidates.len()).collect();
    for bins in LEVELS {
        if alive.len() <= 2 || high <= low {
            break;
        }
        let (middles, counts, half) = histogram(x, low, high, bins);
        let limits: Vec<(f64, f64)> = alive
            .par_iter()
            .map(|i| {
                vectorize(
                    #[inline(always)]
                    || bin_bounds(&middles, &counts, half, candidates[*i], bounds),
                )
            })
            .collect();
        // Slack for the rounding of the exact sums that follow.
        let least = limits.iter().map(|l| l.1).fold(f64::INFINITY, f64::min) * (1.0 + 1e-4);
        let mut limits = limits.into_iter();
        alive.retain(|_| limits.next().is_some_and(|l| l.0 <= least));
    }
    alive
}

#[inline(always)]
fn bin_bounds(middles: &[f32], counts: &[f32], half: f32, c: Candidate, b: Bounds) -> (f64, f64) {
    let inverse = c.inverse();
    let (mut lower, mut upper) = (0.0_f64, 0.0_f64);
    for (m, n) in middles.chunks(256).zip(counts.chunks(256)) {
        let (mut low, mut high) = ([0.0_f32; 16], [0.0_f32; 16]);
        for (m, n) in m.chunks(16).zip(n.chunks(16)) {
            for (l, (m, n)) in m.iter().zip(n).enumerate() {
                let d = distance(*m, c, inverse, b);
                let least = if d > half { d - half } else { 0.0 };
                low[l] += n * power(least, b.power);
                high[l] += n * power(d + half, b.power);
            }
        }
        lower += low.iter().map(|v| f64::from(*v)).sum::<f64>();
        upper += high.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    (lower, upper)
}

/// Middles and counts of the non-empty bins, and half a bin's width (a little more, for rounding).
fn histogram(x: &[f32], low: f32, high: f32, bins: usize) -> (Vec<f32>, Vec<f32>, f32) {
    let width = (high - low) / bins as f32;
    let inverse = 1.0 / width;
    let parts: Vec<Vec<u64>> = x
        .par_chunks(PIECE * 256)
        .map(|x| {
            let mut counts = vec![0_u64; bins];
            for v in x {
                counts[(((v - low) * inverse) as usize).min(bins - 1)] += 1;
            }
            counts
        })
        .collect();
    let total = |bin: usize| parts.iter().map(|p| p[bin]).sum::<u64>();
    let filled = (0..bins).map(|b| (b, total(b))).filter(|(_, n)| *n > 0);
    let (middles, counts) = filled.map(|(b, n)| (low + (b as f32 + 0.5) * width, n as f32)).unzip();
    let rounding = 4e-7 * low.abs().max(high.abs());
    (middles, counts, 0.5 * width * 1.001 + rounding)
}

/// Smallest and largest element; (infinity, -infinity) of an empty array.
pub fn min_max(x: &[f32]) -> (f32, f32) {
    map_pieces(x.len(), |start, end| {
        vectorize(
            #[inline(always)]
            || {
                x[start..end].iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| {
                    (if *v < l { *v } else { l }, if *v > h { *v } else { h })
                })
            },
        )
    })
    .into_iter()
    .fold((f32::INFINITY, f32::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// The error of a whole grid, one value for each channel (a slow definition, for tests).
pub fn reference_error(x: &[f32], grid: Grid<'_>, power: f32) -> Vec<f64> {
    let (mut sums, mut counts) = (vec![0.0; grid.channels.count], vec![0; grid.channels.count]);
    for (channel, start, end) in grid.channels.runs(0, x.len()) {
        let (s, z) = (grid.scale[channel], grid.zero_point[channel]);
        for v in &x[start..end] {
            let q = (round_half_even(v / s) + z).clamp(grid.qmin, grid.qmax);
            sums[channel] += f64::from(((q - z) * s - v).abs()).powf(f64::from(power));
        }
        counts[channel] += end - start;
    }
    sums.iter().zip(counts).map(|(s, n)| s / n.max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn noise(len: usize) -> Vec<f32> {
        let (a, b) = (testing::uniform(len, -0.5..0.5, 5), testing::uniform(len, 0.0..6.0, 6));
        a.iter().zip(b).map(|(a, b)| a * b).collect()
    }

    #[test]
    fn pruning_never_loses_the_winner() {
        let candidates: Vec<Candidate> = (1..=60)
            .flat_map(|t| (0..16).map(move |z| Candidate { scale: t as f32 * 0.006, zero_point: z as f32 }))
            .collect();
        for (len, power) in
            [(1000, POWER), (5000, POWER), (5000, 1.0), (200_000, POWER), (200_000, 1.0), (200_000, 0.5)]
        {
            let bounds = Bounds { qmin: 0.0, qmax: 15.0, power };
            let x = noise(len);
            let scores: Vec<f64> = candidates.iter().map(|c| error(&x, *c, bounds)).collect();
            let want =
                scores.iter().enumerate().fold((0, f64::INFINITY), |a, (i, s)| if *s < a.1 { (i, *s) } else { a });
            let got = search(&x, &candidates, bounds).unwrap();
            // The elements may be summed in another order.
            assert!((got.1 - want.1).abs() <= 1e-6 * want.1, "{got:?} {want:?}");
            assert_eq!(got.0, want.0);
        }
        let bounds = Bounds { qmin: 0.0, qmax: 15.0, power: POWER };
        assert!(prune(&noise(200_000), &candidates, bounds).len() < 40);
        assert_eq!(search(&[], &candidates, bounds), None);
    }

    #[test]
    fn error_agrees_with_its_definition() {
        let x = noise(3000);
        let c = Candidate { scale: 0.21, zero_point: 7.0 };
        let grid = Grid {
            scale: &[c.scale],
            zero_point: &[c.zero_point],
            qmin: 0.0,
            qmax: 15.0,
            channels: crate::segments::Channels::whole(x.len()),
        };
        for power in [POWER, 1.0, 0.7] {
            let want = reference_error(&x, grid, power)[0];
            let got = error(&x, c, Bounds { qmin: 0.0, qmax: 15.0, power });
            assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
        }
    }
}
