//! Conformance checks of a reconstructor.

use super::toy::{Toy, SAMPLES};
use super::{require, Report};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::params::Params;
use crate::progress::{Event, Progress, Silent};
use crate::random::SeededRandom;
use crate::reconstructor::{
    Context, Forget, Grouping, Interrupted, Interruption, Reconstructor, ReconstructorKind, UnitTask,
};
use crate::registry::Entry;
use crate::report::UnitReport;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Number of steps, if the reconstructor iterates more often.
const STEPS: usize = 300;
/// Largest distance of a hard weight from its grid, as a multiple of the scale, that rounding errors of f32 explain.
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
    // A reconstructor must pass with every engine, because all have the same interface.
    for (engine, names) in [(Engine::Generic, &GENERIC), (Engine::Fused, &FUSED)] {
        check_on(engine, names, &build, report);
    }
}

/// Names of the checks in reports.
struct Names {
    lowers: &'static str,
    on_grid: &'static str,
    again: &'static str,
    resumes: &'static str,
}

const GENERIC: Names = Names {
    lowers: "brings a unit's outputs closer to the float network's",
    on_grid: "leaves weights on the grid",
    again: "gives the same result again",
    resumes: "resumes after an interruption with the same result",
};

const FUSED: Names = Names {
    lowers: "fused: brings a unit's outputs closer to the float network's",
    on_grid: "fused: leaves weights on the grid",
    again: "fused: gives the same result again",
    resumes: "fused: resumes after an interruption with the same result",
};

fn check_on(engine: Engine, names: &Names, build: &dyn Fn() -> Result<Box<dyn Reconstructor>>, report: &mut Report) {
    let mut result = None;
    let mut steps = 0;
    report.run(names.lowers, || {
        let reconstructor = build()?;
        reconstructor.check_samples(SAMPLES)?;
        let mut toy = Toy::new()?;
        let [squares, angle] = toy.distances()?;
        let reported = run(&*reconstructor, engine, &mut toy, &Silent, &Forget)?;
        let [squares_after, angle_after] = toy.distances()?;
        // A reconstructor may have a loss of its own. One that ignores the size of outputs can raise the squared error.
        require(squares_after < squares || angle_after < angle, || {
            format!(
                "the squared error was {squares:.5} and became {squares_after:.5}, one minus the cosine was {angle:.5} and \
                 became {angle_after:.5}"
            )
        })?;
        steps = reconstructor.steps();
        require(reported.losses.len() == steps, || {
            format!("{steps} steps are announced, and {} reported", reported.losses.len())
        })?;
        result = Some(toy.weights()?);
        Ok(())
    });
    let Some((weights, off_grid)) = result else { return };
    report.run(names.on_grid, || {
        require(off_grid <= OFF_GRID, || format!("a weight is off its grid by {off_grid} times the scale"))
    });
    report.run(names.again, || {
        let mut toy = Toy::new()?;
        run(&*build()?, engine, &mut toy, &Silent, &Forget)?;
        require(toy.weights()?.0 == weights, || "the weights differ".into())
    });
    if steps < 4 {
        return report.skip(names.resumes, "it takes fewer than 4 steps");
    }
    report.run(names.resumes, || {
        let stop = StopAfter { steps: steps / 2, seen: AtomicUsize::new(0) };
        let state = Kept(Mutex::new(None));
        let stopped = run(&*build()?, engine, &mut Toy::new()?, &stop, &state);
        require(matches!(stopped, Err(Error::Cancelled)), || "it did not stop when it was asked to".into())?;
        require(state.resume()?.is_some(), || "it kept no state when it stopped".into())?;
        let mut toy = Toy::new()?;
        run(&*build()?, engine, &mut toy, &Silent, &state)?;
        require(toy.weights()?.0 == weights, || "the weights differ".into())
    });
}

fn run(
    reconstructor: &dyn Reconstructor,
    engine: Engine,
    toy: &mut Toy,
    progress: &dyn Progress,
    interruption: &dyn Interruption,
) -> Result<UnitReport> {
    let unit = toy.model.graph().units()[0].clone();
    let samples = toy.samples.clone();
    let mut task = UnitTask::new(&mut toy.model, &unit, 0, samples)?;
    let random = SeededRandom { seed: 1005 };
    reconstructor.reconstruct(&mut task, &Context { random: &random, progress, interruption, engine })
}

/// Requests to stop after some steps.
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

/// Saves the state in memory.
struct Kept(Mutex<Option<Interrupted>>);

impl Interruption for Kept {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(self.0.lock().unwrap_or_else(|e| e.into_inner()).clone())
    }

    fn keep(&self, state: &Interrupted) -> Result<()> {
        // A deep copy, as in a file of a run directory: later updates of the variables must not change it.
        let mut state = state.clone();
        for tensor in state.tensors.values_mut() {
            *tensor = tensor.copy()?;
        }
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(state);
        Ok(())
    }
}
