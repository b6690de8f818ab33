//! Splitting a channelled array into fixed pieces that can be processed in parallel.

use rayon::prelude::*;

/// Elements per parallel piece. Fixed, so that partial sums never depend on the thread count.
pub const PIECE: usize = 1 << 14;

/// How an array is divided into channels: element `i` belongs to channel `(i / inner) % channels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// Number of channels; 1 for a per-tensor quantity.
    pub count: usize,
    /// Consecutive elements that share a channel.
    pub inner: usize,
}

impl Channels {
    /// One channel for the whole array of `len` elements.
    pub fn whole(len: usize) -> Self {
        Self { count: 1, inner: len.max(1) }
    }

    /// Channels along `axis` of an array with the given dimensions.
    pub fn along(dims: &[usize], axis: usize) -> Self {
        Self { count: dims[axis], inner: dims[axis + 1..].iter().product::<usize>().max(1) }
    }

    /// The runs of one channel inside `start..end`: (channel, run start, run end).
    #[inline(always)]
    pub fn runs(self, start: usize, end: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut at = start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let row = at / self.inner;
            let stop = ((row + 1) * self.inner).min(end);
            let run = (row % self.count, at, stop);
            at = stop;
            Some(run)
        })
    }
}

/// Calls `body(first index, piece)` on each piece of `out`, in parallel.
pub fn for_each_piece<T: Send>(out: &mut [T], body: impl Fn(usize, &mut [T]) + Sync) {
    out.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| body(i * PIECE, piece));
}

/// Calls `body(start, end)` on each piece of `0..len` in parallel; results in order.
pub fn map_pieces<R: Send>(len: usize, body: impl Fn(usize, usize) -> R + Sync) -> Vec<R> {
    (0..len.div_ceil(PIECE)).into_par_iter().map(|i| body(i * PIECE, ((i + 1) * PIECE).min(len))).collect()
}

/// Calls `body(number, chunk)` on each chunk of `width` elements in parallel; results in order.
pub fn map_chunks<R: Send>(values: &[f32], width: usize, body: impl Fn(usize, &[f32]) -> R + Sync + Send) -> Vec<R> {
    values.par_chunks(width).enumerate().map(|(i, chunk)| body(i, chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_element_once() {
        let channels = Channels::along(&[3, 4, 5], 1);
        let runs: Vec<_> = channels.runs(7, 43).collect();
        assert_eq!(runs.first(), Some(&(1, 7, 10)));
        assert_eq!(runs.iter().map(|r| r.2 - r.1).sum::<usize>(), 36);
        assert!(runs.iter().all(|r| (r.1 / 5) % 4 == r.0));
    }
}
