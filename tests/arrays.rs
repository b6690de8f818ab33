//! Images in arrays of NumPy, with labels and without.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::{Evaluation, Run};
use qdrop_core::dataset::{Dataset, DatasetRequest, Split};
use qdrop_core::params::Params;
use qdrop_core::target::{Target, TargetSpec};
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file as numpy.save writes it.
fn save(folder: &TempDir, name: &str, descr: &str, shape: &str, data: &[u8]) -> PathBuf {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // With spaces, so that the data begins at a multiple of 64.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let size = (header.len() as u16).to_le_bytes();
    let file = folder.path().join(name);
    std::fs::write(&file, [b"\x93NUMPY\x01\0".as_slice(), &size, header.as_bytes(), data].concat()).unwrap();
    file
}

fn request(input: [usize; 3], targets: TargetSpec, split: Split) -> DatasetRequest {
    DatasetRequest { split, seed: 1, input, targets, root: None, base_dir: "".into() }
}

fn open(name: &str, params: &str, request: &DatasetRequest) -> Result<Box<dyn Dataset>, String> {
    let params = Params::new("data.params", serde_yaml::from_str(params).unwrap());
    let opened = registries().datasets.get(name, "data").unwrap().build(&params, request);
    opened.map_err(|e| e.to_string())
}

const TWO: TargetSpec = TargetSpec::Class { classes: 2 };

#[test]
fn arrays_become_images_in_either_layout() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..36).map(|i| 7 * i).collect();
    let wide = save(&folder, "wide.npy", "|u1", "(2, 2, 3, 3)", &data);
    // The same with channels first: (2, 3, 2, 3).
    let element = |n: usize, c: usize, p: usize| data[(n * 6 + p) * 3 + c];
    let turned: Vec<u8> = (0..36).map(|i| element(i / 18, i / 6 % 3, i % 6)).collect();
    let turned_file = save(&folder, "turned.npy", "|u1", "(2, 3, 2, 3)", &turned);
    let labels = save(&folder, "labels.npy", "<i4", "(2,)", &[1, 0, 0, 0, 0, 0, 0, 0]);
    let (wide, turned_file, labels) = (wide.display(), turned_file.display(), labels.display());
    let request = request([3, 2, 3], TWO, Split::Evaluation);
    let hwc = open("numpy", &format!("{{images: {wide}, labels: {labels}}}"), &request).unwrap();
    let chw = open("numpy", &format!("{{images: x, eval_images: {turned_file}, labels: {labels}}}"), &request).unwrap();
    // Normalized as ImageNet's images.
    let [mean, std] = [[0.485_f32, 0.456, 0.406], [0.229_f32, 0.224, 0.225]];
    for index in 0..2 {
        let want: Vec<f32> =
            (0..18).map(|i| (f32::from(turned[index * 18 + i]) / 255.0 - mean[i / 6]) / std[i / 6]).collect();
        for dataset in [&hwc, &chw] {
            let sample = dataset.sample(index).unwrap();
            assert_eq!((sample.image, sample.target), (want.clone(), Target::Class(1 - index)));
        }
    }
    // Floats are taken as they are.
    let floats: Vec<u8> = turned.iter().flat_map(|v| (f32::from(*v) - 100.0).to_le_bytes()).collect();
    let file = save(&folder, "floats.npy", "<f4", "(2, 3, 2, 3)", &floats);
    let floats = open("numpy", &format!("{{images: {}, labels: {labels}}}", file.display()), &request).unwrap();
    let want: Vec<f32> = turned[18..].iter().map(|v| f32::from(*v) - 100.0).collect();
    assert_eq!(floats.sample(1).unwrap().image, want);
    assert_eq!(floats.targets(), TWO);
    assert_eq!(floats.preprocessing().unwrap(), "an array of floats, taken as they are");
    let pixels = "an array of pixels, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]";
    assert_eq!(hwc.preprocessing().unwrap(), pixels);
    // Calibration needs no labels.
    let calibration = self::request([3, 2, 3], TWO, Split::Calibration);
    let unlabelled = open("numpy", &format!("{{images: {}}}", file.display()), &calibration).unwrap();
    assert_eq!((unlabelled.len(), unlabelled.sample(0).unwrap().target), (2, Target::Unknown));
    // That the network will be evaluated on the same images is said.
    let note = format!(
        "calibration and evaluation use the same images, {}; on other images the quantized network may be worse",
        file.display()
    );
    assert_eq!((unlabelled.notes(), hwc.notes()), (vec![note], vec![]));
    let other = open("numpy", &format!("{{images: {}, eval_images: {wide}}}", file.display()), &calibration).unwrap();
    assert!(other.notes().is_empty());
}

