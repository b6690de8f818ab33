//! The published MobileNetV2 on ImageNet images, if they are next to the repository.

use crate::support::*;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::pipeline::Session;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::recipe::Recipe;
use qdrop_plugins::datasets::pixels::{center_crop, decode, normalize, resize_shorter, Rgb};
use std::path::Path;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn session(recipe: &str, weights: &Path, data: &Path) -> Session<'static> {
    let shown = qdrop(&["recipes", "show", recipe, "--json"]).json();
    let mut value: serde_yaml::Value = serde_yaml::to_value(shown).unwrap();
    qdrop_core::recipe::apply_set(&mut value, "data.params.resize=227").unwrap();
    let mut recipe = Recipe::from_value(value, Path::new("recipe.yaml")).unwrap();
    recipe.model.weights = Some(weights.into());
    recipe.data_root = Some(data.into());
    Session::new(recipe, registries(), Device::Cpu).unwrap()
}

fn logits(model: &QuantModel, images: &[Vec<f32>]) -> Tensor {
    let pixels: Vec<f32> = images.concat();
    let images = Tensor::from_vec(pixels, (images.len(), 3, 224, 224), &Device::Cpu).unwrap();
    model.forward(&images, Precision::Float).unwrap().remove(0)
}

fn top1(logits: &Tensor) -> Vec<u32> {
    logits.argmax(1).unwrap().to_vec1().unwrap()
}

#[test]
fn logits_pixels_and_accuracy_are_the_reference_ones() {
    let (Some(weights), Some(data), Some(golden_file)) = (
        shared("weights/mobilenet_v2-b0353104.pth"),
        shared("data/imagenet-mini"),
        shared("golden/imagenet_preprocess.safetensors"),
    ) else {
        return;
    };
    let session = session("best/mobilenet_v2_w4a4", &weights, &data);
    let mut model = session.float_model().unwrap();
    let golden = candle_core::safetensors::load(&golden_file, &Device::Cpu).unwrap();
    let bytes = std::fs::read(&golden_file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let files =
        |key: &str| -> Vec<String> { header.metadata().as_ref().unwrap()[key].lines().map(String::from).collect() };

    // From the pixels that the reference decoded.
    let pixels = &golden["resize256_crop224.u8"];
    let reference: Vec<Rgb> = (0..8)
        .map(|i| {
            let data = pixels.get(i).unwrap().permute((1, 2, 0)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            Rgb { width: 224, height: 224, data }
        })
        .collect();
    let inputs: Vec<Vec<f32>> = reference.iter().map(|r| normalize(r, MEAN, STD, false)).collect();
    let want = &golden["mobilenet_v2.train_resize256.logits"];
    let error = worst(&vec(&logits(&model, &inputs)), &vec(want), 1.0);
    assert!(error < 1e-3, "logits differ by {error}");

    // With our own decoder and resampling.
    let mut inputs = Vec::new();
    for (file, reference) in files("train_images").iter().zip(&reference) {
        let image = center_crop(&resize_shorter(&decode(&data.join(file)).unwrap(), 256).unwrap(), 224);
        let apart: u64 = image.data.iter().zip(&reference.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = apart as f64 / image.data.len() as f64;
        assert!(mean <= 1.0, "{file}: pixels differ by {mean}/255 on average");
        inputs.push(normalize(&image, MEAN, STD, false));
    }
    assert_eq!(top1(&logits(&model, &inputs)), top1(want));
    let inputs: Vec<Vec<f32>> = files("val_images")
        .iter()
        .map(|file| normalize(&center_crop(&decode(&data.join(file)).unwrap(), 224), MEAN, STD, false))
        .collect();
    assert_eq!(top1(&logits(&model, &inputs)), top1(&golden["mobilenet_v2.val_resize227.logits"]));

    let accuracy = session.evaluate(&model, Precision::Float, &Silent).unwrap();
    assert_eq!((accuracy.images, accuracy.broken), (650, 0));
    assert!((accuracy.values["top1"] - 79.54).abs() <= 0.31, "{accuracy:?}");

    // Equalized, it still computes the same.
    let before = logits(&model, &inputs);
    let cache = session.cache(std::env::temp_dir());
    let calibration = session.calibration_images(&cache, &Silent).unwrap();
    let prepared = session.prepare(&mut model, &calibration.images, &Silent).unwrap();
    assert_eq!(prepared.changes[0].0, "equalize");
    let (before, after) = (vec(&before), vec(&logits(&model, &inputs)));
    let size = before.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let error = worst(&after, &before, size);
    assert!(error < 1e-3, "equalization changes logits by {error} of the largest");
    let equalized = session.evaluate(&model, Precision::Float, &Silent).unwrap();
    assert!((accuracy.values["top1"] - equalized.values["top1"]).abs() <= 0.16, "{accuracy:?}, {equalized:?}");
}
