//! Images in the format of MNIST, plain or gzipped.

use super::{folder, registries, write, Target};
use flate2::{write::GzEncoder, Compression};
use qdrop_core::dataset::{DatasetRequest, Split};
use qdrop_core::params::Params;
use qdrop_core::target::TargetSpec;
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
        let request = DatasetRequest {
            split: Split::Evaluation,
            seed: 0,
            input: [1, 4, 4],
            targets: TargetSpec::Class { classes: 3 },
            root: Some(folder.path().into()),
            base_dir: "".into(),
        };
        let files = "{train_images: images, train_labels: labels, test_images: images, test_labels: labels}";
        let params = Params::new("data.params", serde_yaml::from_str(files).unwrap());
        let opened = registries().datasets.get("idx", "data").unwrap().build(&params, &request);
        if let Ok(dataset) = &opened {
            assert_eq!(dataset.len(), 3);
            (0..3).for_each(|i| assert_eq!(dataset.sample(i).unwrap().image.len(), 16));
        }
        opened.is_ok()
    })
}