#[test]
fn arrays_that_cannot_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let request = request([1, 2, 2], TWO, Split::Evaluation);
    let pixels = save(&folder, "pixels.npy", "|u1", "(2, 2, 2)", &[0; 8]);
    let labels = save(&folder, "labels.npy", "|u1", "(2,)", &[0, 1]);
    let refused = |params: &str| open("numpy", params, &request).err().unwrap();
    let images = |file: &Path| refused(&format!("{{images: {}, labels: labels.npy, mean: 0, std: 1}}", file.display()));
    let labelled = |file: &Path| {
        let (images, labels) = (pixels.display(), file.display());
        refused(&format!("{{images: {images}, labels: {labels}, mean: 0, std: 1}}"))
    };
    let says = |error: String, wanted: &str| assert!(error.contains(wanted), "{error}\nshould contain: {wanted}");

    let good = std::fs::read(&pixels).unwrap();
    let file = folder.path().join("bad.npy");
    let bad = |bytes: &[u8], wanted: &str| {
        std::fs::write(&file, bytes).unwrap();
        says(images(&file), wanted);
    };
    bad(b"hello, this is text", "is no .npy file; save the array with numpy.save");
    bad(b"PK\x03\x04 and so on", "is a .npz archive; save each array in a file of its own");
    bad(&good[..9], "ends within its header; is it truncated?");
    bad(&good[..60], "ends within its header; is it truncated?");
    bad(&good[..good.len() - 3], "holds 5 bytes of data, its header announces 8 (shape [2, 2, 2]); is it truncated");
    bad(&[&good[..], &[0]].concat(), "holds 9 bytes of data, its header announces 8");
    let mut other = good.clone();
    other[6] = 7;
    bad(&other, "has version 7.0 of the .npy format, 1.0 to 3.0 are known");
    other[6] = 2;
    bad(&other, "announces a header of ");
    let damaged = String::from_utf8_lossy(&good[10..]).replace("'shape'", "'shade'");
    bad(&[&good[..10], damaged.as_bytes()].concat(), "has a damaged header");
    let fortran = String::from_utf8_lossy(&good[10..]).replace("False", "True ");
    bad(&[&good[..10], fortran.as_bytes()].concat(), "is in Fortran order; save numpy.ascontiguousarray(array)");
    let array = |descr: &str, shape: &str, data: &[u8]| save(&folder, "bad.npy", descr, shape, data);
    says(images(&array("<f8", "(1, 2, 2)", &[0; 32])), "holds elements of the type '<f8'; images are uint8 or float32");
    says(images(&array("|O", "(1, 2, 2)", &[0; 32])), "holds elements of the type '|O'");
    says(images(&array("<i2", "(1, 2, 2)", &[0; 8])), "holds integers; images are uint8 or float32");
    says(images(&array("|u1", "()", &[0])), "holds a single number, not an array");
    says(
        images(&array("|u1", "(8,)", &[0; 8])),
        "has the shape [8], but the network takes images of 1 channels, 2 x 2",
    );
    let wanted = "the shape must be (N, 1, 2, 2) or (N, 2, 2, 1)";
    says(images(&array("|u1", "(2, 2, 2, 2)", &[0; 16])), wanted);
    let huge = "(4294967296, 4294967296, 4294967296)";
    says(images(&array("|u1", huge, &[0; 8])), "announces the impossible shape [4294967296, ");
    says(images(&array("|u1", "(4294967296, 2, 2)", &[0; 8])), "its header announces 17179869184");
    says(images(&folder.path().join("none.npy")), "cannot read");

    says(labelled(&array("|u1", "(3,)", &[0; 3])), "has the shape [3], but there are 2 images: one label for each");
    says(labelled(&array("|u1", "(2, 1)", &[0; 2])), "has the shape [2, 1], but there are 2 images");
    says(labelled(&array("|i1", "(2,)", &[0, 255])), "holds label -1, but the classifier has the classes 0 to 1");
    says(labelled(&array("|u1", "(2,)", &[0, 2])), "holds label 2, but the classifier has the classes 0 to 1");
    says(labelled(&array("<f4", "(2,)", &[0; 8])), "holds floats; labels are integers");

    let with = |more: &str| refused(&format!("{{images: {}, labels: {}, {more}}}", pixels.display(), labels.display()));
    says(with("mean: 0"), "data.params.std: is needed for uint8 images of 1 channels");
    says(with("mean: [0, 1], std: 1"), "data.params.mean: has 2 numbers, the images have 1 channels");
    says(with("mean: much, std: 1"), "data.params.mean: expected a number, or a list with one for each channel");
    says(with("mean: 0, std: 0"), "data.params.std: must be positive");
    says(with("mean: .nan, std: 1"), "data.params.mean: must be finite");
    let floats = save(&folder, "floats.npy", "<f4", "(2, 2, 2)", &[0; 32]);
    let floats = |more: &str| refused(&format!("{{images: {}{more}}}", floats.display()));
    says(floats(", mean: 0"), "data.params.mean: is for images of uint8; those of float32 are taken as they are");
    says(
        floats(""),
        "data.params.labels: is not given, and without the classes of the images no accuracy can be measured",
    );
    let other = DatasetRequest { targets: TargetSpec::Values { count: 3 }, ..request.clone() };
    let params = format!("{{images: {}, mean: 0, std: 1}}", pixels.display());
    says(open("numpy", &params, &other).err().unwrap(), "the task compares with 3 numbers");
    let none = DatasetRequest { targets: TargetSpec::Nothing, ..request.clone() };
    let params = format!("{{images: {}, mean: 0, std: 1, labels: l}}", pixels.display());
    says(
        open("numpy", &params, &none).err().unwrap(),
        "data.params.labels: is given, but the task compares with nothing",
    );
    let nan = save(&folder, "nan.npy", "<f4", "(1, 2, 2)", &[[0; 4], [0; 4], f32::NAN.to_le_bytes(), [0; 4]].concat());
    let data = open("numpy", &format!("{{images: {}}}", nan.display()), &none).unwrap();
    says(data.sample(0).err().unwrap().to_string(), "nan.npy: image 0 holds NaN");
}

