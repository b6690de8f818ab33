//! Conformance checks of an architecture.

use super::{cosine, normal, require, Report};
use crate::architecture::ArchitectureKind;
use crate::difference::relative_change;
use crate::error::{Error, Result};
use crate::graph::{fold_batch_norm, quantization_sites, CustomOperator, Graph, NodeId, Op, SiteKind};
use crate::head::{Head, ImageSize, Output, OBJECT_VALUES};
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::params::Params;
use crate::registry::Entry;
use candle_core::{Device, Tensor, Var};
use std::collections::{HashMap, HashSet};

/// Largest change of a logit by batch-norm folding, relative to the largest logit.
const FOLDING: f64 = 1e-3;
/// Least cosine between an operator's gradient and finite differences.
const LEAST_COSINE: f64 = 0.99;

pub fn check(entry: &'static Entry<ArchitectureKind>, report: &mut Report) {
    let build = || -> Result<_> {
        let architecture = entry.build()?;
        let graph = architecture.graph(&Params::none("conformance"))?;
        Ok((architecture, graph))
    };
    if let Err(Error::NotGiven { .. }) = build() {
        report.run("its networks come from a file, which it asks for", || Ok(()));
        report.skip("its graph is built without parameters", "there is no file");
        return;
    }
    let (mut graph, mut head) = (None, None);
    report.run("its graph is built without parameters", || {
        let (architecture, built) = build()?;
        (graph, head) = (Some(built), architecture.head(&Params::none("conformance"))?);
        Ok(())
    });
    let Some(graph) = graph else { return };
    report.run("every layer lies in one unit, and units follow the network's order", || check_units(&graph));
    report.run("something is quantized, and the output is not", || {
        let sites = quantization_sites(&graph);
        require(sites.iter().any(|s| s.kind == SiteKind::Weight), || "the network has no layer".into())?;
        require(sites.iter().any(|s| s.kind == SiteKind::Activation), || "no activation would be quantized".into())
    });
    report.run("names of checkpoints are one to one", || {
        let (architecture, graph) = build()?;
        let of_head = architecture.head(&Params::none("conformance"))?.map(|head| head.parameters());
        let names: Vec<_> = graph.parameter_shapes().into_iter().chain(of_head.into_iter().flatten()).collect();
        for (i, map) in architecture.key_maps(&graph)?.iter().enumerate() {
            let mut seen = HashSet::new();
            for (name, _) in &names {
                let other = map.checkpoint_name(name);
                require(seen.insert(other.clone()), || format!("key map {i} gives '{other}' to two tensors"))?;
            }
            require(graph.parameter_shapes().iter().any(|(name, _)| map.checkpoint_name(name) != *name), || {
                format!("key map {i} changes no name of the graph; are its names those of the nodes?")
            })?;
        }
        Ok(())
    });
    let small = match graph.for_checks() {
        Ok(small) => small,
        Err(error) => return report.run("takes images of another size, as it says", || Err(error)),
    };
    report.run("folding batch normalization does not change the logits", || check_folding(&small));
    match head {
        None => report.skip("its head gives what it announces", "it has no head"),
        Some(head) => report.run("its head gives what it announces", || check_head(&small, &*head)),
    }
    let custom: Vec<_> = graph.nodes().filter(|(_, n)| matches!(n.op, Op::Custom(_))).map(|(id, _)| id).collect();
    let name = "gradients of its operators agree with finite differences";
    match custom.is_empty() {
        true => report.skip(name, "it has no operators of its own"),
        false => report.run(name, || custom.iter().try_for_each(|id| check_operator(&graph, *id))),
    }
}

fn check_units(graph: &Graph) -> Result<()> {
    require(!graph.units().is_empty(), || "the architecture declares no unit".into())?;
    let mut last = None;
    let mut inside = HashSet::new();
    for unit in graph.units() {
        let first = unit.nodes().first().copied();
        require(first.is_some(), || format!("unit '{}' is empty", unit.name))?;
        require(first > last, || format!("unit '{}' does not come after the one before it", unit.name))?;
        last = unit.nodes().last().copied();
        for node in unit.nodes() {
            require(inside.insert(*node), || format!("'{}' lies in two units", graph.node(*node).name))?;
        }
    }
    let outside = graph.nodes().find(|(id, node)| node.op.has_weight() && !inside.contains(id));
    require(outside.is_none(), || {
        format!("layer '{}' lies in no unit and would not be reconstructed", outside.map_or("", |(_, n)| &n.name))
    })
}

/// Checks the outputs of a head for random features.
fn check_head(graph: &Graph, head: &dyn Head) -> Result<()> {
    let random = |shape: &[usize], seed: u64| -> Result<Tensor> {
        Ok(Tensor::from_vec(normal(shape.iter().product(), seed), shape, &Device::Cpu)?)
    };
    let features = graph.outputs().iter().enumerate();
    let features = features.map(|(i, id)| random(&[&[1], graph.node(*id).shape.as_slice()].concat(), i as u64));
    let features = features.collect::<Result<Vec<_>>>()?;
    let parameters = head.parameters().into_iter().enumerate().map(|(i, (name, shape))| {
        let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f64;
        Ok((name, (random(&shape, 100 + i as u64)? / fan_in.sqrt())?))
    });
    let parameters: HashMap<String, Tensor> = parameters.collect::<Result<_>>()?;
    let size = ImageSize::whole([1, 2].map(|axis| graph.input_shape().get(axis).copied().unwrap_or(1)));
    let outputs = head.forward(&features, &parameters, &[size])?;
    let announced = head.outputs();
    require(outputs.len() == announced.len(), || format!("{} outputs of {}", outputs.len(), Output::list(&announced)))?;
    for (output, announced) in outputs.iter().zip(&announced) {
        let shape = match announced {
            Output::Values(shape) => [&[1], shape.as_slice()].concat(),
            Output::Objects { most, .. } => vec![1, *most, OBJECT_VALUES],
        };
        require(output.dims() == shape, || format!("an output has the shape {:?}, not {shape:?}", output.dims()))?;
        let values = host_values(output, <[f32]>::to_vec)?;
        require(values.iter().all(|v| v.is_finite()), || "an output holds a number that is not finite".into())?;
    }
    Ok(())
}

