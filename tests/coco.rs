//! Pictures with objects in COCO's format: preprocessed as mmdetection and torchvision do, with the right boxes and labels, and
//! errors that say what to do.

use crate::support::*;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};
use qdrop_core::prelude::*;
use qdrop_plugins::datasets::pixels::{decode, decode_upright, Rgb};
use std::path::Path;

const COCO: Labels = Labels::InOrder { classes: 2 };

fn open_as(dir: &Path, split: Split, targets: TargetSpec, params: &str) -> Result<Box<dyn Dataset>> {
    let request =
        DatasetRequest { split, seed: 3, input: [3, 64, 64], targets, root: Some(dir.into()), base_dir: "".into() };
    let params = Params::new("data.params", serde_yaml::from_str(params).unwrap());
    registries().datasets.get("coco", "data").unwrap().build(&params, &request)
}

fn open(dir: &Path, split: Split, labels: Labels, params: &str) -> Result<Box<dyn Dataset>> {
    open_as(dir, split, TargetSpec::Objects { labels }, params)
}

fn evaluation(dir: &Path, params: &str) -> Result<Box<dyn Dataset>> {
    open(dir, Split::Evaluation, COCO, params)
}

/// The message of a dataset that cannot be opened.
fn refused(data: Result<Box<dyn Dataset>>) -> String {
    data.err().unwrap().to_string()
}

fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn png(image: &Rgb) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width as u32, image.height as u32);
    PngEncoder::new(&mut bytes).write_image(&image.data, width, height, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// The picture of the golden values.
fn photo() -> Rgb {
    decode(&fixture("golden/photo_decoded.png")).unwrap()
}

/// A part of it, which is enlarged.
fn part() -> Rgb {
    let photo = photo();
    let rows = photo.data.chunks_exact(photo.width * 3).skip(7).take(13);
    Rgb { width: 20, height: 13, data: rows.flat_map(|row| &row[13 * 3..33 * 3]).copied().collect() }
}

const CATEGORIES: &str = r#"[{"id": 18, "name": "dog"}, {"id": 5, "name": "plane"}]"#;

/// A dataset with three pictures, of which two can serve for calibration. The objects of each:
/// 11 (the photo) a dog and a crowd of planes, 12 (the photo) none, 40 (the part) a plane.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train2017", "val2017"] {
        let images = r#"[{"id": 40, "file_name": "small/part.png", "width": 20, "height": 13},
            {"id": 12, "file_name": "empty.png", "width": 150, "height": 110},
            {"id": 11, "file_name": "photo.png", "width": 150, "height": 110}]"#;
        let annotations = r#"[{"id": 6, "image_id": 11, "category_id": 18, "bbox": [10.5, 20, 30.25, 40], "area": 700.5, "iscrowd": 0},
            {"id": 4, "image_id": 40, "category_id": 5, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 11, "category_id": 5, "bbox": [0, 0, 150, 110], "area": 9000, "iscrowd": 1}]"#;
        let text = format!(r#"{{"images": {images}, "annotations": {annotations}, "categories": {CATEGORIES}}}"#);
        write(dir.path().join(format!("annotations/instances_{split}.json")), text);
        write(dir.path().join(split).join("photo.png"), png(&photo()));
        write(dir.path().join(split).join("empty.png"), png(&photo()));
        write(dir.path().join(split).join("small/part.png"), png(&part()));
    }
    dir
}

fn sized(original: [usize; 2], resized: [usize; 2], tensor: [usize; 2]) -> ImageSize {
    ImageSize { original, resized, tensor }
}

