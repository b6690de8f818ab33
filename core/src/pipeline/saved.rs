//! The saved result of a run.

use super::{Registries, Session};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::grid::QParams;
use crate::model::{QuantModel, QuantSite, WeightCodes};
use crate::ops::host_values;
use crate::preparation::Change;
use crate::recipe::Recipe;
use crate::run_directory::{RunDirectory, MODEL_FILE, RECIPE_FILE, SUMMARY_FILE};
use crate::task::Measurement;
use crate::weights::{self, RawDtype, RawTensor, RawTensors};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The measurements of a run and its conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the recipe.
    pub recipe: String,
    /// The recipe's setting: where quantizers are placed and which layers keep 8 bits.
    pub setting: String,
    /// Bit widths, such as `w2a4`.
    pub bits: String,
    /// Seed of the run.
    pub seed: u64,
    /// Name of the reconstructor.
    pub reconstruction: String,
    /// Measurement of the full-precision network.
    pub float: Measurement,
    /// Measurement of the quantized network.
    pub quantized: Measurement,
    /// Wall-clock time of calibration and reconstruction.
    pub seconds: f64,
    /// Largest resident memory of the process.
    pub peak_rss_bytes: u64,
    /// What the recipe's preparations did to the float network: the name of each, and its changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<(String, Vec<Change>)>,
    /// Where the float weights were in the checkpoint, unless they were all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// A warning for comparisons with other results, such as that the run was shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Writes the quantized network.
///
/// # Errors
/// The directory cannot be written.
pub fn save_model(directory: &RunDirectory, model: &QuantModel) -> Result<()> {
    directory.write(MODEL_FILE, &serialize(model)?)
}

/// Writes the summary, which shows that the result is complete. The model is [written](save_model) before.
///
/// # Errors
/// The directory cannot be written.
pub fn save_summary(directory: &RunDirectory, summary: &Summary) -> Result<()> {
    directory.store(SUMMARY_FILE, summary)
}

