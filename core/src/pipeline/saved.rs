//! The saved result of a run.

use super::{plan_sites, Registries, Session, SitePlan};
use crate::error::{Error, Result};
use crate::graph::{Graph, SiteKind};
use crate::grid::{Granularity, QuantSpec};
use crate::model::QuantModel;
use crate::packed::{self, About, Packed, PackedSite};
use crate::recipe::Recipe;
use crate::run_directory::{Manifest, RunDirectory, MODEL_FILE, RECIPE_FILE, SUMMARY_FILE};
use crate::summary::Summary;
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Writes the quantized network as a packed file.
///
/// # Errors
/// The directory cannot be read or written.
pub fn save_model(directory: &RunDirectory, model: &QuantModel, recipe: &Recipe) -> Result<()> {
    let manifest = Manifest::read(directory.path())?;
    let about = About { recipe, summary: None, float_weights: Some(&manifest.weights) };
    directory.write(MODEL_FILE, &packed::write(model, &about)?)
}

/// Writes the summary, which shows that the result is complete. The model is [written](save_model) before.
///
/// # Errors
/// The directory cannot be written.
pub fn save_summary(directory: &RunDirectory, summary: &Summary) -> Result<()> {
    directory.store(SUMMARY_FILE, summary)
}

/// A saved result, loaded for evaluation.
pub struct SavedModel {
    /// The recipe as it ran.
    pub recipe: Recipe,
    /// The quantized network.
    pub model: QuantModel,
    /// The measurements and the conditions of the run. A packed file of a run has none: it was written before.
    pub summary: Option<Summary>,
    /// SHA-256 of the checkpoint with the float weights as hexadecimal text, if it is known.
    pub float_weights: Option<String>,
}

impl SavedModel {
    /// A session that measures this network as `recipe` says, which is the network's own recipe but for data and evaluation.
    ///
    /// # Errors
    /// A name is unknown or a parameter is wrong.
    pub fn session<'a>(&self, recipe: Recipe, registries: &'a Registries) -> Result<Session<'a>> {
        Session::of_graph(recipe, self.model.graph().clone(), registries, self.model.device().clone())
    }
}

/// Reads a saved result: the folder of a run, in which [`save_model`] and [`save_summary`] wrote, or a packed file alone.
///
/// # Errors
/// A file is missing, damaged or of another version, a strategy of the recipe is not registered, or the summary was
/// measured by another task than the recipe's.
pub fn load_saved(path: &Path, registries: &Registries, device: &Device) -> Result<SavedModel> {
    let (file, recipe_file, summary_file) = match path.is_dir() {
        true => (path.join(MODEL_FILE), path.join(RECIPE_FILE), path.join(SUMMARY_FILE)),
        false => (path.into(), path.into(), path.into()),
    };
    let mut packed = Packed::read(&file)?;
    if path.is_dir() {
        let text = |file: &Path| std::fs::read_to_string(file).map_err(Error::io("read", file));
        packed.recipe = text(&recipe_file)?;
        let summary = text(&summary_file)?;
        packed.summary = Some(serde_json::from_str(&summary).map_err(|e| Error::data(&summary_file, e))?);
    }
    let recipe = Recipe::from_yaml(&packed.recipe, &recipe_file)?;
    let known = packed.graph.take();
    let (session, graph) = match known {
        Some(graph) => (Session::of_graph(recipe, graph.clone(), registries, device.clone())?, graph),
        None => {
            let session = Session::new(recipe, registries, device.clone())?;
            check_size(session.graph(), &packed).map_err(|e| Error::data(&file, e))?;
            let graph = session.zero_model()?.graph().clone();
            (session, graph)
        }
    };
    if let Some(summary) = &packed.summary {
        check_summary(summary, &session).map_err(|e| Error::data(&summary_file, e))?;
    }
    let (summary, float_weights) = (packed.summary.take(), packed.float_weights.take());
    let model = model(&session, graph, packed).map_err(|e| Error::data(&file, e))?;
    Ok(SavedModel { recipe: session.into_recipe(), model, summary, float_weights })
}

/// Checks that a file may hold the values of a network, before memory is taken for them. Batch normalization has four
/// parameters for each bias that a file has.
fn check_size(graph: &Graph, packed: &Packed) -> Result<()> {
    let size = |shape: &[usize]| shape.iter().copied().fold(1, usize::saturating_mul);
    let shapes = graph.parameter_shapes();
    let wanted = shapes.iter().map(|(_, shape)| size(shape)).fold(0, usize::saturating_add);
    let weights = packed.weights.iter().map(|w| w.values.len());
    let held: usize = weights.chain(packed.parameters.iter().map(|p| p.values.len())).sum();
    if wanted > held.saturating_mul(5) {
        let message =
            format!("holds {held} values, but the network of its recipe needs {wanted}; was the recipe changed?");
        return Err(Error::message(message));
    }
    Ok(())
}

