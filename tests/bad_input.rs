//! Bad input: the message about every mistake names the place of the mistake.

use crate::support::*;
use qdrop_core::prelude::*;
use std::io::Write;
use std::path::Path;

/// Runs the demo with some changes and one iteration.
fn demo(changes: &[&str]) -> Run {
    let mut arguments = vec!["quantize", "demo"];
    let mut all = vec!["compare=[]", "calibration={images: 64, observe: 32}", "evaluation={images: 64}"];
    all.extend(changes);
    for change in all {
        arguments.extend(["--set", change]);
    }
    arguments.extend(["--iters", "1"]);
    qdrop(&arguments)
}

#[track_caller]
fn says(run: &Run, parts: &[&str]) {
    let error = run.error();
    for part in parts {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

#[test]
fn misspelt_names_suggest_the_nearest() {
    let run = demo(&["quant.weight.observer=minmx"]);
    says(
        &run,
        &["quant.weight.observer: unknown observer 'minmx', did you mean 'minmax'?", "known: avg_minmax, avg_mse"],
    );
    let run = demo(&["quant.overrides=[{match: fc, weight: {quantizer: lsqq}}]"]);
    says(&run, &["quant.overrides[0].weight.quantizer: unknown quantizer 'lsqq', did you mean 'lsq'?"]);
    let run = demo(&["model.architecture.name=resnet19"]);
    says(&run, &["model.architecture: unknown architecture 'resnet19', did you mean 'resnet1"]);
    let run = qdrop(&["check", "imagenet/mobilenet_v2_w4a5"]);
    says(&run, &["did you mean 'imagenet/mobilenet_v2_w4a4'?"]);
}

#[test]
fn unknown_keys_at_any_depth() {
    says(&demo(&["quant.weigt.bits=2"]), &["quant.weigt: unknown field `weigt`"]);
    says(&demo(&["reconstruction.params.iter=2"]), &["reconstruction.params.iter: unknown field `iter`"]);
    says(&demo(&["model.architecture.params.widht=2"]), &["model.architecture.params.widht: unknown field"]);
    says(&demo(&["data.params.mena=2"]), &["data.params.mena: unknown field"]);
    let run = demo(&["quant.weight.observer={name: mse, params: {bins: 3}}"]);
    says(&run, &["quant.weight.observer.params.bins: unknown field"]);
}

#[test]
fn impossible_bits() {
    says(&demo(&["quant.weight.bits=0"]), &["quant.weight.bits: 0 bits are not supported; use 1 to 16"]);
    says(&demo(&["quant.activation.bits=17"]), &["quant.activation.bits: 17 bits are not supported"]);
}

#[test]
fn impossible_parameters() {
    says(&demo(&["reconstruction.params.drop_prob=1.5"]), &["reconstruction.params.drop_prob: is a probability"]);
    let run = qdrop(&["check", "demo", "--iters", "0"]);
    says(&run, &["run_iters: must be at least 1"]);
    says(&demo(&["quant.activation.quantizer=adaround"]), &["adaround rounds weights; use lsq for activations"]);
    says(&demo(&["quant.weight.observer=avg_mse"]), &["quant.weight.observer: this observer averages over calls"]);
    says(
        &demo(&["calibration.refine=8", "calibration.inputs=quantized"]),
        &["calibration.refine: refines ranges that `inputs: quantized` would observe again"],
    );
    says(&demo(&["quant.overrides=[{match: \"layer9*\", float: true}]"]), &["'layer9*' matches no unit or layer"]);
    let run = qdrop(&["check", "demo", "--set", "reconstruction.merge=[[\"layer9*\"]]"]);
    says(&run, &["checking the recipe: reconstruction.merge[0]: 'layer9*' matches no unit of the network"]);
}

#[test]
fn a_calibration_set_smaller_than_a_batch() {
    let run = demo(&["calibration.images=20"]);
    says(&run, &["reconstruction.params.batch_size: the calibration set has 20 images, fewer than a batch of 32"]);
}

/// Returns a tensor's new data type and bytes, from its name and old bytes.
type Change<'a> = &'a dyn Fn(&str, &[u8]) -> (safetensors::Dtype, Vec<u8>);

#[test]
fn weights_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let good = std::fs::read(fixture("../cli/demo/weights.safetensors")).unwrap();
    let run = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        qdrop(&["check", "demo", "--weights", file.to_str().unwrap()])
    };
    assert!(run(&good).ok);
    says(&run(&good[..good.len() / 2]), &["w.safetensors", "not a complete safetensors file"]);
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let changed = |change: Change<'_>| {
        let copies: Vec<_> = tensors.iter().map(|(n, v)| (n, v.shape().to_vec(), change(n, v.data()))).collect();
        let views =
            copies.iter().map(|(n, s, (d, b))| (*n, safetensors::tensor::TensorView::new(*d, s.clone(), b).unwrap()));
        safetensors::serialize(views, None).unwrap()
    };
    let float = safetensors::Dtype::F32;
    let nan = changed(&|name, data| {
        let mut data = data.to_vec();
        if name == "layer2.0.conv1.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        (float, data)
    });
    says(&run(&nan), &["layer2.0.conv1.weight holds NaN at element 0"]);
    let integers =
        changed(&|name, data| (if name == "fc.bias" { safetensors::Dtype::I32 } else { float }, data.to_vec()));
    says(&run(&integers), &["fc.bias holds integers, not floating-point numbers"]);
    let none = qdrop(&["check", "demo", "--weights", dir.path().join("none.pth").to_str().unwrap()]);
    says(&none, &["cannot read", "none.pth"]);
    let wrong = qdrop(&["check", "demo", "--set", "model.architecture.name=resnet34"]);
    says(&wrong, &["tensors missing: layer1.2.conv1.weight"]);
    let wider = qdrop(&["check", "demo", "--set", "model.architecture.params.width=8"]);
    says(&wider, &["conv1.weight has [16, 1, 3, 3], the network needs [8, 1, 3, 3]"]);
}

