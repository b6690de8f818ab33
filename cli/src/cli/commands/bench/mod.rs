//! `qdrop bench`: measures the time of steps, evaluations and whole networks on this machine.

mod against;
mod blocks;
mod branches;
mod networks;
mod row;

use super::Output;
use crate::cli::arguments::BenchArguments;
use crate::report::duration;
use against::Other;
use anyhow::{bail, Result};
use blocks::{blocks, Block, On};
use networks::{estimated, evaluated};
use qdrop_core::engine::Engine;
use qdrop_core::pipeline::Registries;
use serde_json::Value;

/// Something that can be measured.
enum Subject {
    /// A step of reconstruction of one block.
    Block(Block),
    /// The evaluation of a quantized network.
    Evaluation(&'static str),
    /// The whole reconstruction of a network.
    Estimate(&'static str),
}

impl Subject {
    fn name(&self) -> String {
        match self {
            Self::Block(block) => block.name.into(),
            Self::Evaluation(network) => format!("evaluate.{network}"),
            Self::Estimate(network) => format!("network.{network}"),
        }
    }
}

/// Runs `bench`.
pub fn bench(arguments: &BenchArguments, output: Output) -> Result<Value> {
    let registries = Registries::collect()?;
    let all = subjects();
    if let Some(name) = arguments.names.iter().find(|n| !all.iter().any(|s| s.name() == **n)) {
        let known: Vec<String> = all.iter().map(Subject::name).collect();
        bail!("nothing to measure is called '{name}'; known: {}", known.join(", "));
    }
    let on = On { device: qdrop_core::device::open(&arguments.device)?, tf32: arguments.tf32 };
    // Estimates are measured on the CPU.
    let is_wanted = |subject: &&Subject| match (subject, arguments.names.is_empty()) {
        (Subject::Block(_) | Subject::Evaluation(_), true) => true,
        (Subject::Estimate(_), true) => on.device.is_cpu(),
        (_, false) => arguments.names.contains(&subject.name()),
    };
    let wanted: Vec<&Subject> = all.iter().filter(is_wanted).collect();
    if let Some(other) = wanted.iter().find(|s| !on.device.is_cpu() && matches!(s, Subject::Estimate(_))) {
        bail!("'{}' is measured on the CPU only; leave it out, or leave out --device", other.name());
    }
    let other = arguments.against.as_deref().map(|command| Other { command, iters: arguments.iters });
    let peak = qdrop_core::kernels::peak::gigaflops();
    output.print(&format!("{peak:.0} GFLOP/s at most on {} threads\n", rayon::current_num_threads()))?;
    let mut values =
        Value::from_iter([("threads", Value::from(rayon::current_num_threads())), ("peak_gflops", peak.into())]);
    for subject in wanted {
        let name = subject.name();
        let (text, value) = match subject {
            Subject::Block(block) => measure_block(block, arguments, other.as_ref(), peak, &registries, &on)?,
            Subject::Evaluation(network) => {
                let own = || evaluated(network, arguments.iters, &registries, &on);
                let (ms, against) = paired(&name, own, networks::BATCH, arguments.pairs, other.as_ref())?;
                let images = networks::BATCH as f64 / ms * 1e3;
                let mut value = Value::from_iter([("batch_ms", ms), ("images_per_second", images)]);
                merge(&mut value, &against);
                (format!("{images:9.1} images/s{}", text_of(&against)), value)
            }
            Subject::Estimate(network) => {
                let estimate = estimated(network, arguments.engine.map_or(Engine::Auto, Into::into), &registries)?;
                let text = format!(
                    "{} units, {} iterations each: {}",
                    estimate.units,
                    estimate.steps,
                    duration(estimate.seconds)
                );
                let value = [
                    ("units", Value::from(estimate.units)),
                    ("iterations", estimate.steps.into()),
                    ("seconds", estimate.seconds.into()),
                ];
                (text, Value::from_iter(value))
            }
        };
        output.print(&format!("{name:26} {text}\n"))?;
        values[name] = value;
    }
    Ok(values)
}

fn subjects() -> Vec<Subject> {
    let evaluations = ["resnet18", "mobilenet_v2"].map(Subject::Evaluation);
    let estimates = ["resnet18", "resnet50", "mobilenet_v2", "regnetx_600m", "regnetx_3200m", "mnasnet"];
    blocks().into_iter().map(Subject::Block).chain(evaluations).chain(estimates.map(Subject::Estimate)).collect()
}

fn measure_block(
    block: &Block,
    arguments: &BenchArguments,
    other: Option<&Other<'_>>,
    peak: f64,
    registries: &Registries,
    on: &On,
) -> Result<(String, Value)> {
    let engine = arguments.engine.map_or(Engine::Auto, Into::into);
    let own = || block.step(registries, arguments.iters, engine, on);
    let (ms, against) = paired(block.name, own, block.batch, arguments.pairs, other)?;
    let gflops = block.operations()? / ms / 1e6;
    let mut value = Value::from_iter([("step_ms", ms), ("gflops", gflops)]);
    let mut text = format!("{ms:9.2} ms a step");
    // A GPU computes while the program goes on, so that its passes have no times of their own.
    let is_cpu = on.device.is_cpu();
    if engine != Engine::Generic && is_cpu {
        let [forward, backward] = block.passes(registries, arguments.iters, on)?;
        text += &format!(", forward {forward:.2}, backward {backward:.2}");
        value["forward_ms"] = forward.into();
        value["backward_ms"] = backward.into();
    }
    text += &format!("; {gflops:.0} GFLOP/s");
    if is_cpu {
        value["of_peak"] = (gflops / peak).into();
        text += &format!(", {:.0} % of the peak", 100.0 * gflops / peak);
    }
    text += &text_of(&against);
    merge(&mut value, &against);
    Ok((text, value))
}

/// The other command's median, and the median ratio of the pairs.
type Against = Option<[f64; 2]>;

/// Median milliseconds of `own`, alternating with the other command if there is one.
fn paired(
    name: &str,
    own: impl Fn() -> Result<f64>,
    batch: usize,
    pairs: usize,
    other: Option<&Other<'_>>,
) -> Result<(f64, Against)> {
    let Some(other) = other else { return Ok((own()?, None)) };
    let (mut mine, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let (a, b) = (own()?, other.median_ms(name, batch)?);
        mine.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    Ok((blocks::median(mine), Some([blocks::median(theirs), blocks::median(ratios)])))
}

fn text_of(against: &Against) -> String {
    against.map_or(String::new(), |[ms, ratio]| format!("; other {ms:.2} ms, ratio {ratio:.3}"))
}

fn merge(value: &mut Value, against: &Against) {
    if let Some([ms, ratio]) = against {
        value["other_ms"] = (*ms).into();
        value["ratio"] = (*ratio).into();
    }
}
