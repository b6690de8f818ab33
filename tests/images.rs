//! Decoding, resizing and loading of images: equal to Pillow's, and independent of the number of threads.

use crate::support::*;
use qdrop_core::cache::{CacheBudget, CachedValues};
use qdrop_core::pipeline::{calibration_images, load_ahead};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::recipe::CalibrationRecipe;
use qdrop_plugins::datasets::pixels::{decode, decode_bytes, resize, resize_shorter, Crop, Rgb};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Mean and largest difference of two images, in units of 1/255.
fn apart(a: &Rgb, b: &Rgb) -> (f64, u8) {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let differences = a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.data.len() as f64, differences.max().unwrap_or(0))
}

#[test]
fn pixels_are_those_of_pillow() {
    let golden = |name: &str| decode(&fixture("golden").join(name)).unwrap();
    let photo = golden("photo.jpg");
    let (mean, _) = apart(&photo, &golden("photo_decoded.png"));
    assert!(mean == 0.0, "decoding: {mean}");
    // Resampling alone, from Pillow's pixels: its two passes round differently, by 1/255 at most.
    let decoded = golden("photo_decoded.png");
    let (mean, largest) = apart(&resize_shorter(&decoded, 64).unwrap(), &golden("photo_resized.png"));
    assert!(mean <= 0.25 && largest <= 1, "resizing: {mean}, {largest}");
    let crop = Crop { left: 13, top: 7, width: 104, height: 88 };
    let (mean, largest) = apart(&resize(&decoded, crop, 56, 56).unwrap(), &golden("photo_cropped.png"));
    assert!(mean <= 0.25 && largest <= 1, "cutting out: {mean}, {largest}");
    // Decoding and resampling together.
    let (mean, _) = apart(&resize_shorter(&photo, 64).unwrap(), &golden("photo_resized.png"));
    assert!(mean <= 0.25, "decoding and resizing: {mean}");
}

/// The files of a golden folder with this property, sorted.
fn golden_files(folder: &str, keep: impl Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(fixture("golden").join(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| keep(f.file_name().unwrap().to_str().unwrap()));
    files.sort();
    files
}

#[test]
fn every_layout_of_jpeg_is_decoded_as_pillow_does() {
    let files = golden_files("jpeg", |name| name.ends_with(".jpg"));
    assert_eq!(files.len(), 38);
    for file in files {
        let (_, largest) = apart(&decode(&file).unwrap(), &decode(&file.with_extension("png")).unwrap());
        assert!(largest <= 1, "{}: {largest}", file.display());
    }
}

#[test]
fn every_format_is_decoded_as_pillow_does() {
    let files = golden_files("formats", |name| !name.ends_with(".rgb.png"));
    assert_eq!(files.len(), 46);
    let renamed = tempfile::tempdir().unwrap().path().join("photo");
    std::fs::create_dir_all(renamed.parent().unwrap()).unwrap();
    for file in files {
        if file.ends_with("palette.tiff") {
            let error = decode(&file).unwrap_err().to_string();
            assert!(
                error.contains("palette.tiff: cannot be decoded")
                    && error.contains("RGBPalette")
                    && error.contains("save it with 8 bits"),
                "{error}"
            );
            continue;
        }
        let mut golden = file.clone().into_os_string();
        golden.push(".rgb.png");
        let golden = decode(Path::new(&golden)).unwrap();
        let (_, largest) = apart(&decode(&file).unwrap(), &golden);
        // Values of other ranges than 0 to 255 are rounded in other ways, and another JPEG decoder reads TIFF.
        assert!(largest <= 1, "{}: {largest}", file.display());
        // The content decides, not the name.
        std::fs::copy(&file, &renamed).unwrap();
        assert_eq!(decode(&renamed).unwrap(), decode(&file).unwrap());
    }
}

#[test]
fn no_image_that_was_cut_counts() {
    let mut files = golden_files("jpeg", |name| name.ends_with(".jpg"));
    // A number that is written in digits is one after a cut, too.
    let left_out = ["palette.tiff", "plain.ppm"];
    files.extend(golden_files("formats", |name| !name.ends_with(".rgb.png") && !left_out.contains(&name)));
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let whole = decode_bytes(&bytes).unwrap();
        let is_jpeg = file.extension().unwrap() == "jpg";
        for length in 0..bytes.len() {
            // What lies behind the pixels (a second frame, an end mark) may be missing, but for JPEG, as Pillow has it.
            if let Ok(part) = decode_bytes(&bytes[..length]) {
                assert!(!is_jpeg && part == whole, "{} counts with {length} bytes", file.display());
            }
        }
    }
}

