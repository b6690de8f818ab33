//! Pictures with boxes of objects, in the format of COCO (arXiv 1405.0312), for detectors.

mod annotations;
mod bilinear;
mod preprocess;
mod resize;

use super::pixels::{self, limit, Rgb};
use annotations::{AnnotatedPicture, Annotation, Category, Instances};
use preprocess::{Preprocessing, Style};
use qdrop_core::params::join;
use qdrop_core::prelude::*;
use qdrop_core::random::{stream, Purpose};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Pictures with a shorter side are not used for calibration, as mmdetection's `CocoDataset` leaves them out of training.
const SMALLEST: usize = 32;

/// Parameters of `coco`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CocoParams {
    /// Folder that holds the files and folders of the parts.
    root: Option<PathBuf>,
    /// Pictures for calibration; by default `annotations/instances_train2017.json` and `train2017`.
    calibration: PartParams,
    /// Pictures for evaluation; by default `annotations/instances_val2017.json` and `val2017`.
    evaluation: PartParams,
    /// Whose preprocessing the network was trained with.
    preprocessing: Style,
    /// The shorter side of a resized picture in pixels, where `long` does not forbid it.
    short: usize,
    /// The longest that the longer side may be.
    long: usize,
    /// Pictures are padded to multiples of it.
    size_divisor: usize,
    /// The probability that a calibration picture is mirrored.
    flip: f64,
    /// Mean of each channel in the network's order, of pixels from 0 to 255; with torchvision's preprocessing, from 0 to 1.
    mean: Option<[f64; 3]>,
    /// Standard deviation of each channel.
    std: Option<[f64; 3]>,
    /// Whether the network takes blue first, as those with weights from Caffe do.
    bgr: bool,
}

impl Default for CocoParams {
    fn default() -> Self {
        Self {
            root: None,
            calibration: PartParams::default(),
            evaluation: PartParams::default(),
            preprocessing: Style::Mmdet,
            short: 800,
            long: 1333,
            size_divisor: 32,
            flip: 0.5,
            mean: None,
            std: None,
            bgr: false,
        }
    }
}

/// Where a part of the dataset is. Paths start from the root.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartParams {
    /// File with the annotations.
    annotations: Option<PathBuf>,
    /// Folder of the pictures.
    images: Option<PathBuf>,
}

/// The file with a part's annotations and the folder of its pictures.
struct Part {
    /// The part's parameter.
    key: &'static str,
    annotations: PathBuf,
    images: PathBuf,
}

impl CocoParams {
    fn part(&self, split: Split, root: &Path) -> Part {
        let (key, part, annotations, images) = match split {
            Split::Calibration => ("calibration", &self.calibration, "instances_train2017.json", "train2017"),
            Split::Evaluation => ("evaluation", &self.evaluation, "instances_val2017.json", "val2017"),
        };
        let annotations = part.annotations.clone().unwrap_or_else(|| Path::new("annotations").join(annotations));
        let images = part.images.clone().unwrap_or_else(|| images.into());
        Part { key, annotations: root.join(annotations), images: root.join(images) }
    }

    /// Checks how pictures are to be preprocessed.
    fn preprocessing(&self, params: &Params) -> Result<Preprocessing> {
        let Self { preprocessing: style, short, long, size_divisor, bgr, .. } = *self;
        params.at_least_one(&[("short", short), ("long", long), ("size_divisor", size_divisor)])?;
        if long < short {
            return Err(params.error("long", format!("is {long}, below `short`, which is {short}; exchange them")));
        }
        limit::size(long as u64, short as u64).map_err(|e| params.error("long", e))?;
        let [width, height] = [long, short].map(|side| side.checked_next_multiple_of(size_divisor));
        limit::size(width.unwrap_or(usize::MAX) as u64, height.unwrap_or(usize::MAX) as u64)
            .map_err(|e| params.error("size_divisor", format!("with it {e}")))?;
        if bgr && style == Style::Torchvision {
            return Err(params.error("bgr", "is for `preprocessing: mmdet`; torchvision's networks take red first"));
        }
        // Those of the networks' authors: of ImageNet's training images, and of Caffe's networks.
        let (mean, std) = match (style, bgr) {
            (Style::Mmdet, false) => ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
            (Style::Mmdet, true) => ([103.53, 116.28, 123.675], [1.0; 3]),
            (Style::Torchvision, _) => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        };
        let (mean, std) = (self.mean.unwrap_or(mean), self.std.unwrap_or(std));
        // As they are used: f32.
        if !std.iter().all(|s| *s as f32 > 0.0 && s.is_finite()) {
            return Err(params.error("std", "must be positive"));
        }
        if !mean.iter().all(|m| (*m as f32).is_finite()) {
            return Err(params.error("mean", "must be finite"));
        }
        Ok(Preprocessing { style, short, long, size_divisor, mean, std, bgr })
    }
}

