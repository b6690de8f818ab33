//! The report of a run, of several, and of those that are not finished; in a browser too, where there is one.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::{Run as QdropRun, REPORT_FILE};
use qdrop_core::cache::CacheBudget;
use qdrop_core::graph::SiteKind;
use qdrop_core::pipeline::Session;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::OnceLock;

/// A small run of the demo.
fn small() -> Loader<'static> {
    let changes =
        ["compare=[]", "calibration={images: 64, observe: 32}", "evaluation={images: 100, against_float: true}"];
    changes.iter().fold(Loader::new("demo"), |loader, change| loader.set(*change)).iters(100)
}

/// Two finished runs, one with drop and one without, and a folder for files.
fn runs() -> &'static (tempfile::TempDir, PathBuf, PathBuf) {
    static RUNS: OnceLock<(tempfile::TempDir, PathBuf, PathBuf)> = OnceLock::new();
    RUNS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("drop"), folder.path().join("no_drop"));
        for (out, drop_prob) in [(&a, 0.5), (&b, 1.0)] {
            let recipe = small().set(format!("reconstruction.params.drop_prob={drop_prob}")).load().unwrap();
            QdropRun::new(recipe).unwrap().out(out).unwrap().quantize().unwrap();
        }
        (folder, a, b)
    })
}

fn decibels(full: &[f32], own: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let signal: f64 = full.iter().map(|v| square(f64::from(*v))).sum();
    let noise: f64 = full.iter().zip(own).map(|(v, q)| square(f64::from(*v) - f64::from(*q))).sum();
    10.0 * (signal / noise).log10()
}

