//! MobileNetV2 (arXiv 1801.04381) with torchvision's tensor names. Checkpoints published with BRECQ and QDrop,
//! with their flat names, can be loaded too.

use crate::rounding::divisible;
use qdrop_core::prelude::*;

/// PyTorch's default epsilon of batch normalization.
const EPS: f64 = 1e-5;
/// Expansion, output channels, repetitions and first stride of each stage (table 2 of the paper).
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

struct MobileNetV2;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MobileNetParams {
    /// Number of classes.
    classes: usize,
    /// Channels of the image.
    in_channels: usize,
    /// Height and width of the image.
    image_size: usize,
    /// Factor of all channel counts.
    width: f64,
}

impl Default for MobileNetParams {
    fn default() -> Self {
        Self { classes: 1000, in_channels: 3, image_size: 224, width: 1.0 }
    }
}

/// Convolution, batch normalization and ReLU6 under `<name>.0` to `<name>.2`.
fn conv_bn_relu6(b: &mut GraphBuilder, name: &str, x: NodeId, conv: Conv2d) -> Result<NodeId> {
    let x = b.conv2d(&format!("{name}.0"), x, conv)?;
    let x = b.batch_norm(&format!("{name}.1"), x, EPS)?;
    b.relu6(&format!("{name}.2"), x)
}

fn inverted_residual(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    (expansion, out, stride): (usize, usize, usize),
) -> Result<NodeId> {
    let input = b.channels(x);
    let hidden = input * expansion;
    let mut part = 0;
    let mut next = || {
        part += 1;
        format!("{name}.conv.{}", part - 1)
    };
    let mut y = x;
    if expansion != 1 {
        y = conv_bn_relu6(b, &next(), y, Conv2d::new(hidden, 1))?;
    }
    y = conv_bn_relu6(b, &next(), y, Conv2d::new(hidden, 3).stride(stride).padding(1).groups(hidden))?;
    y = b.conv2d(&next(), y, Conv2d::new(out, 1))?;
    y = b.batch_norm(&next(), y, EPS)?;
    if stride == 1 && input == out {
        y = b.add(&format!("{name}.add"), x, y)?;
    }
    Ok(y)
}

impl Architecture for MobileNetV2 {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: MobileNetParams = params.parse()?;
        if p.width.is_nan() || p.width <= 0.0 {
            return Err(params.error("width", "must be positive"));
        }
        params.at_least_one(&[("classes", p.classes), ("in_channels", p.in_channels), ("image_size", p.image_size)])?;
        let mut b = GraphBuilder::new([p.in_channels, p.image_size, p.image_size]);
        let image = b.input();
        let first = Conv2d::new(divisible(32.0 * p.width, 8), 3).stride(2).padding(1);
        let mut x = b.unit("features.0", |b| conv_bn_relu6(b, "features.0", image, first))?;
        let mut index = 1;
        for (expansion, channels, repetitions, first_stride) in STAGES {
            for i in 0..repetitions {
                let stride = if i == 0 { first_stride } else { 1 };
                let block = (expansion, divisible(channels as f64 * p.width, 8), stride);
                let name = format!("features.{index}");
                x = b.unit(&name, |b| inverted_residual(b, &name, x, block))?;
                index += 1;
            }
        }
        let last = Conv2d::new(divisible(1280.0 * p.width.max(1.0), 8), 1);
        x = b.unit("features.18", |b| conv_bn_relu6(b, "features.18", x, last))?;
        x = b.global_average_pool("avgpool", x)?;
        x = b.flatten("flatten", x)?;
        x = b.unit("classifier", |b| b.linear("classifier.1", x, p.classes))?;
        b.finish(x)
    }

    /// The flat names number the modules of a block without nesting: `conv.0.0` is `conv.0`,
    /// `conv.1.0` is `conv.3`, and the projection with its normalization comes last.
    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        let flat = graph.nodes().filter_map(|(_, node)| {
            let (block, path) = node.name.split_once(".conv.")?;
            let has_expansion = graph.find(&format!("{block}.conv.3")).is_some();
            let project = if has_expansion { 2 } else { 1 };
            let number = |text: &str| text.parse::<usize>().ok();
            let position = match path.split_once('.') {
                Some((stage, inner)) => 3 * number(stage)? + number(inner)?,
                None => 3 * project + number(path)? - project,
            };
            Some((node.name.clone(), format!("{block}.conv.{position}")))
        });
        let timm = graph.nodes().filter_map(|(_, node)| Some((node.name.clone(), timm_name(graph, &node.name)?)));
        Ok(vec![KeyMap::of_nodes(flat), KeyMap::of_nodes(timm)])
    }
}

/// timm's name of a node: `blocks.STAGE.INDEX` and the layer's role.
fn timm_name(graph: &Graph, name: &str) -> Option<String> {
    let Some((block, layer)) = name.split_once(".conv.") else {
        let whole = match name {
            "features.0.0" => "conv_stem",
            "features.0.1" => "bn1",
            "features.18.0" => "conv_head",
            "features.18.1" => "bn2",
            "classifier.1" => "classifier",
            _ => return None,
        };
        return Some(whole.into());
    };
    let has_expansion = graph.find(&format!("{block}.conv.3")).is_some();
    let role = match (layer, has_expansion) {
        ("0.0", true) => "conv_pw",
        ("0.0", false) => "conv_dw",
        ("0.1", _) => "bn1",
        ("1.0", _) => "conv_dw",
        ("1.1", _) | ("2", false) => "bn2",
        ("1", _) => "conv_pw",
        ("2", true) => "conv_pwl",
        ("3", _) => "bn3",
        _ => return None,
    };
    let mut index = block.strip_prefix("features.")?.parse::<usize>().ok()?.checked_sub(1)?;
    for (stage, (_, _, repetitions, _)) in STAGES.into_iter().enumerate() {
        if index < repetitions {
            return Some(format!("blocks.{stage}.{index}.{role}"));
        }
        index -= repetitions;
    }
    None
}

register_architecture! {
    name: "mobilenet_v2", aliases: ["mobilenetv2"], summary: "MobileNetV2: inverted residuals with linear bottlenecks",
    build: || Box::new(MobileNetV2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_count_is_the_published_one() {
        let graph = MobileNetV2.graph(&Params::none("p")).unwrap();
        assert_eq!(graph.parameter_count(), 3_504_872);
        assert_eq!(graph.units().len(), 20);
    }

    #[test]
    fn the_flat_naming_is_that_of_the_published_checkpoint() {
        let graph = MobileNetV2.graph(&Params::none("p")).unwrap();
        let map = &MobileNetV2.key_maps(&graph).unwrap()[0];
        for (canonical, flat) in [
            ("features.0.0.weight", "features.0.0.weight"),
            ("features.1.conv.0.0.weight", "features.1.conv.0.weight"),
            ("features.1.conv.1.weight", "features.1.conv.3.weight"),
            ("features.1.conv.2.running_mean", "features.1.conv.4.running_mean"),
            ("features.2.conv.0.1.bias", "features.2.conv.1.bias"),
            ("features.2.conv.1.0.weight", "features.2.conv.3.weight"),
            ("features.2.conv.2.weight", "features.2.conv.6.weight"),
            ("features.2.conv.3.running_var", "features.2.conv.7.running_var"),
            ("classifier.1.bias", "classifier.1.bias"),
        ] {
            assert_eq!(map.checkpoint_name(canonical), flat);
        }
    }
}
