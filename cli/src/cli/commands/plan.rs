//! Output before or without a run: the results of checks, the float network's measurement, and the plan.

use super::{run_of, Output};
use crate::cli::arguments::RecipeArguments;
use crate::cli::console::Console;
use crate::error::At;
use crate::report::duration;
use crate::{Check, Plan, Result, Run, Stage};
use qdrop_core::graph::SiteKind;
use qdrop_core::memory::gib;
use qdrop_core::pipeline::NetworkCost;
use qdrop_core::recipe::MixedRecipe;
use serde_json::Value;
use std::collections::BTreeMap;

/// `check`: prints what was checked.
pub fn check(arguments: &RecipeArguments, console: &Console, output: Output) -> anyhow::Result<Value> {
    let run = run_of(arguments, console)?;
    let check = run.check()?;
    let (units, weights, activations) = (check.units, check.weights, check.activations);
    output.print(&format!(
        "network: {units} units, {weights} quantized weights, {activations} quantized activations\n"
    ))?;
    if !check.unchecked.contains(&qdrop_core::error::Input::Weights) {
        output.print("weights: every tensor is there\n")?;
    }
    if let Some([calibration, evaluation]) = check.images {
        output.print(&format!("data: {calibration} calibration and {evaluation} evaluation images\n"))?;
    }
    if let Some(text) = to_choose(&run)? {
        output.print(&format!("{text}\n"))?;
    }
    if let Some(text) = &check.preprocessing {
        output.print(&format!("images: {text}\n"))?;
    }
    let unchecked: Vec<String> = check.unchecked.iter().map(ToString::to_string).collect();
    for what in &unchecked {
        output.print(&format!("{what}: not given, not checked\n"))?;
    }
    output.print("the recipe is valid\n")?;
    Ok(Value::from_iter([
        ("valid", Value::from(true)),
        ("units", units.into()),
        ("weights", weights.into()),
        ("activations", activations.into()),
        ("unchecked", unchecked.into()),
    ]))
}

/// `quantize --dry-run`: checks all given inputs and prints the plan.
pub fn dry_run(mut run: Run<'_>, console: &Console, output: Output) -> anyhow::Result<Value> {
    header(&run, console)?;
    let mut value = Value::from_iter([("dry_run", true)]);
    let check = run.check()?;
    preprocessing(&check, console);
    for what in &check.unchecked {
        output.print(&format!("{what}: not given, not checked\n"))?;
    }
    if check.unchecked.is_empty() {
        value["float_sample"] = check_float(&mut run, console)?;
        value["chosen"] = choose_bits(&mut run, console)?;
    } else if run.recipe().quant.mixed.is_some() {
        output.print("quant.mixed: bits are chosen when weights and images are given; the plan is without them\n")?;
    }
    value["prepared"] = prepared(&run, output)?;
    let plan = run.plan()?;
    output.print(&text(&plan))?;
    value["plan"] = Value::from_iter([
        ("units", Value::from(plan.units)),
        ("iterations", plan.iterations.into()),
        ("seconds", plan.seconds.into()),
        ("memory_bytes", plan.memory_bytes.into()),
        ("cache_bytes", plan.cache_bytes.into()),
        ("cost", serde_json::to_value(&plan.cost)?),
    ]);
    Ok(value)
}

/// Prints what the recipe's preparations do, if weights and images are given.
pub fn prepared(run: &Run<'_>, output: Output) -> anyhow::Result<Value> {
    let prepared = run.prepared()?;
    for (name, changes) in &prepared {
        output.print(&format!("prepare: {name}\n"))?;
        for change in changes {
            output.print(&format!("  {}: {}\n", change.part, change.what))?;
        }
    }
    Ok(serde_json::to_value(prepared)?)
}

/// Prints which recipe runs.
pub fn header(run: &Run<'_>, console: &Console) -> Result<()> {
    let recipe = run.recipe();
    console.line(&format!(
        "{}: {}, setting {}, seed {}",
        recipe.name,
        recipe.bits(),
        recipe.quant.setting,
        recipe.seed
    ));
    if let Some(notice) = run.session()?.notice() {
        console.line(&format!("note: {notice}"));
    }
    Ok(())
}