#[test]
fn no_real_photo_that_was_cut_counts() {
    let photos = fixture("../../shared/data/imagenet-mini/val");
    let Ok(folders) = std::fs::read_dir(&photos) else {
        eprintln!("skipped: there are no photos in {}", photos.display());
        return;
    };
    let mut files: Vec<_> = folders.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap()).collect();
    files.sort_by_key(|f| f.as_ref().unwrap().path());
    for (i, file) in files.iter().enumerate().step_by(4) {
        let bytes = std::fs::read(file.as_ref().unwrap().path()).unwrap();
        assert!(decode_bytes(&bytes).is_ok());
        for draw in qdrop_kernels::testing::uniform(2, 0.0..1.0, i as u64) {
            let length = (draw * bytes.len() as f32) as usize;
            assert!(decode_bytes(&bytes[..length]).is_err(), "{file:?} counts with {length} of {} bytes", bytes.len());
        }
    }
}

/// The message for a JPEG file with this change.
fn refused(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = std::fs::read(fixture("golden/photo.jpg")).unwrap();
    change(&mut bytes);
    decode_bytes(&bytes).map(|_| ()).unwrap_err()
}

#[test]
fn damaged_images_are_refused_and_harmless_bytes_passed_over() {
    let photo = std::fs::read(fixture("golden/photo.jpg")).unwrap();
    assert_eq!(refused(|b| b.truncate(b.len() - 1)), "it ends early");
    assert_eq!(refused(Vec::clear), "it is empty");
    assert_eq!(refused(|b| b[..2].fill(0)), "it is none of JPEG, PNG, BMP, WebP, TIFF, PPM, PGM, PBM and GIF");
    let middle = photo.len() / 2;
    let end = refused(|b| b[middle..middle + 2].copy_from_slice(&[0xff, 0xd9]));
    assert_eq!(end, "Corrupt JPEG data: premature end of data segment");
    // No Huffman code consists of ones alone.
    let late = photo.len() * 3 / 4;
    let ones = refused(|b| b[late..late + 8].copy_from_slice(&[0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0]));
    assert_eq!(ones, "Corrupt JPEG data: bad Huffman code");
    // A restart marker that is out of order.
    let restarts = std::fs::read(fixture("golden/jpeg/restart_444.jpg")).unwrap();
    let marker = restarts.windows(2).position(|w| w == [0xff, 0xd2]).unwrap();
    let mut swapped = restarts.clone();
    swapped[marker + 1] = 0xd5;
    assert!(decode_bytes(&swapped).unwrap_err().contains("Corrupt JPEG data"));
    // Pillow reads these as well.
    let whole = decode_bytes(&photo).unwrap();
    assert_eq!(decode_bytes(&[&photo[..], &[0; 100]].concat()).unwrap(), whole);
    let (data, end) = photo.split_at(photo.len() - 2);
    assert_eq!(decode_bytes(&[data, &[1, 2, 3, 4, 5], end].concat()).unwrap(), whole);
}

