//! Images in one folder for each class, in the layout of ImageNet, or in a folder with a list of their labels.

use super::class_folders::{self, Found};
use super::class_list::{ClassList, IMAGENET};
use super::labels::{Labels, Numbers};
use super::pixels;
use qdrop_core::params::join;
use qdrop_core::prelude::*;
use qdrop_core::random::{stream, Purpose};
use std::path::{Path, PathBuf};

/// Parameters of `image_folder`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FolderParams {
    /// Folder that contains `train` and `val`.
    root: Option<PathBuf>,
    /// Images for calibration.
    train: PathBuf,
    /// Images for evaluation.
    val: PathBuf,
    /// File that lists the class folders in the order of the class indices, or `imagenet-1k`, which is the default where all
    /// class folders are synsets of ImageNet and the network has its 1,000 classes.
    class_list: Option<PathBuf>,
    /// File with the labels of the evaluation images, which need no class folders then. Calibration needs no labels.
    labels: Option<PathBuf>,
    /// What numbers in `labels` mean. By default they tell, and the user is told how they are understood.
    label_numbers: Option<Numbers>,
    /// Length of the shorter side after resizing, before the center crop of the network's input. The default keeps the ratio of
    /// 256 to 224.
    resize: Option<usize>,
    /// Whether calibration images are cropped and mirrored at random (true), or preprocessed as for evaluation.
    augment: bool,
    /// Mean of each channel.
    mean: [f32; 3],
    /// Standard deviation of each channel.
    std: [f32; 3],
}

impl Default for FolderParams {
    fn default() -> Self {
        Self {
            root: None,
            train: "train".into(),
            val: "val".into(),
            class_list: None,
            labels: None,
            label_numbers: None,
            resize: None,
            augment: true,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }
}

struct ImageFolder {
    images: Vec<(PathBuf, Option<usize>)>,
    notes: Vec<String>,
    targets: TargetSpec,
    size: usize,
    /// Length of the shorter side before the crop.
    resize: usize,
    params: FolderParams,
    augment_seed: Option<u64>,
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn targets(&self) -> TargetSpec {
        self.targets
    }

