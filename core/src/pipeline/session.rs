//! A session runs a recipe.

use super::calibrate::{place, Observed};
use super::inspect::sites;
use super::published::check_published;
use super::reconstruct::units_of;
use super::{
    calibrate, calibration_images, plan_sites, reconstruct, CalibrationSet, Observers, Registries, Resources, SitePlan,
};
use crate::architecture::Architecture;
use crate::cache::{CacheBudget, CachedValues};
use crate::dataset::{Dataset, DatasetRequest, Split};
use crate::error::{Error, Result};
use crate::graph::{network_unit, Graph, NodeId};
use crate::head::{Head, Output};
use crate::model::QuantModel;
use crate::preparation::{Change, Preparation};
use crate::progress::{Event, Progress};
use crate::random::SeededRandom;
use crate::recipe::{CalibrationInputs, Recipe, Strategy};
use crate::reconstructor::{Grouping, Reconstructor};
use crate::report::{SiteReport, UnitReport};
use crate::target::TargetSpec;
use crate::task::Task;
use candle_core::Device;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Place of the architecture in a recipe.
pub(super) const ARCHITECTURE: &str = "model.architecture";

/// A recipe whose strategies are looked up and built.
pub struct Session<'a> {
    pub(super) recipe: Recipe,
    pub(super) registries: &'a Registries,
    pub(super) device: Device,
    /// Where the graph comes from; `None` for the network of a saved result, whose graph is known.
    pub(super) source: Option<Source>,
    reconstructor: Box<dyn Reconstructor>,
    pub(super) preparations: Vec<Box<dyn Preparation>>,
    pub(super) graph: Graph,
    pub(super) head: Option<Arc<dyn Head>>,
    task: Box<dyn Task>,
    targets: TargetSpec,
}

/// An architecture that gave a network's graph.
pub(super) struct Source {
    pub architecture: Box<dyn Architecture>,
    /// The files of a network that comes with its weights.
    pub own_files: Vec<PathBuf>,
}

/// A quantized network and the reports of its reconstruction.
pub struct RunResult {
    /// The quantized network.
    pub model: QuantModel,
    /// The report of each unit.
    pub units: Vec<UnitReport>,
    /// What quantization did at each site, if there are no units whose reports would say it.
    pub sites: Vec<SiteReport>,
    /// What the recipe's preparations did to the float network: the name of each, and its changes.
    pub prepared: Vec<(String, Vec<Change>)>,
    /// Wall-clock time of preparation, calibration and reconstruction.
    pub seconds: f64,
}

impl<'a> Session<'a> {
    /// Looks up and checks everything that can be checked without reading weights or images.
    ///
    /// # Errors
    /// A name is unknown, a parameter is wrong, the network cannot be built, or the task cannot measure it.
    pub fn new(recipe: Recipe, registries: &'a Registries, device: Device) -> Result<Self> {
        let strategy = &recipe.model.architecture;
        let params = strategy.params_at(ARCHITECTURE);
        let architecture = registries.architectures.get(&strategy.name, ARCHITECTURE)?.build()?;
        let graph = architecture.graph(&params).map_err(|error| match error {
            Error::Graph { .. } => Error::setting(ARCHITECTURE, error),
            other => other,
        })?;
        let (own_files, head) = (architecture.files(&params)?, architecture.head(&params)?);
        Self::with(recipe, registries, device, (graph, head), Some(Source { architecture, own_files }))
    }

    /// A session for a network of this recipe whose graph is known, such as that of a saved result: with batch normalization
    /// folded and preparations applied. The architecture is asked for the head, if it is registered, and else is built only where
    /// the float network is needed.
    ///
    /// # Errors
    /// A name is unknown, a parameter is wrong, or the task cannot measure the network.
    pub fn of_graph(recipe: Recipe, graph: Graph, registries: &'a Registries, device: Device) -> Result<Self> {
        let strategy = &recipe.model.architecture;
        let head = match registries.architectures.get(&strategy.name, ARCHITECTURE) {
            Ok(entry) => entry.build()?.head(&strategy.params_at(ARCHITECTURE))?,
            Err(_) => None,
        };
        Self::with(recipe, registries, device, (graph, head), None)
    }

