//! SqueezeNet 1.0 and 1.1 (arXiv 1602.07360) as a plugin.

use qdrop_core::prelude::*;

/// Parameters in a recipe: `architecture: {name: squeezenet, params: {version: "1.0"}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(crate = "qdrop_core::serde", deny_unknown_fields, default)]
struct SqueezeNetParams {
    version: String,
    classes: usize,
    in_channels: usize,
    image_size: usize,
}

impl Default for SqueezeNetParams {
    fn default() -> Self {
        Self { version: "1.1".into(), classes: 1000, in_channels: 3, image_size: 224 }
    }
}

/// A layer after the stem: pooling, or a fire module with its squeezed and expanded channels.
enum Layer {
    Pool,
    Fire(usize, usize),
}
use Layer::{Fire, Pool};

const V1_0: [Layer; 11] = [
    Pool,
    Fire(16, 64),
    Fire(16, 64),
    Fire(32, 128),
    Pool,
    Fire(32, 128),
    Fire(48, 192),
    Fire(48, 192),
    Fire(64, 256),
    Pool,
    Fire(64, 256),
];
const V1_1: [Layer; 11] = [
    Pool,
    Fire(16, 64),
    Fire(16, 64),
    Pool,
    Fire(32, 128),
    Fire(32, 128),
    Pool,
    Fire(48, 192),
    Fire(48, 192),
    Fire(64, 256),
    Fire(64, 256),
];

struct SqueezeNet;

impl Architecture for SqueezeNet {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p = params.parse::<SqueezeNetParams>()?;
        params.at_least_one(&[("classes", p.classes), ("in_channels", p.in_channels), ("image_size", p.image_size)])?;
        let (stem, layers) = match p.version.as_str() {
            "1.0" => (Conv2d::new(96, 7).stride(2).bias(), V1_0),
            "1.1" => (Conv2d::new(64, 3).stride(2).bias(), V1_1),
            other => return Err(params.error("version", format!("'{other}' does not exist; use \"1.0\" or \"1.1\""))),
        };
        let mut b = GraphBuilder::new([p.in_channels, p.image_size, p.image_size]);
        let image = b.input();
        // The names are those of torchvision: features.0 is the stem, features.1 its ReLU.
        let mut x = b.unit("features.0", |b| {
            let x = b.conv2d("features.0", image, stem)?;
            b.relu("features.1", x)
        })?;
        for (i, layer) in layers.into_iter().enumerate() {
            let name = format!("features.{}", i + 2);
            x = match layer {
                Pool => b.max_pool(&name, x, Pool2d::new(3).stride(2).ceil_mode(true))?,
                Fire(squeezed, expanded) => fire(&mut b, &name, x, squeezed, expanded)?,
            };
        }
        // The dropout before it does nothing in inference.
        let x = b.unit("classifier.1", |b| {
            let x = b.conv2d("classifier.1", x, Conv2d::new(p.classes, 1).bias())?;
            b.relu("classifier.2", x)
        })?;
        let x = b.global_average_pool("classifier.3", x)?;
        let x = b.flatten("flatten", x)?;
        b.finish(x)
    }
}

/// A 1x1 convolution to few channels, then parallel 1x1 and 3x3 convolutions (section 3.2).
fn fire(b: &mut GraphBuilder, name: &str, x: NodeId, squeezed: usize, expanded: usize) -> Result<NodeId> {
    b.unit(name, |b| {
        let conv = |b: &mut GraphBuilder, own: &str, x, conv: Conv2d| {
            let x = b.conv2d(&format!("{name}.{own}"), x, conv.bias())?;
            b.relu(&format!("{name}.{own}_activation"), x)
        };
        let x = conv(b, "squeeze", x, Conv2d::new(squeezed, 1))?;
        let small = conv(b, "expand1x1", x, Conv2d::new(expanded, 1))?;
        let large = conv(b, "expand3x3", x, Conv2d::new(expanded, 3).padding(1))?;
        b.concat(&format!("{name}.concat"), &[small, large])
    })
}

register_architecture! {
    name: "squeezenet", aliases: [], summary: "SqueezeNet; params: version, classes, in_channels, image_size",
    build: || Box::new(SqueezeNet)
}

register_recipe! { name: "imagenet/squeezenet_w4a4", yaml: include_str!("../recipe.yaml") }

#[cfg(test)]
mod tests {
    #[test]
    fn conforms() {
        qdrop_core::conformance::conforms("architecture", "squeezenet").unwrap();
    }
}
