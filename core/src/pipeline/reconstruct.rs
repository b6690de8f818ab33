//! Unit by unit reconstruction over cached values that move forward through the network.

use super::{Event, Progress};
use crate::error::{Error, Result, TensorContext};
use crate::graph::{layer_units, NodeId, Unit};
use crate::model::{Precision, QuantModel};
use crate::random::RandomSource;
use crate::reconstructor::{Context, Grouping, Reconstructor, UnitData, UnitReport, UnitTask};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};

/// Samples per forward pass while cached values move on.
const BATCH: usize = 32;

/// Reconstructs every unit of the calibrated model in network order, from the calibration images.
///
/// # Errors
/// The reconstructor's; the run was cancelled.
pub fn reconstruct(
    model: &mut QuantModel,
    reconstructor: &dyn Reconstructor,
    images: &Tensor,
    random: &dyn RandomSource,
    progress: &dyn Progress,
) -> Result<Vec<UnitReport>> {
    let units = match reconstructor.grouping() {
        Grouping::None => return Ok(Vec::new()),
        Grouping::Block => model.graph().units().to_vec(),
        Grouping::Layer => layer_units(model.graph()),
    };
    if units.is_empty() {
        return Err(Error::message("the architecture declares no units to reconstruct"));
    }
    model.check_input(images)?;
    let context = Context { random, progress };
    let input = model.graph().input();
    let mut cache = Cache {
        float: HashMap::from([(input, images.clone())]),
        quantized: HashMap::from([(input, images.clone())]),
        done: HashSet::from([input]),
    };
    let mut reports = Vec::new();
    for (index, unit) in units.iter().enumerate() {
        let Some(first) = unit.nodes.first() else { continue };
        let between = cache.pending_before(model, *first);
        cache.advance_float(model, &between)?;
        cache.advance_quantized(model, &between)?;
        let report = reconstruct_unit(model, reconstructor, &mut cache, unit, index, &context)?;
        progress.event(Event::Unit { number: index + 1, of: units.len(), report: &report });
        reports.push(report);
        if index + 1 < units.len() {
            cache.advance_quantized(model, &unit.nodes)?;
            cache.finish(model, &unit.nodes);
        }
    }
    Ok(reports)
}

fn reconstruct_unit(
    model: &mut QuantModel,
    reconstructor: &dyn Reconstructor,
    cache: &mut Cache,
    unit: &Unit,
    index: usize,
    context: &Context<'_>,
) -> Result<UnitReport> {
    let (input, output) = (model.graph().unit_input(unit)?, model.graph().unit_output(unit)?);
    let get = |values: &HashMap<NodeId, Tensor>, id: NodeId| {
        values.get(&id).cloned().ok_or_else(|| Error::graph(&unit.name, "a cached value is missing"))
    };
    let float_input = get(&cache.float, input)?;
    cache.advance_float(model, &unit.nodes)?;
    let data = UnitData {
        quantized_input: get(&cache.quantized, input)?,
        float_input,
        float_output: get(&cache.float, output)?,
    };
    let mut task = UnitTask::new(model, unit, index, data)?;
    reconstructor.reconstruct(&mut task, context)
}

/// The values of all calibration samples that later nodes still read.
struct Cache {
    float: HashMap<NodeId, Tensor>,
    quantized: HashMap<NodeId, Tensor>,
    done: HashSet<NodeId>,
}

impl Cache {
    /// Nodes before `node` that were not computed yet: those between units.
    fn pending_before(&mut self, model: &QuantModel, node: NodeId) -> Vec<NodeId> {
        let ids = model.graph().nodes().map(|(id, _)| id);
        let pending: Vec<NodeId> = ids.filter(|id| *id < node && !self.done.contains(id)).collect();
        self.done.extend(&pending);
        pending
    }

    fn advance_float(&mut self, model: &QuantModel, nodes: &[NodeId]) -> Result<()> {
        advance(model, nodes, &mut self.float, Precision::Float)
    }

    fn advance_quantized(&mut self, model: &QuantModel, nodes: &[NodeId]) -> Result<()> {
        advance(model, nodes, &mut self.quantized, Precision::Quantized)
    }

    /// Marks nodes as computed and forgets values that nothing reads any more.
    fn finish(&mut self, model: &QuantModel, nodes: &[NodeId]) {
        self.done.extend(nodes);
        let needed = |id: &NodeId| model.graph().consumers(*id).iter().any(|c| !self.done.contains(c));
        self.float.retain(|id, _| needed(id));
        self.quantized.retain(|id, _| needed(id));
    }
}

/// Computes `nodes` for all samples, batch by batch, and stores the values that are read outside.
fn advance(
    model: &QuantModel,
    nodes: &[NodeId],
    values: &mut HashMap<NodeId, Tensor>,
    precision: Precision,
) -> Result<()> {
    let graph = model.graph();
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let exits: Vec<NodeId> = nodes
        .iter()
        .copied()
        .filter(|id| *id == graph.output() || graph.consumers(*id).iter().any(|c| !inside.contains(c)))
        .collect();
    let entries: HashSet<NodeId> =
        nodes.iter().flat_map(|id| &graph.node(*id).inputs).filter(|i| !inside.contains(i)).copied().collect();
    let Some(samples) = entries.iter().find_map(|e| values.get(e)?.dims().first().copied()) else {
        return Ok(());
    };
    let mut parts: HashMap<NodeId, Vec<Tensor>> = HashMap::new();
    for start in (0..samples).step_by(BATCH) {
        let count = BATCH.min(samples - start);
        let mut batch = HashMap::new();
        for entry in &entries {
            let all = values
                .get(entry)
                .ok_or_else(|| Error::graph(&graph.node(*entry).name, "its cached value is missing"))?;
            batch.insert(*entry, all.narrow(0, start, count)?);
        }
        for id in nodes {
            let inputs: Vec<&Tensor> = graph.node(*id).inputs.iter().filter_map(|i| batch.get(i)).collect();
            let value = model.node_value(*id, &inputs, precision)?;
            batch.insert(*id, value);
        }
        for exit in &exits {
            parts.entry(*exit).or_default().extend(batch.remove(exit));
        }
    }
    for (exit, parts) in parts {
        values.insert(exit, Tensor::cat(&parts, 0).doing("collecting cached values")?);
    }
    Ok(())
}
