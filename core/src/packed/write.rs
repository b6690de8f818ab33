//! Writes packed files.

use super::bits::pack;
use super::container::{assemble, Part};
use super::description::{Description, Parameter, Site, Weight, ZeroPoints};
use super::{tensor_name, DESCRIPTION, FLOATS, ZERO_POINTS};
use crate::error::{Error, Result};
use crate::grid::{Granularity, QParams, QuantSpec};
use crate::model::{QuantModel, QuantSite};
use crate::ops::host_values;
use crate::recipe::Recipe;
use crate::summary::Summary;
use candle_core::Tensor;
use qdrop_kernels::segments::Channels;
use std::collections::BTreeMap;

/// What a packed file says beside the network itself.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The recipe as it ran.
    pub recipe: &'a Recipe,
    /// The measurements, if they are known.
    pub summary: Option<&'a Summary>,
    /// SHA-256 of the checkpoint with the float weights as hexadecimal text, if it is known. Only with it can the network
    /// be compared with the float one.
    pub float_weights: Option<&'a str>,
}

/// The bytes of a packed file with this quantized network; `docs/packed-format.md` describes them. What is read from
/// them computes exactly what `model` does.
///
/// # Errors
/// A quantizer has no range, or the recipe cannot be written as YAML.
pub fn write(model: &QuantModel, about: &About<'_>) -> Result<Vec<u8>> {
    let mut values = Values::default();
    let (mut weights, mut activations, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    let mut codes = Vec::new();
    let mut rest: BTreeMap<&str, &Tensor> = model.parameters().iter().map(|(n, t)| (n.as_str(), t)).collect();
    for (node, site) in model.weight_sites() {
        let name = model.weight_name(node);
        let params = site.quantizer.qparams()?;
        let described = values.site(site, &params);
        let hard = site.quantizer.fake_quantize(model.weight(node)?)?;
        let channels = site.quantizer.spec().granularity.channels(hard.dims())?;
        let integers = host_values(&hard, |v| {
            let integers = integers(v, site.quantizer.spec(), &params, channels);
            if integers.is_none() {
                values.floats.extend(v);
            }
            integers
        })?;
        let packed = integers.is_some();
        if let Some(integers) = integers {
            codes.push(Part::bytes(tensor_name(&site.name), pack(&integers, described.bits)));
        }
        weights.push(Weight { site: described, shape: hard.dims().to_vec(), packed });
        rest.remove(name.as_str());
    }
    for (_, site) in model.activation_sites() {
        activations.push(values.site(site, &site.quantizer.qparams()?));
    }
    let corrected: BTreeMap<String, &Tensor> =
        model.corrected_biases().map(|(node, bias)| (model.bias_name(node), bias)).collect();
    for (name, tensor) in rest {
        let tensor = corrected.get(name).copied().unwrap_or(tensor);
        host_values(tensor, |v| values.floats.extend(v))?;
        parameters.push(Parameter { name: name.into(), shape: tensor.dims().to_vec() });
    }
    let graph = model.graph().to_json()?;
    let description = Description {
        recipe: about.recipe.to_yaml()?,
        summary: about.summary.cloned(),
        float_weights: about.float_weights.map(String::from),
        graph: graph.map(|text| serde_json::from_str(&text)).transpose().map_err(Error::message)?,
        weights,
        activations,
        parameters,
    };
    let mut parts = vec![Part::floats(FLOATS, &values.floats)];
    parts.extend(codes);
    parts.push(Part::bytes(ZERO_POINTS, values.zero_points));
    parts.push(Part::bytes(DESCRIPTION, description.compress()?));
    let bits = about.recipe.bits();
    let metadata = [("qdrop", env!("CARGO_PKG_VERSION")), ("recipe", &about.recipe.name), ("bits", &bits)];
    assemble(&metadata, &parts).map_err(Error::message)
}

/// Values of all sites and parameters, one after the other.
#[derive(Default)]
struct Values {
    floats: Vec<f32>,
    zero_points: Vec<u8>,
}

impl Values {
    /// Adds the scales and zero points of a site, and describes them.
    fn site(&mut self, site: &QuantSite, params: &QParams) -> Site {
        let spec = site.quantizer.spec();
        self.floats.extend(&params.scale);
        let (qmin, qmax) = (spec.qmin(), spec.qmax());
        // As bits, because -0 is another zero point than 0.
        let zero_points = if params.zero_point.iter().all(|z| z.to_bits() == 0) {
            ZeroPoints::Zero
        } else if params
            .zero_point
            .iter()
            .all(|z| z.fract() == 0.0 && (qmin..=qmax).contains(z) && z.to_bits() != 1 << 31)
        {
            let integers: Vec<u16> = params.zero_point.iter().map(|z| (z - qmin) as u16).collect();
            self.zero_points.extend(pack(&integers, spec.bits));
            ZeroPoints::Packed
        } else {
            self.floats.extend(&params.zero_point);
            ZeroPoints::Float
        };
        Site {
            name: site.name.clone(),
            bits: spec.bits,
            symmetric: spec.symmetric,
            axis: match spec.granularity {
                Granularity::PerTensor => None,
                Granularity::PerAxis(axis) => Some(axis),
            },
            channels: params.scale.len(),
            zero_points,
        }
    }
}

/// A hard weight as integers from qmin; `None` if they do not give exactly these values, as with a quantizer whose points
/// are no multiples of its scale.
fn integers(hard: &[f32], spec: &QuantSpec, params: &QParams, channels: Channels) -> Option<Vec<u16>> {
    let integer = |(i, value): (usize, &f32)| {
        let c = i / channels.inner % channels.count;
        let (scale, zero_point) = (*params.scale.get(c)?, *params.zero_point.get(c)?);
        let code = spec.code(*value, scale, zero_point)?;
        (spec.dequantize(code, scale, zero_point) == *value).then_some(code)
    };
    hard.iter().enumerate().map(integer).collect()
}
