//! The idx format of MNIST and similar datasets, plain or gzipped.

use qdrop_core::prelude::*;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Parameters of `idx`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdxParams {
    /// Folder of the files; by default that of the recipe.
    root: Option<PathBuf>,
    /// Images for calibration.
    train_images: PathBuf,
    /// Their labels.
    train_labels: PathBuf,
    /// Images for evaluation.
    test_images: PathBuf,
    /// Their labels.
    test_labels: PathBuf,
    /// Mean of the pixels, which are in [0, 1].
    #[serde(default)]
    mean: f32,
    /// Standard deviation of the pixels, which are in [0, 1].
    #[serde(default = "one")]
    std: f32,
}

fn one() -> f32 {
    1.0
}

struct Idx {
    images: Vec<u8>,
    labels: Vec<u8>,
    classes: usize,
    pixels: usize,
    mean: f32,
    std: f32,
}

impl Dataset for Idx {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn targets(&self) -> TargetSpec {
        TargetSpec::Class { classes: self.classes }
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let pixels = &self.images[index * self.pixels..][..self.pixels];
        let image = pixels.iter().map(|p| (f32::from(*p) / 255.0 - self.mean) / self.std).collect();
        Ok(Sample { image, target: Target::Class(self.labels[index].into()) })
    }
}

/// Reads the dimensions and bytes of an idx file of unsigned bytes.
fn read(file: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let mut content = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut decoder = flate2::read::GzDecoder::new(bytes.as_slice());
        decoder.read_to_end(&mut content).map_err(|e| Error::data(file, format!("damaged gzip file: {e}")))?;
    } else {
        content = bytes;
    }
    let [0, 0, 8, rank] = content.get(..4).unwrap_or_default() else {
        return Err(Error::data(file, "is no idx file of unsigned bytes"));
    };
    let rank = usize::from(*rank);
    let header =
        content.get(4..4 + 4 * rank).ok_or_else(|| Error::data(file, "ends within its header; is it truncated?"))?;
    let dims: Vec<usize> = header.chunks_exact(4).map(|d| d.iter().fold(0, |v, b| v << 8 | usize::from(*b))).collect();
    let data = content.split_off(4 + 4 * rank);
    let expected: usize = dims.iter().product();
    if data.len() != expected {
        return Err(Error::data(
            file,
            format!("holds {} bytes of data, its header announces {expected}; is it truncated?", data.len()),
        ));
    }
    Ok((dims, data))
}

fn open(params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let parsed: IdxParams = params.parse()?;
    if parsed.std <= 0.0 {
        return Err(params.error("std", "must be positive"));
    }
    let classes = request.classes()?;
    let root = request.root.clone().or_else(|| parsed.root.as_ref().map(|root| params.resolve("root", root)));
    let file = |key: &str, file: &PathBuf| match &root {
        Some(root) => root.join(file),
        None => params.resolve(key, file),
    };
    let (images, labels) = match request.split {
        Split::Calibration => (file("train_images", &parsed.train_images), file("train_labels", &parsed.train_labels)),
        Split::Evaluation => (file("test_images", &parsed.test_images), file("test_labels", &parsed.test_labels)),
    };
    let (dims, pixels) = read(&images)?;
    let (count, values) = read(&labels)?;
    if count.len() != 1 || dims.first() != count.first() {
        return Err(Error::data(&labels, format!("has the dimensions {count:?}, the images {dims:?}")));
    }
    if request.input != [1, dims.get(1).copied().unwrap_or(0), dims.get(2).copied().unwrap_or(0)] {
        let message = format!(
            "has images of 1 channel, {:?}, but the network takes {:?}; set in_channels and image_size of the architecture",
            &dims[1..],
            request.input
        );
        return Err(Error::data(&images, message));
    }
    if let Some(label) = values.iter().find(|l| usize::from(**l) >= classes) {
        return Err(Error::data(&labels, format!("holds class {label}, but the classifier has {classes} classes")));
    }
    let pixel_count = dims[1..].iter().product();
    let IdxParams { mean, std, .. } = parsed;
    Ok(Box::new(Idx { images: pixels, labels: values, classes, pixels: pixel_count, mean, std }))
}

register_dataset! {
    name: "idx", aliases: ["MNIST"], summary: "grey images in the format of MNIST, plain or gzipped",
    build: open
}
