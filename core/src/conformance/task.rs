//! Conformance checks of a task.

use super::{normal, require, Report};
use crate::error::{Error, Result};
use crate::head::{Output, OBJECT_VALUES};
use crate::params::Params;
use crate::registry::Entry;
use crate::target::{Labels, Object, Objects, Target, TargetSpec};
use crate::task::{Comparison, Measurement, Task, TaskKind};
use candle_core::{Device, Tensor};

/// Number of example images.
const IMAGES: usize = 60;
/// Features of the single output of the example network.
const FEATURES: usize = 10;
/// Classes of example objects.
const CLASSES: usize = 3;
/// Most objects of an image that the example network finds.
const MOST: usize = 2;
/// Relative difference up to which values count as equal.
const TOLERANCE: f64 = 1e-9;

pub fn check(entry: &'static Entry<TaskKind>, report: &mut Report) {
    let build = || entry.build(&Params::none("conformance"));
    report.run("is built without parameters", || build().map(|_| ()));
    let Ok(task) = build() else { return };
    let task = &*task;
    report.run("no image at all is an error", || {
        require(task.meter()?.compute().is_err(), || "there was a measurement before any image".into())
    });
    let examples = match Examples::of(task) {
        Ok(examples) => examples,
        Err(why) => {
            return report.skip("measures examples", format!("there are no examples for this task: {why}"));
        }
    };
    report.run("every image counts once, and every value is there", || {
        let measured = measure(task, &examples.guesses, &examples.targets, IMAGES)?;
        require(measured.images == IMAGES, || format!("{} of {IMAGES} images were counted", measured.images))?;
        for metric in task.metrics() {
            let error = measured.standard_error(&metric).unwrap_or(0.0);
            require(error >= 0.0, || format!("the standard error of '{}' is {error}", metric.key))?;
        }
        Ok(())
    });
    report.run("the measurement does not depend on how images are divided into batches", || {
        let whole = measure(task, &examples.guesses, &examples.targets, IMAGES)?;
        for size in [1, 7] {
            close(&whole, &measure(task, &examples.guesses, &examples.targets, size)?, size)?;
        }
        Ok(())
    });
    report.run("outputs and targets that do not fit each other are errors", || {
        let all = &examples.targets;
        let other = vec![other_kind(&all[0]); all.len()];
        for (what, outputs, targets) in [
            ("no output", vec![], all),
            ("too few targets", vec![examples.guesses.clone()], &all[1..].to_vec()),
            ("targets of another kind", vec![examples.guesses.clone()], &other),
        ] {
            require(task.meter()?.update(&outputs, targets).is_err(), || format!("{what}: was accepted"))?;
        }
        Ok(())
    });
    if task.image_metrics().is_empty() {
        report.skip("compares networks image by image", "it has no image metrics");
    } else {
        report.run("compares networks image by image", || check_images(task, &examples));
    }
    if task.metrics().is_empty() {
        return report.skip("perfect outputs measure better than guesses", "it has no metric of a single network");
    }
    report.run("perfect outputs measure better than guesses", || {
        let perfect = measure(task, &examples.perfect, &examples.targets, IMAGES)?;
        let guessed = measure(task, &examples.guesses, &examples.targets, IMAGES)?;
        check_order(task, &examples, &perfect, &guessed)
    });
}

/// Example outputs of networks for images with known targets.
struct Examples {
    targets: Vec<Target>,
    /// Outputs of a network that is always right.
    perfect: Tensor,
    /// Outputs of an untrained network.
    guesses: Tensor,
}

impl Examples {
    /// Examples for a network with one output: of [`FEATURES`] features, or of objects.
    fn of(task: &dyn Task) -> Result<Self> {
        let labels = Labels::InOrder { classes: CLASSES };
        if let Ok(TargetSpec::Objects { .. }) = task.targets(&[Output::Objects { most: MOST, labels }]) {
            return Self::of_objects(labels);
        }
        let random = normal(IMAGES * FEATURES, 90);
        let rows = random.chunks_exact(FEATURES);
        let (targets, perfect): (Vec<Target>, Vec<Vec<f32>>) = match task.targets(&[Output::Values(vec![FEATURES])])? {
            TargetSpec::Class { classes: FEATURES } => rows
                .enumerate()
                .map(|(i, row)| {
                    let class = (3 * i + i / 7) % FEATURES;
                    // The output of the right class is far larger than the noise.
                    let logits = row.iter().enumerate().map(|(c, v)| if c == class { 9.0 } else { 0.5 * v });
                    (Target::Class(class), logits.collect())
                })
                .unzip(),
            TargetSpec::Values { count: FEATURES } => {
                rows.map(|row| (Target::Values(row.to_vec()), row.to_vec())).unzip()
            }
            TargetSpec::Nothing => rows.map(|row| (Target::Unknown, row.to_vec())).unzip(),
            other => return Err(Error::message(format!("it compares {FEATURES} numbers with {other}"))),
        };
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, (IMAGES, FEATURES), &Device::Cpu);
        Ok(Self { targets, perfect: tensor(perfect.concat())?, guesses: tensor(normal(IMAGES * FEATURES, 91))? })
    }
}

