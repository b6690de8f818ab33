//! Image files, through the dataset.

use super::{folder, repository, Target};
use qdrop_core::dataset::Dataset;
use std::cell::OnceCell;
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "image", seeds, read, allowed };

const NAMES: [&str; 17] = [
    "formats/alpha.webp",
    "formats/animated.gif",
    "formats/bilevel.tiff",
    "formats/grey16.png",
    "formats/jpeg.tiff",
    "formats/lossy.webp",
    "formats/lzw.tif",
    "formats/maxval1000.ppm",
    "formats/palette.bmp",
    "formats/palette_transparent.png",
    "formats/rgb565.bmp",
    "jpeg/arithmetic_progressive.jpg",
    "jpeg/baseline_420.jpg",
    "jpeg/cmyk.jpg",
    "jpeg/luma_below_chroma_both.jpg",
    "jpeg/non_interleaved_restart.jpg",
    "jpeg/progressive_420.jpg",
];

fn seeds() -> Vec<Vec<u8>> {
    NAMES.iter().map(|name| repository(&format!("tests/golden/{name}"))).collect()
}

/// A file may have 2^24 pixels and 8256 for each of its bytes, of 4 channels of 4 bytes.
fn allowed(length: usize) -> usize {
    16 * ((1 << 24) + 8256 * length)
}

fn open() -> (TempDir, Box<dyn Dataset>) {
    let folder = folder();
    let class = folder.path().join("val/one");
    std::fs::create_dir_all(&class).unwrap();
    std::fs::write(class.join("image.jpg"), "").unwrap();
    let dataset = super::open("image_folder", "{resize: 32}", &folder, [3, 32, 32], 1).unwrap();
    (folder, dataset)
}

thread_local!(static OPENED: OnceCell<(TempDir, Box<dyn Dataset>)> = const { OnceCell::new() });

fn read(bytes: &[u8]) -> bool {
    OPENED.with(|opened| {
        let (folder, dataset) = opened.get_or_init(open);
        std::fs::write(folder.path().join("val/one/image.jpg"), bytes).unwrap();
        let sample = dataset.sample(0);
        if let Ok(sample) = &sample {
            assert_eq!(sample.image.len(), 3 * 32 * 32);
            assert!(sample.image.iter().all(|v| v.is_finite()));
        }
        sample.is_ok()
    })
}
