//! Conformance checks of an exporter.

use super::preparation::{calibrated, network};
use super::{require, Report};
use crate::error::{Error, Result};
use crate::exporter::{ExportRequest, ExportedNetwork, Exporter, ExporterKind};
use crate::graph::{Conv2d, GraphBuilder, Operator};
use crate::model::{Precision, QuantModel};
use crate::params::Params;
use crate::recipe::Recipe;
use crate::registry::Entry;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

pub fn check(entry: &'static Entry<ExporterKind>, report: &mut Report) {
    let build = || entry.build(&Params::none("conformance"));
    report.run("it is built without parameters", || build().map(|_| ()));
    let Ok(exporter) = build() else { return };
    report.run("the same network gives the same bytes", || {
        let model = prepared(network()?, &*exporter)?;
        let first = export(&model, &*exporter)?;
        require(!first.files[0].content.is_empty(), || "the file is empty".into())?;
        require(export(&model, &*exporter)? == first, || "the second time the result was another".into())
    });
    report.run("an operation of a plugin is written, or refused by its node's name", || {
        match export(&prepared(with_operator()?, &*exporter)?, &*exporter) {
            Err(Error::Graph { node, .. }) if node == "own" => Ok(()),
            Err(other) => Err(Error::message(format!("the error does not name the node 'own': {other}"))),
            Ok(_) => Ok(()),
        }
    });
}

/// The network that the exporter takes: with quantizers, or without.
fn prepared(model: QuantModel, exporter: &dyn Exporter) -> Result<QuantModel> {
    match exporter.precision() {
        Precision::Float => Ok(model),
        Precision::Quantized => calibrated(&model),
    }
}

fn export(model: &QuantModel, exporter: &dyn Exporter) -> Result<ExportedNetwork> {
    let tensor = "granularity: per_tensor, observer: minmax, quantizer: fixed";
    let text = format!(
        "{{name: conformance, model: {{architecture: none}}, data: none, reconstruction: none, quant: {{setting: qdrop, \
         weight: {{bits: 4, {tensor}}}, activation: {{bits: 4, {tensor}}}}}}}"
    );
    let recipe = &Recipe::from_yaml(&text, Path::new("conformance"))?;
    let (bits, version, summary, float_weights) = ("w4a4", "0.0.0", None, None);
    exporter.export(&ExportRequest { model, recipe, bits, version, summary, float_weights })
}

/// Twice its input.
struct Twice;

impl Operator for Twice {
    fn name(&self) -> &'static str {
        "twice"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        inputs.first().map(|shape| shape.to_vec()).ok_or_else(|| Error::message("twice needs an input"))
    }

    fn forward(&self, inputs: &[&Tensor], _: &[&Tensor]) -> Result<Tensor> {
        let input = inputs.first().ok_or_else(|| Error::message("twice needs an input"))?;
        Ok((*input * 2.0)?)
    }
}

fn with_operator() -> Result<QuantModel> {
    let mut b = GraphBuilder::new([2, 4, 4]);
    let image = b.input();
    let out = b.unit("unit", |b| {
        let x = b.conv2d("first", image, Conv2d::new(2, 1).bias())?;
        let x = b.operator("own", Twice, &[x])?;
        b.conv2d("second", x, Conv2d::new(2, 1).bias())
    })?;
    let graph = b.finish(out)?;
    let ones = |(name, shape): (String, Vec<usize>)| Ok((name, Tensor::ones(shape, DType::F32, &Device::Cpu)?));
    let parameters = graph.parameter_shapes().into_iter().map(ones).collect::<Result<_>>()?;
    Ok(QuantModel::new(graph, parameters, Device::Cpu))
}
