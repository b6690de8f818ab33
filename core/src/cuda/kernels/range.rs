//! Kernels of `range.cu`: extremes of values, and the errors of many grids.

use super::super::abi::Extremes;
use super::super::device::{Buffer, Device};
use super::{add_rows, launch, THREADS};
use crate::error::Result;
use qdrop_kernels::range_search::{Bounds, Candidate};

/// Values of a piece, and the number of pieces: enough to keep a large device busy, depending on the sizes alone.
fn pieces(len: usize, most: usize) -> (usize, usize) {
    let each = len.div_ceil(most).max(4096);
    (each, len.div_ceil(each))
}

/// Smallest and largest value; there is one at least.
pub fn extremes(d: &dyn Device, x: &Buffer<f32>) -> Result<Extremes> {
    let (each, count) = pieces(x.len(), 1024);
    let of_pieces = Buffer::<Extremes>::zeros(d, count)?;
    let out = Buffer::<Extremes>::zeros(d, 1)?;
    let grid = [count as u32, 1, 1];
    launch!(d, "extremes_of_pieces", grid, x.address(), x.len() as u64, each as u32, of_pieces.address())?;
    launch!(d, "join_extremes", [1, 1, 1], of_pieces.address(), count as u32, out.address())?;
    let mut all = [Extremes::default()];
    out.read(d, &mut all)?;
    Ok(all[0])
}

/// The sums of `|fake_quantize(x) - x|^p` for each candidate.
pub fn errors(d: &dyn Device, x: &Buffer<f32>, candidates: &[Candidate], bounds: Bounds) -> Result<Vec<f64>> {
    let mut all = vec![0.0; candidates.len()];
    if candidates.is_empty() || x.len() == 0 {
        return Ok(all);
    }
    // Threads that share a candidate, so that few candidates take a whole block.
    let lanes = (THREADS / candidates.len().next_power_of_two()).max(1);
    let (each, count) = pieces(x.len(), 256);
    let own = Buffer::new(d, candidates)?;
    let of_pieces = Buffer::<f64>::zeros(d, count * candidates.len())?;
    let out = Buffer::<f64>::zeros(d, candidates.len())?;
    let grid = [candidates.len().div_ceil(THREADS / lanes) as u32, count as u32, 1];
    let (number, len, each) = (candidates.len() as u32, x.len() as u64, each as u32);
    let (x, own, lanes) = (x.address(), own.address(), lanes as u32);
    launch!(d, "errors_of_pieces", grid, x, len, each, own, number, lanes, bounds, of_pieces.address())?;
    add_rows(d, &of_pieces, &out)?;
    out.read(d, &mut all)?;
    Ok(all)
}
