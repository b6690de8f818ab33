//! The strategies of the reconstructor beyond the published method, on all engines.

use crate::fused::{model_with, samples, unit};
use crate::support::*;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::ops::Keep;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Event, Progress, Silent};
use qdrop_core::random::{RandomSource, SeededRandom};
use qdrop_core::reconstructor::{Forget, Interruption};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

const SMALL: &str = "{image_size: 32}";

/// Requests to stop after some steps.
struct StopAfter(AtomicUsize);

impl Progress for StopAfter {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Saves the state in memory.
#[derive(Default)]
struct Kept(Mutex<Option<Interrupted>>);

impl Interruption for Kept {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn keep(&self, state: &Interrupted) -> Result<()> {
        let mut state = state.clone();
        // As in a file: later updates of the variables must not change it.
        state.tensors.values_mut().for_each(|tensor| *tensor = tensor.copy().unwrap());
        *self.0.lock().unwrap() = Some(state);
        Ok(())
    }
}

/// The reconstructor `qdrop` with these parameters.
fn reconstructor(params: &str) -> Result<Box<dyn Reconstructor>> {
    let params = Params::new("reconstruction.params", serde_yaml::from_str(params).unwrap());
    registries().reconstructors.get("qdrop", "test").unwrap().build(&params)
}

/// The weights and scales of a unit.
fn result(model: &QuantModel, unit: &qdrop_core::graph::Unit) -> Vec<Vec<f32>> {
    let nodes = unit.nodes();
    let weights = nodes.iter().filter_map(|id| model.weight(*id).ok()).map(vec);
    let scales = nodes.iter().filter_map(|id| Some(model.activation_site(*id)?.quantizer.qparams().unwrap().scale));
    weights.chain(scales).collect()
}

/// Reconstructs a unit and returns its report and its values.
fn learn(
    [network, name]: [&str; 2],
    quantizers: [&str; 2],
    params: &str,
    engine: &Runs,
    (progress, interruption): (&dyn Progress, &dyn Interruption),
) -> Result<(UnitReport, Vec<Vec<f32>>)> {
    let mut model = model_with(network, SMALL, quantizers);
    let unit = unit(&model, name);
    let samples = samples(&model, &unit);
    let random = SeededRandom { seed: 7 };
    let context = Context { random: &random, progress, interruption, engine: engine.engine() };
    let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
    let report = reconstructor(params)?.reconstruct(&mut task, &context)?;
    drop(task);
    Ok((UnitReport { seconds: 0.0, ..report }, result(&model, &unit)))
}

const UNINTERRUPTED: (&dyn Progress, &dyn Interruption) = (&Silent, &Forget);

#[test]
fn the_hard_loss_is_that_of_the_finished_unit_and_changes_nothing() {
    for engine in Runs::all() {
        let ends = [false, true].map(|measure| {
            let mut model = model_with("mobilenet_v2", SMALL, ["adaround {learn_scale: true}", "lsq"]);
            let unit = unit(&model, "features.3");
            let samples = samples(&model, &unit);
            let rates =
                [groups::ROUNDING, groups::SCALE, groups::WEIGHT_SCALE, groups::BIAS].map(|group| (group, 0.01));
            let batch = [5, 0, 3, 1, 7, 2];
            let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples.clone()).unwrap());
            task.begin(&rates.map(|(group, _)| group)).unwrap();
            let random = SeededRandom { seed: 7 };
            let context =
                Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
            let mut steps = task.engine(6, &context).unwrap();
            let mut measured = 0.0;
            for step in 0..4 {
                steps.loss(&random.batch(0, step, 6, 8), &|site| random.keep(0, step, site, 0.5)).unwrap();
                steps.update(&rates, Some(Regularizer { weight: 0.1, b: 10.0 })).unwrap();
                if measure {
                    measured = steps.hard_loss(&batch).unwrap();
                    let error = steps.update(&rates, None).unwrap_err().to_string();
                    assert!(error.contains("an update without gradients"), "{error}");
                }
            }
            let soft = steps.loss(&batch, &|_| Keep::All).unwrap();
            assert!(!measure || (soft - measured).abs() > 0.01 * soft, "hard roundings make a difference");
            steps.finish().unwrap();
            drop(steps);
            task.finish().unwrap();
            assert!(task.soft_share().unwrap() > 0.1);
            drop(task);
            if measure {
                // Measured by the model, whose weights are hard now.
                let inputs = [samples.quantized_inputs[0].gather(&batch).unwrap()];
                let output = model.run(&unit.subgraph, &inputs, Precision::Quantized).unwrap().remove(0);
                let target = samples.targets(&batch).unwrap().remove(0);
                let want = ops::reconstruction_loss(&output, &target).unwrap().to_scalar::<f32>().unwrap();
                assert!((measured as f32 - want).abs() < 1e-4 * want, "{engine:?}: {measured} {want}");
            }
            result(&model, &unit)
        });
        assert!(ends[0] == ends[1], "{engine:?}: measuring changed what is learned");
    }
}