#[test]
fn the_objects_of_each_picture_have_the_labels_of_the_detector() {
    let dir = folder();
    let object = |label, bbox, area, crowd| Object { label, bbox, area, crowd };
    for (labels, [dog, plane]) in [(COCO, [0, 1]), (Labels::ByCategory { below: 19 }, [18, 5])] {
        let data = open(dir.path(), Split::Evaluation, labels, "{short: 24, long: 40}").unwrap();
        assert_eq!(data.categories(), [(18, "dog".to_string()), (5, "plane".to_string())]);
        assert_eq!(data.targets(), TargetSpec::Objects { labels });
        let samples: Vec<Sample> = (0..data.len()).map(|i| data.sample(i).unwrap()).collect();
        // By ascending id, with the objects in the order of the file.
        let wanted = [
            (
                11,
                vec![
                    object(dog, [10.5, 20.0, 30.25, 40.0], 700.5, false),
                    object(plane, [0.0, 0.0, 150.0, 110.0], 9000.0, true),
                ],
            ),
            (12, Vec::new()),
            (40, vec![object(plane, [1.0, 2.0, 3.0, 4.0], 12.0, false)]),
        ];
        let wanted = wanted.map(|(picture, objects)| Target::Objects(Objects { picture, labels, objects }));
        assert!(samples.iter().map(|sample| &sample.target).eq(&wanted));
        let sizes = [
            sized([110, 150], [24, 33], [32, 64]),
            sized([110, 150], [24, 33], [32, 64]),
            sized([13, 20], [24, 37], [32, 64]),
        ];
        assert!(samples.iter().map(|sample| sample.size.unwrap()).eq(sizes));
        assert!(data.notes().is_empty());
    }
}

/// The part of a sample's tensor that the picture covers. All else is zero.
fn covered(sample: &Sample) -> Tensor {
    let ImageSize { resized, tensor, .. } = sample.size.unwrap();
    let all = Tensor::from_vec(sample.image.clone(), (3, tensor[0], tensor[1]), &Device::Cpu).unwrap();
    let part = all.narrow(1, 0, resized[0]).unwrap().narrow(2, 0, resized[1]).unwrap();
    let sum = |t: &Tensor| vec(t).iter().map(|v| f64::from(v.abs())).sum::<f64>();
    assert_eq!(sum(&all), sum(&part));
    part
}

