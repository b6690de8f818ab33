//! Recipes as users write them: text as editors save it, and files in other folders whose paths start from there.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop_core::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the binary in a folder.
fn qdrop_in(dir: &Path, arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_qdrop")).args(arguments).current_dir(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { ok: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

const RECIPE: &str = "
name: mine
model:
  architecture:
    name: resnet18
    params: {classes: 10, in_channels: 1, image_size: 28, width: 16, stem: small}
  weights: weights.safetensors
data:
  name: idx
  params:
    train_images: train-images-idx3-ubyte.gz
    train_labels: train-labels-idx1-ubyte.gz
    test_images: t10k-images-idx3-ubyte.gz
    test_labels: t10k-labels-idx1-ubyte.gz
    mean: 0.286
    std: 0.353
quant:
  setting: qdrop
  weight: &weight {bits: 4, granularity: per_channel, observer: minmax, quantizer: fixed}
  activation: {<<: *weight, bits: 8, granularity: per_tensor}
calibration: {images: 32, observe: 8}
evaluation: {images: 100}
reconstruction: none
";

/// The folder `name` in `dir` with the demo's files and `recipe.yaml`.
fn folder(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(fixture("../cli/demo")).unwrap().map(|f| f.unwrap()) {
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    std::fs::write(folder.join("recipe.yaml"), RECIPE).unwrap();
    folder
}

#[test]
fn recipes_are_read_as_editors_save_them() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), "a");
    let shown = |content: &[u8]| {
        std::fs::write(folder.join("r.yaml"), content).unwrap();
        qdrop_in(&folder, &["recipes", "show", "r.yaml", "--json"])
    };
    let want = shown(RECIPE.as_bytes()).json();
    assert_eq!((&want["quant"]["activation"]["bits"], &want["quant"]["weight"]["bits"]), (&8.into(), &4.into()));
    assert_eq!(want["quant"]["activation"]["quantizer"], "fixed");
    assert_eq!(shown(format!("\u{feff}{RECIPE}").as_bytes()).json(), want);
    assert_eq!(shown(RECIPE.replace('\n', "\r\n").as_bytes()).json(), want);
    let utf16: Vec<u8> = format!("\u{feff}{RECIPE}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, message) in [
        (utf16, "r.yaml: is text in UTF-16 or UTF-32; save it as UTF-8"),
        (b"name: caf\xe9\n".to_vec(), "r.yaml: is not UTF-8 text: line 1"),
        (RECIPE.replace("  setting", "\tsetting").into_bytes(), "is indented with a tab: indent with spaces"),
        (format!("{RECIPE}seed: 1\nname: x\n").into_bytes(), "duplicate entry with key \"name\""),
        (format!("{RECIPE}---\nseed: 3\n").into_bytes(), "r.yaml: holds several YAML documents"),
        (b"# nothing\n".to_vec(), "r.yaml: is empty; a recipe is a mapping"),
        (b"- demo\n".to_vec(), "r.yaml: is a list; a recipe is a mapping"),
        (RECIPE.replace("*weight", "7").into_bytes(), "quant.activation.<<: takes a mapping"),
    ] {
        let run = shown(&content);
        assert!(run.error().contains(message), "{message}: {}", run.stderr);
    }
    for wrong in ["7", "null", "{name: demo}", "[demo, [demo]]", "[null]", "true"] {
        let run = shown(format!("extends: {wrong}\n").as_bytes());
        let message = "recipe 'r.yaml': `extends` takes the name of a recipe, or a list of names";
        assert!(run.error().contains(message), "{wrong}: {}", run.stderr);
    }
    let run = shown(b"extends: ../none.yaml\n");
    assert!(run.error().contains("recipe 'r.yaml' extends '../none.yaml': there is no file"), "{}", run.stderr);
}

