//! The idx format of MNIST and similar datasets, plain or gzipped.

use qdrop_core::prelude::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
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
        Ok(Sample::new(image, Target::Class(self.labels[index].into())))
    }
}

/// An idx file of unsigned bytes whose header was read.
struct IdxFile {
    file: PathBuf,
    dims: Vec<usize>,
    gzipped: bool,
    rest: Box<dyn Read>,
}

impl IdxFile {
    /// Opens a file, which may be gzipped, and reads its header.
    fn open(file: &Path) -> Result<Self> {
        let mut plain = BufReader::new(File::open(file).map_err(Error::io("read", file))?);
        let gzipped = plain.fill_buf().map_err(Error::io("read", file))?.starts_with(&[0x1f, 0x8b]);
        let rest: Box<dyn Read> =
            if gzipped { Box::new(flate2::bufread::GzDecoder::new(plain)) } else { Box::new(plain) };
        let mut idx = Self { file: file.into(), dims: Vec::new(), gzipped, rest };
        let [0, 0, 8, rank] = idx.take(4)?[..] else {
            return Err(Error::data(file, "is no idx file of unsigned bytes"));
        };
        let header = idx.take(4 * usize::from(rank))?;
        if header.len() < 4 * usize::from(rank) {
            return Err(Error::data(file, "ends within its header; is it truncated?"));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |v, b| v << 8 | usize::from(*b));
        idx.dims = header.chunks_exact(4).map(number).collect();
        Ok(idx)
    }

    /// Reads up to `count` bytes. Memory grows with what the file really holds.
    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.rest.by_ref().take(count as u64).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(e) if self.gzipped => Err(Error::data(&self.file, format!("damaged gzip file: {e}"))),
            Err(e) => Err(Error::io("read", &self.file)(e)),
        }
    }

    /// Reads the data. No more is read or decompressed than the header announces.
    fn data(mut self) -> Result<Vec<u8>> {
        let dims = self.dims.clone();
        let size = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
        let expected = size.filter(|size| *size < usize::MAX).ok_or_else(|| {
            Error::data(&self.file, format!("its header announces the impossible dimensions {dims:?}"))
        })?;
        // One byte more shows the end, and makes the decoder compare the checksum.
        let data = self.take(expected + 1)?;
        if data.len() > expected {
            return Err(Error::data(
                &self.file,
                format!("holds more than the {expected} bytes of data that its header announces"),
            ));
        }
        if data.len() < expected {
            let message =
                format!("holds {} bytes of data, its header announces {expected}; is it truncated?", data.len());
            return Err(Error::data(&self.file, message));
        }
        Ok(data)
    }
}

fn open(params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
    let parsed: IdxParams = params.parse()?;
    if !(parsed.std > 0.0 && parsed.std.is_finite()) {
        return Err(params.error("std", "must be positive"));
    }
    if !parsed.mean.is_finite() {
        return Err(params.error("mean", "must be finite"));
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
    // What a header tells is checked before the data is read.
    let pixels = IdxFile::open(&images)?;
    let [count, height, width] = pixels.dims[..] else {
        let message = format!("has the dimensions {:?}; images have three: number, height and width", pixels.dims);
        return Err(Error::data(&images, message));
    };
    if request.input != [1, height, width] {
        let message = format!(
            "has images of 1 channel, {:?}, but the network takes {:?}; set in_channels and image_size of the architecture",
            [height, width],
            request.input
        );
        return Err(Error::data(&images, message));
    }
    if height * width == 0 {
        return Err(Error::data(&images, format!("has images of {height} x {width} pixels")));
    }
    let pixels = pixels.data()?;
    let values = IdxFile::open(&labels)?;
    if values.dims != [count] {
        let message = format!("has the dimensions {:?}, the images {:?}", values.dims, [count, height, width]);
        return Err(Error::data(&labels, message));
    }
    let values = values.data()?;
    if let Some(label) = values.iter().find(|l| usize::from(**l) >= classes) {
        return Err(Error::data(&labels, format!("holds class {label}, but the classifier has {classes} classes")));
    }
    let IdxParams { mean, std, .. } = parsed;
    Ok(Box::new(Idx { images: pixels, labels: values, classes, pixels: height * width, mean, std }))
}

register_dataset! {
    name: "idx", aliases: ["MNIST"], summary: "grey images in the format of MNIST, plain or gzipped",
    build: open
}