    fn preprocessing(&self) -> Option<String> {
        let FolderParams { mean, std, .. } = &self.params;
        Some(format!(
            "shorter side to {} pixels, center crop of {}, RGB, mean {mean:?}, std {std:?}",
            self.resize, self.size
        ))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let (file, class) = &self.images[index];
        let image = pixels::decode(file)?;
        let named = |e: Error| Error::data(file, e);
        let (image, flip) = match self.augment_seed {
            Some(seed) => {
                let random = stream(seed, Purpose::Augmentation, index as u32, 0);
                let crop = pixels::random_crop(image.width, image.height, &random);
                // Random numbers 0 to 39 belong to the crop.
                (pixels::resize(&image, crop, self.size, self.size).map_err(named)?, random.uniform(40) < 0.5)
            }
            None => {
                let resized = pixels::resize_shorter(&image, self.resize).map_err(named)?;
                (pixels::center_crop(&resized, self.size), false)
            }
        };
        let image = pixels::normalize(&image, self.params.mean, self.params.std, flip);
        Ok(Sample::new(image, class.map_or(Target::Unknown, Target::Class)))
    }
}

fn open(params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let parsed: FolderParams = params.parse()?;
    let [channels, height, width] = request.input;
    if channels != 3 || height != width {
        let message = format!(
            "images are RGB and square, but the network takes {channels} channels of {height} x {width}; use a network with 3 input channels"
        );
        return Err(Error::setting("data", message));
    }
    // A task without a ground truth needs no classes.
    let classes = match request.targets {
        TargetSpec::Nothing => None,
        _ => Some(request.classes()?),
    };
    // As images of 256 pixels are cropped to 224.
    let resize = parsed.resize.unwrap_or((height * 256 + 112) / 224);
    if resize < height {
        return Err(params.error("resize", format!("{resize} is smaller than the network's input of {height}")));
    }
    let side = resize as u64;
    pixels::limit::size(side, side).map_err(|e| params.error("resize", e))?;
    if !parsed.std.iter().all(|s| *s > 0.0 && s.is_finite()) {
        return Err(params.error("std", "must be positive"));
    }
    if !parsed.mean.iter().all(|m| m.is_finite()) {
        return Err(params.error("mean", "must be finite"));
    }
    if parsed.label_numbers.is_some() && parsed.labels.is_none() {
        return Err(params.error("label_numbers", "says what numbers in `labels` mean, which is not given"));
    }
    if classes.is_none() && parsed.labels.is_some() {
        return Err(params.error("labels", "is given, but the task compares with nothing; leave one of them out"));
    }
    let root = match (&request.root, &parsed.root) {
        (Some(root), _) => root.clone(),
        (None, Some(root)) => params.resolve("root", root),
        (None, None) => return Err(Error::not_given(join(params.path(), "root"), Input::Data)),
    };
    let (folder, augment) = match request.split {
        Split::Calibration => (&parsed.train, parsed.augment),
        Split::Evaluation => (&parsed.val, false),
    };
    let folder = root.join(folder);
    if !folder.is_dir() {
        let message = "there is no such folder; the data folder holds `train` and `val` unless the dataset's parameters say otherwise";
        return Err(Error::data(folder, message));
    }
    let calibration = request.split == Split::Calibration;
    let Found { images, mut notes } = match classes {
        None => class_folders::find_unlabelled(&folder)?,
        Some(classes) => find(params, &parsed, &folder, classes, calibration)?,
    };
    if calibration && parsed.train == parsed.val {
        // Without the dot of a folder that is the root itself.
        notes.push(super::same_images(&folder.components().collect::<PathBuf>()));
    }
    let (augment_seed, targets) = (augment.then_some(request.seed), request.targets);
    Ok(Box::new(ImageFolder { images, notes, targets, size: height, resize, params: parsed, augment_seed }))
}

/// The images in `folder` with their classes, which for calibration need not be known.
fn find(params: &Params, parsed: &FolderParams, folder: &Path, classes: usize, calibration: bool) -> Result<Found> {
    let class_list = parsed.class_list.as_ref().map(|list| match list.to_str() {
        Some(IMAGENET) => list.clone(),
        _ => params.resolve("class_list", list),
    });
    let class_list = match class_list {
        None if parsed.labels.is_none() => imagenet_list(folder, classes)?,
        list => list.as_deref().map(ClassList::read).transpose()?,
    };
    let class_list = class_list.as_ref();
    if let Some(list) = class_list.filter(|list| list.len() != classes) {
        let message = format!("the class list has {} classes, the classifier {classes}", list.len());
        return Err(Error::data(&list.file, message));
    }
    match parsed.labels.as_ref().map(|list| params.resolve("labels", list)) {
        None => class_folders::find(folder, class_list, classes, calibration),
        // The list is that of the evaluation images.
        Some(_) if calibration => class_folders::find_unlabelled(folder),
        Some(file) => Labels { file: &file, numbers: parsed.label_numbers, class_list, classes }.find(folder),
    }
}

/// ImageNet's list of classes, if the network has as many and all folders are classes of it: then a part of them is enough.
fn imagenet_list(folder: &Path, classes: usize) -> Result<Option<ClassList>> {
    let list = ClassList::read(Path::new(IMAGENET))?;
    if list.len() != classes {
        return Ok(None);
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut some = false;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.path().is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            if list.find(entry.file_name().as_encoded_bytes())?.is_none() {
                return Ok(None);
            }
            some = true;
        }
    }
    Ok(some.then_some(list))
}

register_dataset! {
    name: "image_folder", aliases: ["ImageFolder"], summary: "images in one folder for each class, as ImageNet, or with a list of labels",
    build: open
}
