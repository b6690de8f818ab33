//! Estimates the time and memory of a run before it begins.

use super::reconstruct::units_of;
use super::Session;
use crate::cache::CachedValues;
use crate::engine::{UnitData, UnitSamples};
use crate::error::{Error, Result};
use crate::graph::{network_unit, unit_costs, Graph, NodeId, Unit};
use crate::grid::Range;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::progress::{Event, Progress};
use crate::random::{stream, Purpose};
use crate::reconstructor::{Context, Forget, UnitTask};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

/// Images of random noise for the measurement.
const IMAGES: usize = 4;

/// The same for a network: one is enough for those of images of any size, which are large.
fn images_for(graph: &Graph) -> usize {
    if graph.any_size() {
        1
    } else {
        IMAGES
    }
}
/// Steps of each unit that are measured.
const STEPS: usize = 2;

/// The estimated time and memory of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Units to reconstruct.
    pub units: usize,
    /// Steps of each unit.
    pub steps: usize,
    /// Seconds of reconstruction.
    pub seconds: f64,
    /// Largest size of the cached values, in memory and files.
    pub cache_bytes: u64,
    /// Largest size of the values that calibration holds at once.
    pub calibration_bytes: u64,
}

/// Records when steps end. It forwards requests to stop, but no events.
struct Clock<'a> {
    progress: &'a dyn Progress,
    steps: Mutex<Vec<Instant>>,
}

impl Clock<'_> {
    /// Seconds of the last step, if there were at least two. The first step does not count, because it also allocates
    /// memory.
    fn last_step(&self) -> Option<f64> {
        let steps = self.steps.lock().unwrap_or_else(|e| e.into_inner());
        match steps.as_slice() {
            [.., before, last] => Some(last.duration_since(*before).as_secs_f64()),
            _ => None,
        }
    }
}

impl Progress for Clock<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            self.steps.lock().unwrap_or_else(|e| e.into_inner()).push(Instant::now());
        }
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}

