//! What is said before a run begins: the recipe, the float network's accuracy, the plan.

use super::Output;
use crate::console::{duration, Console};
use crate::memory::peak_resident_bytes;
use anyhow::{Context, Result};
use qdrop_core::dataset::Split;
use qdrop_core::fused::Engine;
use qdrop_core::model::QuantModel;
use qdrop_core::pipeline::Session;
use serde_json::{json, Value};

/// Checks what is given and prints the plan.
pub fn dry_run(session: &Session<'_>, output: Output) -> Result<Value> {
    let console = Console::new();
    header(session, &console);
    let mut value = json!({ "dry_run": true });
    match session.weights_file() {
        Err(_) => output.print("weights: not given, not checked\n"),
        Ok(_) => {
            let model = session.float_model().context("loading the float network")?;
            if data_given(session)? {
                value["float_sample"] = check_float(session, &model, &console)?;
            } else {
                output.print("data: not given, not checked\n");
            }
        }
    }
    let plan = plan(session, &console)?;
    output.print(&plan.text);
    value["plan"] = plan.json;
    Ok(value)
}

/// Whether the recipe says where the data is.
fn data_given(session: &Session<'_>) -> Result<bool> {
    match session.dataset(Split::Evaluation) {
        Ok(_) => Ok(true),
        Err(qdrop_core::Error::NotGiven { .. }) => Ok(false),
        Err(e) => Err(e).context("opening the data"),
    }
}

/// Says what runs.
pub fn header(session: &Session<'_>, console: &Console) {
    let recipe = session.recipe();
    console.line(&format!(
        "{}: {}, setting {}, seed {}",
        recipe.name,
        recipe.bits(),
        recipe.quant.setting,
        recipe.seed
    ));
    if let Some(notice) = session.notice() {
        console.line(&format!("note: {notice}"));
    }
}

/// Compares the float network with the published accuracy, if there is one.
pub fn check_float(session: &Session<'_>, model: &QuantModel, console: &Console) -> Result<Value> {
    let sample = session.check_float(model, console).context("checking the float network")?;
    let (Some(sample), Some(published)) = (sample, session.recipe().published) else { return Ok(Value::Null) };
    console.line(&format!(
        "float network: {:.1} % of a sample of {} images, published {:.2} % of the validation set",
        sample.top1, sample.images, published.float
    ));
    Ok(json!({ "top1": sample.top1, "images": sample.images }))
}

/// What a run will take.
pub struct Plan {
    /// For the reader.
    pub text: String,
    /// For `--json`.
    pub json: Value,
}

/// Estimates what the run will take.
pub fn plan(session: &Session<'_>, console: &Console) -> Result<Plan> {
    // The time does not depend on the weights.
    let model = match session.weights_file() {
        Ok(_) => session.float_model().context("loading the float network")?,
        Err(_) => session.zero_model()?,
    };
    let estimate = session.estimate(model, console).context("estimating the time")?;
    let limit = session.recipe().cache.limit.as_u64();
    // Steps at full batch size have been taken by now: their memory is in the peak.
    // The fused step keeps a second copy where the limit has room for it.
    let copies = if session.recipe().engine == Engine::Generic { 1 } else { 2 };
    let reconstruction = peak_resident_bytes() + (copies * estimate.cache_bytes).min(limit);
    let images: usize =
        session.graph().input_shape().iter().product::<usize>() * 4 * session.recipe().calibration.images;
    let calibration = estimate.calibration_bytes + (images as u64).min(limit);
    let memory = match estimate.steps {
        0 => calibration,
        _ => reconstruction.max(calibration),
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let spilled = estimate.cache_bytes.saturating_sub(limit);
    let mut text = match estimate.steps {
        0 => "plan: calibration alone, no reconstruction\n".to_string(),
        steps => format!(
            "plan: {} units, {steps} iterations each, about {} of reconstruction\n",
            estimate.units,
            duration(estimate.seconds)
        ),
    };
    text += &format!("memory: about {:.1} GiB", gib(memory));
    if spilled > 0 {
        text +=
            &format!(", and {:.1} GiB of cached values in files (cache.limit is {:.1} GiB)", gib(spilled), gib(limit));
    }
    text.push('\n');
    let json = json!({
        "units": estimate.units, "iterations": estimate.steps, "seconds": estimate.seconds, "memory_bytes": memory,
        "cache_bytes": estimate.cache_bytes
    });
    Ok(Plan { text, json })
}
