//! Fashion-MNIST's files.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::path::Path;

/// Height and width of an image.
pub const SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;

/// Images and labels of one split of Fashion-MNIST.
pub struct Items {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Items {
    /// Reads the split `part`, which is `train` or `t10k`.
    pub fn read(folder: &Path, part: &str) -> Result<Self> {
        let read = |name: String, header: usize| -> Result<Vec<u8>> {
            let file = folder.join(name);
            let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut content)?;
            Ok(content.split_off(header))
        };
        let pixels = read(format!("{part}-images-idx3-ubyte.gz"), 16)?;
        Ok(Self { pixels, labels: read(format!("{part}-labels-idx1-ubyte.gz"), 8)? })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn label(&self, index: usize) -> u8 {
        self.labels[index]
    }

    /// The pixels of an image, row by row; the background is 0.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * PIXELS..][..PIXELS]
    }

    /// Writes the first `count` images in the same format.
    pub fn write(&self, folder: &Path, part: &str, count: usize) -> Result<()> {
        let write = |name: String, dims: &[usize], data: &[u8]| -> Result<()> {
            let mut file =
                flate2::GzBuilder::new().write(std::fs::File::create(folder.join(name))?, flate2::Compression::best());
            file.write_all(&[0, 0, 8, dims.len() as u8])?;
            for d in dims {
                file.write_all(&(*d as u32).to_be_bytes())?;
            }
            file.write_all(data)?;
            file.finish()?;
            Ok(())
        };
        write(format!("{part}-images-idx3-ubyte.gz"), &[count, SIDE, SIDE], &self.pixels[..count * PIXELS])?;
        write(format!("{part}-labels-idx1-ubyte.gz"), &[count], &self.labels[..count])
    }
}