#[test]
fn the_best_state_is_kept_and_survives_an_interruption() {
    // At such rates the loss rises and falls.
    let params = "{iters: 20, batch_size: 4, lr: 0.5, scale_lr: 0.05, weight: 0.01, keep_best: 20}";
    for engine in Runs::all() {
        let run = |params: &str, with| learn(["resnet18", "layer1.0"], ["adaround", "lsq"], params, &engine, with);
        let (report, values) = run(params, UNINTERRUPTED).unwrap();
        let kept = report.kept.clone().unwrap();
        assert!(kept.step >= 4, "during warm-up");
        assert!(kept.step < 20, "the test is for a state before the last one: {kept:?}");
        // The same state is the last one of a run that ends there, at the same rates.
        let (last, _) = run(&params.replace("keep_best: 20", "keep_best: 1"), UNINTERRUPTED).unwrap();
        let last = last.kept.unwrap();
        assert!(last.step == 20 && last.loss > kept.loss, "{last:?} {kept:?}");
        assert!(values != run(&params.replace("keep_best: 20", "keep_best: 0"), UNINTERRUPTED).unwrap().1);
        // Interrupted before the first check, before and after the best state.
        for stop in [2, kept.step - 1, kept.step, 19] {
            let state = Kept::default();
            let stopped = run(params, (&StopAfter(AtomicUsize::new(stop)), &state));
            assert!(matches!(stopped, Err(Error::Cancelled)));
            let resumed = run(params, (&Silent, &state)).unwrap();
            assert!(resumed == (report.clone(), values.clone()), "{engine:?}: stopped after {stop} steps");
        }
    }
}

#[test]
fn every_strategy_resumes_with_the_same_result() {
    let network = ["mobilenet_v2", "features.3"];
    for params in ["{iters: 12, batch_size: 3, batches: permutation, lr_decay: cosine, lr: 0.05}"] {
        for engine in Runs::all() {
            let run = |with| learn(network, ["adaround", "lsq"], params, &engine, with);
            let whole = run(UNINTERRUPTED).unwrap();
            let state = Kept::default();
            assert!(matches!(run((&StopAfter(AtomicUsize::new(7)), &state)), Err(Error::Cancelled)));
            assert!(run((&Silent, &state)).unwrap() == whole, "{engine:?} {params}");
        }
    }
}

#[test]
fn values_that_are_impossible_name_their_key() {
    let error = |params: &str| reconstructor(params).err().unwrap().to_string();
    assert!(error("{batches: shuffled}").starts_with("reconstruction.params.batches"), "{}", error("{batches: shuffled}"));
    assert!(error("{lr_decay: linear}").starts_with("reconstruction.params.lr_decay"));
    assert!(error("{keep_best: -1}").starts_with("reconstruction.params.keep_best"));
}
