//! Images in the format of MNIST, plain or gzipped.

use super::{folder, open, write, Target};
use flate2::{write::GzEncoder, Compression};
use std::io::Write;
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "idx", seeds, read, allowed };

/// Three images of 4 x 4 pixels.
fn plain() -> Vec<u8> {
    let header = [0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 4];
    header.into_iter().chain((0..48).map(|i| i * 5)).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&plain()).unwrap();
    vec![plain(), gzip.finish().unwrap()]
}

/// DEFLATE codes at most 1032 bytes with one, and vectors grow by half too much.
fn allowed(length: usize) -> usize {
    (1 << 20) + 2 * 1032 * length
}

thread_local!(static FOLDER: TempDir = {
    let folder = folder();
    write(&folder, "labels", &[0, 0, 8, 1, 0, 0, 0, 3, 0, 1, 2]);
    folder
});

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        write(folder, "images", bytes);
        let files = "{train_images: images, train_labels: labels, test_images: images, test_labels: labels}";
        let opened = open("idx", files, folder, [1, 4, 4], 3);
        if let Ok(dataset) = &opened {
            assert_eq!(dataset.len(), 3);
            (0..3).for_each(|i| assert_eq!(dataset.sample(i).unwrap().image.len(), 16));
        }
        opened.is_ok()
    })
}
