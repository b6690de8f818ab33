//! Reconstructs unit by unit. Cached values advance through the network with the finished units.

use super::calibrate::{calibrate_unit, Observers};
use super::inspect::sites;
use super::moving::{advance, MovingValues};
use crate::cache::{CacheBudget, CachedValues};
use crate::engine::{Engine, UnitSamples};
use crate::error::{Error, Result};
use crate::graph::{layer_units, merge_units, network_unit, unit_costs, Graph, NodeId, Unit};
use crate::memory::resident;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use crate::random::RandomSource;
use crate::reconstructor::{Context, Forget, Grouping, Interrupted, Interruption, Reconstructor, UnitTask};
use crate::report::UnitReport;
use crate::run_directory::CheckpointFolder;
use candle_core::Device;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What a reconstruction needs besides the model.
pub struct Resources<'a> {
    /// The calibration images.
    pub images: Arc<CachedValues>,
    /// How much memory cached values may take.
    pub cache: Arc<CacheBudget>,
    /// Source of all random draws.
    pub random: &'a dyn RandomSource,
    /// Receives progress events and reports requests to stop.
    pub progress: &'a dyn Progress,
    /// The engine that reconstructs a unit.
    pub engine: Engine,
    /// Groups of neighbouring units, by name or pattern, that are reconstructed as one unit.
    pub merge: &'a [Vec<String>],
    /// Where finished units are saved. A run resumes after the units that are already there.
    pub checkpoints: Option<&'a CheckpointFolder>,
}

/// The network's units, after merging the units of each group.
///
/// # Errors
/// The architecture declares no units, or a group does not match them.
pub(super) fn units_of(graph: &Graph, grouping: Grouping, merge: &[Vec<String>]) -> Result<Vec<Unit>> {
    let units = match grouping {
        Grouping::None => return Ok(Vec::new()),
        Grouping::Block => graph.units().to_vec(),
        Grouping::Layer => layer_units(graph)?,
    };
    if units.is_empty() {
        return Err(Error::message("the architecture declares no units to reconstruct"));
    }
    merge_units(graph, units, merge, "reconstruction.merge")
}

/// Reconstructs every unit of the calibrated model in network order, from the calibration images. With `observers`, the
/// ranges of a unit's activations are observed again just before it is reconstructed, from its inputs in the network
/// quantized so far.
///
/// # Errors
/// The reconstructor or an observer fails; a checkpoint is damaged or cannot be written; the run was cancelled.
pub fn reconstruct(
    model: &mut QuantModel,
    reconstructor: &dyn Reconstructor,
    resources: &Resources<'_>,
    observers: Option<&Observers<'_>>,
) -> Result<Vec<UnitReport>> {
    let units = units_of(model.graph(), reconstructor.grouping(), resources.merge)?;
    let progress = resources.progress;
    let whole = usize::from(reconstructor.network_steps() > 0);
    let costs = unit_costs(model.graph(), &units);
    // Hard weights replace those of the model, but not these.
    let float = model.float_copy();
    let mut values = MovingValues::new(model.graph().input(), resources);
    let mut reports = Vec::new();
    let mut start = Instant::now();
    for (index, unit) in units.iter().enumerate() {
        let Some(first) = unit.nodes().first() else { continue };
        let kept = match resources.checkpoints {
            Some(folder) => folder.unit(index, &unit.name, model.device())?,
            None => None,
        };
        let (last, was_kept) = (index + 1 == units.len(), kept.is_some());
        if !(last && was_kept) {
            let between = model.graph().subgraph(values.pending_before(model, *first));
            values.pass((&float, model), &between)?;
            values.forget(model, unit);
            values.provide((&float, model), unit.subgraph.inputs())?;
        }
        let report = match kept {
            Some((tensors, report)) => {
                if !last {
                    values.advance(&float, &unit.subgraph, Precision::Float)?;
                }
                model.restore(unit.nodes(), &tensors).map_err(|e| Error::graph(&unit.name, e))?;
                report
            }
            None => {
                let models = (&mut *model, &float);
                let clock = Clock::of(unit, start, resources)?;
                let number = (index, costs[index]);
                let mut report = reconstruct_unit(models, reconstructor, &mut values, unit, number, observers, &clock)?;
                // The report includes the time to advance the cached values.
                report.seconds = clock.seconds();
                report.memory_bytes = resident();
                report
            }
        };
        start = Instant::now();
        if !was_kept {
            keep(model, unit, index, &report, resources)?;
        }
        progress.event(Event::Unit { number: index + 1, of: units.len() + whole, report: &report });
        reports.push(report);
        if !last {
            values.advance(model, &unit.subgraph, Precision::Quantized)?;
            values.done(&unit.subgraph);
            values.forget(model, units.get(index + 1).unwrap_or(unit));
        }
    }
    drop(values);
    if whole > 0 {
        let report = reconstruct_network((model, &float), reconstructor, units.len(), resources)?;
        progress.event(Event::Unit { number: units.len() + 1, of: units.len() + 1, report: &report });
        reports.push(report);
    }
    Ok(reports)
}

/// Saves a finished unit.
fn keep(model: &QuantModel, unit: &Unit, index: usize, report: &UnitReport, resources: &Resources<'_>) -> Result<()> {
    let Some(folder) = resources.checkpoints else { return Ok(()) };
    let mut tensors = model.grids(unit.nodes())?;
    tensors.extend(model.learned_parameters(unit.nodes()));
    folder.keep_unit(index, &tensors, report)
}

