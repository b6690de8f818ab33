//! From the operators of ONNX to operations of the graph.

mod elements;
mod layers;
mod pixels;
mod pointwise;
mod shapes;

use super::constant::{Constant, Size};
use super::layout::{Axis, FLAT, IMAGE};
use super::network::Network;
use crate::file::is_standard;
use crate::proto::{AttributeProto, NodeProto};
use elements::Numbers;
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::rc::Rc;

/// A value of the network for each image: a draft, and what the axes in the file are.
#[derive(Debug, Clone)]
pub struct Traced {
    pub draft: usize,
    pub axes: Vec<Axis>,
}

/// What a name in the file stands for.
#[derive(Debug, Clone)]
pub enum Value {
    /// The same for all images.
    Constant(Constant),
    /// Computed from the image.
    Traced(Traced),
    /// All elements of a value that is computed from the image, of all images in one row.
    Elements(Traced),
    /// Integers that differ between images by their numbers alone.
    Numbers(Numbers),
    /// A constant whose type is not understood, with what it is.
    Unknown(String),
}

/// Translates nodes one after the other.
pub struct Translator {
    pub network: Network,
    pub values: HashMap<String, Value>,
    /// The number of images, if the file fixes it.
    pub batch: Option<usize>,
}

/// A node with its inputs.
pub struct Call<'a> {
    pub node: &'a NodeProto,
}

impl<'a> Call<'a> {
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).and_then(|a| a.f).unwrap_or(default)
    }

    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    pub fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).and_then(|a| a.s.as_deref()).and_then(|s| std::str::from_utf8(s).ok()).unwrap_or(default)
    }

    /// Whether the optional input `i` is there.
    pub fn has(&self, i: usize) -> bool {
        self.node.input.get(i).is_some_and(|name| !name.is_empty())
    }

    /// Two sizes of an attribute, for rows and columns.
    pub fn pair(&self, name: &str, default: usize) -> Result<[usize; 2], String> {
        let Some(ints) = self.ints(name) else { return Ok([default; 2]) };
        let sizes: Vec<usize> = ints.iter().filter_map(|i| usize::try_from(*i).ok().filter(|i| *i < 1 << 20)).collect();
        match (sizes[..].try_into(), ints.len()) {
            (Ok(pair), 2) => Ok(pair),
            _ => Err(format!("has {name} {ints:?}; two sizes, for images, are understood")),
        }
    }

    /// The number of an axis, which may count from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, String> {
        let from_start = if axis < 0 { axis + rank as i64 } else { axis };
        let found = usize::try_from(from_start).ok().filter(|a| *a < rank);
        found.ok_or_else(|| format!("has the axis {axis}, but the value has {rank} axes"))
    }

    pub fn name(&self) -> String {
        super::names::of_node(self.node)
    }

    /// The name of a node that makes an input flat.
    pub fn flatten(&self) -> String {
        format!("{}.flatten", self.name())
    }
}

impl Translator {
    /// Translates one node.
    ///
    /// # Errors
    /// The operator, its settings or its inputs are not understood.
    pub fn node(&mut self, node: &NodeProto) -> Result<(), String> {
        let call = &Call { node };
        if !is_standard(&node.domain) {
            return Err(format!(
                "is an operator of '{}', which is not understood; export with standard operators",
                node.domain
            ));
        }
        let all_constant = node
            .input
            .iter()
            .filter(|name| !name.is_empty())
            .all(|name| matches!(self.values.get(name), Some(Value::Constant(_))));
        let numbers = node.input.iter().any(|name| matches!(self.values.get(name), Some(Value::Numbers(_))));
        let outputs = match node.op_type.as_str() {
            "Shape" => vec![self.shape(call)?],
            "Gather" if !all_constant => vec![self.gather(call)?],
            _ if numbers => vec![self.numbers(call)?],
            _ if all_constant => shapes::constant(self, call)?,
            "Conv" => vec![self.conv(call)?],
            "Gemm" => vec![self.gemm(call)?],
            "MatMul" => vec![self.matmul(call)?],
            "BatchNormalization" => vec![self.batch_normalization(call)?],
            "LayerNormalization" => vec![self.layer_normalization(call)?],
            "Relu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Gelu" | "Erf" | "Clip" | "Swish" => {
                vec![self.function(call)?]
            }
            "Add" | "Sub" | "Mul" | "Div" => vec![self.arithmetic(call)?],
            "MaxPool" | "AveragePool" => vec![self.pool(call)?],
            "GlobalAveragePool" | "ReduceMean" => vec![self.mean(call)?],
            "Pad" => vec![self.pad(call)?],
            "Resize" | "Upsample" => vec![self.resize(call)?],
            "Concat" => vec![self.concat(call)?],
            "Split" => self.split(call)?,
            "Slice" => vec![self.slice(call)?],
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => vec![self.reshape(call)?],
            "Transpose" => vec![self.transpose(call)?],
            // They do nothing in inference.
            "Identity" | "Dropout" => vec![self.value(call, 0)?.clone()],
            "Cast" => vec![self.cast(call)?],
            "Softmax" | "LogSoftmax" => {
                return Err(
                    "is left to the task, which computes it from the logits; export the network without it".into()
                )
            }
            _ => return Err(unknown()),
        };
        for (name, value) in node.output.iter().zip(outputs) {
            self.values.insert(name.clone(), value);
        }
        Ok(())
    }

