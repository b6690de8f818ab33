//! Arrays of NumPy: of bytes and of floats, each as images; and of integers, as labels.

use super::{a_few_times, folder, open, write, Target};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "numpy", seeds, read, allowed: a_few_times };

/// A file as NumPy writes it, of this version of the format.
fn array(version: u8, descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let size = (header.len() as u32).to_le_bytes();
    let size = if version == 1 { &size[..2] } else { &size[..] };
    [b"\x93NUMPY".as_slice(), &[version, 0], size, header.as_bytes(), data].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (0..48).map(|i| i * 5).collect();
    let floats: Vec<u8> = (0..48_u8).flat_map(|i| (f32::from(i) / 7.0 - 3.0).to_le_bytes()).collect();
    let labels: Vec<u8> = (0..3_i64).flat_map(i64::to_le_bytes).collect();
    vec![
        array(1, "|u1", "(3, 4, 4)", &bytes),
        array(2, "|u1", "(3, 4, 4, 1)", &bytes),
        array(3, "<f4", "(3, 1, 4, 4)", &floats),
        array(1, "<i8", "(3,)", &labels),
    ]
}

thread_local!(static FOLDER: TempDir = {
    let folder = folder();
    write(&folder, "labels", &array(1, "|u1", "(3,)", &[0, 1, 2]));
    write(&folder, "pixels", &seeds()[0]);
    folder
});

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        write(folder, "file", bytes);
        let opened = |params: &str| {
            let opened = open("numpy", params, folder, [1, 4, 4], 3);
            if let Ok(dataset) = &opened {
                assert_eq!(dataset.len(), 3);
                // A float that is not finite makes its image a broken one.
                (0..3).for_each(|i| assert!(dataset.sample(i).map_or(true, |sample| sample.image.len() == 16)));
            }
            opened.is_ok()
        };
        let pixels = opened("{images: file, labels: labels, mean: 0.5, std: 0.5}");
        let floats = opened("{images: file, labels: labels}");
        let labels = opened("{images: pixels, labels: file, mean: 0.5, std: 0.5}");
        pixels || floats || labels
    })
}