impl Examples {
    /// Examples of objects: each image has one or two, and guesses are boxes anywhere.
    fn of_objects(labels: Labels) -> Result<Self> {
        let random = normal(IMAGES * MOST * 4, 92);
        let (mut targets, mut perfect, mut guesses) = (Vec::new(), Vec::new(), Vec::new());
        for (i, numbers) in random.chunks_exact(MOST * 4).enumerate() {
            let mut objects = Vec::new();
            for (place, n) in numbers.chunks_exact(4).enumerate() {
                let at = |n: f32| f64::from((50.0 + 20.0 * n).round());
                let bbox = [at(n[0]), at(n[1]), 20.0 + place as f64 * 30.0, 15.0 + (i % 5) as f64];
                let label = (i + place) % CLASSES;
                let row = |bbox: [f64; 4], score: f32| {
                    let [x, y, w, h] = bbox;
                    [x as f32, y as f32, (x + w) as f32, (y + h) as f32, score, label as f32]
                };
                let used = place <= i % 2;
                let unused = [0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
                perfect.extend(if used { row(bbox, 0.9 - 0.001 * i as f32) } else { unused });
                let moved = [bbox[0] + f64::from(40.0 * n[2]), bbox[1] + f64::from(40.0 * n[3]), bbox[2], bbox[3]];
                guesses.extend(row(moved, (0.5 + 0.1 * n[3]).clamp(0.0, 1.0)));
                if used {
                    objects.push(Object { label, bbox, area: bbox[2] * bbox[3], crowd: false });
                }
            }
            targets.push(Target::Objects(Objects { picture: i as u64 + 1, labels, objects }));
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, (IMAGES, MOST, OBJECT_VALUES), &Device::Cpu);
        Ok(Self { targets, perfect: tensor(perfect)?, guesses: tensor(guesses)? })
    }
}

/// A target of another kind.
fn other_kind(target: &Target) -> Target {
    match target {
        Target::Class(_) => Target::Values(vec![0.5]),
        _ => Target::Class(0),
    }
}

/// Measures in batches of `size` images.
fn measure(task: &dyn Task, outputs: &Tensor, targets: &[Target], size: usize) -> Result<Measurement> {
    let mut meter = task.meter()?;
    for (i, targets) in targets.chunks(size).enumerate() {
        meter.update(&[outputs.narrow(0, i * size, targets.len())?], targets)?;
    }
    meter.compute()
}

fn close(a: &Measurement, b: &Measurement, size: usize) -> Result<()> {
    let equal = |(x, y): (&f64, &f64)| (x - y).abs() <= TOLERANCE * x.abs().max(y.abs());
    let same = a.images == b.images
        && a.values.keys().eq(b.values.keys())
        && a.values.values().zip(b.values.values()).all(equal);
    require(same, || format!("{:?} at once, {:?} in batches of {size}", a.values, b.values))
}

/// Checks the values of single images: they fit the measurement, do not depend on the division into batches, and need
/// outputs and targets that fit each other.
fn check_images(task: &dyn Task, examples: &Examples) -> Result<()> {
    let Examples { targets, perfect, guesses } = examples;
    let rows = |size: usize| -> Result<Vec<Vec<f64>>> {
        let mut rows = Vec::new();
        for (i, targets) in targets.chunks(size).enumerate() {
            let part = |outputs: &Tensor| outputs.narrow(0, i * size, targets.len());
            rows.extend(task.image_values(&[part(guesses)?], &[part(perfect)?], targets)?);
        }
        Ok(rows)
    };
    let whole = rows(IMAGES)?;
    for size in [1, 7] {
        require(rows(size)? == whole, || format!("batches of {size} give other values than all images at once"))?;
    }
    let measured = measure(task, guesses, targets, IMAGES)?;
    for (i, metric) in task.image_metrics().iter().enumerate() {
        let mean = whole.iter().map(|row| row[i]).sum::<f64>() / IMAGES as f64;
        if let Some(value) = measured.values.get(&metric.key) {
            require((mean - value).abs() <= TOLERANCE * value.abs().max(1.0), || {
                format!("the mean of '{}' over the images is {mean}, but {value} was measured", metric.key)
            })?;
        }
    }
    let fewer = [perfect.narrow(0, 1, IMAGES - 1)?];
    let accepted = task.image_values(std::slice::from_ref(guesses), &fewer, targets).is_ok();
    require(!accepted, || "outputs for fewer images by the float network were accepted".into())
}

/// Checks that both measurements differ and, if the task compares with published values, that the comparison
/// knows which one is better.
fn check_order(task: &dyn Task, examples: &Examples, perfect: &Measurement, guessed: &Measurement) -> Result<()> {
    let metric = task.metrics().into_iter().next().ok_or_else(|| Error::message("there is no metric"))?;
    let (best, guess) = (perfect.value(&metric)?, guessed.value(&metric)?);
    require(best != guess, || format!("both have the {} {best}", metric.title))?;
    let compared = |published: f64, outputs: &Tensor, measured: &Measurement| -> Result<Option<Option<String>>> {
        let Some(mut comparison) = task.comparison(published)? else { return Ok(None) };
        observe(&mut *comparison, outputs, &examples.targets)?;
        comparison.problem(measured).map(Some)
    };
    if let Some(Some(problem)) = compared(guess, &examples.perfect, perfect)? {
        return Err(Error::message(format!(
            "its comparison calls {best} a problem when {guess} is published: {problem}"
        )));
    }
    match compared(best, &examples.guesses, guessed)? {
        Some(None) => {
            Err(Error::message(format!("its comparison finds no problem with {guess} when {best} is published")))
        }
        Some(Some(text)) if text.trim().is_empty() => Err(Error::message("a problem is not explained")),
        _ => Ok(()),
    }
}

/// Observes all examples, with images of noise.
fn observe(comparison: &mut dyn Comparison, outputs: &Tensor, targets: &[Target]) -> Result<()> {
    let images = Tensor::from_vec(normal(IMAGES * 12, 92), (IMAGES, 3, 2, 2), &Device::Cpu)?;
    comparison.observe(&images, std::slice::from_ref(outputs), targets)
}
