//! Layers and normalizations.

use super::super::layout::Axis;
use super::super::names;
use super::super::network::Parameter;
use super::{Call, Traced, Translator, Value};
use qdrop_core::ops::{Conv2dGeometry, Padding};
use qdrop_core::prelude::*;

/// Padding of windows as an operator's attributes say, for an input of this size.
pub fn padding(
    call: &Call<'_>,
    size: [usize; 2],
    [kernel, stride, dilation]: [[usize; 2]; 3],
) -> Result<Padding, String> {
    let auto = call.text("auto_pad", "NOTSET");
    let sides = match auto {
        "NOTSET" | "" => {
            let Some(pads) = call.ints("pads") else { return Ok(Padding::default()) };
            let sides: Vec<usize> =
                pads.iter().filter_map(|p| usize::try_from(*p).ok().filter(|p| *p < 1 << 20)).collect();
            match (&sides[..], pads.len()) {
                (&[top, left, bottom, right], 4) => return Ok(Padding { top, bottom, left, right }),
                _ => return Err(format!("has the padding {pads:?}; four sides of 0 or more are understood")),
            }
        }
        "VALID" => return Ok(Padding::default()),
        "SAME_UPPER" | "SAME_LOWER" => [0, 1].map(|axis| {
            // As many windows as strides fit in the image.
            let windows = size[axis].div_ceil(stride[axis].max(1));
            let covered = (windows.max(1) - 1) * stride[axis] + kernel[axis].saturating_sub(1) * dilation[axis] + 1;
            let missing = covered.saturating_sub(size[axis]);
            let (less, more) = (missing / 2, missing - missing / 2);
            if auto == "SAME_UPPER" {
                (less, more)
            } else {
                (more, less)
            }
        }),
        other => return Err(format!("has the padding mode '{other}'")),
    };
    let [(top, bottom), (left, right)] = sides;
    Ok(Padding { top, bottom, left, right })
}

/// Weight and bias of a layer. Each gets a bias, which reconstruction may change.
fn parameters(weight: Vec<f32>, dims: Vec<usize>, bias: Vec<f32>) -> Vec<Parameter> {
    vec![("weight", dims, weight), ("bias", vec![bias.len()], bias)]
}

/// A matrix (K, N) as (N, K).
pub fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

fn layer_name(call: &Call<'_>, weight: usize) -> String {
    names::of_layer(call.node, call.node.input.get(weight).map_or("", String::as_str))
}

impl Translator {
    /// A vector of input `i` with one element for each of `count` channels, or zeros if there is no such input.
    fn vector(&self, call: &Call<'_>, i: usize, count: usize) -> Result<Vec<f32>, String> {
        if !call.has(i) {
            return Ok(vec![0.0; count]);
        }
        let (dims, values) = self.floats(call, i)?;
        match values.len() {
            n if n == count => Ok(values.to_vec()),
            1 => Ok(vec![values[0]; count]),
            _ => Err(format!("has the shape {dims:?} as input {i}, where {count} elements are expected")),
        }
    }

    pub(super) fn conv(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let x = self.image(&traced)?;
        let (dims, weight) = self.floats(call, 1)?;
        let [out_channels, per_group, kh, kw] = dims[..] else {
            return Err(format!("has a weight of the shape {dims:?}; convolutions of images are understood"));
        };
        let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
        let shape = &self.network.drafts[x].shape;
        if per_group.checked_mul(groups) != Some(shape[0]) {
            return Err(format!(
                "has {groups} groups of {per_group} channels, but its input has {} channels",
                shape[0]
            ));
        }
        let (stride, dilation) = (call.pair("strides", 1)?, call.pair("dilations", 1)?);
        let padding = padding(call, [shape[1], shape[2]], [[kh, kw], stride, dilation])?;
        let geometry = Conv2dGeometry { stride, padding, dilation, groups };
        let bias = self.vector(call, 2, out_channels)?;
        let op = Op::Conv2d { out_channels, kernel: [kh, kw], geometry, bias: true };
        let parameters = parameters(weight.to_vec(), dims, bias);
        Ok(Self::image_value(self.network.push(&layer_name(call, 1), op, &[x], parameters)?))
    }

    pub(super) fn gemm(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let x = self.flat(&call.flatten(), &traced)?;
        if call.int("transA", 0) != 0 {
            return Err("transposes its input".into());
        }
        let (dims, values) = self.floats(call, 1)?;
        let [rows, columns] = dims[..] else { return Err(format!("has a weight of the shape {dims:?}")) };
        let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
        let (weight, out_features, features) = match call.int("transB", 0) {
            0 => (transposed(&values, [rows, columns]), columns, rows),
            _ => (values.to_vec(), rows, columns),
        };
        let weight = if alpha == 1.0 { weight } else { weight.iter().map(|v| v * alpha).collect() };
        let bias: Vec<f32> = self.vector(call, 2, out_features)?.iter().map(|v| v * beta).collect();
        self.linear(&layer_name(call, 1), x, weight, [out_features, features], bias)
    }