struct Coco {
    /// The pictures with their objects, which are known for evaluation only.
    pictures: Vec<(AnnotatedPicture, Target)>,
    categories: Vec<Category>,
    part: Part,
    targets: TargetSpec,
    preprocessing: Preprocessing,
    /// Seed and probability of mirroring.
    flip: Option<(u64, f64)>,
    notes: Vec<String>,
}

impl Dataset for Coco {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn targets(&self) -> TargetSpec {
        self.targets
    }

    fn preprocessing(&self) -> Option<String> {
        Some(self.preprocessing.text())
    }

    fn categories(&self) -> Vec<(u64, String)> {
        self.categories.iter().map(|category| (category.id, category.name.clone())).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let (file, image) = self.read(index)?;
        let flip = self.flip.is_some_and(|(seed, probability)| {
            stream(seed, Purpose::Augmentation, index as u32, 0).uniform(0) < probability
        });
        let (values, size) = self.preprocessing.apply(&image, flip).map_err(|e| Error::data(&file, e))?;
        Ok(Sample::sized(values, self.pictures[index].1.clone(), size))
    }

    fn picture(&self, index: usize) -> Result<Option<Picture>> {
        let (_, Rgb { width, height, data: pixels }) = self.read(index)?;
        Ok(Some(Picture { name: self.name(index), width, height, pixels }))
    }
}

impl Coco {
    /// The file of a picture, and its pixels.
    fn read(&self, index: usize) -> Result<(PathBuf, Rgb)> {
        let (picture, _) = &self.pictures[index];
        let file = self.part.images.join(&picture.file_name);
        let image = pixels::decode_upright(&file)?;
        let (width, height) = (picture.width, picture.height);
        if (image.width, image.height) != (width, height) {
            let message = format!(
                "has {} x {} pixels, but picture {} of {} has {width} x {height}; replace it by the picture that was annotated, \
                 or correct `width`, `height` and the boxes",
                image.width,
                image.height,
                picture.id,
                self.part.annotations.display()
            );
            return Err(Error::data(file, message));
        }
        Ok((file, image))
    }

    /// The name of a picture: that of its file, with its number where another file has the same name in another folder or format.
    fn name(&self, index: usize) -> String {
        let (picture, _) = &self.pictures[index];
        let stem = stem(picture);
        let same = self.pictures.iter().filter(|(other, _)| self::stem(other).eq_ignore_ascii_case(&stem)).count();
        if same > 1 {
            format!("{stem}_{}", picture.id)
        } else {
            stem
        }
    }
}