/// Random parameters. The weights are small, so that values do not grow from block to block. A large value
/// would saturate a sigmoid, and rounding errors would change the logits.
fn parameters(graph: &Graph) -> Result<HashMap<String, Tensor>> {
    let mut all = HashMap::new();
    for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
        let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f32;
        // Variances and the bounds of clips must be positive; the factors of batch normalization usually are.
        let around_one = ["weight", "running_var", "bound"].iter().any(|end| name.ends_with(end));
        let value = |n: f32| match shape.len() {
            1 if around_one => 1.0 + 0.3 * n.clamp(-2.0, 2.0),
            1 => 0.1 * n,
            _ => n / fan_in.sqrt(),
        };
        let values: Vec<f32> = normal(shape.iter().product(), i as u64).into_iter().map(value).collect();
        all.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(all)
}

fn check_folding(graph: &Graph) -> Result<()> {
    let mut parameters = parameters(graph)?;
    let dims = [&[1], graph.input_shape()].concat();
    let image = Tensor::from_vec(normal(dims.iter().product(), 7), dims, &Device::Cpu)?;
    let outputs = |graph: Graph, parameters| -> Result<Vec<f32>> {
        let model = QuantModel::new(graph, parameters, Device::Cpu);
        let all = model.forward(&image, Precision::Float)?;
        let values = all.iter().map(|x| host_values(x, <[f32]>::to_vec)).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(values.concat())
    };
    let before = outputs(graph.clone(), parameters.clone())?;
    let folded = fold_batch_norm(graph.clone(), &mut parameters)?;
    let after = outputs(folded, parameters)?;
    let size = before.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    require(size.is_finite() && size > 0.0, || format!("the largest logit is {size}"))?;
    let change = relative_change(&before, &after);
    require(change <= FOLDING, || format!("a logit changes by {change:.1e} of the largest"))
}

/// Checks the gradients of an operator that the architecture defines.
fn check_operator(graph: &Graph, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    let Op::Custom(operator) = &node.op else { return Ok(()) };
    let at = |e: Error| Error::graph(&node.name, e);
    let shapes: Vec<Vec<usize>> = node.inputs.iter().map(|i| graph.node(*i).shape.clone()).collect();
    let mut inputs = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let dims = [&[2], shape.as_slice()].concat();
        let noise = normal(dims.iter().product(), 20 + i as u64);
        inputs.push(Var::from_tensor(&Tensor::from_vec(noise, dims, &Device::Cpu)?)?);
    }
    let mut own = Vec::new();
    for (i, (_, shape)) in operator.parameters().iter().enumerate() {
        own.push(Tensor::from_vec(normal(shape.iter().product(), 30 + i as u64), shape.as_slice(), &Device::Cpu)?);
    }
    (0..inputs.len()).try_for_each(|i| compare(operator, &inputs, &own, i)).map_err(at)
}

fn compare(operator: &CustomOperator, inputs: &[Var], own: &[Tensor], varied: usize) -> Result<()> {
    let own: Vec<&Tensor> = own.iter().collect();
    let value = |inputs: &[Tensor]| operator.forward(&inputs.iter().collect::<Vec<_>>(), &own);
    let tracked: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let out = value(&tracked)?;
    let upstream = Tensor::from_vec(normal(out.elem_count(), 40), out.shape(), &Device::Cpu)?;
    let x = &inputs[varied];
    // The input is also read outside of the operator: f(w) = sum(operator(w) * upstream + w). If the plugin had
    // its own copy of candle, its tensors would have ids that tensors of the program already have.
    let gradients = ((&out * &upstream)?.sum_all()? + x.sum_all()?)?.backward()?;
    let gradient = match gradients.get(x.as_tensor()) {
        Some(gradient) => host_values(gradient, <[f32]>::to_vec)?,
        None => vec![0.0; x.elem_count()],
    };
    let values = host_values(x.as_tensor(), <[f32]>::to_vec)?;
    let loss = |i: usize, by: f32| -> Result<f64> {
        let mut moved = values.clone();
        moved[i] += by;
        let mut all: Vec<Tensor> = inputs.iter().map(|v| v.as_detached_tensor()).collect();
        all[varied] = Tensor::from_vec(moved, x.shape(), &Device::Cpu)?;
        let added: f64 = host_values(&all[varied], |x| x.iter().map(|v| f64::from(*v)).sum())?;
        let out = host_values(&value(&all)?, <[f32]>::to_vec)?;
        let sum: f64 = host_values(&upstream, |u| out.iter().zip(u).map(|(o, u)| f64::from(o * u)).sum())?;
        Ok(sum + added)
    };
    const STEP: f32 = 1e-2;
    let (mut analytic, mut differences) = (Vec::new(), Vec::new());
    for i in (0..values.len()).step_by((values.len() / 16).max(1)) {
        analytic.push(f64::from(gradient[i]));
        differences.push((loss(i, STEP)? - loss(i, -STEP)?) / f64::from(2.0 * STEP));
    }
    let cosine = cosine(&analytic, &differences);
    require(cosine >= LEAST_COSINE, || {
        format!("the gradient with respect to input {varied} does not point where finite differences do: cosine {cosine:.3}")
    })
}