#[test]
fn a_network_for_other_images() {
    let run = qdrop(&["check", "demo", "--set", "model.architecture.params.in_channels=3", "--weights", "/nowhere"]);
    assert!(!run.ok);
    let request = request(&[3, 28, 28], 10, Some(fixture("../cli/demo")));
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("images of 1 channel, [28, 28], but the network takes [3, 28, 28]"), "{error}");
    let request = self::request(&[1, 224, 224], 1000, Some("/data".into()));
    let error = open("image_folder", "{}", &request).err().unwrap().to_string();
    assert!(error.contains("images are RGB and square, but the network takes 1 channels"), "{error}");
}

const IDX: &str = "{train_images: train-images-idx3-ubyte.gz, train_labels: train-labels-idx1-ubyte.gz, \
                   test_images: t10k-images-idx3-ubyte.gz, test_labels: t10k-labels-idx1-ubyte.gz}";

fn request(input: &[usize; 3], classes: usize, root: Option<std::path::PathBuf>) -> DatasetRequest {
    let targets = TargetSpec::Class { classes };
    DatasetRequest { split: Split::Evaluation, seed: 1, input: *input, targets, root, base_dir: "".into() }
}

fn open(name: &str, params: &str, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let params = Params::new("data.params", serde_yaml::from_str(params).unwrap());
    registries().datasets.get(name, "data").unwrap().build(&params, request)
}

