//! A task from outside of qdrop with its own dataset and network: measured, compared, saved and loaded.

use crate::support::*;
use qdrop_core::cache::CacheBudget;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::pipeline::{load_saved, save_model, save_summary, Resources, Session, Summary};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::recipe::{apply_set, Recipe};
use qdrop_core::run_directory::{Manifest, RunDirectory, SUMMARY_FILE};
use std::collections::HashMap;
use std::path::Path;

/// Mean absolute error of the outputs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MeanAbsoluteError {
    /// A measured error up to this multiple of the published one is plausible; `None` disables the comparison.
    factor: Option<f64>,
}

fn values(output: &Output) -> usize {
    match output {
        Output::Values(shape) => shape.iter().product(),
        _ => 0,
    }
}

impl Task for MeanAbsoluteError {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        Ok(TargetSpec::Values { count: outputs.iter().map(values).product() })
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::number("mae", "mean absolute error")]
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::<ErrorMeter>::default())
    }

    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        if published < 0.0 {
            return Err(Error::message("an error is not negative"));
        }
        Ok(self.factor.map(|factor| Box::new(TooFar { limit: factor * published }) as Box<dyn Comparison>))
    }
}

/// The error of each image.
#[derive(Debug, Default)]
struct ErrorMeter(Vec<f64>);

impl Meter for ErrorMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        let [output] = outputs else { return Err(Error::message("takes one output")) };
        let rows = output.to_vec2::<f32>()?;
        if rows.len() != targets.len() {
            return Err(Error::message("outputs and targets are of different numbers of images"));
        }
        for (row, target) in rows.iter().zip(targets) {
            let differences = row.iter().zip(target.values()?).map(|(a, b)| f64::from(a - b).abs());
            self.0.push(differences.sum::<f64>() / row.len() as f64);
        }
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        let n = self.0.len() as f64;
        if self.0.is_empty() {
            return Err(Error::message("there is no image"));
        }
        let mean = self.0.iter().sum::<f64>() / n;
        let variance = self.0.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n;
        Ok(Measurement::new(self.0.len(), [("mae", mean), ("mae_standard_error", (variance / n).sqrt())]))
    }
}

struct TooFar {
    limit: f64,
}

impl Comparison for TooFar {
    fn observe(&mut self, _: &Tensor, _: &[Tensor], _: &[Target]) -> Result<()> {
        Ok(())
    }

    fn problem(&self, measured: &Measurement) -> Result<Option<String>> {
        let mae = measured.values["mae"];
        Ok((mae > self.limit).then(|| format!("the error {mae:.3} is above {:.3}: the weights are noise", self.limit)))
    }
}

register_task! {
    name: "mean_absolute_error", aliases: [], summary: "how far outputs are from numbers",
    build: |params| Ok(Box::new(params.parse::<MeanAbsoluteError>()?))
}

/// Images of sines with numbers as targets. One image cannot be read.
struct Waves;

const IMAGES: usize = 24;
const BROKEN: usize = 5;
const OUTPUTS: usize = 3;

fn wave(index: usize) -> (Vec<f32>, Vec<f32>) {
    let image = (0..2 * 8 * 8).map(|i| ((index * 131 + i) as f32 * 0.37).sin()).collect();
    (image, (0..OUTPUTS).map(|k| (index as f32 * 0.9 + k as f32).cos()).collect())
}

impl Dataset for Waves {
    fn len(&self) -> usize {
        IMAGES
    }

    fn targets(&self) -> TargetSpec {
        TargetSpec::Values { count: OUTPUTS }
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        if index == BROKEN {
            return Err(Error::message("wave 5 is broken"));
        }
        let (image, values) = wave(index);
        Ok(Sample::new(image, Target::Values(values)))
    }
}

register_dataset! {
    name: "waves", aliases: [], summary: "sines",
    build: |_, _| Ok(Box::new(Waves))
}

struct Regression;

impl Architecture for Regression {
    fn graph(&self, _: &Params) -> Result<Graph> {
        let mut b = GraphBuilder::new([2, 8, 8]);
        let x = b.input();
        let x = b.unit("stem", |b| {
            let x = b.conv2d("stem.conv", x, Conv2d::new(6, 3).bias())?;
            b.relu("stem.relu", x)
        })?;
        let x = b.unit("body", |b| {
            let x = b.conv2d("body.conv", x, Conv2d::new(5, 3).stride(2).bias())?;
            b.relu("body.relu", x)
        })?;
        let x = b.global_average_pool("pool", x)?;
        let x = b.flatten("flatten", x)?;
        let x = b.unit("head", |b| b.linear("head", x, OUTPUTS))?;
        b.finish(x)
    }
}

