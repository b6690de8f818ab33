//! Percentiles of magnitudes, channel by channel, without keeping all values.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A percentile of the magnitudes of each channel of a value.
pub struct ChannelPercentiles {
    /// The largest magnitudes of each channel, as bits, which have the order of the numbers.
    largest: Vec<BinaryHeap<Reverse<u32>>>,
    /// How many of them decide the percentile.
    kept: usize,
}

impl ChannelPercentiles {
    /// For `count` values in each of `channels` channels. The percentile is the smallest value that at least `percent` of
    /// the values do not exceed.
    pub fn new(channels: usize, count: usize, percent: f64) -> Self {
        let not_above = ((count as f64 * percent / 100.0).ceil() as usize).clamp(1, count.max(1));
        Self { largest: vec![BinaryHeap::new(); channels], kept: count.max(1) + 1 - not_above }
    }

    /// Adds values (N, channels, pixels).
    pub fn add(&mut self, values: &[f32], pixels: usize) {
        let (channels, kept) = (self.largest.len(), self.kept);
        for (c, largest) in self.largest.iter_mut().enumerate() {
            for plane in values.chunks_exact(pixels).skip(c).step_by(channels) {
                for value in plane {
                    let bits = value.abs().to_bits();
                    if largest.len() < kept {
                        largest.push(Reverse(bits));
                    } else if largest.peek().is_some_and(|least| least.0 < bits) {
                        largest.pop();
                        largest.push(Reverse(bits));
                    }
                }
            }
        }
    }

    /// The percentile of each channel; 0 where no value was added.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        self.largest.iter().map(|largest| largest.peek().map_or(0.0, |least| f32::from_bits(least.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_sorted_magnitudes() {
        let values: Vec<f32> = (0..2 * 3 * 50).map(|i| ((i * 7919 % 311) as f32 - 155.0) / 10.0).collect();
        for percent in [1.0, 50.0, 90.0, 97.5, 100.0] {
            let mut all = ChannelPercentiles::new(3, 100, percent);
            all.add(&values[..150], 50);
            all.add(&values[150..], 50);
            for (c, got) in all.values().enumerate() {
                let planes = values.chunks_exact(50).skip(c).step_by(3);
                let mut own: Vec<f32> = planes.flatten().map(|v| v.abs()).collect();
                own.sort_by(f32::total_cmp);
                assert_eq!(got, own[percent as usize - 1 + usize::from(percent == 97.5)], "{percent} of channel {c}");
            }
        }
    }
}