#[test]
fn damaged_idx_files() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"] {
        std::fs::copy(fixture("../cli/demo").join(file), dir.path().join(file)).unwrap();
    }
    let request = request(&[1, 28, 28], 10, Some(dir.path().into()));
    let data = open("idx", IDX, &request).unwrap();
    assert_eq!(data.len(), 2500);
    let images = dir.path().join("t10k-images-idx3-ubyte.gz");
    let bytes = std::fs::read(&images).unwrap();
    std::fs::write(&images, &bytes[..bytes.len() / 2]).unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("damaged gzip file"), "{error}");
    std::fs::write(&images, [0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28, 1]).unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("holds 1 bytes of data, its header announces 7056"), "{error}");
    // More than the header announces: as a gzip file too, of which no more is decompressed than that.
    std::fs::write(&images, [[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28].as_slice(), &[7; 785]].concat())
        .unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("holds more than the 784 bytes of data that its header announces"), "{error}");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28]).unwrap();
    (0..64).for_each(|_| bomb.write_all(&vec![0; 1 << 20]).unwrap());
    std::fs::write(&images, bomb.finish().unwrap()).unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("holds more than the 784 bytes"), "{error}");
    // Dimensions whose product has more than 64 bits, of images that the network would take.
    let header = |dims: &[u32]| {
        let dims: Vec<u8> = dims.iter().flat_map(|d| d.to_be_bytes()).collect();
        [&[0, 0, 8, (dims.len() / 4) as u8], dims.as_slice()].concat()
    };
    let large = DatasetRequest { input: [1, u32::MAX as usize, u32::MAX as usize], ..request.clone() };
    std::fs::write(&images, header(&[u32::MAX; 3])).unwrap();
    let error = open("idx", IDX, &large).err().unwrap().to_string();
    assert!(error.contains("its header announces the impossible dimensions [4294967295, "), "{error}");
    std::fs::write(&images, header(&[u32::MAX, 28, 28])).unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("holds 0 bytes of data, its header announces 3367254359280"), "{error}");
    std::fs::write(&images, header(&[5, 0, 0])).unwrap();
    let error = open("idx", IDX, &DatasetRequest { input: [1, 0, 0], ..request.clone() }).err().unwrap().to_string();
    assert!(error.contains("has images of 0 x 0 pixels"), "{error}");
    for dims in [&[][..], &[5], &[5, 1, 28, 28]] {
        std::fs::write(&images, header(dims)).unwrap();
        let error = open("idx", IDX, &request).err().unwrap().to_string();
        assert!(error.contains("images have three: number, height and width"), "{error}");
    }
    std::fs::write(&images, &header(&[5, 28, 28])[..9]).unwrap();
    assert!(open("idx", IDX, &request).err().unwrap().to_string().contains("ends within its header"));
    std::fs::write(&images, b"hello").unwrap();
    let error = open("idx", IDX, &request).err().unwrap().to_string();
    assert!(error.contains("is no idx file"), "{error}");
    let few = DatasetRequest {
        targets: TargetSpec::Class { classes: 5 },
        root: Some(fixture("../cli/demo")),
        ..request.clone()
    };
    let error = open("idx", IDX, &few).err().unwrap().to_string();
    assert!(error.contains("the classifier has 5 classes"), "{error}");
}

#[test]
fn a_task_that_compares_with_something_else() {
    let mut other = request(&[1, 28, 28], 10, Some(fixture("../cli/demo")));
    other.targets = TargetSpec::Values { count: 3 };
    let error = open("idx", IDX, &other).err().unwrap().to_string();
    let want =
        "data: this dataset gives a class with each image, but the task compares with 3 numbers; choose another \
                dataset or another `task`";
    assert_eq!(error, want);
    other.input = [3, 32, 32];
    assert_eq!(open("image_folder", "{root: /nowhere}", &other).err().unwrap().to_string(), want);
}

#[test]
fn tasks_that_do_not_exist_and_published_values_that_cannot_be() {
    says(&demo(&["task=clasification"]), &["task: unknown task 'clasification', did you mean 'classification'?"]);
    says(&demo(&["task={name: classification, params: {k: 1}}"]), &["task.params.k: unknown field `k`"]);
    says(&demo(&["published={float: 7106}"]), &["published.float: 7106 is not a top-1 accuracy in percent"]);
    let run = demo(&["published={float: 71.06, quantized: -1}"]);
    says(&run, &["published.quantized: -1 is not a top-1 accuracy in percent, from 0 to 100"]);
    says(&demo(&["evaluation.images=0"]), &["evaluation.images: must be at least 1"]);
}

/// Writes a JPEG of one colour.
fn write_jpeg(path: &Path, colour: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(40, 50, image::Rgb(colour)).save(path).unwrap();
}

#[test]
fn image_folders_that_cannot_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let val = dir.path().join("val");
    let request = request(&[3, 32, 32], 2, Some(dir.path().into()));
    let error = |params: &str| open("image_folder", params, &request).err().unwrap().to_string();
    assert!(error("{resize: 36}").contains("val: there is no such folder; the data folder holds `train` and `val`"));
    std::fs::create_dir_all(&val).unwrap();
    assert!(error("{resize: 36}").contains("holds no images; expected one folder for each class"));
    write_jpeg(&val.join("cat/1.jpg"), [200, 10, 10]);
    assert!(error("{resize: 36}").contains("all images are in one class folder, but the classifier has 2 classes"));
    write_jpeg(&val.join("dog/1.jpeg"), [10, 200, 10]);
    assert!(error("{resize: 20}").contains("data.params.resize: 20 is smaller than the network's input of 32"));
    let data = open("image_folder", "{resize: 36, mean: [0, 0, 0], std: [1, 1, 1]}", &request).unwrap();
    let sample = data.sample(1).unwrap();
    assert_eq!((data.len(), sample.target, sample.image.len()), (2, Target::Class(1), 3 * 32 * 32));
    assert_eq!(data.targets(), TargetSpec::Class { classes: 2 });
    assert!((sample.image[1024] - 200.0 / 255.0).abs() < 0.02);
    write_jpeg(&val.join("emu/1.jpg"), [10, 10, 200]);
    assert!(error("{resize: 36}").contains("has 3 class folders, but the classifier has 2 classes"));
    let list = dir.path().join("classes.txt");
    std::fs::write(&list, "cat\ndog").unwrap();
    let with_list = format!("{{resize: 36, class_list: {}}}", list.display());
    assert!(error(&with_list).contains("emu: this folder's name is not in the class list"), "{}", error(&with_list));
    std::fs::write(&list, "cat\ndog\nemu\n").unwrap();
    assert!(error(&with_list).contains("classes.txt: the class list has 3 classes, the classifier 2"));
}