impl Session<'_> {
    /// Runs two steps of every unit on noise, with the recipe's batch size, and extrapolates.
    /// `model` is a float network of the session; its weights do not matter.
    ///
    /// # Errors
    /// A unit cannot be reconstructed, or the run was cancelled.
    pub fn estimate(&self, mut model: QuantModel, progress: &dyn Progress) -> Result<Estimate> {
        let mut reconstructor = self.build_reconstructor()?;
        let steps = reconstructor.steps();
        let units = units_of(model.graph(), reconstructor.grouping(), &self.recipe().reconstruction.merge)?;
        let samples = self.recipe().calibration.images;
        let value_size = self.recipe().cache.dtype.size();
        let has_head = model.has_head();
        let cached =
            |waiting: bool| (samples * value_size * cached_values(model.graph(), &units, !has_head, waiting)) as u64;
        let limit = self.recipe().cache.limit.as_u64();
        let cache_bytes = match cached(true) {
            // Values that wait for a late unit are computed again then.
            all if has_head && all > limit => cached(false).max(limit),
            all => all,
        };
        let calibration = &self.recipe().calibration;
        let observed = calibration.group.unwrap_or(calibration.observe);
        let mut estimate = Estimate {
            units: units.len(),
            steps,
            seconds: 0.0,
            cache_bytes,
            calibration_bytes: (observed.min(samples) * 4 * live_values(model.graph())) as u64,
        };
        if steps == 0 {
            return Ok(estimate);
        }
        let network_steps = reconstructor.network_steps();
        let steps_of: Vec<usize> =
            unit_costs(model.graph(), &units).into_iter().map(|cost| reconstructor.steps_at(cost)).collect();
        let network = (network_steps > 0).then(|| network_unit(model.graph())).transpose()?;
        reconstructor.shorten(STEPS.min(steps))?;
        let start = Instant::now();
        let values = self.with_noise_ranges(&mut model)?;
        let forward = start.elapsed().as_secs_f64() / images_for(model.graph()) as f64;
        let total = units.len() + network.iter().len();
        progress.event(Event::Started { stage: "estimating the time", total });
        for (index, unit) in units.iter().chain(&network).enumerate() {
            let whole = index == units.len();
            let of = |ids: &[NodeId]| -> Result<Vec<Tensor>> {
                let missing = || Error::graph(&unit.name, "a value of it was not computed");
                ids.iter().map(|id| values.get(id).cloned().ok_or_else(missing)).collect()
            };
            let inputs = of(unit.subgraph.inputs())?;
            let float_outputs = of(unit.subgraph.outputs())?;
            let data = UnitData { quantized_inputs: inputs.clone(), float_inputs: inputs, float_outputs };
            let rest = model.graph().after(&unit.subgraph);
            let passing = rest.inputs().iter().filter(|id| !unit.subgraph.outputs().contains(id));
            let passing = passing.map(|id| Ok((*id, CachedValues::in_memory(&of(&[*id])?[0])?)));
            let samples = UnitSamples { passing: passing.collect::<Result<_>>()?, ..UnitSamples::in_memory(&data)? };
            let mut task = UnitTask::new(&mut model, unit, index, samples)?;
            let clock = Clock { progress, steps: Mutex::default() };
            let context = Context {
                random: &self.random(),
                progress: &clock,
                interruption: &Forget,
                engine: self.recipe().engine,
            };
            let begin = Instant::now();
            let report = match whole {
                true => reconstructor.reconstruct_network(&mut task, &context)?,
                false => reconstructor.reconstruct(&mut task, &context)?,
            };
            let mean = || begin.elapsed().as_secs_f64() / report.losses.len().max(1) as f64;
            let step = clock.last_step().unwrap_or_else(mean);
            estimate.seconds += step * if whole { network_steps } else { steps_of[index] } as f64;
            progress.event(Event::Advanced(index + 1));
        }
        progress.event(Event::Finished);
        // Every value is computed twice for all samples, with float and with quantized inputs.
        estimate.seconds += 2.0 * forward * samples as f64;
        Ok(estimate)
    }

    /// A network for measurements of time: all weights are zero, and its quantizers have ranges that were observed on
    /// noise.
    ///
    /// # Errors
    /// As [`zero_model`](Self::zero_model).
    pub fn noise_model(&self) -> Result<QuantModel> {
        let mut model = self.zero_model()?;
        self.with_noise_ranges(&mut model)?;
        Ok(model)
    }

    /// Gives all quantizers a range and returns the values of all nodes for images of noise.
    fn with_noise_ranges(&self, model: &mut QuantModel) -> Result<HashMap<NodeId, Tensor>> {
        let plans = self.plans_of(model.graph())?;
        self.place(model, &plans)?;
        let dims = [&[images_for(model.graph())], model.graph().input_shape()].concat();
        let random = stream(0, Purpose::Calibration, 0, 0);
        let noise: Vec<f32> = (0..dims.iter().product()).map(|i| random.uniform(i) as f32 * 4.0 - 2.0).collect();
        let images = Tensor::from_vec(noise, dims, model.device())?;
        // The values of all nodes.
        let ids: Vec<NodeId> = model.graph().nodes().skip(1).map(|(id, _)| id).collect();
        let all = model.graph().subgraph_with_outputs(ids.iter().copied(), ids.clone());
        let computed = model.run(&all, std::slice::from_ref(&images), Precision::Float)?;
        let mut values: HashMap<NodeId, Tensor> = ids.iter().copied().zip(computed).collect();
        values.insert(model.graph().input(), images);
        let device = model.device().clone();
        for id in &ids {
            if model.weight_site_mut(*id).is_some() {
                let range = range_of(model.weight(*id)?)?;
                if let Some(site) = model.weight_site_mut(*id) {
                    let channels = site.quantizer.spec().granularity.channels(&range.1)?.count;
                    site.quantizer.set_range(&repeated(&range.0, channels), &device)?;
                }
            }
            if let (Some(site), Some(value)) = (model.activation_site_mut(*id), values.get(id)) {
                let range = range_of(value)?;
                let channels = site.quantizer.spec().granularity.channels(&range.1)?.count;
                site.quantizer.set_range(&repeated(&range.0, channels), &device)?;
            }
        }
        Ok(values)
    }
}

