//! From a unit's graph to its plan.

use super::data::Samples;
use super::layer::{Images, Layer, Site};
use super::learned::{Number, Rounding};
use super::shape::{border, convolution, image};
use super::unit::{FusedUnit, Shortcut};
use super::weight::Weight;
use super::{refuse, FusedKernel};
use crate::error::Result;
use crate::graph::{Graph, NodeId, Op};
use crate::grid::Granularity;
use crate::model::{QuantModel, QuantSite};
use crate::ops::{host_values, Activation};
use crate::reconstructor::UnitSamples;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::drop::Choices;
use qdrop_kernels::nhwc::stage::{groups_of_row, Sums, TensorGrid};
use qdrop_kernels::nhwc::{border_of_gradient, Layout, Layouts, Packing};

/// Bytes that the buffers of one chunk should not exceed: what a share of the last-level cache holds.
const CACHE: usize = 10 << 20;

/// A node of the chain with the activation function after it, and the node whose value that is.
struct Link {
    node: NodeId,
    activation: Option<Activation>,
    value: NodeId,
}

/// The parts of a unit: a chain of layers from its input, and what is added to it at its end.
struct Parts {
    chain: Vec<Link>,
    end: Option<Link>,
    projection: Option<NodeId>,
    identity: bool,
}

/// Finds the parts, or says why the unit has others.
fn parts(graph: &Graph, nodes: &[NodeId], input: NodeId, output: NodeId) -> std::result::Result<Parts, String> {
    let readers =
        |id: NodeId| -> Vec<NodeId> { graph.consumers(id).into_iter().filter(|c| nodes.contains(c)).collect() };
    let name = |id: NodeId| format!("'{}' ({})", graph.node(id).name, graph.node(id).op.name());
    // Follows a value to the next node that is no activation function.
    let link = |node: NodeId| -> std::result::Result<(Link, Option<NodeId>), String> {
        let mut link = Link { node, activation: None, value: node };
        loop {
            let next = match readers(link.value)[..] {
                _ if link.value == output => return Ok((link, None)),
                [next] => next,
                _ => return Err(format!("the value of {} is read more than once", name(link.value))),
            };
            match graph.node(next).op {
                Op::Activation(activation) if link.activation.is_none() => {
                    (link.activation, link.value) = (Some(activation), next);
                }
                _ => return Ok((link, Some(next))),
            }
        }
    };
    let is_layer = |id: NodeId| graph.node(id).op.has_weight();
    let (mut chain, mut end, mut projection, mut identity) = (Vec::new(), None, None, false);
    // Of several layers that read the input, the chain begins with the one that does not lead straight to
    // the addition.
    let starts: Vec<NodeId> = readers(input).into_iter().filter(|id| is_layer(*id)).collect();
    let straight = |id: &NodeId| readers(*id).first().is_some_and(|r| graph.node(*r).op == Op::Add);
    let Some(start) = starts.iter().find(|id| starts.len() == 1 || !straight(id)).copied() else {
        return Err("no layer reads its input alone".into());
    };
    let mut next = Some(start);
    while let Some(node) = next {
        let (this, after) = match &graph.node(node).op {
            op if op.has_weight() => link(node)?,
            Op::Add => {
                let other =
                    graph.node(node).inputs.iter().copied().find(|i| chain.last().is_none_or(|l: &Link| l.value != *i));
                match other {
                    Some(other) if other == input => identity = true,
                    Some(other) if is_layer(other) && graph.node(other).inputs == [input] => projection = Some(other),
                    _ => return Err(format!("{} adds something else than the input or a layer of it", name(node))),
                }
                let (this, after) = link(node)?;
                if after.is_some() {
                    return Err(format!("{} is not the end", name(node)));
                }
                end = Some(this);
                break;
            }
            _ => return Err(format!("{} has no fused form", name(node))),
        };
        chain.push(this);
        next = after;
    }
    let used = chain.iter().chain(&end).map(|l| if l.activation.is_some() { 2 } else { 1 }).sum::<usize>()
        + usize::from(projection.is_some());
    if used != nodes.len() {
        return Err("it is no chain of layers with a shortcut".into());
    }
    Ok(Parts { chain, end, projection, identity })
}