/// The last stage: the whole network as one unit, numbered after the others.
fn reconstruct_network(
    (model, float): (&mut QuantModel, &QuantModel),
    reconstructor: &dyn Reconstructor,
    index: usize,
    resources: &Resources<'_>,
) -> Result<UnitReport> {
    let unit = network_unit(model.graph())?;
    let clock = Clock::of(&unit, Instant::now(), resources)?;
    let part = &unit.subgraph;
    if let Some(folder) = resources.checkpoints {
        if let Some((tensors, report)) = folder.unit(index, &unit.name, model.device())? {
            model.restore(unit.nodes(), &tensors).map_err(|e| Error::graph(&unit.name, e))?;
            return Ok(report);
        }
    }
    let mut values = HashMap::from([(model.graph().input(), resources.images.clone())]);
    advance(float, part, &mut values, Precision::Float, resources)?;
    let missing = || Error::graph(&unit.name, "an output of the network was not computed");
    let outputs = part.outputs().iter().map(|id| values.get(id).cloned().ok_or_else(missing));
    let samples = UnitSamples {
        quantized_inputs: vec![resources.images.clone()],
        float_inputs: vec![resources.images.clone()],
        float_outputs: outputs.collect::<Result<_>>()?,
        passing: Vec::new(),
        ranges: Vec::new(),
    };
    let before = model.grids(unit.nodes())?;
    let task = UnitTask::new(model, &unit, index, samples)?.of_float(float);
    let reconstruct = |task: &mut UnitTask<'_>, context: &Context<'_>| reconstructor.reconstruct_network(task, context);
    let report = with_context(task, resources, &clock, reconstruct)?;
    let inputs = std::slice::from_ref(&resources.images);
    let sites = sites((float, model), part, &before, [inputs, inputs])?;
    let report = UnitReport { seconds: clock.seconds(), memory_bytes: resident(), sites, ..report };
    keep(model, &unit, index, &report, resources)?;
    Ok(report)
}

/// Lets a reconstructor work on a unit, and saves its state if it is interrupted.
fn with_context(
    mut task: UnitTask<'_>,
    resources: &Resources<'_>,
    clock: &Clock,
    reconstruct: impl FnOnce(&mut UnitTask<'_>, &Context<'_>) -> Result<UnitReport>,
) -> Result<UnitReport> {
    let Resources { random, progress, checkpoints, engine, .. } = *resources;
    let device = task.model().device().clone();
    let keeper = checkpoints.map(|folder| Keeper { folder, unit: task.name, device, clock });
    let interruption = keeper.as_ref().map_or(&Forget as &dyn Interruption, |k| k);
    let report = reconstruct(&mut task, &Context { random, progress, interruption, engine })?;
    Ok(UnitReport { soft_share: task.soft_share(), ..report })
}

fn reconstruct_unit(
    (model, float): (&mut QuantModel, &QuantModel),
    reconstructor: &dyn Reconstructor,
    values: &mut MovingValues<'_>,
    unit: &Unit,
    (index, cost): (usize, f64),
    observers: Option<&Observers<'_>>,
    clock: &Clock,
) -> Result<UnitReport> {
    let get = |values: &HashMap<NodeId, Arc<CachedValues>>, ids: &[NodeId]| -> Result<Vec<_>> {
        let missing = || Error::graph(&unit.name, "a cached value is missing");
        ids.iter().map(|id| values.get(id).cloned().ok_or_else(missing)).collect()
    };
    let part = &unit.subgraph;
    let float_inputs = get(&values.float, part.inputs())?;
    values.advance(float, part, Precision::Float)?;
    let rest = model.graph().after(part);
    let passing = rest.inputs().iter().filter(|id| !part.outputs().contains(id));
    let samples = UnitSamples {
        quantized_inputs: get(&values.quantized, part.inputs())?,
        float_inputs,
        float_outputs: get(&values.float, part.outputs())?,
        passing: passing.filter_map(|id| Some((*id, values.float.get(id)?.clone()))).collect(),
        ranges: Vec::new(),
    };
    if let Some(observers) = observers {
        // Also where an interrupted unit is resumed: the same inputs give the same ranges.
        let observed = samples.quantized_inputs.iter().map(|all| all.range(0, observers.samples.min(all.samples())));
        calibrate_unit(model, part, observed.collect::<Result<_>>()?, observers, values.resources.progress)?;
    }
    let before = model.grids(unit.nodes())?;
    let inputs = [samples.float_inputs.clone(), samples.quantized_inputs.clone()];
    let task = UnitTask::new(model, unit, index, samples)?.of_float(float).of_cost(cost);
    let report = with_context(task, values.resources, clock, |task, context| reconstructor.reconstruct(task, context))?;
    let sites = sites((float, model), part, &before, [&inputs[0], &inputs[1]])?;
    Ok(UnitReport { sites, ..report })
}

/// The time that a unit takes, over all processes that work on it.
struct Clock {
    /// When this process began with it.
    start: Instant,
    /// Seconds that earlier ones took until they were interrupted.
    earlier: f64,
}

impl Clock {
    fn of(unit: &Unit, start: Instant, resources: &Resources<'_>) -> Result<Self> {
        let earlier = resources.checkpoints.map(|folder| folder.interrupted_seconds(&unit.name)).transpose()?;
        Ok(Self { start, earlier: earlier.unwrap_or(0.0) })
    }

    fn seconds(&self) -> f64 {
        self.earlier + self.start.elapsed().as_secs_f64()
    }
}

/// Saves the state of an interrupted unit in the checkpoint folder.
struct Keeper<'a> {
    folder: &'a CheckpointFolder,
    unit: &'a str,
    device: Device,
    clock: &'a Clock,
}

impl Interruption for Keeper<'_> {
    fn resume(&self) -> Result<Option<Interrupted>> {
        self.folder.interrupted(self.unit, &self.device)
    }

    fn keep(&self, state: &Interrupted) -> Result<()> {
        self.folder.keep_interrupted(self.unit, state, self.clock.seconds())
    }
}