/// The paths start from the folder of each file, wherever the command runs.
#[test]
fn extended_recipes_find_their_files() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "base");
    let (sub, elsewhere) = (dir.path().join("sub/deep"), dir.path().join("elsewhere"));
    for folder in [&sub, &elsewhere] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let child = sub.join("child.yaml");
    std::fs::write(&child, "extends: ../../base/recipe.yaml\nseed: 5\n").unwrap();
    let grandchild = elsewhere.join("grandchild.yaml");
    std::fs::write(&grandchild, "extends: [../sub/deep/child.yaml]\ndata: {params: {std: 0.35}}\n").unwrap();
    let base = qdrop_in(dir.path(), &["evaluate", "base/recipe.yaml", "--float", "--json"]).json();
    assert!(base["top1"].as_f64().unwrap() > 80.0);
    for (cwd, recipe) in [(dir.path(), "sub/deep/child.yaml"), (&sub, "child.yaml"), (&elsewhere, "grandchild.yaml")] {
        let run = qdrop_in(cwd, &["evaluate", recipe, "--float", "--json", "--set", "data.params.std=0.353"]);
        assert_eq!(run.json(), base, "{recipe}");
    }
    // What `show` prints says where the files are, so a copy of it works at any place.
    let shown = qdrop_in(&sub, &["recipes", "show", "child.yaml"]);
    std::fs::write(elsewhere.join("copy.yaml"), &shown.stdout).unwrap();
    assert_eq!(qdrop_in(&elsewhere, &["evaluate", "copy.yaml", "--float", "--json"]).json(), base);

    // A path of the child's own, and those of `--set`, start from the child's folder.
    std::fs::rename(dir.path().join("base/weights.safetensors"), sub.join("own.safetensors")).unwrap();
    let own = "extends: ../../base/recipe.yaml\nmodel: {weights: own.safetensors}\n";
    std::fs::write(&child, own).unwrap();
    assert_eq!(qdrop_in(&elsewhere, &["evaluate", "../sub/deep/child.yaml", "--float", "--json"]).json(), base);
    std::fs::write(&child, "extends: ../../base/recipe.yaml\n").unwrap();
    let set = ["--set", "model.weights=own.safetensors"];
    let run = qdrop_in(&elsewhere, &[&["evaluate", "../sub/deep/child.yaml", "--float", "--json"], &set[..]].concat());
    assert_eq!(run.json(), base);
    let run = qdrop_in(&elsewhere, &["check", "../sub/deep/child.yaml"]);
    assert!(run.error().contains("base/weights.safetensors"), "{}", run.stderr);
    // A built-in recipe has no folder: paths of `--set` start from the current one.
    let own = ["--set", "model.weights=own.safetensors", "--set", "evaluation.images=100"];
    assert_eq!(qdrop_in(&sub, &[&["evaluate", "demo", "--float", "--json"], &own[..]].concat()).json(), base);
    std::fs::write(sub.join("demo.yaml"), "extends: demo\nevaluation: {images: 100}\n").unwrap();
    assert_eq!(qdrop_in(&elsewhere, &["evaluate", "../sub/deep/demo.yaml", "--float", "--json"]).json(), base);
}

#[test]
fn saved_results_know_where_the_files_are() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "base");
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    // The variant's weights are those of a file beside the child.
    std::fs::copy(dir.path().join("base/weights.safetensors"), sub.join("same.safetensors")).unwrap();
    let child = "extends: ../base/recipe.yaml\ncache: {spill: kept, limit: 1KiB}\n\
                 compare: [{name: same, set: {model.weights: same.safetensors}}]\n";
    std::fs::write(sub.join("child.yaml"), child).unwrap();
    let grandchild = dir.path().join("grandchild.yaml");
    std::fs::write(&grandchild, "extends: sub/child.yaml\n").unwrap();
    let run = qdrop_in(dir.path(), &["quantize", "grandchild.yaml", "--out", "out", "--json"]).json();
    assert!(sub.join("kept").is_dir(), "values are cached beside the file that says so");
    let top1 = &run["quantized"]["top1"];
    assert_eq!(&run["rows"][1]["top1"], top1);
    let evaluated = qdrop_in(&sub, &["evaluate", "../out", "--json"]).json();
    assert_eq!(&evaluated["top1"], top1);
    // As if the run had been stopped.
    for file in ["summary.json", "compare-0.json", "float.json"] {
        std::fs::remove_file(dir.path().join("out").join(file)).unwrap();
    }
    let resumed = qdrop_in(&sub, &["resume", "../out", "--json"]).json();
    assert_eq!((&resumed["quantized"]["top1"], &resumed["rows"][1]["top1"]), (top1, top1));
    // A saved result can be extended too.
    std::fs::write(sub.join("again.yaml"), "extends: ../out\n").unwrap();
    let float = qdrop_in(Path::new("/"), &["evaluate", text(&sub.join("again.yaml")), "--float", "--json"]).json();
    assert_eq!(float["top1"], run["float"]["top1"]);
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListParams {
    list: PathBuf,
    more: Vec<PathBuf>,
}

/// Where a strategy's files are, as the message of an error.
fn files(params: &Params, base_dir: &Path) -> Result<Box<dyn Dataset>> {
    let p: ListParams = params.parse()?;
    let mut files = vec![params.resolve("list", &p.list)];
    files.extend(p.more.iter().map(|file| params.resolve("more", file)));
    let shown: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    Err(Error::message(format!("[{}] {}", shown.join(" "), base_dir.display())))
}

