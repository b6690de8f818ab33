//! Recipes, and configurations of the reference implementation.

use super::{a_few_times, folder, repository, write, Target};
use qdrop::recipes::Loader;
use qdrop_core::recipe::Recipe;
use std::path::Path;
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "recipe", seeds, read, allowed: a_few_times };

fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![repository("cli/recipes/demo.yaml")];
    let texts = [
        "extends: imagenet/resnet18_w2a4\nseed: 5\n",
        "extends: [demo, imagenet/mnasnet_w4a4]\nquant: {weight: {bits: 3}}\n",
        "quant:\n  a_qconfig: &q {quantizer: LSQFakeQuantize, observer: AvgMSEObserver, bit: 4, symmetric: False, ch_axis: -1}\n  \
         w_qconfig: {<<: *q, quantizer: AdaRoundFakeQuantize, ch_axis: 0}\n  calibrate: 1024\nmodel: {type: resnet18, \
         path: w.pth}\ndata: {path: d, batch_size: 64, input_size: 224, test_resize: 256}\nprocess: {seed: 1005}\n",
    ];
    all.extend(texts.map(|text| text.as_bytes().to_vec()));
    all
}

thread_local!(static FOLDER: TempDir = folder());

fn read(bytes: &[u8]) -> bool {
    // A plugin is code, and the mutation of a path may name a file of this machine.
    if bytes.windows(7).any(|w| w == b"plugins") {
        return false;
    }
    let recipe = FOLDER.with(|folder| Loader::new(write(folder, "recipe.yaml", bytes)).load());
    if let Ok(recipe) = &recipe {
        let text = recipe.to_yaml().unwrap();
        assert_eq!(&Recipe::from_yaml(&text, Path::new("saved.yaml")).unwrap(), recipe);
    }
    recipe.is_ok()
}