/// Smallest and largest element, and the shape.
fn range_of(x: &Tensor) -> Result<((f32, f32), Vec<usize>)> {
    // Any non-empty, finite range serves, because the time of a step does not depend on it.
    let (low, high) = host_values(x, qdrop_kernels::range_search::min_max)?;
    let bound = |v: f32| if v.is_finite() { v } else { 1.0 };
    Ok(((bound(low).min(-1e-3), bound(high).max(1e-3)), x.dims().to_vec()))
}

fn repeated((low, high): &(f32, f32), channels: usize) -> Range {
    Range { min: vec![*low; channels], max: vec![*high; channels] }
}

/// The largest number of cached elements per sample at any time, float and quantized. With `keep_outputs` the network's outputs
/// stay, and with `waiting` also values that wait for a later unit than the next.
fn cached_values(graph: &Graph, units: &[Unit], keep_outputs: bool, waiting: bool) -> usize {
    let is_read = |id: &NodeId, done: &HashSet<NodeId>| {
        let output = keep_outputs && graph.outputs().contains(id);
        output || graph.consumers(*id).iter().any(|c| !done.contains(c))
    };
    let size = |id: &NodeId| graph.node(*id).shape.iter().product::<usize>();
    let mut done: HashSet<NodeId> = HashSet::from([graph.input()]);
    let mut peak = 0;
    for unit in units {
        let Some(first) = unit.nodes().first() else { continue };
        let between: Vec<NodeId> =
            graph.nodes().map(|(id, _)| id).filter(|id| id < first && !done.contains(id)).collect();
        for nodes in [between, unit.nodes().to_vec()] {
            let is_next = |id: &NodeId| graph.consumers(*id).iter().any(|c| nodes.contains(c));
            let stays = |id: &&NodeId| is_read(id, &done) && (waiting || is_next(id));
            let before: HashSet<NodeId> = done.iter().filter(stays).copied().collect();
            done.extend(&nodes);
            let after = nodes.iter().filter(|id| is_read(id, &done));
            peak = peak.max(2 * (before.iter().map(size).sum::<usize>() + after.map(size).sum::<usize>()));
        }
    }
    peak
}

/// The largest number of elements per image that a float forward pass holds at any time.
fn live_values(graph: &Graph) -> usize {
    let size = |id: NodeId| graph.node(id).shape.iter().product::<usize>();
    let (mut live, mut peak) = (size(graph.input()), 0);
    for (id, node) in graph.nodes().skip(1) {
        live += size(id);
        peak = peak.max(live);
        for input in &node.inputs {
            if graph.consumers(*input).iter().all(|c| *c <= id) {
                live -= size(*input);
            }
        }
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv2d, GraphBuilder};

    #[test]
    fn sizes_of_a_small_network() {
        let mut b = GraphBuilder::new([2, 4, 4]);
        let x = b.input();
        let y = b.unit("a", |b| b.conv2d("a", x, Conv2d::new(8, 3).padding(1))).unwrap();
        let y = b.global_average_pool("pool", y).unwrap();
        let y = b.flatten("flatten", y).unwrap();
        let y = b.unit("b", |b| b.linear("b", y, 3)).unwrap();
        let graph = b.finish(y).unwrap();
        assert_eq!(live_values(&graph), 32 + 128);
        // Unit a: image and output, float and quantized each.
        assert_eq!(cached_values(&graph, graph.units(), true, true), 2 * (32 + 128));
        let macs: u64 = graph.nodes().map(|(id, _)| graph.macs(id)).sum();
        assert_eq!((macs, graph.parameter_count()), (128 * 2 * 9 + 8 * 3, 8 * 2 * 9 + 8 * 3 + 3));
    }
}
