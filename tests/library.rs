//! The library without its command line.

use qdrop::core::error::Input;
use qdrop::core::progress::{Event, Progress, Silent};
use qdrop::recipes::{load, Loader};
use qdrop::{Error, Evaluation, Extras, Run, Stage};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;

/// The demo, shortened.
fn small() -> Loader<'static> {
    Loader::new("demo")
        .set("calibration={images: 64, observe: 32}")
        .set("evaluation.images=100")
        .set("compare=[{name: nearest, set: {reconstruction: none}}]")
        .iters(5)
}

/// Records events, and requests to stop after a number of steps.
#[derive(Default)]
struct Recorder {
    stages: Mutex<Vec<String>>,
    steps: AtomicUsize,
    stop_after: Option<usize>,
    stop: AtomicBool,
}

impl Progress for Recorder {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { stage, .. } => self.stages.lock().unwrap().push(stage.into()),
            Event::Variant { name } => self.stages.lock().unwrap().push(format!("variant {name}")),
            Event::Step { .. } => {
                let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
                self.stop.fetch_or(self.stop_after == Some(steps), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn model(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

#[test]
fn a_run_tells_its_stages_and_returns_everything() {
    let recorder = Recorder::default();
    let run = Run::new(small().load().unwrap()).unwrap().progress(&recorder);
    let outcome = run.quantize().unwrap();
    let names: Vec<_> = outcome.rows.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["float", "nearest", "qdrop"]);
    assert_eq!(outcome.units.len(), 10);
    assert_eq!((outcome.summary.bits.as_str(), outcome.out.as_deref()), ("w2a4", None));
    assert!(outcome.table.contains("nearest") && outcome.table.contains("recipe demo, setting qdrop, seed 1005"));
    assert!(outcome.model.weight_sites().count() > 10);
    assert_eq!(recorder.steps.load(Ordering::Relaxed), 10 * 5);
    let stages = recorder.stages.into_inner().unwrap();
    let at = |wanted: &str| stages.iter().position(|s| s == wanted).unwrap_or_else(|| panic!("{wanted}: {stages:?}"));
    assert!(at("evaluating float") < at("variant nearest") && at("variant nearest") < at("variant qdrop"));
}

#[test]
fn a_stopped_run_is_resumed_to_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let run = |out: &Path| Run::new(small().load().unwrap()).unwrap().out(out).unwrap();
    let outcome = run(&whole).quantize().unwrap();
    assert_eq!(outcome.out.as_deref(), Some(whole.as_path()));
    // The saved result has the same report, variants included.
    let report = qdrop::saved_report(&whole).unwrap();
    assert_eq!((&report.table, &report.summary), (&outcome.table, &outcome.summary));
    let recorder = Recorder { stop_after: Some(13), ..Default::default() };
    let error = run(&stopped).progress(&recorder).quantize().err().unwrap();
    assert!(error.is_cancelled() && matches!(error, Error::Stage { stage: Stage::Quantization, .. }), "{error}");
    assert_eq!(qdrop::summary(&stopped).unwrap(), None);
    let error = qdrop::saved_report(&stopped).unwrap_err().to_string();
    assert!(error.contains("summary.json is missing; its run is not finished, `qdrop resume "), "{error}");
    let resumed = qdrop::resume(&stopped, &Silent).unwrap();
    assert!(model(&stopped) == model(&whole), "the resumed result differs");
    assert_eq!(resumed.summary.quantized, outcome.summary.quantized);
    assert_eq!(qdrop::summary(&stopped).unwrap(), Some(resumed.summary));
    // A finished run measures its networks again, from its checkpoints.
    let again = qdrop::resume(&stopped, &Silent).unwrap();
    assert_eq!((&again.summary.quantized, again.units.len()), (&outcome.summary.quantized, 10));
    assert!(model(&stopped) == model(&whole));
    // A saved result can be measured with the data at another place.
    let moved = dir.path().join("moved");
    let data = qdrop::core::dataset::Split::Evaluation;
    let images = Run::new(load(&whole).unwrap()).unwrap().session().unwrap().dataset(data).unwrap().len();
    assert_eq!(images, 2500);
    std::fs::rename(&whole, &moved).unwrap();
    let measured = Evaluation::new(&moved).data(crate::support::fixture("../cli/demo")).run().unwrap();
    assert_eq!(measured.measured, outcome.summary.quantized);
}

#[test]
fn what_a_run_takes_is_known_before() {
    let recipe = small().iters(7).set("published={float: 93.28}").load().unwrap();
    let mut run = Run::new(recipe).unwrap();
    let check = run.check().unwrap();
    assert_eq!((check.units, check.images, check.unchecked.as_slice()), (10, Some([1024, 2500]), &[][..]));
    assert_eq!(check.weights, 21, "20 convolutions and a linear layer");
    let sample = run.check_float().unwrap().unwrap();
    assert_eq!(sample.images, 256);
    let plan = run.plan().unwrap();
    assert_eq!((plan.units, plan.iterations, plan.spilled_bytes), (10, 7, 0));
    assert!(plan.seconds > 0.0 && plan.memory_bytes > plan.cache_bytes);
    assert!(run.evaluate_float(&Extras::default()).is_ok());
}

#[test]
fn errors_say_what_failed() {
    let error = load("imagenet/resnet81_w4a4").unwrap_err();
    let Error::UnknownRecipe { suggestion, known, .. } = &error else { panic!("{error}") };
    assert_eq!((suggestion.as_deref(), known.len()), (Some("imagenet/resnet18_w4a4"), 85));

    // Inputs that the recipe leaves open.
    let run = Run::new(load("imagenet/resnet18_w4a4").unwrap()).unwrap();
    let error = run.evaluate_float(&Extras::default()).unwrap_err();
    assert_eq!(error.not_given(), Some(Input::Weights));
    let want = "loading the float network: model.weights: no checkpoint is given; set it in the recipe or with \
                --weights FILE";
    assert_eq!(error.to_string(), want);
    assert_eq!(run.check().unwrap().unchecked, [Input::Weights, Input::Data]);

    let stage = |result: Result<(), Error>| match result.unwrap_err() {
        Error::Stage { stage, cause } => (stage, cause.to_string()),
        other => panic!("{other}"),
    };
    let (at, message) = stage(small().set("quant.weight.bits=0").load().map(|_| ()));
    assert_eq!(at, Stage::Recipe);
    assert!(message.ends_with("quant.weight.bits: 0 bits are not supported; use 1 to 16"), "{message}");
    let run = Run::new(small().set("quant.weight.observer=mze").load().unwrap()).unwrap();
    let (at, message) = stage(run.check().map(|_| ()));
    assert_eq!(at, Stage::Setup);
    assert!(message.contains("unknown observer 'mze', did you mean 'mse'?"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "").unwrap();
    let (at, message) = stage(Run::new(small().load().unwrap()).unwrap().out(dir.path()).map(|_| ()));
    assert_eq!(at, Stage::RunDirectory);
    assert!(message.contains("is not empty (it holds 'mine')"), "{message}");
    let (at, message) = stage(qdrop::evaluate(dir.path()).map(|_| ()));
    assert_eq!(at, Stage::SavedResult);
    assert!(message.contains("holds no saved result: summary.json is missing"), "{message}");
    let (at, message) = stage(qdrop::plugins::load(Path::new("some.so"), &Silent));
    assert_eq!(at, Stage::Plugins);
    assert!(message.contains("this qdrop is a static build and cannot load plugins"), "{message}");
    let (at, _) = stage(Evaluation::new(dir.path()).device("tpu").run().map(|_| ()));
    assert_eq!(at, Stage::SavedResult, "the first mistake is reported first");

    // The error names the variant.
    let broken = small().set("compare=[{name: worse, set: {quant.weight.observer: mze}}]").load().unwrap();
    let error = Run::new(broken).unwrap().quantize().err().unwrap();
    assert!(matches!(&error, Error::Variant { name, .. } if name == "worse"), "{error}");
    assert!(error.core().is_some() && !error.is_cancelled());
    // The thread pool of this process is running already.
    assert!(qdrop::set_threads(3).unwrap_err().to_string().starts_with("setting the number of threads: "));
}