/// Compiles a unit that has begun reconstruction, or says why it cannot be.
pub fn compile(
    model: &QuantModel,
    nodes: &[NodeId],
    (input, output): (NodeId, NodeId),
    samples: &UnitSamples,
    batch: usize,
) -> Result<std::result::Result<FusedUnit, String>> {
    if !model.device().is_cpu() {
        return refuse("the fused step runs on the CPU");
    }
    let graph = model.graph();
    let parts = match parts(graph, nodes, input, output) {
        Ok(parts) => parts,
        Err(why) => return refuse(why),
    };
    // In the chunk's buffers: input, target, and for every link a layer's value, its stage's and a gradient.
    let size = |id: NodeId| image(graph, id).iter().product::<usize>();
    let each = 2 * size(input) + 2 * size(output) + parts.chain.iter().map(|l| 3 * size(l.node)).sum::<usize>();
    let fits = (CACHE / 4 / each.max(1)).clamp(1, batch);
    let chunk = (1..=fits).rev().find(|c| batch.is_multiple_of(*c)).unwrap_or(1);

    let layout = |id: NodeId, border| {
        let [channels, height, width] = image(graph, id);
        Layout { batch: chunk, height, width, channels, border }
    };
    let shapes: Option<Vec<Conv2dShape>> = parts.chain.iter().map(|l| convolution(graph, l.node, chunk)).collect();
    let projection_shape = parts.projection.map(|id| convolution(graph, id, chunk));
    let (Some(shapes), false) = (shapes, projection_shape == Some(None)) else {
        return refuse("a kernel is larger than 7 x 7");
    };
    let projection_shape = projection_shape.flatten();
    let x_border = shapes.first().into_iter().chain(&projection_shape).map(border).max().unwrap_or(0);
    let x_layout = layout(input, x_border);
    // Sites count in the order of execution.
    let mut number = 0;
    let mut numbers = std::collections::HashMap::new();
    for id in nodes {
        if model.activation_site(*id).is_some() {
            number += 1;
            numbers.insert(*id, number);
        }
    }
    let site = |link: &Link| -> Result<std::result::Result<Site, String>> {
        let mut site = Site::new(link.activation, numbers.get(&link.value).copied().unwrap_or(0));
        match model.activation_site(link.value) {
            Some(placed) => quantize(&mut site, placed, batch * size(link.value)),
            None => Ok(Ok(())),
        }
        .map(|quantized| quantized.map(|()| site))
    };
    let last = parts.chain.len() - 1;
    let mut layers = Vec::new();
    let mut x = x_layout;
    for (i, (link, shape)) in parts.chain.iter().zip(&shapes).enumerate() {
        let z = layout(link.node, 0);
        // A projection reads the last layer's gradient too.
        let projection = projection_shape.as_ref().filter(|_| i == last);
        let gz = layout(link.node, projection.map_or(0, border_of_gradient).max(border_of_gradient(shape)));
        let gx = layers.last().map(|l: &Layer| l.gz.layout);
        let weight = match weight(model, link.node, *shape, Layouts { x, z, gz, gx })? {
            Ok(weight) => weight,
            Err(why) => return refuse(why),
        };
        // With an addition, the chain's last value has no stage of its own.
        let own = match (i == last, &parts.end) {
            (true, Some(end)) => {
                if link.activation.is_some() || model.activation_site(link.value).is_some() {
                    return refuse(format!("'{}' is quantized before the addition", graph.node(link.node).name));
                }
                end
            }
            _ => link,
        };
        let site = match site(own)? {
            Ok(site) => site,
            Err(why) => return refuse(why),
        };
        let a = match shapes.get(i + 1) {
            Some(next) => Images::new(layout(link.node, border(next))),
            None => Images::new(Layout { batch: 0, ..z }),
        };
        x = a.layout;
        layers.push(Layer {
            weight,
            site,
            z: Images::new(z),
            a,
            gz: Images::new(gz),
            kept: vec![Choices::default(); chunk * z.height * groups_of_row(z)],
            rows: vec![Sums::default(); chunk * z.height],
            sums: Sums::default(),
        });
    }
    let shortcut = match (parts.projection, projection_shape, parts.identity) {
        (Some(node), Some(shape), _) => {
            if model.activation_site(node).is_some() {
                return refuse(format!("'{}' is quantized before the addition", graph.node(node).name));
            }
            let z = layout(node, 0);
            let gz = layers[last].gz.layout;
            match weight(model, node, shape, Layouts { x: x_layout, z, gz, gx: None })? {
                Ok(weight) => Shortcut::Projection(Box::new(weight), Images::new(z)),
                Err(why) => return refuse(why),
            }
        }
        (_, _, true) => Shortcut::Identity,
        _ => Shortcut::None,
    };
    let samples = Samples::new(samples, x_layout, layout(output, 0))?;
    Ok(Ok(FusedUnit::new(batch, chunk, samples, Images::new(x_layout), layers, shortcut)))
}

