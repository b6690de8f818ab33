//! Values of all calibration samples, which advance through the network with the finished units.

use super::Resources;
use crate::cache::CachedValues;
use crate::error::{Error, Result};
use crate::graph::{NodeId, Subgraph, Unit};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One value for all samples, by its node.
type Values = HashMap<NodeId, Arc<CachedValues>>;

/// Those values of all calibration samples that later nodes still read, both from the full-precision network and
/// from the network quantized so far.
///
/// Where a head reads the network's outputs, values of early units are read again by late ones: those of a detector's neck. If
/// memory is short, they are not kept in files but computed again from the images, which gives the same values.
pub(super) struct MovingValues<'a> {
    pub float: Values,
    pub quantized: Values,
    done: HashSet<NodeId>,
    /// The parts of the network that all values went through, in their order.
    passed: Vec<Subgraph>,
    pub resources: &'a Resources<'a>,
}

impl<'a> MovingValues<'a> {
    /// The images, which are the network's input.
    pub fn new(input: NodeId, resources: &'a Resources<'a>) -> Self {
        let images = || HashMap::from([(input, resources.images.clone())]);
        let (done, passed) = (HashSet::from([input]), Vec::new());
        Self { float: images(), quantized: images(), done, passed, resources }
    }

    /// Nodes before `node` that were not computed yet: the nodes between units.
    pub fn pending_before(&self, model: &QuantModel, node: NodeId) -> Vec<NodeId> {
        let ids = model.graph().nodes().map(|(id, _)| id);
        ids.filter(|id| *id < node && !self.done.contains(id)).collect()
    }

    /// Lets all values go through a part of the network, in the float network and in the quantized one.
    pub fn pass(&mut self, models: (&QuantModel, &QuantModel), part: &Subgraph) -> Result<()> {
        if part.nodes().is_empty() {
            return Ok(());
        }
        self.provide(models, part.inputs())?;
        self.advance(models.0, part, Precision::Float)?;
        self.advance(models.1, part, Precision::Quantized)?;
        self.done(part);
        Ok(())
    }

    /// Computes a part of the network for all samples, batch by batch, and caches its outputs.
    pub fn advance(&mut self, model: &QuantModel, part: &Subgraph, precision: Precision) -> Result<()> {
        let values = match precision {
            Precision::Float => &mut self.float,
            Precision::Quantized => &mut self.quantized,
        };
        advance(model, part, values, precision, self.resources)
    }

    /// All values went through this part.
    pub fn done(&mut self, part: &Subgraph) {
        self.done.extend(part.nodes());
        self.passed.push(part.clone());
    }

    /// Computes those of the given values again that were dropped, in the float network and in the quantized one.
    pub fn provide(&mut self, (float, quantized): (&QuantModel, &QuantModel), ids: &[NodeId]) -> Result<()> {
        let Self { passed, resources, .. } = self;
        again(float, Precision::Float, ids, (passed, &mut self.float), resources)?;
        again(quantized, Precision::Quantized, ids, (passed, &mut self.quantized), resources)
    }

    /// Frees values that no later node reads. If memory is short and a head reads the outputs, also those that the unit that comes
    /// next does not read.
    pub fn forget(&mut self, model: &QuantModel, next: &Unit) {
        let graph = model.graph();
        let needed = |id: &NodeId| graph.consumers(*id).iter().any(|c| !self.done.contains(c));
        // Losses on the network's outputs read all of them, and values that bypass a unit; there are none where a head reads them.
        let outputs = if model.has_head() { &[] } else { graph.outputs() };
        self.float.retain(|id, _| needed(id) || outputs.contains(id));
        self.quantized.retain(|id, _| needed(id));
        let is_short = self.float.values().chain(self.quantized.values()).any(|all| all.spilled_bytes() > 0);
        if model.has_head() && is_short {
            let first = next.nodes().first();
            let is_next = |id: &NodeId| {
                let soon = |c: &NodeId| next.subgraph.contains(*c) || (Some(c) < first && !self.done.contains(c));
                graph.consumers(*id).iter().any(soon)
            };
            self.float.retain(|id, _| is_next(id));
            self.quantized.retain(|id, _| is_next(id));
        }
    }
}

