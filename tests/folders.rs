//! Image folders as people have them: what is passed over is said, labels are right, and images that cannot be read
//! never depend on the batch.

use crate::support::*;
use qdrop_core::cache::{CacheBudget, CachedValues};
use qdrop_core::pipeline::calibration_images;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::recipe::CalibrationRecipe;
use std::path::{Path, PathBuf};

/// A PNG of one grey value.
fn png(value: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(8, 8, image::Rgb([value; 3])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(path: impl AsRef<Path>, content: &[u8]) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Opens `val` or `train` in `dir` for a network with 8 x 8 inputs.
fn open_split(dir: &Path, split: Split, classes: usize, params: &str) -> Result<Box<dyn Dataset>> {
    let request = DatasetRequest {
        split,
        seed: 1,
        input: [3, 8, 8],
        targets: TargetSpec::Class { classes },
        root: Some(dir.into()),
        base_dir: dir.into(),
    };
    // Without a recipe there is no folder that relative paths start from.
    let params = ["list.txt", "val.txt", "labels.txt"]
        .iter()
        .fold(params.to_string(), |params, file| params.replace(file, &dir.join(file).display().to_string()));
    let params = format!("{{resize: 8, mean: [0, 0, 0], std: [1, 1, 1], augment: false{params}}}");
    let params = Params::new("data.params", serde_yaml::from_str(&params).unwrap());
    registries().datasets.get("image_folder", "data").unwrap().build(&params, &request)
}

fn open(dir: &Path, classes: usize, params: &str) -> Result<Box<dyn Dataset>> {
    open_split(dir, Split::Evaluation, classes, params)
}

/// The grey value and the target of each image.
fn content(data: &dyn Dataset) -> Vec<(u8, Target)> {
    let sample = |i| data.sample(i).unwrap();
    (0..data.len()).map(sample).map(|s| ((s.image[0] * 255.0).round() as u8, s.target)).collect()
}

/// Grey values with classes.
fn labelled<const N: usize>(values: [(u8, usize); N]) -> Vec<(u8, Target)> {
    values.map(|(value, class)| (value, Target::Class(class))).to_vec()
}

#[test]
fn what_is_passed_over_is_said_and_nested_images_count() {
    let dir = tempfile::tempdir().unwrap();
    let val = dir.path().join("val");
    write(val.join("cat/1.PNG"), &png(10));
    write(val.join("cat/more/deep/2.png"), &png(20));
    write(val.join("cat/more-1/3.png"), &png(30));
    write(val.join("dog/photo"), &png(40));
    write(val.join("dog/wrong.txt"), &png(50));
    for other in ["cat/Thumbs.db", "dog/notes.txt", "dog/a.csv", "dog/b.csv"] {
        write(val.join(other), b"no image");
    }
    for hidden in ["dog/.DS_Store", "cat/._1.PNG", ".ipynb_checkpoints/1.png"] {
        write(val.join(hidden), &png(0));
    }
    std::fs::create_dir(val.join("emu")).unwrap();
    write(val.join("readme.md"), b"text");
    write(val.join("sheet.png"), &png(0));
    let data = open(dir.path(), 3, "").unwrap();
    // By class folder, then by the path of the folder, then by name.
    assert_eq!(content(&*data), labelled([(10, 0), (30, 0), (20, 0), (40, 1), (50, 1)]));
    let want = format!(
        "passed over in {}: 4 files that are no images (such as cat/Thumbs.db, dog/a.csv, dog/b.csv); 3 hidden files or \
         folders (.ipynb_checkpoints, cat/._1.PNG, dog/.DS_Store); 1 class folder without an image (emu); 2 files beside \
         the class folders (readme.md, sheet.png)",
        val.display()
    );
    assert_eq!(data.notes(), [want]);
    let error = open(dir.path(), 2, "").err().unwrap().to_string();
    assert!(
        error.contains("has 3 class folders, 1 without an image (emu), but the classifier has 2 classes"),
        "{error}"
    );
    // A list that does not name the empty folder.
    write(dir.path().join("list.txt"), b"dog\r\ncat\r\n");
    let data = open(dir.path(), 2, ", class_list: list.txt").unwrap();
    assert_eq!(content(&*data), labelled([(10, 1), (30, 1), (20, 1), (40, 0), (50, 0)]));
    assert!(data.notes()[0].contains("1 class folder without an image (emu)"));
}

#[test]
fn damaged_images_and_other_formats_are_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("val/a/1.png"), &png(1));
    write(dir.path().join("val/b/empty.JPEG"), b"");
    write(dir.path().join("val/b/text.webp"), b"text");
    write(dir.path().join("val/b/cut"), &png(1)[..40]);
    let data = open(dir.path(), 2, "").unwrap();
    assert_eq!((data.len(), data.notes()), (4, Vec::new()));
    for (i, name) in [(1, "b/cut"), (2, "b/empty.JPEG"), (3, "b/text.webp")] {
        let error = data.sample(i).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_circles_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let val = dir.path().join("val");
    write(dir.path().join("elsewhere/x.png"), &png(7));
    write(val.join("a/1.png"), &png(1));
    write(val.join("b/2.png"), &png(2));
    symlink(dir.path().join("elsewhere"), val.join("c")).unwrap();
    symlink(dir.path().join("elsewhere"), val.join("a/linked")).unwrap();
    symlink(val.join("b/2.png"), val.join("b/again.png")).unwrap();
    symlink("gone.png", val.join("b/gone.png")).unwrap();
    symlink("self.png", val.join("b/self.png")).unwrap();
    symlink(&val, val.join("a/up")).unwrap();
    symlink(val.join("a"), val.join("a/round")).unwrap();
    symlink("..", val.join("zz")).unwrap();
    std::fs::remove_file(val.join("zz")).unwrap();
    symlink(".", val.join("here")).unwrap();
    let data = open(dir.path(), 3, "").unwrap();
    assert_eq!(content(&*data), labelled([(1, 0), (7, 0), (2, 1), (2, 1), (7, 2)]));
    let note = &data.notes()[0];
    assert!(note.contains("2 broken symbolic links (b/gone.png, b/self.png)"), "{note}");
    assert!(note.contains("3 links to folders that were already read (a/round, a/up, here)"), "{note}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8_work() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let val = dir.path().join("val");
    let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    write(val.join("aaa/1.png"), &png(1));
    write(val.join(name(b"caf\xe9")).join(name(b"\xff.png")), &png(2));
    write(val.join(name(b"caf\xe9/\xfe.txt")), b"text");
    write(val.join("zoo/3.png"), &png(3));
    let data = open(dir.path(), 3, "").unwrap();
    assert_eq!(content(&*data), labelled([(1, 0), (2, 1), (3, 2)]));
    assert!(data.notes()[0].contains("1 file that is no image (caf\u{fffd}/\u{fffd}.txt)"), "{:?}", data.notes());
    write(dir.path().join("list.txt"), b"\xef\xbb\xbfzoo\r\ncaf\xe9\r\naaa");
    let data = open(dir.path(), 3, ", class_list: list.txt").unwrap();
    assert_eq!(content(&*data), labelled([(1, 2), (2, 1), (3, 0)]));
    write(dir.path().join("labels.txt"), b"caf\xe9/\xff.png 2\n3.png 0\n1.png 1\n");
    let data = open(dir.path(), 3, ", labels: labels.txt").unwrap();
    assert_eq!(content(&*data), labelled([(1, 1), (2, 2), (3, 0)]));
}

#[test]
fn one_class_folder_is_enough_where_nothing_is_ambiguous() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("val/great white shark/1.png"), &png(5));
    write(dir.path().join("list.txt"), b"hen\ngreat white shark\n");
    let data = open(dir.path(), 2, ", class_list: list.txt").unwrap();
    assert_eq!(content(&*data), labelled([(5, 1)]));
    assert_eq!(content(&*open(dir.path(), 1, "").unwrap()), labelled([(5, 0)]));
    assert!(open(dir.path(), 2, "").err().unwrap().to_string().contains("all images are in one class folder"));
    write(dir.path().join("list.txt"), b"great white shark, a fish\ngreat white shark\tthe same\nhen\n");
    let error = open(dir.path(), 3, ", class_list: list.txt").err().unwrap().to_string();
    assert!(error.contains("several lines begin with 'great white shark' (1, 2)"), "{error}");
}