    /// What input `i` stands for.
    pub fn value(&self, call: &Call<'_>, i: usize) -> Result<&Value, String> {
        let name = call.node.input.get(i).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("has no input {i}"))?;
        self.values.get(name).ok_or_else(|| format!("reads '{name}', which nothing before it computes"))
    }

    /// Input `i`, which depends on the image.
    pub fn traced(&self, call: &Call<'_>, i: usize) -> Result<Traced, String> {
        match self.value(call, i)? {
            Value::Traced(traced) => Ok(traced.clone()),
            Value::Elements(_) => Err(in_one_row()),
            _ => Err(format!("has a constant as input {i}, where a value of the network is understood")),
        }
    }

    /// Input `i`, which is constant.
    pub fn constant(&self, call: &Call<'_>, i: usize) -> Result<&Constant, String> {
        match self.value(call, i)? {
            Value::Constant(constant) => Ok(constant),
            Value::Unknown(what) => Err(format!("has {what} as input {i}")),
            Value::Traced(_) => {
                Err(format!("computes its input {i} from the image, where only a constant is understood"))
            }
            Value::Elements(_) => Err(in_one_row()),
            Value::Numbers(_) => Err(format!("has the numbers of the images as input {i}")),
        }
    }

    /// The floats and the shape of input `i`, which is constant.
    pub fn floats(&self, call: &Call<'_>, i: usize) -> Result<(Vec<usize>, Rc<Vec<f32>>), String> {
        let constant = self.constant(call, i)?;
        Ok((constant.dims().to_vec(), constant.floats()?))
    }

    /// The integers of input `i`, or of the attribute `name` of older versions; `None` if there is neither.
    pub fn integers(&self, call: &Call<'_>, i: usize, name: &str) -> Result<Option<Vec<i64>>, String> {
        if call.has(i) {
            return self.constant(call, i)?.integers().map(Some);
        }
        Ok(call.ints(name).map(<[i64]>::to_vec))
    }

    pub fn shape_of(&self, traced: &Traced) -> &[usize] {
        &self.network.drafts[traced.draft].shape
    }

    /// The lengths of the axes without the batch.
    pub fn sides(&self, traced: &Traced) -> Vec<usize> {
        let shape = self.shape_of(traced);
        traced.axes.iter().skip(1).map(|axis| super::layout::length(*axis, shape)).collect()
    }

    /// The draft of a value that is an image, channels first.
    pub fn image(&mut self, traced: &Traced) -> Result<usize, String> {
        let flat = self.shape_of(traced).len() == 1;
        if flat && traced.axes == [Axis::Batch, Axis::Channels, Axis::One, Axis::One] {
            return self.network.make_image(traced.draft);
        }
        match !flat && traced.axes == IMAGE {
            true => Ok(traced.draft),
            false => Err(format!("needs an image (N, C, H, W), but its input has the axes {:?}", traced.axes)),
        }
    }

    /// The draft of a value that is flat; `name` is that of the node that flattens it, if one is needed.
    pub fn flat(&mut self, name: &str, traced: &Traced) -> Result<usize, String> {
        let shape = self.shape_of(traced);
        let pixel = shape[1..].iter().product::<usize>() == 1;
        match (shape.len(), &traced.axes[..]) {
            (1, [Axis::Batch, Axis::Channels | Axis::Flat]) => Ok(traced.draft),
            (3, [Axis::Batch, Axis::Flat]) => self.network.push(name, Op::Flatten, &[traced.draft], Vec::new()),
            (3, [Axis::Batch, Axis::Channels]) if pixel => {
                self.network.push(name, Op::Flatten, &[traced.draft], Vec::new())
            }
            (_, axes) => Err(format!("needs a flat value (N, features), but its input has the axes {axes:?}")),
        }
    }

    /// A value that an operation computes from an image.
    pub fn image_value(draft: usize) -> Value {
        Value::Traced(Traced { draft, axes: IMAGE.into() })
    }

    /// A flat value that an operation computes.
    pub fn flat_value(draft: usize) -> Value {
        Value::Traced(Traced { draft, axes: FLAT.into() })
    }

    /// The shape of a value as a constant.
    fn shape(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let sizes = match self.value(call, 0)? {
            Value::Traced(traced) => {
                let sides = self.sides(traced).into_iter().map(|side| Size::Known(side as i64));
                std::iter::once(Size::Batch).chain(sides).collect::<Vec<_>>()
            }
            Value::Constant(constant) => constant.dims().iter().map(|d| Size::Known(*d as i64)).collect(),
            Value::Elements(_) => return Err(in_one_row()),
            Value::Numbers(_) => return Err("asks for the shape of the numbers of the images".into()),
            Value::Unknown(what) => return Err(format!("asks for the shape of {what}")),
        };
        let place = |index| shapes::bound(index, sizes.len());
        let (start, end) = (place(call.int("start", 0)), place(call.int("end", i64::MAX)));
        Ok(Value::Constant(Constant::vector(sizes.get(start..end).unwrap_or_default().to_vec())))
    }
}

fn in_one_row() -> String {
    "reads the elements of all images as one row; keep the axis of the images (`x.flatten(1)` instead of `x.flatten()`)"
        .into()
}

/// What to do about an operator that is not understood.
fn unknown() -> String {
    "is an operator that is not understood; replace it by others in the network, or write the architecture as a plugin"
        .into()
}