/// Says how images become the network's input.
pub fn preprocessing(check: &Check, console: &Console) {
    if let Some(text) = &check.preprocessing {
        console.line(&format!("images: {text}"));
    }
}

/// Compares the float network with the published result, if the recipe has one.
pub fn check_float(run: &mut Run<'_>, console: &Console) -> Result<Value> {
    let Some(sample) = run.check_float()? else { return Ok(Value::Null) };
    console.line(&format!("float network: {}", sample.text()));
    Ok(Value::from_iter([(sample.metric.key.as_str(), Value::from(sample.value)), ("images", sample.images.into())]))
}

/// Which bits a run will choose, if its recipe asks for it.
fn to_choose(run: &Run<'_>) -> anyhow::Result<Option<String>> {
    let Some(mixed) = &run.recipe().quant.mixed else { return Ok(None) };
    let plans = run.session()?.plans()?;
    let free = |kind: SiteKind| {
        let of_kind = plans.iter().filter(|plan| plan.common_bits && plan.site.kind == kind).count();
        mixed.chooses(kind).then(|| format!("{of_kind} {}s", kind.name()))
    };
    let what: Vec<String> = [SiteKind::Weight, SiteKind::Activation].into_iter().filter_map(free).collect();
    let when = if mixed.chosen.is_some() { "are chosen" } else { "will be chosen when it runs" };
    Ok(Some(format!("quant.mixed, {}: bits of {} {when}", mixed.target, what.join(" and "))))
}

/// Chooses bits for single layers, if the recipe asks for it, and says which.
pub fn choose_bits(run: &mut Run<'_>, console: &Console) -> anyhow::Result<Value> {
    let Some(MixedRecipe { target, chosen: Some(chosen), .. }) = run.choose_bits()?.cloned() else {
        return Ok(Value::Null);
    };
    let taken = run.session()?.chosen_cost().at(Stage::Analysis)?.unwrap_or_default();
    console.line(&format!("quant.mixed, {target}: {taken}"));
    for kind in [SiteKind::Weight, SiteKind::Activation] {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        chosen.of(kind).values().for_each(|bits| *counts.entry(*bits).or_default() += 1);
        let counts: Vec<_> = counts.iter().map(|(bits, count)| format!("{count} at {}", in_bits(*bits))).collect();
        if !counts.is_empty() {
            console.line(&format!("quant.mixed, {target}: {}s: {}", kind.name(), counts.join(", ")));
        }
    }
    Ok(serde_json::to_value(chosen)?)
}

fn in_bits(bits: u32) -> String {
    format!("{bits} bit{}", if bits == 1 { "" } else { "s" })
}

/// The plan as text.
pub fn text(plan: &Plan) -> String {
    let mut text = match plan.iterations {
        0 => "plan: calibration alone, no reconstruction\n".to_string(),
        iterations => format!(
            "plan: {} units, {iterations} iterations each, about {} of reconstruction\n",
            plan.units,
            duration(plan.seconds)
        ),
    };
    text += &format!("memory: about {:.1} GiB", gib(plan.memory_bytes));
    if plan.spilled_bytes > 0 {
        text += &format!(
            ", and {:.1} GiB of cached values in files (cache.limit is {:.1} GiB)",
            gib(plan.spilled_bytes),
            gib(plan.cache_bytes - plan.spilled_bytes)
        );
    }
    let NetworkCost { bytes, float_bytes, bit_operations, percent_of_w8a8 } = plan.cost;
    text += &format!(
        "\nquantized network: {:.2} MB (float {:.2} MB), {:.2} G MACs x bits, {percent_of_w8a8:.1} % of w8a8\n",
        bytes as f64 / 1e6,
        float_bytes as f64 / 1e6,
        bit_operations / 1e9,
    );
    text
}
