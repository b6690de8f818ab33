//! Which samples each step uses.

use qdrop_core::prelude::*;
use qdrop_core::random::RandomSource;

/// How the samples of a step are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batches {
    /// Drawn independently, with replacement (QDrop's reference).
    #[default]
    Random,
    /// Every sample once in each epoch, in a random order that differs from epoch to epoch (Genie-M, arXiv 2212.04780).
    /// Where the samples are no multiple of the batch size, a batch holds the end of an epoch and the beginning of the
    /// next one.
    Permutation,
}

impl Batches {
    /// The samples of a step (counted from 0) of a unit.
    pub fn of_step(
        self,
        random: &dyn RandomSource,
        unit: usize,
        step: usize,
        size: usize,
        samples: usize,
    ) -> Vec<usize> {
        match self {
            Self::Random => random.batch(unit, step, size, samples),
            Self::Permutation => {
                let places = step * size..(step + 1) * size;
                let mut order = (usize::MAX, Vec::new());
                places
                    .map(|place| {
                        let epoch = place / samples;
                        if order.0 != epoch {
                            order = (epoch, random.permutation(unit, epoch, samples));
                        }
                        order.1[place % samples]
                    })
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_core::random::SeededRandom;

    #[test]
    fn an_epoch_holds_every_sample_once_and_depends_on_seed_unit_and_epoch() {
        let epochs = |seed: u64, unit: usize| -> Vec<Vec<usize>> {
            let random = SeededRandom { seed };
            // 15 steps of 4 samples are 6 epochs of 10.
            let all: Vec<usize> =
                (0..15).flat_map(|step| Batches::Permutation.of_step(&random, unit, step, 4, 10)).collect();
            all.chunks(10).map(<[usize]>::to_vec).collect()
        };
        let one = epochs(7, 3);
        assert_eq!(one, epochs(7, 3));
        for (i, epoch) in one.iter().enumerate() {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            assert!(!one[..i].contains(epoch), "two epochs have the same order");
        }
        assert!(one != epochs(8, 3) && one != epochs(7, 4));
    }
}