#[test]
fn two_folders_of_one_class_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("val/n01440764/1.png"), &png(5));
    write(dir.path().join("val/n01440764 tench/1.png"), &png(5));
    write(dir.path().join("list.txt"), b"n01440764 tench\nhen\n");
    let error = open(dir.path(), 2, ", class_list: list.txt").err().unwrap().to_string();
    assert!(error.contains("n01440764 tench: this folder and ") && error.contains("are of the same class"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_read_is_an_error_that_names_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("val/a/1.png"), &png(1));
    write(dir.path().join("val/b/locked/2.png"), &png(1));
    let locked = dir.path().join("val/b/locked");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser reads everything.
    let superuser = std::fs::read_dir(&locked).is_ok();
    let opened = open(dir.path(), 2, "");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o755)).unwrap();
    match opened {
        Ok(data) => assert!(superuser && data.len() == 2),
        Err(e) => assert!(!superuser && e.to_string().contains("val/b/locked"), "{e}"),
    }
}

#[test]
fn a_flat_folder_needs_labels_for_evaluation_only() {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        for (name, value) in [("b.png", 2), ("a.png", 1), ("c d.png", 3)] {
            write(dir.path().join(split).join(name), &png(value));
        }
        write(dir.path().join(split).join("x.txt"), b"text");
    }
    let error = open(dir.path(), 5, "").err().unwrap().to_string();
    assert!(
        error.contains("holds 3 images, but no class folders with images") && error.contains("`labels`"),
        "{error}"
    );
    let unknown: Vec<_> = [1, 2, 3].map(|value| (value, Target::Unknown)).to_vec();
    let train = open_split(dir.path(), Split::Calibration, 5, "").unwrap();
    assert_eq!(content(&*train), unknown);
    write(dir.path().join("val.txt"), b"c d.png 4\r\na.png 0\r\nb.png 2\r\n");
    let data = open(dir.path(), 5, ", labels: val.txt").unwrap();
    assert_eq!(content(&*data), labelled([(1, 0), (2, 2), (3, 4)]));
    assert!(data.notes()[0].contains("1 file that is no image (x.txt)"));
    let train = open_split(dir.path(), Split::Calibration, 5, ", labels: val.txt").unwrap();
    assert_eq!(content(&*train), unknown);
    let error = open(dir.path(), 5, ", label_numbers: from_1").err().unwrap().to_string();
    assert_eq!(error, "data.params.label_numbers: says what numbers in `labels` mean, which is not given");
    assert!(open(dir.path(), 5, ", labels: no.txt").err().unwrap().to_string().contains("cannot read"));
    let data = open(dir.path(), 5, ", labels: val.txt, label_numbers: from_0").unwrap();
    assert_eq!(data.len(), 3);
}