/// Computes a part of the network for all samples, batch by batch, and caches its outputs.
pub(super) fn advance(
    model: &QuantModel,
    part: &Subgraph,
    values: &mut Values,
    precision: Precision,
    resources: &Resources<'_>,
) -> Result<()> {
    compute(model, std::slice::from_ref(part), part.outputs(), values, precision, resources)
}

/// Computes those of the values `ids` again that are not there, from those that are, or from the images.
fn again(
    model: &QuantModel,
    precision: Precision,
    ids: &[NodeId],
    (passed, values): (&[Subgraph], &mut Values),
    resources: &Resources<'_>,
) -> Result<()> {
    let missing: Vec<NodeId> = ids.iter().copied().filter(|id| !values.contains_key(id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let input = model.graph().input();
    values.entry(input).or_insert_with(|| resources.images.clone());
    let mut wanted: HashSet<NodeId> = missing.iter().copied().collect();
    let mut parts = Vec::new();
    for part in passed.iter().rev() {
        if part.outputs().iter().any(|output| wanted.contains(output)) {
            wanted.extend(part.inputs().iter().filter(|id| !values.contains_key(id)));
            parts.push(part.clone());
        }
    }
    parts.reverse();
    compute(model, &parts, &missing, values, precision, resources)
}

/// Computes parts of the network one after the other for all samples, batch by batch, and caches the values `kept`. Between two
/// parts values are rounded as cached ones are.
fn compute(
    model: &QuantModel,
    parts: &[Subgraph],
    kept: &[NodeId],
    values: &mut Values,
    precision: Precision,
    resources: &Resources<'_>,
) -> Result<()> {
    let graph = model.graph();
    let Some(first) = parts.iter().flat_map(Subgraph::inputs).find_map(|input| values.get(input)) else {
        return Ok(());
    };
    let (samples, together) = (first.samples(), first.together());
    let inferences = parts.iter().map(|part| Inference::new(model, precision, part.clone()));
    let mut inferences = inferences.collect::<Result<Vec<_>>>()?;
    let group = first.group();
    let empty = || CachedValues::new(resources.cache.clone(), model.device().clone()).in_groups(group);
    let mut computed: Vec<(NodeId, CachedValues)> = kept.iter().map(|id| (*id, empty())).collect();
    for start in (0..samples).step_by(together) {
        let count = together.min(samples - start);
        let mut batch: HashMap<NodeId, Tensor> = HashMap::new();
        for (i, (part, inference)) in parts.iter().zip(&mut inferences).enumerate() {
            if resources.progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let read = |input: &NodeId| match (batch.get(input), values.get(input)) {
                (Some(value), _) => Ok(value.clone()),
                (None, Some(all)) => all.range(start, count),
                (None, None) => Err(Error::graph(&graph.node(*input).name, "its cached value is missing")),
            };
            let inputs = part.inputs().iter().map(read).collect::<Result<Vec<_>>>()?;
            for (output, value) in part.outputs().iter().zip(inference.run(&inputs)?) {
                if let Some((_, all)) = computed.iter_mut().find(|(id, _)| id == output) {
                    all.push(&value).map_err(|e| Error::graph(&graph.node(*output).name, e))?;
                }
                if i + 1 < parts.len() {
                    let rounded =
                        resources.cache.rounded(&value).map_err(|e| Error::graph(&graph.node(*output).name, e));
                    batch.insert(*output, rounded?);
                }
            }
            batch.retain(|id, _| parts[i + 1..].iter().any(|later| later.inputs().contains(id)));
        }
    }
    values.extend(computed.into_iter().map(|(id, all)| (id, Arc::new(all))));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheBudget, CacheType};
    use crate::engine::Engine;
    use crate::graph::{Conv2d, Graph, GraphBuilder};
    use crate::head::{Head, ImageSize, Output};
    use crate::progress::Silent;
    use crate::random::SeededRandom;
    use candle_core::Device;

    /// Some head.
    struct Nothing;

    impl Head for Nothing {
        fn parameters(&self) -> Vec<(String, Vec<usize>)> {
            Vec::new()
        }

        fn outputs(&self) -> Vec<Output> {
            Vec::new()
        }

        fn forward(&self, _: &[Tensor], _: &HashMap<String, Tensor>, _: &[ImageSize]) -> Result<Vec<Tensor>> {
            Ok(Vec::new())
        }
    }

    /// Three units in a row, a sum between units, and a last unit that reads it.
    fn graph() -> Graph {
        let mut b = GraphBuilder::new([2, 6, 5]);
        let conv = |b: &mut GraphBuilder, name: &str, x: NodeId| {
            b.unit(name, |b| b.conv2d(name, x, Conv2d::new(2, 3).padding(1).bias())).unwrap()
        };
        let x = b.input();
        let first = conv(&mut b, "first", x);
        let second = conv(&mut b, "second", first);
        let third = conv(&mut b, "third", second);
        let sum = b.add("sum", first, third).unwrap();
        let last = conv(&mut b, "last", sum);
        b.finish(last).unwrap()
    }

    fn values_of(seed: u64, shape: &[usize]) -> Tensor {
        let values = qdrop_kernels::testing::uniform(shape.iter().product(), -1.0..1.0, seed);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_that_were_dropped_are_computed_again() {
        let graph = graph();
        let shapes = graph.parameter_shapes().into_iter().enumerate();
        let parameters: HashMap<_, _> = shapes.map(|(i, (name, shape))| (name, values_of(i as u64, &shape))).collect();
        let model = QuantModel::new(graph.clone(), parameters, Device::Cpu).with_head(Some(Arc::new(Nothing)));
        let units = graph.units();
        let first = units[0].subgraph.outputs()[0];
        let dir = tempfile::tempdir().unwrap();
        for kept_as in [CacheType::F32, CacheType::F16] {
            // The values that the last unit reads, with enough memory and without any.
            let [enough, none] = [u64::MAX, 0].map(|limit| {
                let cache = CacheBudget::new(limit, kept_as, dir.path().into());
                let mut images = CachedValues::new(cache.clone(), Device::Cpu);
                images.push(&values_of(9, &[3, 2, 6, 5])).unwrap();
                let resources = Resources {
                    images: Arc::new(images),
                    cache,
                    random: &SeededRandom { seed: 1 },
                    progress: &Silent,
                    engine: Engine::Auto,
                    merge: &[],
                    checkpoints: None,
                };
                let mut values = MovingValues::new(graph.input(), &resources);
                for (i, unit) in units.iter().enumerate().take(3) {
                    values.pass((&model, &model), &unit.subgraph).unwrap();
                    values.forget(&model, &units[i + 1]);
                    // The second unit reads the first one's output; then it waits for the sum.
                    let waits = values.float.contains_key(&first) && values.quantized.contains_key(&first);
                    assert_eq!(waits, i == 0 || limit > 0, "{kept_as:?}, after unit {i}");
                }
                let between = values.pending_before(&model, units[3].nodes()[0]);
                values.pass((&model, &model), &graph.subgraph(between)).unwrap();
                values.forget(&model, &units[3]);
                let input = units[3].subgraph.inputs()[0];
                assert_eq!(values.float.keys().collect::<Vec<_>>(), [&input]);
                let read = |all: &Values| all[&input].range(0, 3).unwrap().flatten_all().unwrap().to_vec1::<f32>();
                (read(&values.float).unwrap(), read(&values.quantized).unwrap())
            });
            assert_eq!(enough, none, "{kept_as:?}");
        }
    }
}