    fn linear(
        &mut self,
        name: &str,
        x: usize,
        weight: Vec<f32>,
        [out_features, features]: [usize; 2],
        bias: Vec<f32>,
    ) -> Result<Value, String> {
        let have = self.network.drafts[x].shape[0];
        if have != features {
            return Err(format!("has a weight for {features} features, but its input has {have}"));
        }
        let op = Op::Linear { out_features, bias: true };
        let parameters = parameters(weight, vec![out_features, features], bias);
        Ok(Self::flat_value(self.network.push(name, op, &[x], parameters)?))
    }

    /// A product with a constant matrix: a fully connected layer, or of an image with the channels last a 1 x 1 convolution.
    pub(super) fn matmul(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let (dims, values) = self.floats(call, 1)?;
        let [features, out] = dims[..] else {
            return Err(format!("multiplies by a constant of the shape {dims:?}; a matrix is understood"));
        };
        let weight = transposed(&values, [features, out]);
        let name = layer_name(call, 1);
        if traced.axes.len() == 2 {
            let x = self.flat(&call.flatten(), &traced)?;
            return self.linear(&name, x, weight, [out, features], vec![0.0; out]);
        }
        let shape = self.shape_of(&traced);
        let last = traced.axes.last() == Some(&Axis::Channels);
        if !last || shape.len() != 3 || shape[0] != features {
            return Err(format!("multiplies axes {:?} by a matrix of {features} rows", traced.axes));
        }
        let op = Op::Conv2d { out_channels: out, kernel: [1, 1], geometry: Conv2dGeometry::default(), bias: true };
        let parameters = parameters(weight, vec![out, features, 1, 1], vec![0.0; out]);
        let draft = self.network.push(&name, op, &[traced.draft], parameters)?;
        Ok(Value::Traced(Traced { draft, axes: traced.axes }))
    }

    pub(super) fn batch_normalization(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        if traced.axes.get(1) == Some(&Axis::Flat) {
            let x = self.flat(&call.flatten(), &traced)?;
            return self.batch_norm(call, Traced { draft: x, axes: super::FLAT.into() });
        }
        match traced.axes.get(1) == Some(&Axis::Channels) {
            true => self.batch_norm(call, traced),
            false => Err(format!("normalizes a value with the axes {:?}", traced.axes)),
        }
    }

    fn batch_norm(&mut self, call: &Call<'_>, traced: Traced) -> Result<Value, String> {
        if call.int("training_mode", 0) != 0 {
            return Err("is in training mode; export the network in evaluation mode (`model.eval()`)".into());
        }
        let channels = self.shape_of(&traced)[0];
        let names = ["weight", "bias", "running_mean", "running_var"];
        let parameter = |(i, name): (usize, &'static str)| -> Result<Parameter, String> {
            if !call.has(i + 1) {
                return Err(format!("has no input {}", i + 1));
            }
            Ok((name, vec![channels], self.vector(call, i + 1, channels)?))
        };
        let parameters = names.into_iter().enumerate().map(parameter).collect::<Result<Vec<_>, _>>()?;
        let eps = epsilon(call);
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(format!("has the epsilon {eps}"));
        }
        let draft = self.network.push(&call.name(), Op::BatchNorm { eps }, &[traced.draft], parameters)?;
        Ok(Value::Traced(Traced { draft, ..traced }))
    }

    pub(super) fn layer_normalization(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let rank = traced.axes.len();
        let axis = call.axis(call.int("axis", -1), rank)?;
        if axis + 1 != rank || traced.axes[axis] != Axis::Channels {
            return Err(format!(
                "normalizes over axis {axis} of {:?}; the channels as last axis are understood",
                traced.axes
            ));
        }
        let channels = self.shape_of(&traced)[0];
        let parameters = vec![
            ("weight", vec![channels], self.vector(call, 1, channels)?),
            ("bias", vec![channels], self.vector(call, 2, channels)?),
        ];
        let eps = epsilon(call);
        let draft = self.network.push(&layer_name(call, 1), Op::LayerNorm { eps }, &[traced.draft], parameters)?;
        Ok(Value::Traced(Traced { draft, ..traced }))
    }
}

/// The epsilon of a normalization. ONNX stores it as f32, PyTorch computes with f64: it is the shortest decimal number that is
/// stored so, such as 1e-5, with which batch normalization is folded as it is for the same network without ONNX.
fn epsilon(call: &Call<'_>) -> f64 {
    let stored = call.float("epsilon", 1e-5);
    stored.to_string().parse().unwrap_or_else(|_| f64::from(stored))
}