/// The name of a picture's file without folder and extension.
fn stem(picture: &AnnotatedPicture) -> String {
    Path::new(&picture.file_name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn open(params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let parsed: CocoParams = params.parse()?;
    let TargetSpec::Objects { labels } = request.targets else {
        let message = format!(
            "this dataset gives boxes of objects with each image, but the task compares with {}; choose another dataset or another \
             `task`",
            request.targets
        );
        return Err(Error::setting("data", message));
    };
    if request.input[0] != 3 {
        let message = format!(
            "images are RGB, but the network takes {} channels; use a network with 3 input channels",
            request.input[0]
        );
        return Err(Error::setting("data", message));
    }
    let preprocessing = parsed.preprocessing(params)?;
    if !(0.0..=1.0).contains(&parsed.flip) {
        return Err(params.error("flip", format!("{} is no probability; use 0 to 1", parsed.flip)));
    }
    let root = match (&request.root, &parsed.root) {
        (Some(root), _) => root.clone(),
        (None, Some(root)) => params.resolve("root", root),
        (None, None) => return Err(Error::not_given(join(params.path(), "root"), Input::Data)),
    };
    let [calibration, evaluation] = [Split::Calibration, Split::Evaluation].map(|split| parsed.part(split, &root));
    let same = calibration.annotations == evaluation.annotations;
    let (part, flip) = match request.split {
        Split::Calibration => (calibration, Some((request.seed, parsed.flip))),
        Split::Evaluation => (evaluation, None),
    };
    let unless =
        |what, key| format!("there is no such {what}; set the data folder, or `{}.{key}` in the parameters", part.key);
    if !part.annotations.is_file() {
        return Err(Error::data(&part.annotations, unless("file", "annotations")));
    }
    if !part.images.is_dir() {
        return Err(Error::data(&part.images, unless("folder", "images")));
    }
    let mut instances = Instances::read(&part.annotations)?;
    let pictures = std::mem::take(&mut instances.pictures);
    let pictures: Vec<(AnnotatedPicture, Target)> = match request.split {
        Split::Calibration => calibrating(pictures, &instances, &part.annotations)?,
        Split::Evaluation => {
            let label_of = labelled(&instances.categories, labels, &part.annotations)?;
            let with_objects = |picture: AnnotatedPicture| {
                let objects = objects(&instances, picture.id, (labels, &label_of));
                (picture, Target::Objects(objects))
            };
            pictures.into_iter().map(with_objects).collect()
        }
    };
    let mut notes: Vec<String> = missing(&part, &pictures)?.into_iter().collect();
    if same && request.split == Split::Calibration {
        notes.push(super::same_images(&part.annotations));
    }
    let (categories, targets) = (instances.categories, request.targets);
    Ok(Box::new(Coco { pictures, categories, part, targets, preprocessing, flip, notes }))
}

/// The pictures that serve for calibration. What is in them is not looked at.
fn calibrating(
    pictures: Vec<AnnotatedPicture>,
    instances: &Instances,
    file: &Path,
) -> Result<Vec<(AnnotatedPicture, Target)>> {
    let all = pictures.len();
    let serves = |picture: &AnnotatedPicture| {
        picture.width.min(picture.height) >= SMALLEST
            && instances.objects_in(picture.id).iter().any(|object| !object.crowd)
    };
    let found: Vec<_> = pictures.into_iter().filter(serves).map(|picture| (picture, Target::Unknown)).collect();
    if found.is_empty() {
        let message = format!(
            "none of its {all} pictures has a box that is no crowd and {SMALLEST} pixels or more on its shorter side; use another file \
             for calibration"
        );
        return Err(Error::data(file, message));
    }
    Ok(found)
}

/// The label of each category.
fn labelled(categories: &[Category], labels: Labels, file: &Path) -> Result<HashMap<u64, usize>> {
    match labels {
        Labels::InOrder { classes } if classes != categories.len() => {
            let message = format!(
                "has {} categories, but the detector has {classes} classes; set the number of classes of the architecture, or use the \
                 annotations that it was trained for",
                categories.len()
            );
            Err(Error::data(file, message))
        }
        Labels::InOrder { .. } => Ok(categories.iter().enumerate().map(|(i, category)| (category.id, i)).collect()),
        Labels::ByCategory { below } => {
            let label = |Category { id, name }: &Category| match usize::try_from(*id) {
                Ok(label) if label < below => Ok((*id, label)),
                _ => {
                    let message = format!(
                        "category {id} ({name}): the detector numbers its classes as the categories, below {below}; set the number \
                         of classes of the architecture, or use the annotations that it was trained for"
                    );
                    Err(Error::data(file, message))
                }
            };
            categories.iter().map(label).collect()
        }
    }
}

/// The objects in a picture. Every category has a label.
fn objects(instances: &Instances, picture: u64, (labels, label_of): (Labels, &HashMap<u64, usize>)) -> Objects {
    let object = |found: &Annotation| {
        let label = *label_of.get(&found.category)?;
        Some(Object { label, bbox: found.bbox, area: found.area, crowd: found.crowd })
    };
    Objects { picture, labels, objects: instances.objects_in(picture).iter().filter_map(object).collect() }
}

/// A note on pictures that have no file, if there are any.
///
/// # Errors
/// The folder cannot be read, or has none of the pictures.
fn missing(part: &Part, pictures: &[(AnnotatedPicture, Target)]) -> Result<Option<String>> {
    let Part { key, annotations, images } = part;
    let entries = std::fs::read_dir(images).map_err(Error::io("list", images))?;
    let names = entries.map(|entry| entry.map(|e| e.file_name())).collect::<std::io::Result<HashSet<_>>>();
    let names = names.map_err(Error::io("list", images))?;
    // A name may lead to a folder below.
    let is_missing = |name: &String| !names.contains(name.as_ref() as &std::ffi::OsStr) && !images.join(name).exists();
    let mut missing = pictures.iter().map(|(picture, _)| &picture.file_name).filter(|name| is_missing(name));
    let Some(first) = missing.next() else { return Ok(None) };
    let (count, all) = (1 + missing.count(), pictures.len());
    if count == all {
        let message = format!(
            "has none of the {all} pictures of {}, such as {first}; correct `{key}.images`",
            annotations.display()
        );
        return Err(Error::data(images, message));
    }
    let (images, annotations) = (images.display(), annotations.display());
    Ok(Some(format!("{count} of the {all} pictures of {annotations} are not in {images}, the first is {first}")))
}

register_dataset! {
    name: "coco", aliases: ["CocoDetection"], summary: "pictures with boxes of objects, in the format of COCO",
    build: open
}
