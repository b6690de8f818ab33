//! The best state of a unit's optimization: the loss with noise, drop and soft roundings says little about the result,
//! so it is measured from time to time as it would be if learning ended there; where no state is kept, for the report alone.

use super::params::QdropParams;
use qdrop_core::engine::EngineState;
use qdrop_core::prelude::*;
use qdrop_core::report::{HardLoss, KeptState};

/// Batches on which the loss is measured: the first samples, so that no random numbers are drawn.
const BATCHES: usize = 4;
/// In a saved state, the tensor that holds loss and step of the best state.
const KEPT: &str = "best";
/// In a saved state, the tensor that holds steps and losses of all measurements.
const MEASURED: &str = "measured";
/// Without states that are kept, steps for each measurement, at least.
const STEPS_EACH: usize = 100;
/// Without states that are kept, the most measurements.
const MEASUREMENTS: usize = 10;
/// In a saved state, what the names of the best state's tensors begin with.
const PREFIX: &str = "best/";

/// Measures the loss at some steps, and keeps the state with the smallest one.
pub struct Best {
    /// Numbers of finished steps after which the loss is measured, in ascending order.
    due: Vec<usize>,
    batches: Vec<Vec<usize>>,
    /// Whether the state with the smallest loss is kept.
    keeps: bool,
    measured: Vec<HardLoss>,
    kept: Option<(KeptState, EngineState)>,
}

impl Best {
    /// Nothing is kept yet. There are `samples` cached samples.
    pub fn new(params: &QdropParams, samples: usize) -> Self {
        let size = params.batch_size;
        let count = (samples / size).clamp(1, BATCHES);
        // Before a run, units are tried out with fewer samples than a batch has.
        let batch = |i: usize| (i * size..(i + 1) * size).map(|sample| sample % samples).collect();
        let batches = (0..count).map(batch).collect();
        Self { due: due(params), batches, keeps: params.keep_best > 0, measured: Vec::new(), kept: None }
    }

    /// The number of finished steps, above `step`, after which the loss is measured next.
    pub fn next_due(&self, step: usize) -> Option<usize> {
        self.due.get(self.due.partition_point(|due| *due <= step)).copied()
    }

    /// Measures the loss after `step` steps, if it is due.
    pub fn check(&mut self, step: usize, engine: &mut dyn UnitEngine) -> Result<()> {
        if self.due.binary_search(&step).is_err() {
            return Ok(());
        }
        let losses = self.batches.iter().map(|batch| engine.hard_loss(batch));
        let sum: f64 = losses.sum::<Result<f64>>()?;
        // Rounded as in a saved state.
        let loss = (sum / self.batches.len() as f64) as f32;
        if loss.is_finite() {
            self.measured.push(HardLoss { step, loss });
        }
        if self.keeps && self.kept.as_ref().is_none_or(|(kept, _)| loss < kept.loss) {
            self.kept = Some((KeptState { step, loss }, engine.state()?));
        }
        Ok(())
    }

    /// The losses so far.
    pub fn measured(&self) -> Vec<HardLoss> {
        self.measured.clone()
    }

