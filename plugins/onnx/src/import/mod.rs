//! From an ONNX model to a graph of qdrop and its parameters.

mod constant;
mod fuse;
mod layout;
mod names;
mod network;
mod operators;
mod units;

use crate::file::OnnxFile;
use crate::proto::tensor_shape_proto::dimension::Value as Side;
use crate::proto::{type_proto, GraphProto, TensorProto, ValueInfoProto};
use constant::{Constant, Size};
use layout::{Axis, IMAGE};
use network::Network;
use operators::{Traced, Translator, Value};
use qdrop_core::graph::Ends;
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

pub use units::Groups;

/// Most nodes of a model; some steps take time that grows with the square of it.
const MOST_NODES: usize = 20_000;

/// A network that was imported.
pub struct Imported {
    /// The network, with units.
    pub graph: Graph,
    /// Its parameters by name, in f32 on the CPU.
    pub parameters: HashMap<String, Tensor>,
}

/// Imports the network of a file. `image_size` is the height and width of images where the file leaves them open, and
/// `groups` are units that are set by the names of their layers.
///
/// # Errors
/// The file cannot be read or is damaged, or something in it is not understood; the message names the node.
pub fn import(path: &Path, image_size: Option<usize>, groups: &Groups) -> Result<Imported> {
    let mut file = OnnxFile::read(path)?;
    let mut graph = file.model.graph.take().unwrap_or_default();
    let error = |message: String| Error::data(path, message);
    if graph.node.len() > MOST_NODES {
        return Err(error(format!("has {} nodes, more than {MOST_NODES}", graph.node.len())));
    }
    let constants = constants(&file, &mut graph)?;
    let (input, axes, batch) = input(&graph, &constants, image_size).map_err(error)?;
    let [channels, height, width] = axes.1;
    let mut translator = Translator { network: Network::new([channels, height, width]), values: constants, batch };
    translator.values.insert(input.clone(), Value::Traced(Traced { draft: 0, axes: axes.0 }));
    for (i, node) in graph.node.iter().enumerate() {
        // Constants that are tensors were read before.
        if node.op_type == "Constant" && node.output.first().is_some_and(|name| translator.values.contains_key(name)) {
            continue;
        }
        let name = if node.name.is_empty() { format!("number {}", i + 1) } else { format!("'{}'", node.name) };
        translator.node(node).map_err(|message| error(format!("node {name} ({}) {message}", node.op_type)))?;
    }
    let mut outputs = Vec::new();
    for output in &graph.output {
        let value = translator.values.get(&output.name).cloned();
        let problem = |message: &str| error(format!("output '{}' {message}", output.name));
        let Some(Value::Traced(traced)) = value else { return Err(problem("is not computed from the image")) };
        outputs.push(output_of(&mut translator, &output.name, &traced).map_err(|message| problem(&message))?);
    }
    let ends = Ends { input, outputs: graph.output.iter().map(|output| output.name.clone()).collect() };
    let mut network = translator.network;
    fuse::fuse(&mut network, &mut outputs);
    let named = |e: Error| error(e.to_string());
    let (graph, parameters) = network.finish(&outputs).map_err(named)?;
    let units = units::of(&graph, groups)?;
    let graph = graph.with_units(units).and_then(|graph| graph.named(ends)).map_err(named)?;
    Ok(Imported { graph, parameters })
}

/// The constants of a graph by name: initializers, and tensors of Constant nodes.
fn constants(file: &OnnxFile, graph: &mut GraphProto) -> Result<HashMap<String, Value>> {
    let mut constants = HashMap::new();
    for tensor in &mut graph.initializer {
        constants.insert(tensor.name.clone(), constant_value(file, tensor)?);
    }
    for node in graph.node.iter_mut().filter(|node| node.op_type == "Constant") {
        let tensor = node.attribute.iter_mut().find(|a| a.name == "value").and_then(|a| a.t.as_mut());
        if let (Some(tensor), Some(output)) = (tensor, node.output.first()) {
            constants.insert(output.clone(), constant_value(file, tensor)?);
        }
    }
    Ok(constants)
}

/// A tensor as a constant. Its values are taken out, so that they are in memory once.
fn constant_value(file: &OnnxFile, tensor: &mut TensorProto) -> Result<Value> {
    let dims = file.dims(tensor)?;
    if let Some(values) = file.floats(tensor)? {
        return Ok(Value::Constant(Constant::Floats { dims, values: Rc::new(values) }));
    }
    match file.integers(tensor)? {
        Some(values) => {
            let values = values.into_iter().map(Size::Known).collect();
            Ok(Value::Constant(Constant::Sizes { dims, values }))
        }
        None => Ok(Value::Unknown(format!("the tensor '{}' of a type that is not understood", tensor.name))),
    }
}

/// Axes and sides (channels, height, width) of the network's input.
type InputAxes = (Vec<Axis>, [usize; 3]);

/// Name and axes of the network's input, and the number of images if the file fixes it.
fn input(
    graph: &GraphProto,
    constants: &HashMap<String, Value>,
    image_size: Option<usize>,
) -> Result<(String, InputAxes, Option<usize>), String> {
    // Old files list their constants among the inputs.
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| !constants.contains_key(&i.name)).collect();
    let [input] = inputs[..] else {
        let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(format!("has the inputs {names:?}; networks with one input, images, are understood"));
    };
    let tensor = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        _ => return Err(format!("input '{}' is no tensor", input.name)),
    };
    let sides = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|d| d.value.as_ref()).collect::<Vec<_>>());
    let sides = sides.unwrap_or_default();
    let fixed = |side: Option<&Side>| match side {
        Some(Side::DimValue(value)) if *value > 0 => usize::try_from(*value).ok(),
        _ => None,
    };
    let [batch, a, b, c] = sides[..] else {
        return Err(format!("input '{}' has {} axes; images (N, C, H, W) are understood", input.name, sides.len()));
    };
    // Few channels after many rows and columns.
    let last = fixed(c).is_some_and(|c| c <= 4) && [a, b].iter().all(|side| fixed(*side).is_none_or(|side| side > 4));
    let (axes, [channels, height, width]) = match last {
        false => (IMAGE.to_vec(), [fixed(a), fixed(b), fixed(c)]),
        true => (vec![Axis::Batch, Axis::Height, Axis::Width, Axis::Channels], [fixed(c), fixed(a), fixed(b)]),
    };
    let open = || {
        format!(
            "input '{}' leaves the size of images open; say it in the recipe: `model: {{onnx: {{file: FILE, image_size: 224}}}}`",
            input.name
        )
    };
    let side = |fixed: Option<usize>| fixed.or(image_size).ok_or_else(open);
    let sides = [channels.unwrap_or(3), side(height)?, side(width)?];
    if sides.iter().any(|side| *side > 1 << 16) {
        return Err(format!("input '{}' has images of {sides:?}", input.name));
    }
    if let Some(size) = image_size.filter(|size| [sides[1], sides[2]] != [*size, *size]) {
        return Err(format!(
            "input '{}' takes images of {} x {}, not of `image_size` {size}",
            input.name, sides[1], sides[2]
        ));
    }
    Ok((input.name.clone(), (axes, sides), fixed(batch)))
}

/// The draft of an output: a flat value or an image.
fn output_of(translator: &mut Translator, name: &str, traced: &Traced) -> Result<usize, String> {
    if traced.axes == IMAGE {
        return translator.image(traced);
    }
    let refused = |_| format!("has the axes {:?}; (N, features) and (N, C, H, W) are understood", traced.axes);
    translator.flat(name, traced).map_err(refused)
}

#[cfg(test)]
mod tests;