register_architecture! {
    name: "waves_regression", aliases: [], summary: "three numbers from a small image",
    build: || Box::new(Regression)
}

const RECIPE: &str = "
name: waves
task: mean_absolute_error
model: {architecture: waves_regression, weights: waves.safetensors}
data: waves
quant:
  setting: qdrop
  weight: {bits: 3, granularity: per_channel, observer: minmax, quantizer: fixed}
  activation: {bits: 3, granularity: per_tensor, observer: minmax, quantizer: fixed}
calibration: {images: 16, observe: 16, max_broken_percent: 10}
evaluation: {batch_size: 7, max_broken_percent: 5}
reconstruction: none
";

/// A recipe whose weights are in `dir`.
pub fn recipe(dir: &Path, changes: &[&str]) -> Recipe {
    let graph = Regression.graph(&Params::none("p")).unwrap();
    let tensors: HashMap<String, Tensor> =
        graph.parameter_shapes().into_iter().enumerate().map(|(i, (n, s))| (n, noise(&s, i as u32))).collect();
    candle_core::safetensors::save(&tensors, dir.join("waves.safetensors")).unwrap();
    let mut value: serde_yaml::Value = serde_yaml::from_str(RECIPE).unwrap();
    for change in changes {
        apply_set(&mut value, change).unwrap();
    }
    Recipe::from_value(value, &dir.join("recipe.yaml")).unwrap()
}

/// The mean absolute error over all readable images, computed from its definition, and its standard error.
fn expected(model: &QuantModel, precision: Precision) -> (f64, f64) {
    let readable: Vec<usize> = (0..IMAGES).filter(|i| *i != BROKEN).collect();
    let errors: Vec<f64> = readable
        .iter()
        .map(|index| {
            let (image, values) = wave(*index);
            let image = Tensor::from_vec(image, (1, 2, 8, 8), &Device::Cpu).unwrap();
            let output = vec(&model.forward(&image, precision).unwrap()[0]);
            output.iter().zip(&values).map(|(o, v)| f64::from((o - v).abs())).sum::<f64>() / OUTPUTS as f64
        })
        .collect();
    let n = errors.len() as f64;
    let mean = errors.iter().sum::<f64>() / n;
    let squares = errors.iter().map(|e| e * e).sum::<f64>() / n;
    (mean, ((squares - mean * mean) / n).sqrt())
}

#[track_caller]
fn is_as_expected(measured: &Measurement, model: &QuantModel, precision: Precision) {
    let (mean, error) = expected(model, precision);
    assert!((measured.values["mae"] - mean).abs() < 1e-6, "{measured:?}, {mean} is expected");
    assert!((measured.values["mae_standard_error"] - error).abs() < 1e-6, "{measured:?}, {error} is expected");
    assert_eq!((measured.images, measured.broken), (IMAGES - 1, 1));
}