    /// Adds the best state, and the losses so far, to the state of an interrupted optimization.
    pub fn keep(&self, tensors: &mut EngineState) -> Result<()> {
        if !self.measured.is_empty() {
            let rows: Vec<f32> = self.measured.iter().flat_map(|hard| [hard.step as f32, hard.loss]).collect();
            tensors.insert(MEASURED.into(), Tensor::from_vec(rows, (self.measured.len(), 2), &Device::Cpu)?);
        }
        if let Some((kept, state)) = &self.kept {
            tensors.insert(KEPT.into(), Tensor::new(&[kept.loss, kept.step as f32], &Device::Cpu)?);
            tensors.extend(state.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone())));
        }
        Ok(())
    }

    /// Takes what [`keep`](Self::keep) added.
    pub fn resume(&mut self, tensors: &mut EngineState) -> Result<()> {
        if let Some(measured) = tensors.remove(MEASURED) {
            for row in measured.to_vec2::<f32>()? {
                let [step, loss] = row[..] else {
                    return Err(Error::message(format!(
                        "'{MEASURED}' of the saved state does not hold pairs of numbers"
                    )));
                };
                self.measured.push(HardLoss { step: step as usize, loss });
            }
        }
        let Some(kept) = tensors.remove(KEPT) else { return Ok(()) };
        let [loss, step] = kept.to_vec1::<f32>()?[..] else {
            return Err(Error::message(format!("'{KEPT}' of the saved state does not hold two numbers")));
        };
        let state = std::mem::take(tensors).into_iter().fold(EngineState::new(), |mut state, (name, tensor)| {
            match name.strip_prefix(PREFIX) {
                Some(name) => state.insert(name.into(), tensor),
                None => tensors.insert(name, tensor),
            };
            state
        });
        self.kept = Some((KeptState { step: step as usize, loss }, state));
        Ok(())
    }

    /// Brings the engine to the best state, if one was measured.
    pub fn restore(self, steps: usize, engine: &mut dyn UnitEngine) -> Result<Option<KeptState>> {
        let Some((kept, state)) = self.kept else { return Ok(None) };
        if kept.step != steps {
            engine.restore(kept.step, &state)?;
        }
        Ok(Some(kept))
    }
}

/// The numbers of finished steps after which the loss is measured: not after every one, because a measurement takes longer
/// than a step. States of warm-up are never kept, because the regularizer does not settle the roundings yet.
fn due(params: &QdropParams) -> Vec<usize> {
    let steps = params.steps();
    let keeps = params.keep_best > 0;
    let times = if keeps { params.keep_best.min((steps / 2).max(1)) } else { (steps / STEPS_EACH).min(MEASUREMENTS) };
    let mut due: Vec<usize> = (1..=times).map(|i| (i * steps).div_ceil(times)).collect();
    due.retain(|step| !keeps || params.sharpness(*step).is_some());
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_measured_evenly_after_warm_up_and_at_the_end() {
        let due = |iters, keep_best| due(&QdropParams { iters, keep_best, ..Default::default() });
        assert_eq!(due(20_000, 0), (1..=10).map(|i| 2_000 * i).collect::<Vec<_>>());
        assert_eq!((due(300, 0), due(99, 0)), (vec![100, 200, 300], vec![]));
        assert_eq!(due(20_000, 1), [20_000]);
        assert_eq!(due(100, 10), [20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(due(7, 3), [3, 5, 7]);
        assert_eq!(due(6, 20), [2, 4, 6]);
        assert_eq!(due(1, 20), [1]);
    }

    #[test]
    fn the_best_state_survives_an_interruption() {
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
        let params = QdropParams { iters: 10, keep_best: 5, ..Default::default() };
        let mut best = Best::new(&params, 64);
        let kept = KeptState { step: 6, loss: 0.1 };
        best.kept = Some((kept.clone(), EngineState::from([("a.alpha".into(), tensor(1.0))])));
        best.measured = vec![HardLoss { step: 4, loss: 0.5 }, HardLoss { step: 6, loss: 0.1 }];
        let mut saved = EngineState::from([("a.alpha".into(), tensor(2.0))]);
        best.keep(&mut saved).unwrap();
        let mut again = Best::new(&params, 64);
        again.resume(&mut saved).unwrap();
        assert_eq!(saved.keys().collect::<Vec<_>>(), ["a.alpha"]);
        assert_eq!(saved["a.alpha"].to_vec1::<f32>().unwrap(), [2.0]);
        assert_eq!(again.measured, best.measured);
        let (resumed, state) = again.kept.unwrap();
        assert_eq!(resumed, kept);
        assert_eq!(state["a.alpha"].to_vec1::<f32>().unwrap(), [1.0]);
    }
}