fn f32_tensor(values: &[f32], shape: Vec<usize>) -> RawTensor {
    RawTensor { dtype: RawDtype::F32, shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

fn serialize(model: &QuantModel) -> Result<Vec<u8>> {
    let mut tensors = RawTensors::new();
    for (name, tensor) in model.parameters() {
        tensors.insert(name.clone(), host_values(tensor, |v| f32_tensor(v, tensor.dims().to_vec()))?);
    }
    for (node, site) in model.weight_sites() {
        tensors.remove(&format!("{}.weight", site.name));
        let Some(weight) = model.weight_codes(node)? else { continue };
        for (suffix, tensor) in codes(site, &weight)? {
            tensors.insert(format!("{}.weight.{suffix}", site.name), tensor);
        }
    }
    for (_, site) in model.activation_sites() {
        for (suffix, tensor) in grid_tensors(&site.quantizer.qparams()?) {
            tensors.insert(format!("{}.activation.{suffix}", site.name), tensor);
        }
    }
    let mut views = Vec::new();
    for (name, t) in &tensors {
        let dtype = match t.dtype {
            RawDtype::F32 => Dtype::F32,
            RawDtype::Integer(1) => Dtype::U8,
            _ => Dtype::U16,
        };
        views.push((name, TensorView::new(dtype, t.shape.clone(), &t.bytes).map_err(Error::message)?));
    }
    safetensors::serialize(views, None).map_err(Error::message)
}

fn grid_tensors(params: &QParams) -> [(&'static str, RawTensor); 2] {
    let vector = |v: &[f32]| f32_tensor(v, vec![v.len()]);
    [("scale", vector(&params.scale)), ("zero_point", vector(&params.zero_point))]
}

/// A weight as integers counted from qmin, with its scales and zero points.
fn codes(site: &QuantSite, weight: &WeightCodes) -> Result<Vec<(&'static str, RawTensor)>> {
    let size = if weight.bits > 8 { 2 } else { 1 };
    let bytes = weight.codes.iter().flat_map(|code| code.to_le_bytes().into_iter().take(size)).collect();
    let codes = RawTensor { dtype: RawDtype::Integer(size), shape: weight.shape.clone(), bytes };
    let mut tensors = vec![("codes", codes)];
    tensors.extend(grid_tensors(&site.quantizer.qparams()?));
    Ok(tensors)
}

/// A saved result, loaded for evaluation.
pub struct SavedModel {
    /// The recipe as it ran.
    pub recipe: Recipe,
    /// The quantized network.
    pub model: QuantModel,
    /// The measurements and the conditions of the run.
    pub summary: Summary,
}

/// Reads what [`save_model`] and [`save_summary`] wrote.
///
/// # Errors
/// A file is missing or damaged, a strategy of the recipe is not registered, or the summary was measured by
/// another task than the recipe's.
pub fn load_saved(dir: &Path, registries: &Registries, device: &Device) -> Result<SavedModel> {
    let text = |name: &str| {
        let file = dir.join(name);
        std::fs::read_to_string(&file).map_err(Error::io("read", &file)).map(|t| (t, file))
    };
    let (recipe, recipe_file) = text(RECIPE_FILE)?;
    let (summary, summary_file) = text(SUMMARY_FILE)?;
    let recipe = Recipe::from_yaml(&recipe, &recipe_file)?;
    let summary: Summary = serde_json::from_str(&summary).map_err(|e| Error::data(&summary_file, e))?;
    let file = dir.join(MODEL_FILE);
    let mut tensors = weights::read(&file)?;
    let session = Session::new(recipe, registries, device.clone())?;
    for metric in session.task().metrics() {
        for measured in [&summary.float, &summary.quantized] {
            measured.value(&metric).map_err(|e| {
                let task = &session.recipe().task.name;
                Error::data(&summary_file, format!("{e}: it is not a result of the recipe's task '{task}'"))
            })?;
        }
    }
    let mut model = session.empty_model()?;
    let weight_sites: Vec<NodeId> = model.weight_sites().map(|(n, _)| n).collect();
    let mut reader = Reader { tensors: &mut tensors, file: &file, device };
    for node in weight_sites {
        if let Some(site) = model.weight_site_mut(node) {
            let weight = reader.weight(site)?;
            model.set_weight(node, weight)?;
        }
    }
    let activation_sites: Vec<NodeId> = model.activation_sites().map(|(n, _)| n).collect();
    for node in activation_sites {
        if let Some(site) = model.activation_site_mut(node) {
            let params = reader.qparams(&format!("{}.activation", site.name))?;
            site.quantizer.set_qparams(&params, device)?;
        }
    }
    for (name, raw) in std::mem::take(reader.tensors) {
        let values = raw.to_f32().map_err(|e| Error::weights(&file, format!("{name} {e}")))?;
        model.set_parameter(&name, Tensor::from_vec(values, raw.shape, device)?)?;
    }
    Ok(SavedModel { recipe: session.into_recipe(), model, summary })
}

struct Reader<'a> {
    tensors: &'a mut RawTensors,
    file: &'a Path,
    device: &'a Device,
}

impl Reader<'_> {
    fn take(&mut self, name: &str) -> Result<RawTensor> {
        self.tensors.remove(name).ok_or_else(|| Error::weights(self.file, format!("tensor '{name}' is missing")))
    }

    fn qparams(&mut self, prefix: &str) -> Result<QParams> {
        let mut vector = |suffix: &str| {
            let name = format!("{prefix}.{suffix}");
            let raw = self.take(&name)?;
            raw.to_f32().map_err(|e| Error::weights(self.file, format!("{name} {e}")))
        };
        Ok(QParams { scale: vector("scale")?, zero_point: vector("zero_point")? })
    }

    /// Sets the site's grid and returns the dequantized weight.
    fn weight(&mut self, site: &mut QuantSite) -> Result<Tensor> {
        let name = format!("{}.weight", site.name);
        let params = self.qparams(&name)?;
        let raw = self.take(&format!("{name}.codes"))?;
        let spec = *site.quantizer.spec();
        let channels = spec.granularity.channels(&raw.shape)?;
        if channels.count != params.scale.len() || params.scale.len() != params.zero_point.len() {
            return Err(Error::weights(
                self.file,
                format!("{name}: {} scales for {} channels", params.scale.len(), channels.count),
            ));
        }
        let values: Vec<f32> = raw
            .bytes
            .chunks_exact(raw.dtype.size())
            .enumerate()
            .map(|(i, b)| {
                let c = i / channels.inner % channels.count;
                let code = b.iter().rev().fold(0_u32, |v, b| v << 8 | u32::from(*b));
                (code as f32 + spec.qmin() - params.zero_point[c]) * params.scale[c]
            })
            .collect();
        site.quantizer.set_qparams(&params, self.device)?;
        Ok(Tensor::from_vec(values, raw.shape, self.device)?)
    }
}