#[test]
fn broken_images_are_named_and_counted() {
    use qdrop_core::pipeline::load_batch;
    let dir = tempfile::tempdir().unwrap();
    let val = dir.path().join("val");
    write_jpeg(&val.join("cat/1.jpg"), [200, 10, 10]);
    write_jpeg(&val.join("dog/1.jpg"), [10, 200, 10]);
    write_jpeg(&val.join("dog/2.jpg"), [10, 200, 10]);
    let bytes = std::fs::read(val.join("dog/2.jpg")).unwrap();
    std::fs::write(val.join("dog/2.jpg"), &bytes[..bytes.len() / 3]).unwrap();
    let request = request(&[3, 32, 32], 2, Some(dir.path().into()));
    let data = open("image_folder", "{resize: 36}", &request).unwrap();
    let batch = load_batch(&*data, &[0, 1, 2], &[3, 32, 32], &Device::Cpu).unwrap();
    assert_eq!(batch.parts[0].targets, [0, 1].map(Target::Class));
    assert_eq!(batch.broken.len(), 1);
    assert!(batch.broken[0].contains("dog/2.jpg: cannot be decoded"), "{}", batch.broken[0]);
    let batch = load_batch(&*data, &[2], &[3, 32, 32], &Device::Cpu).unwrap();
    assert_eq!((batch.parts.len(), batch.count(), batch.broken.len()), (0, 1, 1));
}

/// Compares the demo's float accuracy with a published one.
fn compared(changes: &[&str]) -> Run {
    let mut all = vec!["published={float: 93.28}"];
    all.extend(changes);
    demo(&all)
}

/// The demo's data with changed test labels.
fn relabelled(dir: &Path) -> std::path::PathBuf {
    use std::io::Read;
    for file in ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"] {
        std::fs::copy(fixture("../cli/demo").join(file), dir.join(file)).unwrap();
    }
    let labels = std::fs::read(fixture("../cli/demo/t10k-labels-idx1-ubyte.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(labels.as_slice()).read_to_end(&mut bytes).unwrap();
    bytes[8..].iter_mut().for_each(|label| *label = (*label + 3) % 10);
    std::fs::write(dir.join("t10k-labels-idx1-ubyte.gz"), bytes).unwrap();
    dir.into()
}

#[test]
fn a_float_network_far_from_the_published_one_is_noticed_and_the_cause_named() {
    let run = compared(&[]);
    assert!(run.ok, "{}", run.stderr);
    assert!(run.stderr.contains("of a sample of 256 images, published 93.28 %"), "{}", run.stderr);
    let run = compared(&["data.params.mean=0", "data.params.std=0.0039"]);
    says(&run, &["published.float: the float network classifies", "93.3 % are published", "check the normalization"]);
    let dir = tempfile::tempdir().unwrap();
    let folder = relabelled(dir.path());
    let run = compared(&[&format!("data_root={}", folder.display())]);
    says(&run, &["it is sure of its predictions", "numbered in another order than the network's classes"]);
    // An untrained checkpoint: all logits are the bias of the classifier.
    let tensors = std::fs::read(fixture("../cli/demo/weights.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let zeroed: Vec<_> = tensors
        .iter()
        .map(|(n, v)| {
            (n, v.shape().to_vec(), if n == "fc.weight" { vec![0; v.data().len()] } else { v.data().to_vec() })
        })
        .collect();
    let views = zeroed
        .iter()
        .map(|(n, s, b)| (*n, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), b).unwrap()));
    let file = dir.path().join("untrained.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let run = compared(&[&format!("model.weights={}", file.display())]);
    says(&run, &["as an untrained network does; check that model.weights is a trained checkpoint"]);
    let run = compared(&[&format!("model.weights={}", file.display()), "published=null"]);
    assert!(run.ok, "the comparison can be left out: {}", run.stderr);
}
