//! Images in arrays of NumPy, one `.npy` file for each array. Rows are read when they are needed.

mod npy;

use npy::{ElementType, NpyFile};
use qdrop_core::prelude::*;
use std::path::PathBuf;

/// Mean and standard deviation of ImageNet's training images, for pixels in [0, 1], as torchvision's networks expect.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Parameters of `numpy`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct NumpyParams {
    /// Folder of the files; by default that of the recipe.
    root: Option<PathBuf>,
    /// Images for calibration.
    images: PathBuf,
    /// Images for evaluation; by default those for calibration.
    eval_images: Option<PathBuf>,
    /// Classes of the images for evaluation.
    labels: Option<PathBuf>,
    /// Mean of the pixels, which are in [0, 1]; for uint8. By default that of ImageNet, if images have three channels.
    mean: Option<PerChannel>,
    /// Standard deviation of the pixels.
    std: Option<PerChannel>,
}

/// One number for all channels, or one for each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list with one for each channel")]
enum PerChannel {
    All(f32),
    Each(Vec<f32>),
}

/// How the elements of an image are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Channels, rows, columns.
    Chw,
    /// Rows, columns, channels.
    Hwc,
}

/// How elements become inputs of the network.
enum Values {
    /// They are floats, and are inputs.
    Preprocessed,
    /// They are bytes, and are normalized with the mean and the standard deviation of each channel.
    Pixels { mean: Vec<f32>, std: Vec<f32> },
}

struct Numpy {
    images: NpyFile,
    layout: Layout,
    values: Values,
    channels: usize,
    labels: Option<Vec<usize>>,
    targets: TargetSpec,
    notes: Vec<String>,
}

impl Dataset for Numpy {
    fn len(&self) -> usize {
        self.images.shape[0]
    }

    fn targets(&self) -> TargetSpec {
        self.targets
    }

    fn preprocessing(&self) -> Option<String> {
        Some(match &self.values {
            Values::Preprocessed => "an array of floats, taken as they are".into(),
            Values::Pixels { mean, std } => format!("an array of pixels, mean {mean:?}, std {std:?}"),
        })
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let row = self.images.row(index)?;
        let values: Vec<f32> = match &self.values {
            Values::Preprocessed => {
                row.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
            }
            Values::Pixels { mean, std } => {
                let plane = row.len() / self.channels;
                let channel = |i: usize| match self.layout {
                    Layout::Chw => i / plane,
                    Layout::Hwc => i % self.channels,
                };
                let normalize =
                    |(i, pixel): (usize, &u8)| (f32::from(*pixel) / 255.0 - mean[channel(i)]) / std[channel(i)];
                row.iter().enumerate().map(normalize).collect()
            }
        };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::data(&self.images.file, format!("image {index} holds {value}")));
        }
        let image = match self.layout {
            Layout::Chw => values,
            Layout::Hwc => {
                let channel = |c: usize| values.iter().skip(c).step_by(self.channels).copied();
                (0..self.channels).flat_map(channel).collect()
            }
        };
        let target = self.labels.as_ref().map_or(Target::Unknown, |labels| Target::Class(labels[index]));
        Ok(Sample::new(image, target))
    }
}

/// The layout in which the images of an array fit the network.
fn layout(array: &NpyFile, input: [usize; 3]) -> Result<Layout> {
    let [channels, height, width] = input;
    if input.contains(&0) {
        return Err(Error::data(&array.file, format!("is for a network that takes {input:?}, which is nothing")));
    }
    match array.shape[1..] {
        [h, w] if channels == 1 && [h, w] == [height, width] => Ok(Layout::Chw),
        // If both fit, it is the layout of the network.
        [a, b, c] if [a, b, c] == input => Ok(Layout::Chw),
        [a, b, c] if [a, b, c] == [height, width, channels] => Ok(Layout::Hwc),
        _ => {
            let message = format!(
                "has the shape {:?}, but the network takes images of {channels} channels, {height} x {width}: the shape must be \
                 (N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels})",
                array.shape
            );
            Err(Error::data(&array.file, message))
        }
    }
}