#[test]
fn the_calibration_set_leaves_out_broken_images_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..150_u8 {
        // A whole batch of the loader would be broken if it were in the order of names.
        let content = if (40..110).contains(&i) { b"cut".to_vec() } else { png(i) };
        write(dir.path().join(format!("train/a/{i:03}.png")), &content);
    }
    let data = open_split(dir.path(), Split::Calibration, 1, "").unwrap();
    let load = |threads: usize, max_broken_percent: f64, progress: &dyn Progress| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = CalibrationRecipe { images: 150, max_broken_percent, ..Default::default() };
        let cache = CachedValues::new(CacheBudget::unlimited(), Device::Cpu);
        pool.install(|| calibration_images(&*data, &settings, 3, &[3, 8, 8], cache, progress))
    };
    let warnings = Warnings::default();
    let one = load(1, 50.0, &warnings).unwrap();
    assert_eq!(one.images.samples(), 80);
    assert_eq!(one.fingerprint, load(3, 50.0, &Silent).unwrap().fingerprint);
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.iter().filter(|w| w.starts_with("skipped: data ")).count(), 70);
    assert_eq!(warnings.last().unwrap(), "70 of 150 calibration images could not be read");
    let error = load(2, 1.0, &Silent).err().unwrap().to_string();
    assert!(
        error.starts_with("70 of 150 calibration images (46.67 %) could not be read, more than the 1 %"),
        "{error}"
    );
    assert!(error.ends_with("and 50 more"), "{error}");
}

/// A recipe of a small network whose evaluation images are grey, with some that cannot be read.
struct Probe(tempfile::TempDir);

impl Probe {
    /// `broken` of 60 evaluation images cannot be read: the first ones, so that small batches hold no other.
    fn new(broken: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..60_u8 {
            let content = if usize::from(i) < broken { b"cut".to_vec() } else { png(i * 4) };
            write(dir.path().join(format!("images/val/{}/{i:02}.png", i % 2)), &content);
            write(dir.path().join(format!("images/train/{}/{i:02}.png", i % 2)), &png(i));
        }
        let architecture = registries().architectures.get("resnet18", "test").unwrap().build().unwrap();
        let params = serde_yaml::from_str("{classes: 2, image_size: 8, width: 2, stem: small}").unwrap();
        let graph = architecture.graph(&Params::new("test", params)).unwrap();
        let tensors = noise_parameters(&graph);
        let positive = |(name, t): (String, Tensor)| {
            let t = if name.ends_with("running_var") { t.abs().unwrap().affine(1.0, 0.5).unwrap() } else { t };
            (name, t)
        };
        let tensors: std::collections::HashMap<String, Tensor> = tensors.into_iter().map(positive).collect();
        candle_core::safetensors::save(&tensors, dir.path().join("w.safetensors")).unwrap();
        let recipe = "
name: probe
model: {architecture: {name: resnet18, params: {classes: 2, image_size: 8, width: 2, stem: small}}, weights: w.safetensors}
data: {name: image_folder, params: {root: images, resize: 8}}
quant:
  setting: qdrop
  weight: {bits: 4, granularity: per_channel, observer: minmax, quantizer: fixed}
  activation: {bits: 8, granularity: per_tensor, observer: minmax, quantizer: fixed}
calibration: {images: 32, observe: 32}
reconstruction: none
";
        write(dir.path().join("recipe.yaml"), recipe.as_bytes());
        Self(dir)
    }

