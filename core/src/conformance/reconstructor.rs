//! What a reconstructor must keep to.

use super::toy::{Toy, SAMPLES};
use super::{require, Report};
use crate::error::{Error, Result};
use crate::fused::Engine;
use crate::params::Params;
use crate::progress::{Event, Progress, Silent};
use crate::random::SeededRandom;
use crate::reconstructor::{
    Context, Forget, Grouping, Interrupted, Interruption, Reconstructor, ReconstructorKind, UnitReport, UnitTask,
};
use crate::registry::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Steps that are run, if the reconstructor iterates more often.
const STEPS: usize = 300;
/// Distance of a hard weight from its grid, in steps, that rounding errors of f32 explain.
const OFF_GRID: f32 = 1e-3;

pub fn check(entry: &'static Entry<ReconstructorKind>, report: &mut Report) {
    let build = || -> Result<Box<dyn Reconstructor>> {
        let mut reconstructor = entry.build(&Params::none("conformance"))?;
        if reconstructor.steps() > STEPS {
            reconstructor.shorten(STEPS)?;
        }
        Ok(reconstructor)
    };
    let mut built = None;
    report.run("is built without parameters", || {
        built = Some(build()?);
        Ok(())
    });
    let Some(reconstructor) = built else { return };
    if reconstructor.grouping() == Grouping::None {
        return report.skip("reconstructs a unit", "it reconstructs nothing");
    }
    let mut result = None;
    report.run("lowers the reconstruction loss of a unit", || {
        reconstructor.check_samples(SAMPLES)?;
        let mut toy = Toy::new()?;
        let before = toy.loss()?;
        let reported = run(&*reconstructor, &mut toy, &Silent, &Forget)?;
        let after = toy.loss()?;
        require(after < before, || format!("the loss was {before:.5} and became {after:.5}"))?;
        require(reported.losses.len() == reconstructor.steps(), || {
            format!("{} steps are announced, and {} reported", reconstructor.steps(), reported.losses.len())
        })?;
        result = Some(toy.weights()?);
        Ok(())
    });
    let Some((weights, off_grid)) = result else { return };
    report.run("leaves weights on the grid", || {
        require(off_grid <= OFF_GRID, || format!("a weight is {off_grid} steps off its grid"))
    });
    report.run("gives the same result again", || {
        let mut toy = Toy::new()?;
        run(&*build()?, &mut toy, &Silent, &Forget)?;
        require(toy.weights()?.0 == weights, || "the weights differ".into())
    });
    let name = "goes on after an interruption with the same result";
    if reconstructor.steps() < 4 {
        return report.skip(name, "it takes fewer than 4 steps");
    }
    report.run(name, || {
        let stop = StopAfter { steps: reconstructor.steps() / 2, seen: AtomicUsize::new(0) };
        let state = Kept(Mutex::new(None));
        let stopped = run(&*reconstructor, &mut Toy::new()?, &stop, &state);
        require(matches!(stopped, Err(Error::Cancelled)), || "it did not stop when it was asked to".into())?;
        require(state.resume()?.is_some(), || "it kept no state when it stopped".into())?;
        let mut toy = Toy::new()?;
        run(&*build()?, &mut toy, &Silent, &state)?;
        require(toy.weights()?.0 == weights, || "the weights differ".into())
    });
}

/// Runs it on the generic path, which every strategy has.
fn run(
    reconstructor: &dyn Reconstructor,
    toy: &mut Toy,
    progress: &dyn Progress,
    interruption: &dyn Interruption,
) -> Result<UnitReport> {
    let unit = toy.model.graph().units()[0].clone();
    let samples = toy.samples.clone();
    let mut task = UnitTask::new(&mut toy.model, &unit, 0, samples)?;
    let random = SeededRandom { seed: 1005 };
    reconstructor.reconstruct(&mut task, &Context { random: &random, progress, interruption, engine: Engine::Generic })
}

/// Asks to stop after some steps.
struct StopAfter {
    steps: usize,
    seen: AtomicUsize,
}

impl Progress for StopAfter {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.steps
    }
}

/// Keeps the state in memory.
struct Kept(Mutex<Option<Interrupted>>);

impl Interruption for Kept {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(self.0.lock().unwrap_or_else(|e| e.into_inner()).clone())
    }

    fn keep(&self, state: &Interrupted) -> Result<()> {
        // As a run directory does it: what is kept does not change with the variables.
        let mut state = state.clone();
        for tensor in state.tensors.values_mut() {
            *tensor = tensor.copy()?;
        }
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(state);
        Ok(())
    }
}