    fn with(
        recipe: Recipe,
        registries: &'a Registries,
        device: Device,
        (graph, head): (Graph, Option<Box<dyn Head>>),
        source: Option<Source>,
    ) -> Result<Self> {
        let head: Option<Arc<dyn Head>> = head.map(Into::into);
        let reconstructor = build_reconstructor(&recipe, registries)?;
        let preparation = |(i, strategy): (usize, &Strategy)| {
            let path = format!("prepare[{i}]");
            registries.preparations.get(&strategy.name, &path)?.build(&strategy.params_at(&path))
        };
        let preparations = recipe.prepare.iter().enumerate().map(preparation).collect::<Result<_>>()?;
        let task = registries.task_of(&recipe)?;
        let outputs = match &head {
            Some(head) => head.outputs(),
            None => graph.outputs().iter().map(|id| Output::Values(graph.node(*id).shape.clone())).collect(),
        };
        let targets = task.targets(&outputs)?;
        check_published(&recipe, &*task)?;
        if recipe.calibration.inputs == CalibrationInputs::Quantized && reconstructor.grouping() == Grouping::None {
            let name = &recipe.reconstruction.name;
            let message = format!(
                "`quantized` observes the ranges of each unit before its reconstruction, but the reconstruction '{name}' has \
                 no units; use `float` with it"
            );
            return Err(Error::setting("calibration.inputs", message));
        }
        if recipe.calibration.inputs == CalibrationInputs::Quantized && recipe.calibration.refine > 0 {
            let message = "refines ranges that `inputs: quantized` would observe again later; leave out one of the two";
            return Err(Error::setting("calibration.refine", message));
        }
        if head.is_some() && recipe.calibration.refine > 0 {
            let message = "compares the network's outputs, but a head reads those of this network; leave it out";
            return Err(Error::setting("calibration.refine", message));
        }
        let group = recipe.calibration.group;
        if group.is_some() && recipe.calibration.inputs == CalibrationInputs::Quantized {
            let message =
                "`quantized` observes all images at once, and those of groups differ in size; use `float` with groups";
            return Err(Error::setting("calibration.inputs", message));
        }
        if group == Some(0) || (group.is_some() && !graph.any_size()) {
            let message = match group {
                Some(0) => "must be at least 1",
                _ => "is for networks that take images of any size, which this one does not; leave it out",
            };
            return Err(Error::setting("calibration.group", message));
        }
        // Without groups, a network without units can still be measured.
        if !recipe.reconstruction.merge.is_empty() {
            units_of(&graph, reconstructor.grouping(), &recipe.reconstruction.merge)?;
        }
        let session =
            Self { recipe, registries, device, source, reconstructor, preparations, graph, head, task, targets };
        if session.recipe.quant.mixed.is_some() {
            session.check_deviates("quant.mixed")?;
        }
        if session.recipe.evaluation.against_float {
            session.check_compares("evaluation.against_float")?;
        } else if session.task.metrics().is_empty() {
            let name = &session.recipe.task.name;
            let message =
                format!("the task '{name}' measures a network by comparing it with the float network; set it to true");
            return Err(Error::setting("evaluation.against_float", message));
        }
        session.registries.datasets.get(&session.recipe.data.name, "data")?;
        for plan in session.plans()? {
            let (observer, path) = &plan.observer;
            registries.observers.get(&observer.name, path)?.build(&plan.spec, &observer.params_at(path))?;
            let (quantizer, path) = &plan.quantizer;
            registries.quantizers.get(&quantizer.name, path)?.build(&plan.spec, &quantizer.params_at(path))?;
        }
        Ok(session)
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The device of the run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the recipe and ends the session.
    pub fn into_recipe(self) -> Recipe {
        self.recipe
    }

    /// The network as the architecture describes it, batch normalization included.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The task of the network.
    pub fn task(&self) -> &dyn Task {
        &*self.task
    }

    /// What the recipe's preparations will do to the network, without weights or images: the name of each, and a line for
    /// each part of the network.
    ///
    /// # Errors
    /// A preparation fails.
    pub fn outlines(&self) -> Result<Vec<(String, Vec<String>)>> {
        if self.preparations.is_empty() {
            return Ok(Vec::new());
        }
        let model = self.zero_model()?;
        self.preparations().map(|(name, p)| Ok((name.into(), p.outline(model.graph())?))).collect()
    }

    /// What the task compares the network's outputs with.
    pub fn targets(&self) -> TargetSpec {
        self.targets
    }

    /// The reconstructor's warning to the user before the run, such as that results are not comparable.
    pub fn notice(&self) -> Option<String> {
        self.reconstructor.notice()
    }

    /// The planned quantizers.
    ///
    /// # Errors
    /// An override matches no site.
    pub fn plans(&self) -> Result<Vec<SitePlan>> {
        plan_sites(&self.graph, &self.recipe.quant)
    }

    /// The planned quantizers for `graph`, which is this network after batch-norm folding.
    pub(super) fn plans_of(&self, graph: &Graph) -> Result<Vec<SitePlan>> {
        plan_sites(graph, &self.recipe.quant)
    }

    pub(super) fn preparations(&self) -> impl Iterator<Item = (&str, &dyn Preparation)> {
        self.recipe.prepare.iter().map(|strategy| strategy.name.as_str()).zip(self.preparations.iter().map(|p| &**p))
    }

    /// Observes the recipe's number of images, and gives the quantizers of `model` their ranges. Those of activations are
    /// refined on the first `refine` images.
    pub(super) fn calibrate(
        &self,
        model: &mut QuantModel,
        plans: &[SitePlan],
        (images, refine): (&CachedValues, usize),
        progress: &dyn Progress,
    ) -> Result<()> {
        let observed = Observed { images, count: self.recipe.calibration.observe, refine };
        calibrate(model, plans, self.registries, observed, progress)
    }

    pub(super) fn place(&self, model: &mut QuantModel, plans: &[SitePlan]) -> Result<()> {
        place(model, plans, self.registries)
    }

    /// Builds another reconstructor from the recipe.
    pub(super) fn build_reconstructor(&self) -> Result<Box<dyn Reconstructor>> {
        build_reconstructor(&self.recipe, self.registries)
    }

    /// Opens one split of the dataset.
    ///
    /// # Errors
    /// The data cannot be found, or does not match the network or the task.
    pub fn dataset(&self, split: Split) -> Result<Box<dyn Dataset>> {
        let data = &self.recipe.data;
        // Without parameters it is only a name.
        let named = if data.params.is_null() { "data" } else { "data.name" };
        let request = DatasetRequest {
            split,
            seed: self.recipe.seed,
            input: self.graph.input_shape().try_into().map_err(|_| Error::graph("input", "is not an image"))?,
            targets: self.targets,
            root: self.recipe.data_root.as_ref().map(|root| self.recipe.resolve("data_root", root)),
            base_dir: self.recipe.folder(named).into(),
        };
        let dataset = self.registries.datasets.get(&data.name, "data")?.build(&data.params_at("data"), &request)?;
        if dataset.is_empty() {
            return Err(Error::setting("data", "the dataset holds no image"));
        }
        if dataset.targets() != self.targets {
            let message = format!(
                "the dataset '{}' gives {} with each image, but the task '{}' compares the outputs of this network with \
                 {}; choose a dataset and a task that fit each other",
                data.name,
                dataset.targets(),
                self.recipe.task.name,
                self.targets
            );
            return Err(Error::setting("data", message));
        }
        Ok(dataset)
    }

    /// [Opens](Self::dataset) one split of the dataset, and passes on what the dataset tells the user about it.
    ///
    /// # Errors
    /// Those of [`dataset`](Self::dataset).
    pub fn dataset_with_notes(&self, split: Split, progress: &dyn Progress) -> Result<Box<dyn Dataset>> {
        let dataset = self.dataset(split)?;
        for note in dataset.notes() {
            progress.event(Event::Warning(note));
        }
        Ok(dataset)
    }

    /// Checks that the task can compare networks, which `path` in the recipe asks for.
    pub(super) fn check_compares(&self, path: &str) -> Result<()> {
        if self.task.image_metrics().is_empty() {
            let message = format!("the task '{}' does not compare networks image by image", self.recipe.task.name);
            return Err(Error::setting(path, message));
        }
        Ok(())
    }

    /// Checks that the folder for cached values beyond the memory limit can be made, if the recipe names one.
    ///
    /// # Errors
    /// There is something else in its place.
    pub fn check_spill(&self) -> Result<()> {
        let Some(folder) = &self.recipe.cache.spill else { return Ok(()) };
        let folder = self.recipe.resolve("cache.spill", folder);
        match folder.ancestors().find(|path| path.exists()) {
            Some(path) if !path.is_dir() => {
                let message = format!("the folder {} cannot be made: {} is a file", folder.display(), path.display());
                Err(Error::setting("cache.spill", message))
            }
            _ => Ok(()),
        }
    }

    /// The memory budget of cached values. Values beyond it go to the folder `spill` unless the recipe
    /// names another one.
    pub fn cache(&self, spill: PathBuf) -> Arc<CacheBudget> {
        let settings = &self.recipe.cache;
        let spill = settings.spill.as_ref().map_or(spill, |folder| self.recipe.resolve("cache.spill", folder));
        CacheBudget::new(settings.limit.as_u64(), settings.dtype, spill)
    }

    /// Loads the calibration images.
    ///
    /// # Errors
    /// The data cannot be read, more images are broken than the recipe accepts, or there are too few images for the
    /// reconstructor.
    pub fn calibration_images(&self, cache: &Arc<CacheBudget>, progress: &dyn Progress) -> Result<CalibrationSet> {
        let dataset = self.dataset_with_notes(Split::Calibration, progress)?;
        let settings = &self.recipe.calibration;
        self.reconstructor.check_samples(settings.images.min(dataset.len()))?;
        let input = self.graph.input_shape();
        let cache = CachedValues::new(cache.clone(), self.device.clone());
        let set = calibration_images(&*dataset, settings, self.recipe.seed, input, cache, progress)?;
        self.reconstructor.check_samples(set.images.samples())?;
        Ok(set)
    }

    /// The source of the run's random draws.
    pub fn random(&self) -> SeededRandom {
        SeededRandom { seed: self.recipe.seed }
    }

    /// Calibrates and reconstructs `model`, which is the full-precision network. Resumes from existing
    /// checkpoints.
    ///
    /// # Errors
    /// Calibration or reconstruction fails, a checkpoint is damaged or cannot be written, or the run was cancelled; bits
    /// were not [chosen](Self::choose_bits) yet, as the recipe asks.
    pub fn quantize(&self, mut model: QuantModel, resources: &Resources<'_>) -> Result<RunResult> {
        if self.recipe.quant.mixed.as_ref().is_some_and(|mixed| mixed.chosen.is_none()) {
            let message = "the bits of single layers are to be chosen before a network is quantized";
            return Err(Error::setting("quant.mixed", message));
        }
        let prepared = self.prepared(&mut model, resources)?;
        let plans = self.plans_of(model.graph())?;
        self.place(&mut model, &plans)?;
        let nodes: Vec<NodeId> = model.graph().nodes().map(|(id, _)| id).collect();
        let kept = match resources.checkpoints {
            Some(folder) => folder.calibration(&self.device)?,
            None => None,
        };
        let seconds = match kept {
            Some((grids, seconds)) => {
                model.restore(&nodes, &grids)?;
                seconds
            }
            None => {
                if let Some(warning) = self.uneven_channels(&model, &resources.images)? {
                    resources.progress.event(Event::Warning(warning));
                }
                let start = Instant::now();
                let images = (&*resources.images, self.recipe.calibration.refine);
                self.calibrate(&mut model, &plans, images, resources.progress)?;
                let seconds = start.elapsed().as_secs_f64();
                if let Some(folder) = resources.checkpoints {
                    folder.keep_calibration(&model.grids(&nodes)?, seconds)?;
                }
                seconds
            }
        };
        let samples = self.recipe.calibration.observe;
        let observers = Observers { plans: &plans, registries: self.registries, samples };
        let observers = (self.recipe.calibration.inputs == CalibrationInputs::Quantized).then_some(&observers);
        let float = model.float_copy();
        let units = reconstruct(&mut model, &*self.reconstructor, resources, observers)?;
        let sites = match units.is_empty() {
            true => {
                let (network, inputs) =
                    (network_unit(model.graph())?.subgraph, std::slice::from_ref(&resources.images));
                sites((&float, &model), &network, &model.grids(&nodes)?, [inputs, inputs])?
            }
            false => Vec::new(),
        };
        model.settle_biases(nodes);
        model.round_biases()?;
        let seconds = prepared.seconds + seconds + units.iter().map(|u| u.seconds).sum::<f64>();
        Ok(RunResult { model, units, sites, seconds, prepared: prepared.changes })
    }
}

fn build_reconstructor(recipe: &Recipe, registries: &Registries) -> Result<Box<dyn Reconstructor>> {
    let strategy = &recipe.reconstruction;
    let entry = registries.reconstructors.get(&strategy.name, "reconstruction")?;
    let mut reconstructor = entry.build(&strategy.params_at("reconstruction"))?;
    if let Some(iters) = recipe.run_iters {
        reconstructor.shorten(iters)?;
    }
    Ok(reconstructor)
}
