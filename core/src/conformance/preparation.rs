//! Conformance checks of a preparation.

use super::toy::{place, toy_quantizer};
use super::{normal, require, Report};
use crate::cache::CachedValues;
use crate::difference::relative_change;
use crate::error::{Error, Result};
use crate::graph::{Conv2d, Graph, GraphBuilder};
use crate::model::{Precision, QuantModel};
use crate::ops::{host_values, Activation};
use crate::params::Params;
use crate::preparation::{Change, Preparation, PreparationKind, Preparing};
use crate::progress::{Progress, Silent};
use crate::registry::Entry;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

const IMAGES: usize = 24;
const BITS: u32 = 4;

pub fn check(entry: &'static Entry<PreparationKind>, report: &mut Report) {
    let build = || entry.build(&Params::none("conformance"));
    report.run("it is built without parameters", || build().map(|_| ()));
    let Ok(preparation) = build() else { return };
    report.run("rewriting keeps names, shapes and every bit of the outputs", || rewriting(&*preparation));
    report.run("preparing keeps names, shapes and, up to the tolerance, the outputs", || preparing(&*preparation));
    report.run("the same network and images give the same parameters", || repeated(&*preparation));
    report.run("a request to stop is passed on", || stopped(&*preparation));
}

/// A network with what preparations meet: unequal channels, ReLU6, a depthwise convolution, a residual stream, a gate, and
/// the functions through which no factor passes.
pub(super) fn network() -> Result<QuantModel> {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let image = b.input();
    let stem = b.unit("stem", |b| {
        let x = b.conv2d("stem", image, Conv2d::new(6, 3).padding(1).bias())?;
        b.relu("stem.relu", x)
    })?;
    let block = b.unit("block", |b| {
        let x = b.conv2d("expand", stem, Conv2d::new(12, 1).bias())?;
        let x = b.relu6("expand.relu6", x)?;
        let x = b.conv2d("depthwise", x, Conv2d::new(12, 3).padding(1).groups(12).bias())?;
        let x = b.relu6("depthwise.relu6", x)?;
        let x = b.conv2d("project", x, Conv2d::new(6, 1).bias())?;
        b.add("sum", stem, x)
    })?;
    let gated = b.unit("gated", |b| {
        let x = b.conv2d("value", block, Conv2d::new(8, 1).bias())?;
        let x = b.activation("value.silu", x, Activation::Silu)?;
        let gate = b.global_average_pool("squeeze", x)?;
        let gate = b.conv2d("excite", gate, Conv2d::new(8, 1).bias())?;
        let gate = b.activation("excite.sigmoid", gate, Activation::Sigmoid)?;
        b.mul("gate", x, gate)
    })?;
    let last = b.unit("classifier", |b| {
        let x = b.global_average_pool("pool", gated)?;
        let x = b.flatten("flatten", x)?;
        b.linear("classifier", x, 5)
    })?;
    let graph = b.finish(last)?;
    let mut parameters = HashMap::new();
    for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
        let row = shape[1..].iter().product::<usize>();
        // Every third channel is small.
        let scale = |index: usize| if index / row % 3 == 1 { 0.05 } else { 1.0 } / (row as f32).sqrt();
        let noise = normal(shape.iter().product(), 70 + i as u64).into_iter().enumerate();
        let values: Vec<f32> = noise.map(|(index, v)| v * scale(index)).collect();
        parameters.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(QuantModel::new(graph, parameters, Device::Cpu))
}

fn images() -> Result<Tensor> {
    Ok(Tensor::from_vec(normal(IMAGES * 3 * 64, 69), (IMAGES, 3, 8, 8), &Device::Cpu)?)
}

fn outputs(model: &QuantModel) -> Result<Vec<f32>> {
    let all = model.forward(&images()?, Precision::Float)?;
    Ok(host_values(&all[0], <[f32]>::to_vec)?)
}

/// Names of nodes and shapes of values.
fn shapes(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    graph.nodes().map(|(_, node)| (node.name.clone(), node.shape.clone())).collect()
}

/// A copy with quantizers.
pub(super) fn calibrated(model: &QuantModel) -> Result<QuantModel> {
    let mut copy = model.float_copy();
    place(&mut copy, BITS, [[-2.0, 4.0]; 2], &|spec, _| Ok(toy_quantizer(spec)))?;
    Ok(copy)
}

fn apply(preparation: &dyn Preparation, model: &mut QuantModel, progress: &dyn Progress) -> Result<Vec<Change>> {
    preparation.apply(&mut Preparing::new(model, &*CachedValues::in_memory(&images()?)?, &calibrated, progress))
}

fn rewriting(preparation: &dyn Preparation) -> Result<()> {
    let mut model = network()?;
    let (names, before) = (shapes(model.graph()), outputs(&model)?);
    preparation.outline(model.graph())?;
    preparation.rewrite(&mut model)?;
    require(shapes(model.graph()) == names, || "a node's name, or the shape of its value, changed".into())?;
    require(outputs(&model)? == before, || "an output changed; `rewrite` must not change values".into())
}

fn preparing(preparation: &dyn Preparation) -> Result<()> {
    let mut model = network()?;
    let (names, before) = (shapes(model.graph()), outputs(&model)?);
    preparation.rewrite(&mut model)?;
    apply(preparation, &mut model, &Silent)?;
    require(shapes(model.graph()) == names, || "a node's name, or the shape of its value, changed".into())?;
    for (name, shape) in model.graph().parameter_shapes() {
        let own = model.parameter(&name)?;
        require(own.dims() == shape, || format!("'{name}' has the shape {:?}, not {shape:?}", own.dims()))?;
        let finite = host_values(own, |v| v.iter().all(|v| v.is_finite()))?;
        require(finite, || format!("'{name}' holds a value that is not a finite number"))?;
    }
    let change = relative_change(&before, &outputs(&model)?);
    require(change <= preparation.tolerance(), || {
        format!(
            "an output changes by {change:.1e} of the largest, more than the stated {:.1e}",
            preparation.tolerance()
        )
    })
}

fn repeated(preparation: &dyn Preparation) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut model = network()?;
        preparation.rewrite(&mut model)?;
        apply(preparation, &mut model, &Silent)?;
        let mut parameters: Vec<(String, Vec<f32>)> = Vec::new();
        for (name, value) in model.parameters() {
            parameters.push((name.clone(), host_values(value, <[f32]>::to_vec)?));
        }
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        all.push(parameters);
    }
    require(all[0] == all[1], || "the second time the parameters were others".into())
}

/// Requests to stop at once.
struct Stopped;

impl Progress for Stopped {
    fn event(&self, _: crate::progress::Event<'_>) {}

    fn cancelled(&self) -> bool {
        true
    }
}

fn stopped(preparation: &dyn Preparation) -> Result<()> {
    let mut model = network()?;
    preparation.rewrite(&mut model)?;
    match apply(preparation, &mut model, &Stopped) {
        // One that looks at no image may be too short to stop.
        Ok(_) | Err(Error::Cancelled) => Ok(()),
        Err(other) => Err(other),
    }
}