/// The sites of a report say what follows from the two networks, computed from the images on.
#[test]
fn sites_are_described_as_the_networks_are() {
    let recipe = small().load().unwrap();
    let outcome = QdropRun::new(recipe.clone()).unwrap().quantize().unwrap();
    let session = Session::new(recipe, registries(), Device::Cpu).unwrap();
    let float = session.float_model().unwrap();
    let cache = CacheBudget::unlimited();
    let images = session.calibration_images(&cache, &Silent).unwrap().images.range(0, 32).unwrap();
    let sites: Vec<_> = outcome.units.iter().flat_map(|unit| &unit.sites).collect();
    assert_eq!(sites.len(), session.plans().unwrap().len());
    let site = |name: &str, kind: SiteKind| sites.iter().find(|s| s.name == name && s.kind == kind).unwrap();

    // A weight: 2 bits for each channel.
    let node = float.graph().find("layer2.0.conv1").unwrap();
    let report = site("layer2.0.conv1", SiteKind::Weight);
    let (full, hard) = (vec(float.weight(node).unwrap()), vec(outcome.model.weight(node).unwrap()));
    let noise = report.noise_alone.unwrap();
    assert!((noise - decibels(&full, &hard)).abs() < 1e-4, "{noise}");
    // Without learned scales the grid is that of calibration, so nearest rounding is known.
    let params = outcome.model.weight_site(node).unwrap().quantizer.qparams().unwrap();
    let each = full.len() / params.scale.len();
    let nearest = |(i, value): (usize, &f32)| {
        let (scale, zero_point) = (params.scale[i / each], params.zero_point[i / each]);
        (((value / scale).round_ties_even() + zero_point).clamp(0.0, 3.0) - zero_point) * scale
    };
    let moved = full.iter().enumerate().map(nearest).zip(&hard).filter(|(n, h)| (n - *h).abs() > 1e-6).count();
    assert_eq!(report.moved, Some(moved as f64 / full.len() as f64));
    assert!((0.02..0.5).contains(&report.moved.unwrap()), "{:?}", report.moved);
    let clipped = full.iter().enumerate().filter(|(i, v)| {
        let step = **v / params.scale[i / each] + params.zero_point[i / each];
        !(-0.5..=3.5).contains(&step)
    });
    assert_eq!(report.clipped, clipped.count() as f64 / full.len() as f64);

    // A value of the first unit, and one behind other units.
    for (name, tolerance) in [("conv1", 1e-3), ("layer2.0.conv1", 0.1)] {
        let report = site(name, SiteKind::Activation);
        let plans = session.plans().unwrap();
        let plan = plans.iter().find(|p| p.site.name == name && p.site.kind == SiteKind::Activation).unwrap();
        let node = float.graph().find(&session.graph().node(plan.site.node).name).unwrap();
        let graph = float.graph();
        let up_to = graph.nodes().map(|(id, _)| id).filter(|id| *id > graph.input() && *id <= node);
        let up_to = graph.subgraph_with_outputs(up_to, vec![node]);
        let of = |model: &QuantModel, precision| {
            vec(&model.run(&up_to, std::slice::from_ref(&images), precision).unwrap()[0])
        };
        let full = of(&float, Precision::Float);
        let params = outcome.model.activation_site(node).unwrap().quantizer.qparams().unwrap();
        let (scale, zero_point) = (params.scale[0], params.zero_point[0]);
        let alone = |v: &f32| (((v / scale).round_ties_even() + zero_point).clamp(0.0, 15.0) - zero_point) * scale;
        let alone = decibels(&full, &full.iter().map(alone).collect::<Vec<_>>());
        assert!((report.noise_alone.unwrap() - alone).abs() < 1e-3, "{name}: {:?}, {alone}", report.noise_alone);
        // The report is made when the unit is finished; at the end biases are rounded to integers.
        let accumulated = decibels(&full, &of(&outcome.model, Precision::Quantized));
        let reported = report.noise_accumulated.unwrap();
        assert!((reported - accumulated).abs() < tolerance, "{name}: {reported}, {accumulated}");
        assert!((report.after.high - f64::from((15.0 - zero_point) * scale)).abs() < 1e-6);
        assert!((report.float.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert_ne!(report.before, report.after, "its scale was learned");
    }
    // Losses with hard roundings, at the end and without drop.
    for unit in &outcome.units {
        assert_eq!(unit.hard.iter().map(|hard| hard.step).collect::<Vec<_>>(), [100], "{}", unit.name);
        assert!(unit.hard[0].loss > 0.0 && unit.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{}", unit.name);
    }
}

#[test]
fn a_finished_run_has_its_report() {
    let (_, dir, _) = runs();
    let page = std::fs::read_to_string(dir.join(REPORT_FILE)).unwrap();
    let summary = qdrop::summary(dir).unwrap().unwrap();
    let top1 = summary.quantized.values["top1"];
    for part in [
        format!("{top1:.2} ("),
        "<h1>demo <span class=\"tag\">w2a4</span> <span class=\"tag\">finished</span></h1>".into(),
        "layer4.1.conv2, weight, 2 bits".into(),
        "layer4.1.add, activation, 8 bits".into(),
        "Signal-to-quantization-noise ratio".into(),
        "Roundings that left the nearest point".into(),
        "drop_prob: 0.5".into(),
        "linux".into(),
    ] {
        assert!(page.contains(&part) || (part == "linux" && !cfg!(target_os = "linux")), "{part}");
    }
    // 10 units learn, with a chart each; 21 weights and 17 activations have a distribution.
    assert_eq!(page.matches("reconstruction, soft</span>").count(), 10);
    assert_eq!(page.matches(", weight, ").count() / 2, 21);
    // Nothing is loaded, and nothing runs.
    for text in ["http:", "https:", "src=", "<script", "@import", "url("] {
        assert!(!page.contains(text), "{text}");
    }
    // The same again, but for nothing.
    let again = dir.join("again.html");
    let run = qdrop(&["report", text(dir), "--out", text(&again)]);
    assert!(run.ok && run.stdout == format!("{}\n", again.display()), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(again).unwrap(), page);
}

#[test]
fn an_interrupted_run_has_a_report_as_far_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let stop = StopAfter(AtomicUsize::new(250));
    let run = QdropRun::new(small().load().unwrap()).unwrap().out(&out).unwrap().progress(&stop);
    assert!(run.quantize().err().unwrap().is_cancelled());
    assert!(!out.join(REPORT_FILE).exists());
    let run = qdrop(&["report", text(&out)]);
    assert!(run.ok, "{}", run.stderr);
    let page = std::fs::read_to_string(out.join(REPORT_FILE)).unwrap();
    for part in [
        "<span class=\"tag\">interrupted</span>",
        "2 of 10 units are finished, layer1.1 is at step 50",
        "layer1.1 (not finished)",
        "layer1.0.conv1, weight, 2 bits",
        "93.",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("layer1.1.conv1, weight"), "this unit is not finished");
    // The resumed run measures and learns the rest; its report is that of the uninterrupted run, but for times and memory.
    let resumed = qdrop::resume(&out, &Silent).unwrap();
    let whole = QdropRun::new(small().load().unwrap()).unwrap().quantize().unwrap();
    for (resumed, whole) in resumed.units.iter().zip(&whole.units) {
        assert_eq!((&resumed.losses, &resumed.hard), (&whole.losses, &whole.hard), "{}", whole.name);
        assert_eq!(resumed.sites, whole.sites, "{}", whole.name);
    }
    assert!(std::fs::read_to_string(out.join(REPORT_FILE)).unwrap().contains("<span class=\"tag\">finished</span>"));
}

/// While a process works, its report says where it is, and the process is not disturbed.
#[test]
fn a_running_run_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let arguments = ["quantize", "demo", "--iters", "20000", "--out", text(&out), "--threads", "1"];
    let fast =
        ["--set", "compare=[]", "--set", "calibration={images: 64, observe: 32}", "--set", "evaluation={images: 50}"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_qdrop"))
        .args([&arguments[..], &fast[..]].concat())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let logged =
        || std::fs::read_to_string(out.join("events.jsonl")).unwrap_or_default().contains("\"event\":\"step\"");
    while !logged() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first step");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let run = qdrop(&["report", text(&out)]);
    assert!(run.ok, "{}", run.stderr);
    assert!(child.try_wait().unwrap().is_none(), "the run goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    let page = std::fs::read_to_string(out.join(REPORT_FILE)).unwrap();
    for part in ["<span class=\"tag\">running</span>", "conv1 is at step ", "conv1 (not finished)"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn runs_are_compared_image_by_image() {
    let (folder, a, b) = runs();
    let out = folder.path().join("both.html");
    let run = qdrop(&["report", text(a), text(b), "--out", text(&out)]);
    assert!(run.ok, "{}", run.stderr);
    let page = std::fs::read_to_string(&out).unwrap();
    let compared = qdrop(&["compare", text(a), text(b), "--json"]).json();
    for (key, digits) in [("top1", 2), ("kl", 4)] {
        let of = &compared["metrics"][key];
        let (value, error) = (of["difference"].as_f64().unwrap(), of["difference_standard_error"].as_f64().unwrap());
        let sign = if value > 0.0 { "+" } else { "" };
        let cell = format!("<td>{sign}{value:.digits$} ({error:.digits$})</td>");
        assert!(page.contains(&cell), "{cell}");
    }
    assert!(page.contains("<th scope=\"row\">reconstruction.params.drop_prob</th><td>0.5</td><td>1</td>"), "{page}");
    assert_eq!(page.matches("reconstruction.params.").count(), 1);
    // Runs on other images stand side by side, but are not compared image by image.
    let other = folder.path().join("other");
    let recipe = small().set("reconstruction=none").set("evaluation.images=50").load().unwrap();
    QdropRun::new(recipe).unwrap().out(&other).unwrap().quantize().unwrap();
    assert!(qdrop(&["report", text(a), text(&other), "--out", text(&out)]).ok);
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("other is not compared with drop: they were not measured on the same images."), "{page}");
    // Without units the sites are described all the same.
    let page = std::fs::read_to_string(other.join(REPORT_FILE)).unwrap();
    assert!(page.contains("layer4.1.conv2, weight, 2 bits") && !page.contains("<h2>Units</h2>"));
}

#[test]
fn what_cannot_be_reported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = qdrop(&["report", text(folder.path())]);
    assert!(error.error().contains("holds no run: run.json is missing"), "{}", error.stderr);
    let (_, dir, _) = runs();
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["run.json", "recipe.yaml", "summary.json", "float.json", "events.jsonl"] {
        std::fs::copy(dir.join(file), copy.join(file)).unwrap();
    }
    let page = || {
        let run = qdrop(&["report", text(&copy)]);
        assert!(run.ok, "{}", run.stderr);
        let page = std::fs::read_to_string(copy.join(REPORT_FILE)).unwrap();
        assert_eq!(page.contains("left out: "), run.stderr.contains("warning: left out: "));
        page
    };
    assert!(page().contains("model.safetensors is gone; `qdrop resume "));
    // What is damaged is left out, which is said with what to do. Text that is not Unicode is damage too.
    let originals: Vec<_> = ["summary.json", "float.json", "events.jsonl"].map(|n| (n, copy.join(n))).into();
    let originals: Vec<_> = originals.into_iter().map(|(n, file)| (n, std::fs::read(file).unwrap())).collect();
    let all = [
        ("images.json", "; remove it, and `qdrop resume "),
        ("flatness.json", "; `qdrop flatness "),
        ("sensitivity.json", "; `qdrop analyze "),
        ("sites.json", ""),
        ("float.json", "; remove it, and `qdrop resume "),
        ("summary.json", "; `qdrop resume "),
    ];
    for content in [&b"[{"[..], b"\xff\xfe"] {
        for (name, advice) in all {
            std::fs::write(copy.join(name), content).unwrap();
            let page = page();
            let said = page.split("<p class=\"warning\">").find(|part| part.contains(&format!("{name}: is damaged")));
            let said = said.and_then(|part| part.split("</p>").next()).unwrap_or_else(|| panic!("{name}: {page}"));
            assert!(said.starts_with("left out: ") && said.contains(advice), "{said}");
            assert!(page.contains(if name == "summary.json" { ">interrupted<" } else { ">finished<" }), "{name}");
            std::fs::remove_file(copy.join(name)).unwrap();
            originals.iter().filter(|(n, _)| *n == name).for_each(|(n, c)| std::fs::write(copy.join(n), c).unwrap());
        }
        std::fs::write(copy.join("events.jsonl"), [content, &b"\n"[..], &originals[2].1].concat()).unwrap();
        assert!(page().contains("<h3>Processes</h3>"));
    }
    let log = copy.join("events.jsonl");
    std::fs::write(&log, &originals[2].1).unwrap();
    // Two units of ten have their checkpoints, and the recipe is in the manifest too.
    std::fs::create_dir(copy.join("checkpoints")).unwrap();
    for file in ["unit-002.safetensors", "unit-007.safetensors"] {
        std::fs::copy(dir.join("checkpoints").join(file), copy.join("checkpoints").join(file)).unwrap();
    }
    std::fs::remove_file(copy.join("recipe.yaml")).unwrap();
    std::fs::write(copy.join("checkpoints/unit-004.safetensors"), "short").unwrap();
    let page = page();
    assert!(page.contains("unit-004.safetensors: is damaged"), "{page}");
    assert!(page.contains("are not in the run's folder any more: 8."), "{page}");
    assert!(page.contains("layer1.0.conv1, weight") && page.contains("layer3.1.conv1, weight"));
    let error = qdrop(&["report", text(&copy), "--out", text(&folder.path().join("no/page.html"))]);
    assert!(error.error().contains("writing the report: cannot write"), "{}", error.stderr);
    let error = qdrop(&["report", text(&copy), "--out", text(folder.path())]);
    assert!(error.error().contains("is a folder; give the name of a file"), "{}", error.stderr);
    assert!(!folder.path().with_extension("partial").exists());
    // No file of a run is replaced, under whatever name.
    let before = std::fs::read(copy.join("run.json")).unwrap();
    std::os::unix::fs::symlink(copy.join("run.json"), folder.path().join("link.html")).unwrap();
    for name in ["copy/run.json", "copy/model.safetensors", "link.html", "copy/checkpoints/page.html"] {
        let error = qdrop(&["report", text(&copy), "--out", text(&folder.path().join(name))]);
        let said = error.error();
        assert!(said.contains("is a part of the run in") || said.contains("end it with .html"), "{name}: {said}");
    }
    assert_eq!(std::fs::read(copy.join("run.json")).unwrap(), before);
    let error = qdrop(&["report", text(&copy), text(dir), text(&copy.join("../copy"))]);
    assert!(error.error().contains("is named twice"), "{}", error.stderr);
}

/// What a report says makes a file again does.
#[test]
fn what_is_gone_of_a_finished_run_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let recipe = small().set("reconstruction=none").set("evaluation.images=50");
    let recipe = recipe.set("compare=[{name: w8, set: {quant.weight.bits: 8}}]").load().unwrap();
    QdropRun::new(recipe).unwrap().out(&out).unwrap().quantize().unwrap();
    let names = ["model.safetensors", "images.json", "float.json", "compare-0.json", "recipe.yaml"];
    let before = names.map(|name| std::fs::read(out.join(name)).unwrap());
    let finished = qdrop(&["resume", text(&out)]);
    assert!(finished.stdout.contains("is finished"), "{}", finished.stderr);
    for (name, before) in names.iter().zip(&before) {
        std::fs::remove_file(out.join(name)).unwrap();
        let said = qdrop(&["report", text(&out)]).stderr;
        let advice = format!("{name} is gone; `qdrop resume {}` makes it again", out.display());
        assert!(said.contains(&advice), "{name}: {said}");
        let run = qdrop(&["resume", text(&out)]);
        assert!(run.ok && run.stderr.contains(name), "{name}: {}", run.stderr);
        let after = std::fs::read(out.join(name)).unwrap();
        // Rows have the time that they took.
        assert!(name.starts_with("compare") || after == *before, "{name} differs");
    }
}

/// The program of the browser, or `None` and a line that says that the test is skipped.
#[expect(clippy::print_stderr, reason = "who runs the tests should see what was skipped")]
fn browser() -> Option<String> {
    let given = std::env::var("CHROMIUM").ok();
    let names = ["chromium", "chromium-browser", "google-chrome"].map(String::from);
    let works =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let found = given.into_iter().chain(names).find(works);
    if found.is_none() {
        eprintln!("SKIPPED: there is no Chromium on this machine (CHROMIUM names one)");
    }
    found
}

/// What the browser makes of a file, as HTML, and what it says on its console.
fn opened(browser: &str, folder: &Path, file: &Path) -> (String, String) {
    let profile = folder.join("profile");
    // A browser that hangs must not stop the tests.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "180", browser])
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--enable-logging=stderr", "--v=0", "--allow-file-access-from-files", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", file.canonicalize().unwrap().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect::<Vec<_>>().join("\n");
    (String::from_utf8(output.stdout).unwrap(), console)
}

/// A page with a script that measures the report in windows of two widths: whether it scrolls sideways, and the widths of its charts.
const FRAMES: &str = r#"<!DOCTYPE html><html><body><pre id="found"></pre><script>
const found = [];
for (const width of [400, 1400]) {
  const frame = document.createElement('iframe');
  frame.style.width = width + 'px'; frame.style.height = '900px'; frame.style.border = '0';
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    const widths = [...page.querySelectorAll('figure > svg')].map(svg => svg.getBoundingClientRect().width);
    const cut = [...page.querySelectorAll('figure > svg text')].filter(text => {
      const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
      return box.x < -0.5 || box.x + box.width > view.width + 0.5;
    });
    found.push([width, root.clientWidth, root.scrollWidth, widths.length, Math.min(...widths), Math.max(...widths), cut.length].join(' '));
    document.getElementById('found').textContent = found.join('\n');
  };
  frame.src = 'PAGE';
  document.body.appendChild(frame);
}
</script></body></html>"#;

#[test]
fn the_page_opens_in_a_browser() {
    let Some(browser) = browser() else { return };
    let (folder, a, b) = runs();
    let both = folder.path().join("browser.html");
    assert!(qdrop(&["report", text(a), text(b), "--out", text(&both)]).ok);
    for (page, least) in [(a.join(REPORT_FILE), 50), (both, 5)] {
        let (html, console) = opened(&browser, folder.path(), &page);
        assert_eq!(console, "", "{}", page.display());
        assert!(
            html.matches("<figure").count() >= least && html.matches("<details").count() >= least,
            "{}",
            page.display()
        );
        let frames = folder.path().join("frames.html");
        std::fs::write(&frames, FRAMES.replace("PAGE", text(&page))).unwrap();
        let (html, console) = opened(&browser, folder.path(), &frames);
        assert_eq!(console, "", "{}", page.display());
        let found = html.split_once("<pre id=\"found\">").unwrap().1.split_once("</pre>").unwrap().0;
        let lines: Vec<Vec<f64>> =
            found.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
        assert_eq!(lines.len(), 2, "{found}");
        for line in &lines {
            let [width, own, scrolled, charts, narrowest, widest, cut] = line[..] else { panic!("{line:?}") };
            assert!(own <= width && scrolled <= own, "the page scrolls sideways: {line:?}");
            assert!(charts >= least as f64 && narrowest > 300.0 && widest <= 460.0, "{line:?}");
            assert_eq!(cut, 0.0, "a text of a chart is cut: {line:?}");
        }
    }
}

/// The Nu validator, whose file the variable VNU names, finds nothing to say.
#[test]
fn the_page_is_valid_html() {
    let Some(validator) = std::env::var_os("VNU").filter(|file| Path::new(file).is_file()) else {
        eprintln!("SKIPPED: the variable VNU names no vnu.jar, so the report is not validated");
        return;
    };
    let (folder, a, b) = runs();
    let both = folder.path().join("valid.html");
    assert!(qdrop(&["report", text(a), text(b), "--out", text(&both)]).ok);
    let output = Command::new("java").arg("-jar").arg(validator).arg(a.join(REPORT_FILE)).arg(both).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