#[test]
fn another_task_goes_the_whole_way() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]);
    assert!(recipe.to_yaml().unwrap().contains("task: mean_absolute_error"));
    let session = Session::new(recipe, registries(), Device::Cpu).unwrap();
    let float_model = session.float_model().unwrap();
    let warnings = Warnings::default();
    let float = session.evaluate(&float_model, Precision::Float, &warnings).unwrap();
    assert_eq!(*warnings.0.lock().unwrap(), ["not counted: wave 5 is broken"]);
    is_as_expected(&float, &float_model, Precision::Float);

    let cache = CacheBudget::unlimited();
    let images = session.calibration_images(&cache, &Silent).unwrap().images;
    let random = session.random();
    let engine = session.recipe().engine;
    let resources =
        Resources { images, cache, random: &random, progress: &Silent, engine, merge: &[], checkpoints: None };
    let result = session.quantize(float_model, &resources).unwrap();
    let quantized = session.evaluate(&result.model, Precision::Quantized, &Silent).unwrap();
    is_as_expected(&quantized, &result.model, Precision::Quantized);
    assert_ne!(quantized.values["mae"], float.values["mae"]);

    let metrics = session.task().metrics();
    let text = format!(
        "mean absolute error {:.4} (standard error {:.4}) of 23 images (1 more could not be read)",
        quantized.values["mae"], quantized.values["mae_standard_error"]
    );
    assert_eq!(quantized.text(&metrics).unwrap(), text);

    let out = dir.path().join("out");
    let manifest =
        Manifest::new(session.recipe().to_yaml().unwrap(), &session.weights_files().unwrap(), "cpu").unwrap();
    let directory = RunDirectory::create(&out, &manifest).unwrap();
    let summary = Summary {
        recipe: "waves".into(),
        setting: "qdrop".into(),
        bits: "w3a3".into(),
        mixed: None,
        seed: 1005,
        reconstruction: "none".into(),
        float,
        quantized: quantized.clone(),
        seconds: result.seconds,
        peak_rss_bytes: 1,
        peak_device_bytes: None,
        prepared: Vec::new(),
        weights: None,
        notice: None,
    };
    save_model(&directory, &result.model, session.recipe()).unwrap();
    save_summary(&directory, &summary).unwrap();
    let saved = load_saved(&out, registries(), &Device::Cpu).unwrap();
    assert_eq!(saved.summary.as_ref(), Some(&summary));
    let session = Session::new(saved.recipe, registries(), Device::Cpu).unwrap();
    assert_eq!(session.evaluate(&saved.model, Precision::Quantized, &Silent).unwrap(), quantized);

    // A summary that another task measured is an error.
    let file = out.join(SUMMARY_FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("\"mae\": {}", quantized.values["mae"])), "{text}");
    std::fs::write(&file, text.replace("\"mae\"", "\"top1\"")).unwrap();
    let error = load_saved(&out, registries(), &Device::Cpu).err().unwrap().to_string();
    let want =
        "summary.json: there is no 'mae' among the measured values (mae_standard_error, top1): it is not a result of the \
                recipe's task 'mean_absolute_error'";
    assert!(error.contains(want), "{error}");
}

#[test]
fn the_task_compares_with_published_values() {
    let dir = tempfile::tempdir().unwrap();
    let session = |changes: &[&str]| Session::new(recipe(dir.path(), changes), registries(), Device::Cpu);
    let error = |changes: &[&str]| session(changes).err().unwrap().to_string();
    let published = error(&["published={float: 0.5}"]);
    assert_eq!(
        published,
        "published.float: the task 'mean_absolute_error' compares with no published value; remove it"
    );
    let compares = "task={name: mean_absolute_error, params: {factor: 1.5}}";
    let negative = error(&[compares, "published={float: 0.5, quantized: -1}"]);
    assert_eq!(negative, "published.quantized: an error is not negative");

    let model = session(&[]).unwrap().float_model().unwrap();
    let (mae, _) = expected(&model, Precision::Float);
    let near = session(&[compares, &format!("published={{float: {mae}}}")]).unwrap();
    let sample = near.check_float(&model, &Silent).unwrap().unwrap();
    assert!((sample.value - mae).abs() < 1e-6, "{sample:?}");
    let text = format!("{mae:.3} of a sample of 23 images, published {mae:.4} of the validation set");
    assert_eq!(sample.text(), text);
    let far = session(&[compares, &format!("published={{float: {}}}", mae / 2.0)]).unwrap();
    let error = far.check_float(&model, &Silent).unwrap_err().to_string();
    let want = format!(
        "published.float: the error {mae:.3} is above {:.3}: the weights are noise; if this is meant, run without the \
         comparison: --set published=null",
        0.75 * mae
    );
    assert_eq!(error, want);
}

#[test]
fn a_dataset_and_a_task_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new(recipe(dir.path(), &["task=classification"]), registries(), Device::Cpu).unwrap();
    let error = session.dataset(Split::Evaluation).err().unwrap().to_string();
    let want = "data: the dataset 'waves' gives 3 numbers with each image, but the task 'classification' compares the \
                outputs of this network with one of 3 classes; choose a dataset and a task that fit each other";
    assert_eq!(error, want);
}

#[test]
fn a_task_that_compares_no_networks_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let asked = recipe(dir.path(), &["evaluation.against_float=true"]);
    let error = Session::new(asked, registries(), Device::Cpu).err().unwrap();
    let Error::Setting { path, message } = &error else { panic!("{error}") };
    assert_eq!(path, "evaluation.against_float");
    assert_eq!(message, "the task 'mean_absolute_error' does not compare networks image by image");
    let session = Session::new(recipe(dir.path(), &[]), registries(), Device::Cpu).unwrap();
    let error = session.evaluate_pairs(&[], &Silent).unwrap_err().to_string();
    assert_eq!(error, "task: the task 'mean_absolute_error' does not compare networks image by image");
}