#[test]
fn a_header_cannot_ask_for_more_memory_than_its_file_allows() {
    // The frame of a JPEG: marker, length, precision, height, width.
    let mut photo = std::fs::read(fixture("golden/photo.jpg")).unwrap();
    let frame = photo.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    photo[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    let error = decode_bytes(&photo).unwrap_err();
    assert_eq!(error, "its header announces 8192 x 8192 pixels, too many for its 10560 bytes");
    photo[frame + 5..frame + 9].copy_from_slice(&[0xff, 0, 0xff, 0]);
    assert_eq!(decode_bytes(&photo).unwrap_err(), "65280 x 65280 pixels are more than the 178956970 that are read");
    let mut bmp = std::fs::read(fixture("golden/formats/rgb.bmp")).unwrap();
    bmp[18..26].copy_from_slice(&[0, 0x40, 0, 0, 0, 0x40, 0, 0]);
    assert!(decode_bytes(&bmp).unwrap_err().contains("16384 x 16384 pixels are more than"));
    assert!(decode_bytes(b"P6 16000 11000 255\n").unwrap_err().contains("too many for its 19 bytes"));
}

/// Training images of two classes.
fn folder(root: &Path) -> Box<dyn Dataset> {
    for class in ["cat", "dog"] {
        let folder = root.join("train").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..20 {
            std::fs::copy(fixture("golden/photo.jpg"), folder.join(format!("{i:02}.jpg"))).unwrap();
        }
    }
    let request = DatasetRequest {
        split: Split::Calibration,
        seed: 5,
        input: [3, 32, 32],
        targets: TargetSpec::Class { classes: 2 },
        root: Some(root.into()),
        base_dir: "".into(),
    };
    registries().datasets.get("image_folder", "test").unwrap().build(&Params::none("p"), &request).unwrap()
}

#[test]
fn calibration_images_depend_on_the_seed_and_not_on_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = folder(dir.path());
    let settings = CalibrationRecipe { images: 35, ..Default::default() };
    let fingerprint = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let cache = CachedValues::new(CacheBudget::unlimited(), Device::Cpu);
        let load = || calibration_images(&*dataset, &settings, seed, &[3, 32, 32], cache, &Silent).unwrap();
        let set = pool.install(load);
        assert_eq!(set.images.samples(), 35);
        set.fingerprint
    };
    assert_eq!(fingerprint(1, 5), fingerprint(3, 5));
    assert_ne!(fingerprint(1, 5), fingerprint(1, 6));
    // All image files are equal, so only the augmentation can differ.
    assert_ne!(dataset.sample(0).unwrap().image, dataset.sample(1).unwrap().image);
    assert_eq!(dataset.sample(7).unwrap().image, dataset.sample(7).unwrap().image);
}

/// Counts the images that are loaded; announces one of a number of classes as target.
struct Counting(AtomicUsize, usize);

impl Dataset for Counting {
    fn len(&self) -> usize {
        1000
    }

    fn targets(&self) -> TargetSpec {
        TargetSpec::Class { classes: self.1 }
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Sample::new(vec![index as f32], Target::Class(index)))
    }
}

#[test]
fn loading_stays_a_few_batches_ahead_and_keeps_the_order() {
    let dataset = Counting(AtomicUsize::new(0), 1000);
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let mut seen = 0;
    load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |batch| {
        assert_eq!(batch.parts[0].targets, (seen..seen + 10).map(Target::Class).collect::<Vec<_>>());
        std::thread::sleep(std::time::Duration::from_micros(200));
        seen += 10;
        // Images of this batch, of one in the queue, one that waits for the queue and one that is being loaded.
        assert!(dataset.0.load(Ordering::SeqCst) <= seen + 30, "memory is bounded");
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(seen, 1000);
    let dataset = Counting(AtomicUsize::new(0), 1000);
    let error = load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |_| Err(Error::message("enough")));
    assert_eq!(error.unwrap_err().to_string(), "enough");
    assert!(dataset.0.load(Ordering::SeqCst) <= 50, "nothing more is loaded after an error");
    let dataset = Counting(AtomicUsize::new(0), 3);
    let error = load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |_| Ok(ControlFlow::Continue(())))
        .unwrap_err()
        .to_string();
    assert!(error.contains("promises one of 3 classes with each image, but gave class 3;"), "{error}");
}