/// The data of a gzipped file of the demo, without its header.
fn demo_file(name: &str, header: usize) -> Vec<u8> {
    let file = std::fs::File::open(fixture("../cli/demo").join(name)).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes.split_off(header)
}

#[test]
fn the_demo_from_arrays_is_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let train = demo_file("train-images-idx3-ubyte.gz", 16);
    let train = save(&folder, "train.npy", "|u1", &format!("({}, 28, 28)", train.len() / 784), &train);
    let test = demo_file("t10k-images-idx3-ubyte.gz", 16);
    save(&folder, "test.npy", "|u1", &format!("({}, 28, 28)", test.len() / 784), &test);
    let labels = demo_file("t10k-labels-idx1-ubyte.gz", 8);
    save(&folder, "labels.npy", "|u1", &format!("({},)", labels.len()), &labels);
    let small = || {
        let small = Loader::new("demo").set("calibration={images: 64, observe: 32}").set("evaluation.images=200");
        small.set("compare=[]").set("evaluation.against_float=true").iters(5)
    };
    let arrays = |labels: &str| {
        let params = format!("{{images: {}, eval_images: test.npy, mean: 0.286, std: 0.353{labels}}}", train.display());
        small().set(format!("data={{name: numpy, params: {params}}}")).data(folder.path())
    };
    let run = |loader: Loader<'_>| Run::new(loader.load().unwrap()).unwrap();
    let (of_arrays, of_files) = (folder.path().join("arrays"), folder.path().join("files"));
    let want = run(small()).out(&of_files).unwrap().quantize().unwrap().summary;
    let measured = run(arrays(", labels: labels.npy")).out(&of_arrays).unwrap().quantize().unwrap().summary;
    assert_eq!((&measured.float, &measured.quantized), (&want.float, &want.quantized));

    // Without labels: how far the network is from the float one, and nothing else.
    let of_none = folder.path().join("none");
    let outcome = run(arrays("").set("task=unlabelled")).out(&of_none).unwrap().quantize().unwrap();
    let keys = ["agreement", "agreement_standard_error", "kl", "kl_standard_error"];
    assert_eq!(outcome.summary.quantized.values.keys().collect::<Vec<_>>(), keys);
    for key in keys {
        assert_eq!(outcome.summary.quantized.values[key], want.quantized.values[key], "{key}");
    }
    assert!(outcome.summary.float.values.is_empty());
    let (heading, rest) = outcome.table.split_once('\n').unwrap();
    assert_eq!(heading.split_whitespace().collect::<Vec<_>>(), ["bits", "agreement", "%", "KL", "(nats)", "time"]);
    assert_eq!(rest.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["float", "w32a32"]);
    let again = Evaluation::new(&of_none).run().unwrap();
    assert_eq!(again.measured, outcome.summary.quantized);
    assert!(again.text.starts_with("agreement ") && again.text.ends_with(" of 200 images"), "{}", again.text);
    // The saved network is measured on other images, by another task.
    let data = "data={name: numpy, params: {images: test.npy, labels: labels.npy, mean: 0.286, std: 0.353}}";
    let evaluation = || Evaluation::new(&of_none).data(folder.path()).set(data).set("task=classification");
    assert_eq!(evaluation().run().unwrap().measured, want.quantized);
    let error = evaluation().set("quant.weight.bits=3").run().unwrap_err().to_string();
    let wanted = "a saved network cannot be changed, only how it is measured: `data`, `task` and `evaluation`";
    assert!(error.contains("quant.weight.bits: ") && error.contains(wanted), "{error}");

    let error = Run::new(arrays("").set("task=unlabelled").set("evaluation.against_float=false").load().unwrap());
    let error = error.unwrap().check().unwrap_err().to_string();
    let wanted =
        "evaluation.against_float: the task 'unlabelled' measures a network by comparing it with the float network";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn folders_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let image = |name: &str, value: u8| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(9, 8, image::Rgb([value; 3])).save(file).unwrap();
    };
    image("a.png", 10);
    image("more/b.png", 20);
    image("more/of/c.png", 30);
    let unlabelled = request([3, 8, 8], TargetSpec::Nothing, Split::Evaluation);
    let params = format!("{{root: {}, train: ., val: ., resize: 8}}", folder.path().display());
    let data = open("image_folder", &params, &unlabelled).unwrap();
    assert_eq!((data.len(), data.targets()), (3, TargetSpec::Nothing));
    assert!((0..3).all(|i| data.sample(i).unwrap().target == Target::Unknown));
    let calibration = DatasetRequest { split: Split::Calibration, ..unlabelled.clone() };
    let data = open("image_folder", &params, &calibration).unwrap();
    let note = format!("calibration and evaluation use the same images, {}; ", folder.path().display());
    let said = data.notes().iter().any(|said| said.starts_with(&note));
    assert!(data.len() == 3 && said, "{:?}", data.notes());
    let labels = params.replace("resize", "labels: x, resize");
    let error = open("image_folder", &labels, &unlabelled).err().unwrap();
    assert_eq!(error, "data.params.labels: is given, but the task compares with nothing; leave one of them out");
    let error = open("idx", "{train_images: a, train_labels: b, test_images: c, test_labels: d}", &unlabelled);
    assert!(error
        .err()
        .unwrap()
        .contains("this dataset gives a class with each image, but the task compares with nothing"));
}