register_dataset! {
    name: "files_of_a_list", aliases: [], summary: "says where its files are",
    build: |params, request| files(params, &request.base_dir)
}

register_observer! {
    name: "files_of_a_list", aliases: [], summary: "says where its files are",
    build: |_, params| Err(files(params, Path::new("")).err().unwrap())
}

#[test]
fn parameters_of_any_strategy_start_from_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for folder in [&a, &b] {
        std::fs::create_dir(folder).unwrap();
    }
    let data = "data: {name: files_of_a_list, params: {list: l.txt, more: [m.txt, /abs]}}\n";
    std::fs::write(a.join("base.yaml"), format!("extends: imagenet/resnet18_w4a4\n{data}")).unwrap();
    let child = b.join("child.yaml");
    let said = |content: &str, set: &[&str]| {
        std::fs::write(&child, format!("extends: ../a/base.yaml\n{content}")).unwrap();
        let recipe = set.iter().fold(Loader::new(&child), |loader, set| loader.set(*set)).load().unwrap();
        let error = |recipe| qdrop::Run::new(recipe).unwrap().check().unwrap_err().to_string();
        // The saved recipe says the same.
        let saved = dir.path().join("saved.yaml");
        std::fs::write(&saved, recipe.to_yaml().unwrap()).unwrap();
        let said = error(recipe);
        assert_eq!(error(Loader::new(&saved).load().unwrap()), said);
        said.replace(text(dir.path()), "").replace("/b/../a", "/a").split(": ").last().unwrap().to_string()
    };
    assert_eq!(said("", &[]), "[/a/l.txt /a/m.txt /abs] /a");
    assert_eq!(said("data: {params: {list: k.txt}}\n", &[]), "[/b/k.txt /a/m.txt /abs] /a");
    assert_eq!(said("", &["data.params.more=[n.txt]"]), "[/a/l.txt /b/n.txt] /a");
    let whole = "data: {name: files_of_a_list, params: {list: k.txt}}\n";
    // The same strategy's parameters are merged.
    assert_eq!(said(whole, &[]), "[/b/k.txt /a/m.txt /abs] /b");
    let observer =
        "quant: {overrides: [{match: fc, weight: {observer: {name: files_of_a_list, params: {list: o}}}}]}\n";
    assert_eq!(said(observer, &[]), "[/b/o] ");
}

#[test]
fn errors_about_built_in_recipes_name_them() {
    for (recipe, set, message) in [
        ("imagenet/resnet18_w2a4", "quant.weight.bits=0", "data imagenet/resnet18_w2a4: quant.weight.bits: 0 bits"),
        ("demo", "seeed=1", "data demo: seeed: unknown field"),
        ("demo", "plugins=[/nope.so]", "plugins: the recipe's plugins are loaded before it is changed"),
        ("demo", "compare.0.set={seeed: 1}", "data demo: seeed: unknown field"),
    ] {
        let run = qdrop(&["check", recipe, "--set", set]);
        assert!(run.error().contains(message) && !run.stderr.contains("qdrop-demo-"), "{}", run.stderr);
    }
}

#[test]
fn configurations_of_the_reference_start_from_their_own_folder() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let tensor = "bit: 4, symmetric: False";
    let config = format!(
        "quant:\n  a_qconfig: {{quantizer: LSQFakeQuantize, observer: AvgMSEObserver, {tensor}, ch_axis: -1}}\n  \
         w_qconfig: {{quantizer: FixedFakeQuantize, observer: MSEObserver, {tensor}, ch_axis: 0}}\n  calibrate: 8\n\
         data: {{path: images, batch_size: 32, input_size: 224, test_resize: 256}}\nprocess: {{seed: 7}}\n"
    );
    std::fs::write(dir.path().join("base.yaml"), format!("\u{feff}{config}")).unwrap();
    std::fs::write(sub.join("config.yaml"), "root: ../base.yaml\nmodel: {type: resnet18, path: r18.pth}\n").unwrap();
    std::fs::write(dir.path().join("r.yaml"), "extends: sub/config.yaml\nseed: 1\n").unwrap();
    for recipe in ["sub/config.yaml", "r.yaml"] {
        let recipe = Loader::new(dir.path().join(recipe)).load().unwrap();
        let weights = recipe.resolve("model.weights", recipe.model.weights.as_ref().unwrap());
        assert_eq!(weights, sub.join("r18.pth"));
        let root = recipe.data.params_at("data").resolve("root", recipe.data.params["root"].as_str().unwrap());
        assert_eq!(root.canonicalize().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert_eq!(root, sub.join("../images"));
    }
}
