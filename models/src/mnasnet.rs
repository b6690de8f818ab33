//! MNASNet-B1 (arXiv 1807.11626) with torchvision's tensor names. Checkpoints of timm can be loaded too.

use crate::rounding::divisible;
use qdrop_core::prelude::*;

/// PyTorch's default epsilon of batch normalization.
const EPS: f64 = 1e-5;
/// Channels of the stem's two convolutions at scale 1.
const STEM: [usize; 2] = [32, 16];
/// Channels at scale 1, kernel, first stride, expansion and repetitions of each stack.
const STACKS: [(usize, usize, usize, usize, usize); 6] =
    [(24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1)];
/// Channels before the classifier, at every scale.
const LAST: usize = 1280;

struct MnasNet;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MnasNetParams {
    /// Number of classes.
    classes: usize,
    /// Channels of the image.
    in_channels: usize,
    /// Height and width of the image.
    image_size: usize,
    /// Factor of the channel counts.
    scale: f64,
}

impl Default for MnasNetParams {
    fn default() -> Self {
        Self { classes: 1000, in_channels: 3, image_size: 224, scale: 1.0 }
    }
}

/// Convolution and batch normalization as modules `index` and `index + 1` of `parent`, followed by a ReLU
/// if `relu` is set.
fn layer(b: &mut GraphBuilder, parent: &str, index: usize, x: NodeId, conv: Conv2d, relu: bool) -> Result<NodeId> {
    let x = b.conv2d(&format!("{parent}.{index}"), x, conv)?;
    let x = b.batch_norm(&format!("{parent}.{}", index + 1), x, EPS)?;
    match relu {
        true => b.relu(&format!("{parent}.{}", index + 2), x),
        false => Ok(x),
    }
}

fn inverted_residual(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    (out, kernel, stride, expansion): (usize, usize, usize, usize),
) -> Result<NodeId> {
    let input = b.channels(x);
    let (hidden, layers) = (input * expansion, format!("{name}.layers"));
    let y = layer(b, &layers, 0, x, Conv2d::new(hidden, 1), true)?;
    let depthwise = Conv2d::new(hidden, kernel).stride(stride).padding(kernel / 2).groups(hidden);
    let y = layer(b, &layers, 3, y, depthwise, true)?;
    let y = layer(b, &layers, 6, y, Conv2d::new(out, 1), false)?;
    if stride == 1 && input == out {
        return b.add(&format!("{name}.add"), y, x);
    }
    Ok(y)
}

impl Architecture for MnasNet {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: MnasNetParams = params.parse()?;
        if p.scale.is_nan() || p.scale <= 0.0 {
            return Err(params.error("scale", "must be positive"));
        }
        params.at_least_one(&[("classes", p.classes), ("in_channels", p.in_channels), ("image_size", p.image_size)])?;
        let scaled = |channels: usize| divisible(channels as f64 * p.scale, 8);
        let [first, second] = STEM.map(scaled);
        let mut b = GraphBuilder::new([p.in_channels, p.image_size, p.image_size]);
        let image = b.input();
        // The separable stem has no shortcut, so each of its layers is a unit.
        let conv = Conv2d::new(first, 3).stride(2).padding(1);
        let mut x = b.unit("layers.0", |b| layer(b, "layers", 0, image, conv, true))?;
        let conv = Conv2d::new(first, 3).padding(1).groups(first);
        x = b.unit("layers.3", |b| layer(b, "layers", 3, x, conv, true))?;
        x = b.unit("layers.6", |b| layer(b, "layers", 6, x, Conv2d::new(second, 1), false))?;
        for (i, (channels, kernel, first_stride, expansion, repetitions)) in STACKS.into_iter().enumerate() {
            for j in 0..repetitions {
                let name = format!("layers.{}.{j}", i + 8);
                let block = (scaled(channels), kernel, if j == 0 { first_stride } else { 1 }, expansion);
                x = b.unit(&name, |b| inverted_residual(b, &name, x, block))?;
            }
        }
        x = b.unit("layers.14", |b| layer(b, "layers", 14, x, Conv2d::new(LAST, 1), true))?;
        x = b.global_average_pool("avgpool", x)?;
        x = b.flatten("flatten", x)?;
        x = b.unit("classifier", |b| b.linear("classifier.1", x, p.classes))?;
        b.finish(x)
    }

    /// timm's names.
    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        let timm = graph.nodes().filter_map(|(_, node)| Some((node.name.clone(), timm_name(&node.name)?)));
        Ok(vec![KeyMap::of_nodes(timm)])
    }
}

/// timm's name of a node: the stem's separable convolution is its first block.
fn timm_name(name: &str) -> Option<String> {
    if name == "classifier.1" {
        return Some("classifier".into());
    }
    let path = name.strip_prefix("layers.")?;
    let Some((stack, rest)) = path.split_once('.') else {
        let whole = match path {
            "0" => "conv_stem",
            "1" => "bn1",
            "3" => "blocks.0.0.conv_dw",
            "4" => "blocks.0.0.bn1",
            "6" => "blocks.0.0.conv_pw",
            "7" => "blocks.0.0.bn2",
            "14" => "conv_head",
            "15" => "bn2",
            _ => return None,
        };
        return Some(whole.into());
    };
    let (index, layer) = rest.split_once(".layers.")?;
    let role = match layer {
        "0" => "conv_pw",
        "1" => "bn1",
        "3" => "conv_dw",
        "4" => "bn2",
        "6" => "conv_pwl",
        "7" => "bn3",
        _ => return None,
    };
    Some(format!("blocks.{}.{index}.{role}", stack.parse::<usize>().ok()?.checked_sub(7)?))
}

register_architecture! {
    name: "mnasnet", aliases: [], summary: "MNASNet-B1; the parameter `scale` widens it (2.0 in the published recipes)",
    build: || Box::new(MnasNet)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as published with torchvision's weights (`num_params`).
    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (scale, count) in [(0.5, 2_218_512), (0.75, 3_170_208), (1.0, 4_383_312), (1.3, 6_282_256)] {
            let params = Params::new("p", qdrop_core::serde_yaml::from_str(&format!("scale: {scale}")).unwrap());
            let graph = MnasNet.graph(&params).unwrap();
            assert_eq!(graph.parameter_count(), count, "{scale}");
            assert_eq!(graph.units().len(), 21);
        }
    }
}
