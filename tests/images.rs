//! Decoding, resizing and loading of images: equal to Pillow's, and independent of the number of threads.

use crate::support::*;
use qdrop_core::cache::{CacheBudget, CachedValues};
use qdrop_core::pipeline::{calibration_images, load_ahead};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_plugins::datasets::pixels::{decode, resize, resize_shorter, Crop, Rgb};
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
    assert!(mean <= 0.5, "decoding: {mean}");
    // Resampling alone, from Pillow's pixels: its two passes round differently, by 1/255 at most.
    let decoded = golden("photo_decoded.png");
    let (mean, largest) = apart(&resize_shorter(&decoded, 64).unwrap(), &golden("photo_resized.png"));
    assert!(mean <= 0.25 && largest <= 1, "resizing: {mean}, {largest}");
    let crop = Crop { left: 13, top: 7, width: 104, height: 88 };
    let (mean, largest) = apart(&resize(&decoded, crop, 56, 56).unwrap(), &golden("photo_cropped.png"));
    assert!(mean <= 0.25 && largest <= 1, "cutting out: {mean}, {largest}");
    // Decoding and resampling together.
    let (mean, _) = apart(&resize_shorter(&photo, 64).unwrap(), &golden("photo_resized.png"));
    assert!(mean <= 1.0, "decoding and resizing: {mean}");
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
    let fingerprint = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let cache = CachedValues::new(CacheBudget::unlimited(), Device::Cpu);
        let load = || calibration_images(&*dataset, 35, seed, &[3, 32, 32], cache, &Silent).unwrap();
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
        Ok(Sample { image: vec![index as f32], target: Target::Class(index) })
    }
}

#[test]
fn loading_stays_a_few_batches_ahead_and_keeps_the_order() {
    let dataset = Counting(AtomicUsize::new(0), 1000);
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let mut seen = 0;
    load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |batch| {
        assert_eq!(batch.targets, (seen..seen + 10).map(Target::Class).collect::<Vec<_>>());
        std::thread::sleep(std::time::Duration::from_micros(200));
        seen += 10;
        // Images of this batch, of one in the queue, one that waits for the queue and one that is being loaded.
        assert!(dataset.0.load(Ordering::SeqCst) <= seen + 30, "memory is bounded");
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 1000);
    let dataset = Counting(AtomicUsize::new(0), 1000);
    let error = load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |_| Err(Error::message("enough")));
    assert_eq!(error.unwrap_err().to_string(), "enough");
    assert!(dataset.0.load(Ordering::SeqCst) <= 50, "nothing more is loaded after an error");
    let dataset = Counting(AtomicUsize::new(0), 3);
    let error = load_ahead(&dataset, indices.chunks(10), &[1], &Device::Cpu, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("promises one of 3 classes with each image, but gave class 3;"), "{error}");
}