    fn run(&self, command: &[&str], set: &[&str]) -> Run {
        let recipe = self.0.path().join("recipe.yaml");
        let mut arguments = vec![command[0], recipe.to_str().unwrap(), "--json"];
        arguments.extend(&command[1..]);
        set.iter().for_each(|change| arguments.extend(["--set", change]));
        qdrop(&arguments)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn broken_images_give_the_same_result_for_every_batch_size() {
    let probe = Probe::new(5);
    let mut results = Vec::new();
    for size in ["1", "2", "7", "64"] {
        let batch = format!("evaluation.batch_size={size}");
        let run = probe.run(&["evaluate", "--float"], &[&batch, "evaluation.max_broken_percent=10"]);
        let json = run.json();
        assert_eq!((&json["images"], &json["broken"]), (&55.into(), &5.into()), "{json}");
        results.push(json["top1"].clone());
        assert_eq!(run.stderr.matches("not counted: data ").count(), 5, "{}", run.stderr);
        let run = probe.run(&["evaluate", "--float"], &[&batch]);
        let error = run.error();
        assert!(
            error.contains("5 of 60 evaluation images (8.33 %) could not be read, more than the 1 % of"),
            "{error}"
        );
        assert!(error.contains("val/0/00.png") && error.contains("val/1/03.png"), "{error}");
    }
    assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
    let run = Probe::new(60).run(&["evaluate", "--float"], &["evaluation.max_broken_percent=100"]);
    assert!(run.error().contains("none of the 60 evaluation images could be read"), "{}", run.stderr);
    for (key, value) in [("evaluation", "-1"), ("calibration", "101"), ("evaluation", ".nan")] {
        let run = probe.run(&["check"], &[&format!("{key}.max_broken_percent={value}")]);
        assert!(run.error().contains(&format!("{key}.max_broken_percent: ")), "{}", run.stderr);
        assert!(run.error().contains("is no share in percent; use 0 to 100"), "{}", run.stderr);
    }
}

#[test]
fn a_run_names_a_broken_image_once_and_keeps_the_quantized_network() {
    let probe = Probe::new(3);
    write(probe.path("images/val/0/Thumbs.db"), b"no image");
    let out = probe.path("out");
    let out = out.to_str().unwrap();
    let compare = "compare=[{name: again, set: {seed: 7}}]";
    let run = probe.run(&["quantize", "--out", out], &[compare, "evaluation.max_broken_percent=5"]);
    run.json();
    assert_eq!(run.stderr.matches("not counted: data ").count(), 3, "{}", run.stderr);
    assert_eq!(run.stderr.matches("1 file that is no image (0/Thumbs.db)").count(), 1, "{}", run.stderr);
    let summary = std::fs::read_to_string(Path::new(out).join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["quantized"]["images"], &summary["float"]["broken"]), (&57.into(), &3.into()));
    // Too many broken images end the run at the float evaluation, before quantization.
    let refused = probe.path("refused");
    let run = probe.run(&["quantize", "--out", refused.to_str().unwrap()], &[]);
    assert!(run.error().contains("float") && run.error().contains("3 of 60 evaluation images"), "{}", run.stderr);
    assert!(!refused.join("model.safetensors").exists());
    // Images that break between the two evaluations do not cost the quantized network.
    let interrupted = probe.path("interrupted");
    std::fs::create_dir(&interrupted).unwrap();
    for file in ["recipe.yaml", "run.json", "float.json", "compare-0.json"] {
        std::fs::copy(Path::new(out).join(file), interrupted.join(file)).unwrap();
    }
    for i in 3..30 {
        write(probe.path(&format!("images/val/{}/{i:02}.png", i % 2)), b"cut");
    }
    let model = std::fs::read(Path::new(out).join("model.safetensors")).unwrap();
    let run = qdrop(&["resume", interrupted.to_str().unwrap()]);
    assert!(run.error().contains("30 of 60 evaluation images (50.00 %) could not be read"), "{}", run.stderr);
    assert!(run.stderr.contains("the quantized network is saved as"), "{}", run.stderr);
    assert_eq!(std::fs::read(interrupted.join("model.safetensors")).unwrap(), model);
    assert!(!interrupted.join("summary.json").exists());
}