/// Checks that the task of the recipe measured what the summary says.
fn check_summary(summary: &Summary, session: &Session<'_>) -> Result<()> {
    for metric in session.task().metrics() {
        for measured in [&summary.float, &summary.quantized] {
            measured.value(&metric).map_err(|e| {
                let task = &session.recipe().task.name;
                Error::message(format!("{e}: it is not a result of the recipe's task '{task}'"))
            })?;
        }
    }
    Ok(())
}

/// The network of a file, whose values must be those of all of its graph and nothing else.
fn model(session: &Session<'_>, graph: Graph, packed: Packed) -> Result<QuantModel> {
    let device = session.device();
    let missing = |what: &str, name: &str| {
        Error::message(format!("lacks {what} '{name}', which the network of its recipe has; was the recipe changed?"))
    };
    let mut sites = BTreeMap::new();
    let mut values = BTreeMap::new();
    for weight in packed.weights {
        values.insert(format!("{}.weight", weight.site.name), (weight.shape, weight.values));
        sites.insert((SiteKind::Weight, weight.site.name.clone()), weight.site);
    }
    sites.extend(packed.activations.into_iter().map(|site| ((SiteKind::Activation, site.name.clone()), site)));
    values.extend(packed.parameters.into_iter().map(|p| (p.name, (p.shape, p.values))));
    let mut parameters = HashMap::new();
    for (name, wanted) in graph.parameter_shapes().into_iter().chain(session.head_parameters()) {
        let (shape, values) = values.remove(&name).ok_or_else(|| missing("the parameter", &name))?;
        if shape != wanted {
            return Err(Error::message(format!(
                "has the shape {shape:?} for '{name}', but the network needs {wanted:?}"
            )));
        }
        parameters.insert(name, Tensor::from_vec(values, shape, device)?);
    }
    let plans = plan_sites(&graph, &session.recipe().quant)?;
    let mut model = QuantModel::new(graph, parameters, device.clone()).with_head(session.head.clone());
    model.allow_tf32(session.recipe().tf32);
    session.place(&mut model, &plans)?;
    for SitePlan { site, spec, .. } in plans {
        let (what, shape) = match site.kind {
            SiteKind::Weight => ("the quantized weight", model.weight(site.node)?.dims().to_vec()),
            // As that of one image.
            SiteKind::Activation => {
                ("the quantizer of the activation", [&[1], model.graph().node(site.node).shape.as_slice()].concat())
            }
        };
        let key = (site.kind, site.name);
        let saved = sites.remove(&key).ok_or_else(|| missing(what, &key.1))?;
        check_grid(&saved, &spec, &shape)?;
        let quantizer = match site.kind {
            SiteKind::Weight => model.weight_site_mut(site.node),
            SiteKind::Activation => model.activation_site_mut(site.node),
        };
        if let Some(site) = quantizer {
            site.quantizer.set_qparams(&saved.params, device)?;
        }
    }
    match values.into_keys().chain(sites.into_keys().map(|(_, name)| name)).next() {
        None => Ok(model),
        Some(name) => {
            let message = format!("holds '{name}', which the network of its recipe lacks; was the recipe changed?");
            Err(Error::message(message))
        }
    }
}

/// Checks that a site of the file has the grid that the recipe gives it, and as many scales as a tensor of this shape needs.
fn check_grid(saved: &PackedSite, wanted: &QuantSpec, shape: &[usize]) -> Result<()> {
    if saved.spec == *wanted {
        let (channels, scales) = (wanted.granularity.channels(shape)?.count, saved.params.scale.len());
        if channels != scales {
            let message = format!("has {scales} scales for {channels} channels of '{}'", saved.name);
            return Err(Error::message(message));
        }
        return Ok(());
    }
    let shown = |spec: &QuantSpec| {
        let symmetric = if spec.symmetric { "symmetric" } else { "asymmetric" };
        let granularity = match spec.granularity {
            Granularity::PerTensor => "per tensor".into(),
            Granularity::PerAxis(axis) => format!("along axis {axis}"),
        };
        format!("{} bits, {symmetric}, {granularity}", spec.bits)
    };
    Err(Error::message(format!(
        "quantizes '{}' with {}, but the recipe says {}; was the recipe changed?",
        saved.name,
        shown(&saved.spec),
        shown(wanted)
    )))
}
