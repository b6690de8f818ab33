//! The loss around the weights of a saved result.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::{Flatness, Run as QdropRun};
use qdrop_core::pipeline::Direction;
use qdrop_core::progress::Silent;

const IMAGES: usize = 60;

#[test]
fn the_curves_go_through_both_networks() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let changes = ["compare=[]", "calibration={images: 64, observe: 32}", "prepare=[equalize]"];
    let loader = changes.iter().fold(Loader::new("demo"), |loader, change| loader.set(*change)).iters(100);
    let loader = loader.set(format!("evaluation={{images: {IMAGES}, against_float: true}}"));
    QdropRun::new(loader.load().unwrap()).unwrap().out(&out).unwrap().quantize().unwrap();
    let flatness = Flatness::measure(&out, Some(IMAGES), &Silent).unwrap();
    assert_eq!((flatness.calibration.images, flatness.evaluation.images), (IMAGES, IMAGES));
    for curves in [&flatness.calibration, &flatness.evaluation] {
        let curve = |direction, activations| {
            let found = curves.curves.iter().find(|c| c.direction == direction && c.activations == activations);
            &found.unwrap().points
        };
        let along = curve(Direction::Quantization, true);
        let (floats, away) = (curve(Direction::Quantization, false), curve(Direction::Random, true));
        assert_eq!((along.len(), away.len()), (21, 11));
        assert_eq!((along[0].distance, along[10].distance, away[10].distance), (-1.0, 0.0, 0.5));
        // All curves with quantized activations meet at the quantized weights.
        assert!((along[10].loss - away[5].loss).abs() < 1e-9);
        // The float weights lose nothing but what learned biases change, quantized activations do.
        assert!(floats[0].loss < 0.05 * floats[10].loss, "{}, {}", floats[0].loss, floats[10].loss);
        assert!(along[0].loss > floats[0].loss);
        // Far away in a random direction is worse.
        assert!(away[0].loss > 2.0 * away[5].loss && away[10].loss > 2.0 * away[5].loss, "{away:?}");
    }
    // At the quantized weights, the loss is the divergence that evaluation measures, but for the order of sums, which now and then moves a
    // value to the next point of its grid.
    let measured = qdrop::summary(&out).unwrap().unwrap().quantized.values["kl"];
    let at_zero = flatness.evaluation.curves.iter().find(|c| c.activations).unwrap().points[10];
    assert!((at_zero.loss - measured).abs() < 0.01 * measured, "{}, {measured}", at_zero.loss);
    assert!(at_zero.standard_error.is_some_and(|error| error > 0.0 && error < at_zero.loss));

    let table = std::fs::read_to_string(out.join(Flatness::TABLE)).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 2 * (21 + 11));
    assert!(table
        .starts_with("images,direction,activations,distance,loss,standard_error\ncalibration,quantization,float,-1,"));
    // The command measures the same, draws several runs in one figure, and the report shows it.
    let figure = folder.path().join("figure.svg");
    let run = qdrop(&["flatness", text(&out), "--images", &IMAGES.to_string(), "--figure", text(&figure)]);
    assert!(run.ok, "{}", run.stderr);
    assert!(run.stdout.starts_with("KL (nats) around the quantized weights"), "{}", run.stdout);
    assert_eq!(std::fs::read_to_string(out.join(Flatness::TABLE)).unwrap(), table);
    let figure = std::fs::read_to_string(figure).unwrap();
    assert!(figure.starts_with("<svg xmlns") && figure.matches("class=\"chart\"").count() == 4, "{figure}");
    assert!(qdrop(&["report", text(&out)]).ok);
    let page = std::fs::read_to_string(out.join(qdrop::REPORT_FILE)).unwrap();
    assert!(page.contains("<h2>Flatness</h2>") && page.contains("Loss in random directions, 60 evaluation images"));

    // More images than the run evaluates are not taken, which is said.
    let run = qdrop(&["flatness", text(&out), "--images", "62"]);
    assert!(run.stderr.contains("warning: flatness is measured on 60 evaluation images"), "{}", run.stderr);
    assert!(run.stdout.contains("62 of calibration") && run.stdout.contains("60 of evaluation"), "{}", run.stdout);

    // `analyze` of the folder keeps its measurements there too, unless they are of another recipe.
    let sensitivity = out.join("sensitivity.json");
    let run = qdrop(&["analyze", text(&out), "--images", "8", "--set", "quant.weight.observer=minmax"]);
    assert!(run.ok && run.stderr.contains("not saved: the recipe is changed"), "{}", run.stderr);
    assert!(!sensitivity.exists());
    assert!(qdrop(&["analyze", text(&out), "--images", "8"]).ok);
    assert!(sensitivity.is_file());
    assert!(qdrop(&["report", text(&out)]).ok);
    let page = std::fs::read_to_string(out.join(qdrop::REPORT_FILE)).unwrap();
    assert!(page.contains("<h2>Sensitivity</h2>") && page.contains("Layers and values at 2 bits"));
}

#[test]
fn only_finished_runs_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let error = qdrop(&["flatness", text(folder.path())]);
    assert!(error.error().contains("holds no saved result: summary.json is missing"), "{}", error.stderr);
    let error = qdrop(&["flatness", text(&folder.path().join("none.safetensors"))]);
    assert!(error.error().contains("is not the folder of a finished run"), "{}", error.stderr);
    let error = qdrop(&["flatness", text(folder.path()), "--figure", text(&folder.path().join("figure.png"))]);
    assert!(error.error().contains("would hold SVG, as its name does not say; end it with .svg"), "{}", error.stderr);
    let error = qdrop(&["flatness", text(folder.path()), text(&folder.path().join("."))]);
    assert!(error.error().contains("is named twice"), "{}", error.stderr);
    let error = qdrop(&["flatness", text(folder.path()), "--figure", text(&folder.path().join("no/figure.svg"))]);
    assert!(error.error().contains("writing the report: cannot write"), "{}", error.stderr);
}