/// The largest difference to a golden tensor.
fn difference(sample: &Sample, name: &str) -> f32 {
    let (got, want) = (covered(sample), &golden("coco.safetensors")[name]);
    assert_eq!(got.dims(), want.dims(), "{name}");
    vec(&got).iter().zip(vec(want)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pictures_are_preprocessed_as_mmdetection_does() {
    let dir = folder();
    let data = evaluation(dir.path(), "{short: 24, long: 40}").unwrap();
    assert_eq!(difference(&data.sample(0).unwrap(), "mmdet.photo"), 0.0);
    assert_eq!(difference(&data.sample(2).unwrap(), "mmdet.part"), 0.0);
    let flipped = open(dir.path(), Split::Calibration, COCO, "{short: 24, long: 40, flip: 1}").unwrap();
    assert_eq!(difference(&flipped.sample(0).unwrap(), "mmdet.photo.flipped"), 0.0);
    let caffe = evaluation(dir.path(), "{short: 24, long: 40, bgr: true}").unwrap();
    assert_eq!(difference(&caffe.sample(2).unwrap(), "caffe.part"), 0.0);
    assert_eq!(
        data.preprocessing().unwrap(),
        "shorter side to 24 pixels, longer side to at most 40, resized as by OpenCV and normalized, RGB, mean [123.675, 116.28, \
         103.53], std [58.395, 57.12, 57.375], sides padded with zeros to multiples of 32"
    );
}

/// Values of at most 2.7 are sums of four products, which PyTorch's processors round in other places.
const ROUNDING: f32 = 1e-6;

#[test]
fn pictures_are_preprocessed_as_torchvision_does() {
    let dir = folder();
    let params = "{preprocessing: torchvision, short: 24, long: 40, flip: 1}";
    let data = evaluation(dir.path(), params).unwrap();
    let flipped = open(dir.path(), Split::Calibration, COCO, params).unwrap();
    assert_eq!(data.sample(0).unwrap().size, Some(sized([110, 150], [24, 32], [32, 32])));
    let differences = [
        difference(&data.sample(0).unwrap(), "torchvision.photo"),
        difference(&data.sample(2).unwrap(), "torchvision.part"),
        difference(&flipped.sample(0).unwrap(), "torchvision.photo.flipped"),
    ];
    assert!(differences.iter().all(|d| *d <= ROUNDING), "{differences:?}");
    assert!(data.preprocessing().unwrap().contains("normalized and resized as by torchvision, RGB, mean [0.485,"));
}

#[test]
fn calibration_takes_pictures_with_objects_and_mirrors_them_by_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    let mut annotations = Vec::new();
    for id in 1..=40 {
        // The last ones have a crowd alone, no object, or are too small.
        let (height, crowd, of) = match id {
            38 => (32, 1, id),
            39 => (32, 0, 1),
            40 => (31, 0, id),
            _ => (32, 0, id),
        };
        images.push(format!(r#"{{"id": {id}, "file_name": "{id}.png", "width": 33, "height": {height}}}"#));
        let numbers = format!(r#""id": {id}, "image_id": {of}, "category_id": 5, "area": 1, "iscrowd": {crowd}"#);
        annotations.push(format!(r#"{{{numbers}, "bbox": [0, 0, 1, 1]}}"#));
        let data = (0..33 * height).flat_map(|i| [(i % 33) as u8; 3]).collect();
        write(dir.path().join(format!("all/{id}.png")), png(&Rgb { width: 33, height, data }));
    }
    let (images, annotations) = (images.join(","), annotations.join(","));
    let text = format!(r#"{{"images": [{images}], "annotations": [{annotations}], "categories": {CATEGORIES}}}"#);
    write(dir.path().join("all.json"), text);
    let part = "{annotations: all.json, images: all}";
    let params = |flip: &str| {
        format!("{{calibration: {part}, evaluation: {part}, short: 32, long: 33, size_divisor: 1{flip}, mean: [0, 0, 0], std: [1, 1, 1]}}")
    };
    let data = open(dir.path(), Split::Calibration, COCO, &params("")).unwrap();
    assert_eq!(data.len(), 37);
    let note = format!("calibration and evaluation use the same images, {}", dir.path().join("all.json").display());
    assert!(data.notes()[0].starts_with(&note), "{:?}", data.notes());
    let first = |data: &dyn Dataset, i: usize| {
        let sample = data.sample(i).unwrap();
        assert_eq!((sample.target, sample.size), (Target::Unknown, Some(ImageSize::whole([32, 33]))));
        sample.image[0]
    };
    let mirrored: Vec<bool> = (0..37).map(|i| first(&*data, i) == 32.0).collect();
    let count = mirrored.iter().filter(|m| **m).count();
    assert!((10..=27).contains(&count), "{mirrored:?}");
    let again = open(dir.path(), Split::Calibration, COCO, &params("")).unwrap();
    assert!((0..37).rev().all(|i| (first(&*again, i) == 32.0) == mirrored[i]));
    let never = open(dir.path(), Split::Calibration, COCO, &params(", flip: 0")).unwrap();
    assert!((0..37).all(|i| first(&*never, i) == 0.0));
    let all = open(dir.path(), Split::Evaluation, COCO, &params("")).unwrap();
    assert_eq!((all.len(), all.notes()), (40, Vec::new()));
    assert!((0..40).all(|i| all.sample(i).unwrap().image[0] == 0.0));
}

/// A picture of 3 x 2 squares with the numbers 0 to 5, in each format that has EXIF data, with this orientation.
fn turned(orientation: u8) -> [Vec<u8>; 3] {
    let data: Vec<u8> = (0..16 * 24).flat_map(|i| [(i / 24 / 8 * 3 + i % 24 / 8) as u8 * 40; 3]).collect();
    // A TIFF header and one entry, of tag 0x112.
    let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation][..], &[0; 7]].concat();
    let mut files = [(); 3].map(|()| Vec::new());
    let [jpeg, png, webp] = &mut files;
    let mut jpeg = JpegEncoder::new_with_quality(jpeg, 100);
    jpeg.set_exif_metadata(exif.clone()).unwrap();
    jpeg.write_image(&data, 24, 16, ExtendedColorType::Rgb8).unwrap();
    let mut png = PngEncoder::new(png);
    png.set_exif_metadata(exif.clone()).unwrap();
    png.write_image(&data, 24, 16, ExtendedColorType::Rgb8).unwrap();
    let mut webp = WebPEncoder::new_lossless(webp);
    webp.set_exif_metadata(exif).unwrap();
    webp.write_image(&data, 24, 16, ExtendedColorType::Rgb8).unwrap();
    files
}

#[test]
fn pictures_are_turned_as_their_exif_data_says() {
    // As `cv2.imread` turns them. What is no orientation is passed over.
    let wanted: [(u8, &[&[u8]]); 10] = [
        (0, &[&[0, 1, 2], &[3, 4, 5]]),
        (1, &[&[0, 1, 2], &[3, 4, 5]]),
        (2, &[&[2, 1, 0], &[5, 4, 3]]),
        (3, &[&[5, 4, 3], &[2, 1, 0]]),
        (4, &[&[3, 4, 5], &[0, 1, 2]]),
        (5, &[&[0, 3], &[1, 4], &[2, 5]]),
        (6, &[&[3, 0], &[4, 1], &[5, 2]]),
        (7, &[&[5, 2], &[4, 1], &[3, 0]]),
        (8, &[&[2, 5], &[1, 4], &[0, 3]]),
        (9, &[&[0, 1, 2], &[3, 4, 5]]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("picture");
    for (orientation, rows) in wanted {
        for (bytes, format) in turned(orientation).iter().zip(["JPEG", "PNG", "WebP"]) {
            std::fs::write(&file, bytes).unwrap();
            let image = decode_upright(&file).unwrap();
            assert_eq!((image.width, image.height), (rows[0].len() * 8, rows.len() * 8), "{format} {orientation}");
            let middle = |x: usize, y: usize| image.data[((y * 8 + 4) * image.width + x * 8 + 4) * 3];
            for (y, row) in rows.iter().enumerate() {
                let got: Vec<u8> = (0..row.len()).map(|x| middle(x, y)).collect();
                let want: Vec<u8> = row.iter().map(|number| number * 40).collect();
                assert!(got.iter().zip(&want).all(|(a, b)| a.abs_diff(*b) <= 1), "{format} {orientation}: {got:?}");
            }
            // As Pillow, where no format of these is turned.
            assert_eq!(decode(&file).unwrap().width, 24);
        }
    }
}

#[test]
fn the_sizes_of_the_annotations_are_those_of_the_turned_picture() {
    let dir = folder();
    let [jpeg, ..] = turned(6);
    write(dir.path().join("val2017/small/part.png"), jpeg);
    let annotations = dir.path().join("annotations/instances_val2017.json");
    let text = std::fs::read_to_string(&annotations).unwrap();
    let data = evaluation(dir.path(), "{short: 16, long: 24}").unwrap();
    let error = data.sample(2).unwrap_err().to_string();
    let want = format!(
        "data {}: has 16 x 24 pixels, but picture 40 of {} has 20 x 13; replace it by the picture that was annotated, or correct \
         `width`, `height` and the boxes",
        dir.path().join("val2017/small/part.png").display(),
        annotations.display()
    );
    assert_eq!(error, want);
    write(&annotations, text.replace(r#""width": 20, "height": 13"#, r#""width": 16, "height": 24"#));
    let sample = evaluation(dir.path(), "{short: 16, long: 24}").unwrap().sample(2).unwrap();
    assert_eq!(sample.size, Some(sized([24, 16], [24, 16], [32, 32])));
}

#[test]
fn wrong_parameters_and_requests_say_what_to_do() {
    let dir = folder();
    let cases = [
        ("{short: 0}", "data.params.short: must be at least 1"),
        ("{size_divisor: 0}", "data.params.size_divisor: must be at least 1"),
        ("{short: 900, long: 800}", "data.params.long: is 800, below `short`, which is 900; exchange them"),
        ("{long: 100000000}", "data.params.long: 100000000 x 800 pixels are more than the 178956970 that are read"),
        (
            "{size_divisor: 100000}",
            "data.params.size_divisor: with it 100000 x 100000 pixels are more than the 178956970 that are read",
        ),
        ("{size_divisor: 18446744073709551615}", "data.params.size_divisor: with it 18446744073709551615 x "),
        ("{std: [1, 0, 1]}", "data.params.std: must be positive"),
        ("{mean: [.nan, 0, 1]}", "data.params.mean: must be finite"),
        ("{flip: 1.5}", "data.params.flip: 1.5 is no probability; use 0 to 1"),
        ("{flip: .nan}", "data.params.flip: NaN is no probability; use 0 to 1"),
        (
            "{preprocessing: torchvision, bgr: true}",
            "data.params.bgr: is for `preprocessing: mmdet`; torchvision's networks take red first",
        ),
        (
            "{preprocessing: caffe}",
            "data.params.preprocessing: unknown variant `caffe`, expected `mmdet` or `torchvision`",
        ),
        ("{evaluation: {image: x}}", "data.params.evaluation.image: unknown field `image`"),
    ];
    for (params, want) in cases {
        let error = refused(evaluation(dir.path(), params));
        assert!(error.starts_with(want), "{error}");
    }
    let error = refused(open_as(dir.path(), Split::Evaluation, TargetSpec::Class { classes: 10 }, "{}"));
    assert!(
        error.starts_with(
            "data: this dataset gives boxes of objects with each image, but the task compares with one of 10 classes;"
        ),
        "{error}"
    );
    let error = refused(open(dir.path(), Split::Evaluation, Labels::InOrder { classes: 80 }, "{}"));
    let want = "instances_val2017.json: has 2 categories, but the detector has 80 classes; set the number of classes of the architecture";
    assert!(error.contains(want), "{error}");
    let error = refused(open(dir.path(), Split::Evaluation, Labels::ByCategory { below: 18 }, "{}"));
    let want =
        "instances_val2017.json: category 18 (dog): the detector numbers its classes as the categories, below 18;";
    assert!(error.contains(want), "{error}");
    // Calibration needs no labels.
    assert_eq!(open(dir.path(), Split::Calibration, Labels::InOrder { classes: 80 }, "{}").unwrap().len(), 1);
    let params = Params::new("data.params", serde_yaml::from_str("{}").unwrap());
    let request = |input, root| DatasetRequest {
        split: Split::Evaluation,
        seed: 0,
        input,
        targets: TargetSpec::Objects { labels: COCO },
        root,
        base_dir: "".into(),
    };
    let build = |request| refused(registries().datasets.get("coco", "data").unwrap().build(&params, &request));
    assert_eq!(
        build(request([1, 8, 8], Some(dir.path().into()))),
        "data: images are RGB, but the network takes 1 channels; use a network with 3 input channels"
    );
    assert!(build(request([3, 8, 8], None)).starts_with("data.params.root: no data folder is given"));
}

#[test]
fn files_and_pictures_that_are_missing_are_named() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::remove_file(path("val2017/empty.png")).unwrap();
    let data = evaluation(dir.path(), "{}").unwrap();
    let annotations = path("annotations/instances_val2017.json");
    let note = format!("1 of the 3 pictures of {annotations} are not in {}, the first is empty.png", path("val2017"));
    assert_eq!(data.notes(), [note]);
    let error = data.sample(1).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}: ", path("val2017/empty.png"))), "{error}");
    assert!(data.sample(0).is_ok());
    let error = refused(evaluation(dir.path(), "{evaluation: {images: annotations}}"));
    let want = format!(
        "data {}: has none of the 3 pictures of {annotations}, such as photo.png; correct `evaluation.images`",
        path("annotations")
    );
    assert_eq!(error, want);
    let error = refused(evaluation(dir.path(), "{evaluation: {images: test2017}}"));
    let unless = "set the data folder, or `evaluation.images` in the parameters";
    assert_eq!(error, format!("data {}: there is no such folder; {unless}", path("test2017")));
    let error = refused(open(dir.path(), Split::Calibration, COCO, "{calibration: {annotations: x.json}}"));
    let unless = "set the data folder, or `calibration.annotations` in the parameters";
    assert_eq!(error, format!("data {}: there is no such file; {unless}", path("x.json")));
    let text = std::fs::read_to_string(&annotations).unwrap();
    write(path("annotations/instances_train2017.json"), text.replace(r#""iscrowd": 0"#, r#""iscrowd": 1"#));
    let error = refused(open(dir.path(), Split::Calibration, COCO, "{}"));
    assert!(
        error.contains(
            "none of its 3 pictures has a box that is no crowd and 32 pixels or more on its shorter side; use"
        ),
        "{error}"
    );
    // A picture so long that nothing remains of its shorter side.
    write(path("val2017/photo.png"), png(&Rgb { width: 2000, height: 1, data: vec![0; 6000] }));
    write(
        &annotations,
        text.replacen(r#""photo.png", "width": 150, "height": 110"#, r#""photo.png", "width": 2000, "height": 1"#, 1),
    );
    let error = evaluation(dir.path(), "{short: 100, long: 100}").unwrap().sample(0).unwrap_err().to_string();
    assert_eq!(error, format!("data {}: resized, it would have 100 x 0 pixels", path("val2017/photo.png")));
}

#[test]
fn a_piece_of_coco_is_read_and_resized_as_opencv_does() {
    let Some(root) = shared("data/coco-sample") else { return };
    let labels = Labels::InOrder { classes: 80 };
    let data = open(&root, Split::Evaluation, labels, "{}").unwrap();
    assert_eq!((data.len(), data.categories().len(), data.notes()), (16, 80, Vec::new()));
    let samples: Vec<Sample> = (0..16).map(|i| data.sample(i).unwrap()).collect();
    let objects: Vec<&Objects> = samples.iter().map(|sample| sample.target.objects().unwrap()).collect();
    assert!(objects.is_sorted_by_key(|objects| objects.picture));
    let all: Vec<&Object> = objects.iter().flat_map(|objects| &objects.objects).collect();
    assert_eq!((all.len(), all.iter().filter(|object| object.crowd).count()), (120, 1));
    let first = Object { label: 0, bbox: [280.79, 44.73, 218.7, 346.68], area: 27486.0, crowd: false };
    assert_eq!((objects[0].picture, &objects[0].objects[0]), (785, &first));
    assert_eq!(samples[0].size, Some(sized([425, 640], [800, 1205], [800, 1216])));
    assert_eq!(open(&root, Split::Calibration, labels, "{}").unwrap().len(), 11);
    let torchvision =
        open(&root, Split::Evaluation, Labels::ByCategory { below: 91 }, "{preprocessing: torchvision}").unwrap();
    assert_eq!(torchvision.sample(0).unwrap().size, Some(sized([425, 640], [800, 1204], [800, 1216])));

    // The pictures that OpenCV resized, through the dataset.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("val2017")).unwrap();
    std::fs::copy(root.join("resize_in.png"), dir.path().join("val2017/in.png")).unwrap();
    let text = r#"{"images": [{"id": 1, "file_name": "in.png", "width": 160, "height": 107}], "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}]}"#;
    write(dir.path().join("annotations/instances_val2017.json"), text);
    let sample = |params: &str| {
        let data = open(dir.path(), Split::Evaluation, Labels::InOrder { classes: 1 }, params).unwrap();
        covered(&data.sample(0).unwrap())
    };
    for (name, size, [short, long]) in
        [("resize_out", [299, 200], [200, 333]), ("resize_out_small", [71, 47], [48, 71])]
    {
        let resized = decode(&root.join(name).with_extension("png")).unwrap();
        assert_eq!([resized.width, resized.height], size);
        let got = sample(&format!("{{short: {short}, long: {long}, mean: [0, 0, 0], std: [1, 1, 1]}}"));
        let got = vec(&got.permute((1, 2, 0)).unwrap());
        assert!(got.iter().copied().eq(resized.data.iter().map(|byte| f32::from(*byte))), "{name}");
    }
    let expected = std::fs::read_to_string(root.join("expected_preprocess.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let expected = &expected["normalized_rgb_of_resize_out"];
    let normalized = sample("{short: 200, long: 333}");
    for (name, [y, x]) in [("first_pixel", [0, 0]), ("second_pixel", [0, 1]), ("last_pixel", [199, 298])] {
        let got = vec(&normalized.narrow(1, y, 1).unwrap().narrow(2, x, 1).unwrap());
        let want: Vec<f32> = expected[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(got, want, "{name}");
    }
    // Sums of 179,400 values in double precision, added in another order.
    let sum: f64 = vec(&normalized).iter().map(|value| f64::from(*value)).sum();
    assert!((sum - expected["sum"].as_f64().unwrap()).abs() < 1e-6, "{sum}");
}
