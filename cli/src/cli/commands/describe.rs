//! `describe`: shows a network's units and layers and how they are quantized.

use super::{run_of, with_changes, Output};
use crate::cli::arguments::RecipeArguments;
use crate::cli::console::Console;
use crate::recipes::{is_built_in, Loader};
use crate::Run;
use anyhow::{Context, Result};
use qdrop_core::graph::{Graph, NodeId, Op, SiteKind};
use qdrop_core::pipeline::{Registries, SitePlan};
use qdrop_core::recipe::Recipe;
use serde_json::Value;
use std::collections::HashMap;

/// The recipe for an architecture that is given by its name alone.
const DEFAULT_RECIPE: &str = "imagenet/_base";

/// Prints units, layers, shapes, bits, parameters and multiply-accumulates.
pub fn describe(arguments: &RecipeArguments, console: &Console, output: Output) -> Result<Value> {
    let name = &arguments.recipe.to_string_lossy();
    let run = if is_built_in(name) || arguments.recipe.exists() {
        run_of(arguments, console)?
    } else {
        Registries::collect()?.architectures.get(name, "describe").with_context(|| {
            format!(
                "'{name}' is neither a recipe nor an architecture; see `qdrop recipes` and `qdrop list architectures`"
            )
        })?;
        let loader = Loader::new(DEFAULT_RECIPE).set(format!("model.architecture.name={name}"));
        Run::new(with_changes(loader, arguments).progress(console).load()?)?.device(&arguments.device)?
    };
    let session = run.session()?;
    let (recipe, graph) = (session.recipe(), session.graph());
    let plans = session.plans()?;
    let macs: u64 = graph.nodes().map(|(id, _)| graph.macs(id)).sum();
    let parameters = graph.parameter_count();
    output.print(&format!(
        "{}: {:.2} M parameters, {:.3} G multiply-accumulates for {} inputs, {} units; {}, setting {}\n",
        recipe.model.architecture.name,
        parameters as f64 / 1e6,
        macs as f64 / 1e9,
        shape(graph.input_shape()),
        graph.units().len(),
        recipe.bits(),
        recipe.quant.setting,
    ))?;
    let table = Table { graph, bits: bits(&plans, recipe) };
    let mut units = Vec::new();
    let mut listed = vec![false; graph.nodes().count()];
    output.print(&format!(
        "{:28}{:20}{:>20}  {:>16}  {:>6} {:>6} {:>10}\n",
        "unit / layer", "operation", "weight", "output", "w bits", "a bits", "MACs"
    ))?;
    for unit in graph.units() {
        let between: Vec<NodeId> = graph
            .nodes()
            .map(|(id, _)| id)
            .skip(1)
            .filter(|id| unit.nodes().first().is_some_and(|first| id < first) && !listed[id.index()])
            .collect();
        for id in between {
            listed[id.index()] = true;
            output.print(&table.line(id, ""))?;
        }
        output.print(&format!("{}\n", unit.name))?;
        for id in unit.nodes() {
            listed[id.index()] = true;
            output.print(&table.line(*id, "  "))?;
        }
        let layers: Vec<Value> = unit.nodes().iter().map(|id| table.json(*id)).collect();
        units.push(Value::from_iter([("name", Value::from(unit.name.as_str())), ("layers", layers.into())]));
    }
    let mut prepare = Vec::new();
    let outlines = session.outlines()?;
    // With weights and images, what is done is measured.
    let given = !outlines.is_empty() && run.check()?.unchecked.is_empty();
    let prepared = if given { super::plan::prepared(&run, output)? } else { Value::Null };
    for (name, lines) in outlines.into_iter().filter(|_| !given) {
        output.print(&format!("\nprepare: {name}\n"))?;
        for line in &lines {
            output.print(&format!("  {line}\n"))?;
        }
        prepare.push(Value::from_iter([("name", Value::from(name)), ("parts", lines.into())]));
    }
    Ok(Value::from_iter([
        ("architecture", Value::from(recipe.model.architecture.name.as_str())),
        ("parameters", parameters.into()),
        ("macs", macs.into()),
        ("input", graph.input_shape().into()),
        ("setting", recipe.quant.setting.to_string().into()),
        ("units", units.into()),
        ("prepare", prepare.into()),
        ("prepared", prepared),
    ]))
}

/// Bit widths by node; true is for the weight, false for the activation. Those that a run will choose are left out.
fn bits(plans: &[SitePlan], recipe: &Recipe) -> HashMap<(NodeId, bool), u32> {
    let mixed = recipe.quant.mixed.as_ref().filter(|mixed| mixed.chosen.is_none());
    let known = |p: &&SitePlan| !p.common_bits || !mixed.is_some_and(|mixed| mixed.chooses(p.site.kind));
    plans.iter().filter(known).map(|p| ((p.site.node, p.site.kind == SiteKind::Weight), p.spec.bits)).collect()
}

fn shape(dims: &[usize]) -> String {
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}

struct Table<'a> {
    graph: &'a Graph,
    bits: HashMap<(NodeId, bool), u32>,
}

impl Table<'_> {
    fn weight(&self, id: NodeId) -> Vec<usize> {
        self.graph.weight_shape(id).unwrap_or_default()
    }

    fn line(&self, id: NodeId, indent: &str) -> String {
        let node = self.graph.node(id);
        let operation = match &node.op {
            Op::Conv2d { kernel, geometry, .. } => {
                let [height, width] = kernel;
                let stride =
                    if geometry.stride == [1, 1] { String::new() } else { format!(" /{}", geometry.stride[0]) };
                let groups = if geometry.groups == 1 { String::new() } else { format!(" g{}", geometry.groups) };
                format!("conv2d {height}x{width}{stride}{groups}")
            }
            op => op.name().into(),
        };
        let bits = |weight| self.bits.get(&(id, weight)).map(ToString::to_string).unwrap_or_default();
        let macs = match self.graph.macs(id) {
            0 => String::new(),
            n => format!("{:.2} M", n as f64 / 1e6),
        };
        let (weight, value) = (shape(&self.weight(id)), shape(&node.shape));
        let name = format!("{indent}{}", node.name);
        format!("{name:27} {operation:20}{weight:>20}  {value:>16}  {:>6} {:>6} {macs:>10}\n", bits(true), bits(false))
    }

    fn json(&self, id: NodeId) -> Value {
        let node = self.graph.node(id);
        let bits = |weight| Value::from(self.bits.get(&(id, weight)).copied());
        Value::from_iter([
            ("name", Value::from(node.name.as_str())),
            ("operation", node.op.name().into()),
            ("weight", self.weight(id).into()),
            ("output", node.shape.as_slice().into()),
            ("weight_bits", bits(true)),
            ("activation_bits", bits(false)),
            ("macs", self.graph.macs(id).into()),
        ])
    }
}
