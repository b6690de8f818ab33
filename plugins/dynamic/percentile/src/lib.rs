//! An observer that ignores the most extreme values: the range is between percentiles of a histogram.

use qdrop_core::prelude::*;

/// Parameters in a recipe: `observer: {name: percentile, params: {percentile: 99.9}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(crate = "qdrop_core::serde", deny_unknown_fields, default)]
struct PercentileParams {
    /// Percent of the values that the range covers.
    percentile: f64,
    /// Number of bins of the histogram.
    bins: usize,
}

impl Default for PercentileParams {
    fn default() -> Self {
        Self { percentile: 99.99, bins: 2048 }
    }
}

/// A histogram of one channel's values between their extremes.
#[derive(Clone)]
struct Histogram {
    low: f32,
    high: f32,
    counts: Vec<u64>,
}

impl Histogram {
    fn bin(&self, value: f32) -> usize {
        let width = (self.high - self.low).max(f32::MIN_POSITIVE);
        let position = (value - self.low) / width * self.counts.len() as f32;
        (position as usize).min(self.counts.len() - 1)
    }

    /// Adds values. If they exceed the bounds, the histogram widens, and the count of an old bin goes to the new bin
    /// that contains the old one's middle.
    fn add(&mut self, values: &[f32]) {
        let (low, high) = values.iter().fold((self.low, self.high), |(l, h), v| (l.min(*v), h.max(*v)));
        if low < self.low || high > self.high {
            let old = self.clone();
            (self.low, self.high) = (low, high);
            self.counts.fill(0);
            for (i, count) in old.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let middle = old.low + (old.high - old.low) * (i as f32 + 0.5) / old.counts.len() as f32;
                let bin = self.bin(middle);
                self.counts[bin] += count;
            }
        }
        for v in values {
            let bin = self.bin(*v);
            self.counts[bin] += 1;
        }
    }

    /// The range that leaves out equally many values on both sides.
    fn range(&self, percentile: f64) -> (f32, f32) {
        let total: u64 = self.counts.iter().sum();
        let outside = (total as f64 * (1.0 - percentile / 100.0) / 2.0) as u64;
        let edge = |bin: usize| self.low + (self.high - self.low) * bin as f32 / self.counts.len() as f32;
        // Number of bins at the end that together hold at most `outside` values.
        let bins_within = |counts: &mut dyn Iterator<Item = &u64>| {
            let mut sum = 0;
            counts
                .take_while(|count| {
                    sum += **count;
                    sum <= outside
                })
                .count()
        };
        let below = bins_within(&mut self.counts.iter());
        let above = bins_within(&mut self.counts.iter().rev());
        // All values are in one bin: return its edges.
        if below + above >= self.counts.len() {
            (self.low, self.high)
        } else {
            (edge(below), edge(self.counts.len() - above))
        }
    }
}

struct Percentile {
    params: PercentileParams,
    granularity: Granularity,
    channels: Vec<Histogram>,
}

impl Observer for Percentile {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        // Element i belongs to channel i / inner % count.
        let channels = self.granularity.channels(x.dims())?;
        let mut values = vec![Vec::new(); channels.count];
        ops::host_values(x, |all| {
            for (i, v) in all.iter().enumerate() {
                values[i / channels.inner % channels.count].push(*v);
            }
        })?;
        let empty = Histogram { low: f32::MAX, high: f32::MIN, counts: vec![0; self.params.bins] };
        if self.channels.is_empty() {
            self.channels = vec![empty; channels.count];
        }
        if self.channels.len() != channels.count {
            return Err(Error::message(format!("{} channels, {} before", channels.count, self.channels.len())));
        }
        self.channels.iter_mut().zip(&values).for_each(|(histogram, values)| histogram.add(values));
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        if self.channels.is_empty() {
            return Err(Error::message("the observer has seen no tensor"));
        }
        let (min, max) = self.channels.iter().map(|h| h.range(self.params.percentile)).unzip();
        Ok(Range { min, max })
    }

    /// Old counts move to other bins when a later call has larger extremes.
    fn consistency(&self) -> Result<Consistency> {
        Ok(Consistency::Order)
    }
}

register_observer! {
    name: "percentile", aliases: [], summary: "percentiles of a histogram; params: percentile, bins",
    build: |spec, params| {
        let parsed = params.parse::<PercentileParams>()?;
        if !(50.0..=100.0).contains(&parsed.percentile) {
            return Err(params.error("percentile", "must lie between 50 and 100"));
        }
        if parsed.bins == 0 {
            return Err(params.error("bins", "must be at least 1"));
        }
        Ok(Box::new(Percentile { params: parsed, granularity: spec.granularity, channels: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn conforms() {
        qdrop_core::conformance::conforms("observer", "percentile").unwrap();
    }
}