/// Mean or standard deviation of each channel, from the parameter `key`.
fn per_channel(
    params: &Params,
    key: &str,
    given: Option<PerChannel>,
    default: [f32; 3],
    channels: usize,
) -> Result<Vec<f32>> {
    let values = match given {
        Some(PerChannel::All(value)) => vec![value; channels],
        Some(PerChannel::Each(values)) if values.len() == channels => values,
        Some(PerChannel::Each(values)) => {
            let message = format!("has {} numbers, the images have {channels} channels", values.len());
            return Err(params.error(key, message));
        }
        None if channels == 3 => default.into(),
        None => {
            let message =
                format!("is needed for uint8 images of {channels} channels (only RGB has a default, ImageNet's)");
            return Err(params.error(key, message));
        }
    };
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(params.error(key, "must be finite")),
    }
}

/// The classes of `count` images.
fn read_labels(file: PathBuf, count: usize, classes: usize) -> Result<Vec<usize>> {
    let array = NpyFile::open(&file)?;
    if array.shape != [count] {
        let message =
            format!("has the shape {:?}, but there are {count} images: one label for each is needed", array.shape);
        return Err(Error::data(&file, message));
    }
    let class = |label: &i64| usize::try_from(*label).ok().filter(|label| *label < classes);
    let labels = array.integers()?;
    let known = labels.iter().map(|label| {
        class(label).ok_or_else(|| {
            let message =
                format!("holds label {label}, but the classifier has the classes 0 to {}", classes.saturating_sub(1));
            Error::data(&file, message)
        })
    });
    known.collect()
}

fn open(params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let parsed: NumpyParams = params.parse()?;
    let root = request.root.clone().or_else(|| parsed.root.as_ref().map(|root| params.resolve("root", root)));
    let file = |key: &str, file: &PathBuf| match &root {
        Some(root) => root.join(file),
        None => params.resolve(key, file),
    };
    let calibration = file("images", &parsed.images);
    let evaluation = parsed.eval_images.as_ref().map_or_else(|| calibration.clone(), |name| file("eval_images", name));
    let mut notes = Vec::new();
    let images = NpyFile::open(match request.split {
        Split::Calibration => {
            if calibration == evaluation {
                notes.push(super::same_images(&calibration));
            }
            &calibration
        }
        Split::Evaluation => &evaluation,
    })?;
    let channels = request.input[0];
    let layout = layout(&images, request.input)?;
    let values = match images.element {
        ElementType::Float => {
            for (key, given) in [("mean", &parsed.mean), ("std", &parsed.std)] {
                if given.is_some() {
                    return Err(params.error(key, "is for images of uint8; those of float32 are taken as they are"));
                }
            }
            Values::Preprocessed
        }
        ElementType::Unsigned(1) => {
            let [mean, std] = IMAGENET;
            let mean = per_channel(params, "mean", parsed.mean, mean, channels)?;
            let std = per_channel(params, "std", parsed.std, std, channels)?;
            if !std.iter().all(|value| *value > 0.0) {
                return Err(params.error("std", "must be positive"));
            }
            Values::Pixels { mean, std }
        }
        _ => {
            return Err(Error::data(
                &images.file,
                "holds integers; images are uint8 or float32 (convert with array.astype)",
            ))
        }
    };
    let labels = match (request.targets, request.split, &parsed.labels) {
        (TargetSpec::Nothing, _, Some(_)) => {
            return Err(params.error("labels", "is given, but the task compares with nothing; leave one of them out"));
        }
        // Calibration needs none.
        (TargetSpec::Nothing, ..) | (_, Split::Calibration, _) => None,
        (_, Split::Evaluation, Some(name)) => {
            Some(read_labels(file("labels", name), images.shape[0], request.classes()?)?)
        }
        (_, Split::Evaluation, None) => {
            request.classes()?;
            let message =
                "is not given, and without the classes of the images no accuracy can be measured; `task: unlabelled` \
                           with `evaluation: {against_float: true}` compares with the float network alone";
            return Err(params.error("labels", message));
        }
    };
    Ok(Box::new(Numpy { images, layout, values, channels, labels, targets: request.targets, notes }))
}

register_dataset! {
    name: "numpy", aliases: [], summary: "images and labels in arrays of NumPy, files of the format .npy",
    build: open
}