/// The weight of a layer, with what is learned of it.
fn weight(
    model: &QuantModel,
    node: NodeId,
    shape: Conv2dShape,
    layouts: Layouts,
) -> Result<std::result::Result<Weight, String>> {
    let name = &model.graph().node(node).name;
    let tensor = model.weight(node)?;
    let bias = model.parameters().get(&format!("{name}.bias"));
    let bias = bias.map(|b| host_values(b, <[f32]>::to_vec)).transpose()?;
    let build = |value: &[f32], rounding| Weight::new(shape, layouts, value, bias.as_deref(), rounding);
    let Some(placed) = model.weight_site(node) else {
        return Ok(Ok(host_values(tensor, |v| build(v, None))?));
    };
    let spec = *placed.quantizer.spec();
    match placed.quantizer.kernel()? {
        Some(FusedKernel::SoftRounding { alpha, floor }) => {
            let params = placed.quantizer.qparams()?;
            let per_channel = |v: Vec<f32>| match spec.granularity {
                Granularity::PerTensor => Some(vec![v[0]; shape.out_channels]),
                Granularity::PerAxis(0) => Some(v),
                Granularity::PerAxis(_) => None,
            };
            let (Some(scale), Some(zero_point)) = (per_channel(params.scale), per_channel(params.zero_point)) else {
                return refuse(format!("the weight of '{name}' is quantized along another axis than its outputs"));
            };
            let bounds = [spec.qmin(), spec.qmax()];
            let variable = format!("{}.weight.alpha", placed.name);
            let packing = Packing::of(&shape);
            let rounding = Rounding::new(variable, packing, alpha, &floor, (&scale, &zero_point), bounds)?;
            Ok(Ok(host_values(tensor, |v| build(v, Some(rounding)))?))
        }
        Some(FusedKernel::Nearest) => {
            let rounded = placed.quantizer.fake_quantize(tensor)?;
            Ok(Ok(host_values(&rounded, |v| build(v, None))?))
        }
        _ => refuse(format!("the quantizer of the weight of '{name}' has no fused form")),
    }
}

/// Puts the quantizer of a site into its stage; `elements` is the size of the batch there.
fn quantize(site: &mut Site, placed: &QuantSite, elements: usize) -> Result<std::result::Result<(), String>> {
    let spec = *placed.quantizer.spec();
    if spec.granularity != Granularity::PerTensor {
        return refuse(format!("the activation of '{}' is quantized channel by channel", placed.name));
    }
    let params = placed.quantizer.qparams()?;
    let grid =
        TensorGrid { scale: params.scale[0], zero_point: params.zero_point[0], qmin: spec.qmin(), qmax: spec.qmax() };
    // LSQ's gradient scale, section 2.2.
    let factor = 1.0 / (elements as f64 * f64::from(spec.qmax().max(1.0))).sqrt();
    let number = |what: &str, var| Number::new(format!("{}.activation.{what}", placed.name), var, factor);
    let (scale, zero_point) = match placed.quantizer.kernel()? {
        Some(FusedKernel::Nearest) => (None, None),
        Some(FusedKernel::LearnedScale { scale }) => (Some(number("scale", scale)?), None),
        Some(FusedKernel::LearnedScaleAndZeroPoint { scale, zero_point }) => {
            (Some(number("scale", scale)?), Some(number("zero_point", zero_point)?))
        }
        _ => return refuse(format!("the quantizer of the activation of '{}' has no fused form", placed.name)),
    };
    site.quantize(grid, scale, zero_point);
    Ok(Ok(()))
}
