//! The ResNet family: ResNet (arXiv 1512.03385), ResNeXt (arXiv 1611.05431) and Wide ResNet
//! (arXiv 1605.07146), with torchvision's tensor names and its stride on the 3x3 convolution.

use qdrop_core::prelude::*;

/// PyTorch's default epsilon of batch normalization.
const EPS: f64 = 1e-5;

/// How the members of the family differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResNet {
    /// Residual blocks in each of the four stages.
    pub blocks: [usize; 4],
    /// Bottleneck blocks (1x1, 3x3, 1x1) instead of basic ones (3x3, 3x3).
    pub bottleneck: bool,
    /// Groups of the 3x3 convolution of a bottleneck.
    pub groups: usize,
    /// Width per group of a bottleneck's 3x3 convolution, in a stage of 64 planes.
    pub group_width: usize,
}

/// The first layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stem {
    /// 7x7 convolution with stride 2, then max pooling.
    Imagenet,
    /// 3x3 convolution with stride 1, for images of about 32 x 32 pixels.
    Small,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ResNetParams {
    /// Number of classes.
    classes: usize,
    /// Channels of the image.
    in_channels: usize,
    /// Height and width of the image.
    image_size: usize,
    /// Channels of the first stage.
    width: usize,
    /// First layers: imagenet or small.
    stem: Stem,
}

impl Default for ResNetParams {
    fn default() -> Self {
        Self { classes: 1000, in_channels: 3, image_size: 224, width: 64, stem: Stem::Imagenet }
    }
}

/// What is common to all stages of a network without its classifier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    /// Channels of the first stage.
    pub width: usize,
    /// First layers.
    pub stem: Stem,
    /// Epsilon of batch normalization.
    pub eps: f64,
}

/// Convolution and batch normalization.
fn conv_bn(b: &mut GraphBuilder, conv: &str, bn: &str, x: NodeId, (spec, eps): (Conv2d, f64)) -> Result<NodeId> {
    let x = b.conv2d(conv, x, spec)?;
    b.batch_norm(bn, x, eps)
}

impl ResNet {
    fn block(
        &self,
        b: &mut GraphBuilder,
        name: &str,
        x: NodeId,
        (planes, stride): (usize, usize),
        eps: f64,
    ) -> Result<NodeId> {
        let n = |part: &str| format!("{name}.{part}");
        let out = if self.bottleneck { planes * 4 } else { planes };
        let mut y = x;
        if self.bottleneck {
            let width = planes * self.group_width / 64 * self.groups;
            y = conv_bn(b, &n("conv1"), &n("bn1"), y, (Conv2d::new(width, 1), eps))?;
            y = b.relu(&n("relu1"), y)?;
            let middle = Conv2d::new(width, 3).stride(stride).padding(1).groups(self.groups);
            y = conv_bn(b, &n("conv2"), &n("bn2"), y, (middle, eps))?;
            y = b.relu(&n("relu2"), y)?;
            y = conv_bn(b, &n("conv3"), &n("bn3"), y, (Conv2d::new(out, 1), eps))?;
        } else {
            y = conv_bn(b, &n("conv1"), &n("bn1"), y, (Conv2d::new(out, 3).stride(stride).padding(1), eps))?;
            y = b.relu(&n("relu1"), y)?;
            y = conv_bn(b, &n("conv2"), &n("bn2"), y, (Conv2d::new(out, 3).padding(1), eps))?;
        }
        let shortcut = if stride != 1 || b.channels(x) != out {
            let spec = Conv2d::new(out, 1).stride(stride);
            conv_bn(b, &n("downsample.0"), &n("downsample.1"), x, (spec, eps))?
        } else {
            x
        };
        let sum = b.add(&n("add"), y, shortcut)?;
        b.relu(&n("relu"), sum)
    }

    /// Adds the network up to its last stage: the units `conv1` and `layer1.0` and so on. Returns the values of the four stages.
    pub(crate) fn stages(&self, b: &mut GraphBuilder, image: NodeId, body: Body) -> Result<[NodeId; 4]> {
        let Body { width, stem, eps } = body;
        let mut x = b.unit("conv1", |b| {
            let spec = match stem {
                Stem::Imagenet => Conv2d::new(width, 7).stride(2).padding(3),
                Stem::Small => Conv2d::new(width, 3).padding(1),
            };
            let x = conv_bn(b, "conv1", "bn1", image, (spec, eps))?;
            b.relu("relu", x)
        })?;
        if stem == Stem::Imagenet {
            x = b.max_pool("maxpool", x, Pool2d::new(3).stride(2).padding(1))?;
        }
        let mut stages = [x; 4];
        for (stage, (blocks, value)) in self.blocks.iter().zip(&mut stages).enumerate() {
            for i in 0..*blocks {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = format!("layer{}.{i}", stage + 1);
                x = b.unit(&name, |b| self.block(b, &name, x, (width << stage, stride), eps))?;
            }
            *value = x;
        }
        Ok(stages)
    }
}

impl Architecture for ResNet {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: ResNetParams = params.parse()?;
        let sizes =
            [("classes", p.classes), ("in_channels", p.in_channels), ("image_size", p.image_size), ("width", p.width)];
        params.at_least_one(&sizes)?;
        let mut b = GraphBuilder::new([p.in_channels, p.image_size, p.image_size]);
        let image = b.input();
        let [.., x] = self.stages(&mut b, image, Body { width: p.width, stem: p.stem, eps: EPS })?;
        let x = b.global_average_pool("avgpool", x)?;
        let x = b.flatten("flatten", x)?;
        let x = b.unit("fc", |b| b.linear("fc", x, p.classes))?;
        b.finish(x)
    }
}

/// Registers members of the family: name, summary, blocks, bottleneck, groups, group width.
macro_rules! resnets {
    ($($name:literal, $summary:literal, $blocks:expr, $bottleneck:expr, $groups:expr, $width:expr;)*) => {
        $(register_architecture! {
            name: $name, aliases: [], summary: $summary,
            build: || Box::new(ResNet { blocks: $blocks, bottleneck: $bottleneck, groups: $groups, group_width: $width })
        })*
    };
}

resnets! {
    "resnet18", "ResNet-18", [2, 2, 2, 2], false, 1, 64;
    "resnet34", "ResNet-34", [3, 4, 6, 3], false, 1, 64;
    "resnet50", "ResNet-50", [3, 4, 6, 3], true, 1, 64;
    "resnet101", "ResNet-101", [3, 4, 23, 3], true, 1, 64;
    "resnet152", "ResNet-152", [3, 8, 36, 3], true, 1, 64;
    "resnext50_32x4d", "ResNeXt-50, 32 groups of width 4", [3, 4, 6, 3], true, 32, 4;
    "resnext101_32x8d", "ResNeXt-101, 32 groups of width 8", [3, 4, 23, 3], true, 32, 8;
    "wide_resnet50_2", "Wide ResNet-50, twice as wide inside the bottleneck", [3, 4, 6, 3], true, 1, 128;
    "wide_resnet101_2", "Wide ResNet-101, twice as wide inside the bottleneck", [3, 4, 23, 3], true, 1, 128;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as published with torchvision's weights.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let count = |blocks, bottleneck, groups, group_width| -> usize {
            let net = ResNet { blocks, bottleneck, groups, group_width };
            let graph = net.graph(&Params::none("p")).unwrap();
            let shapes = graph.parameter_shapes().into_iter().filter(|(n, _)| !n.contains("running"));
            shapes.map(|(_, s)| s.iter().product::<usize>()).sum()
        };
        assert_eq!(count([2, 2, 2, 2], false, 1, 64), 11_689_512);
        assert_eq!(count([3, 4, 6, 3], false, 1, 64), 21_797_672);
        assert_eq!(count([3, 4, 6, 3], true, 1, 64), 25_557_032);
        assert_eq!(count([3, 4, 23, 3], true, 1, 64), 44_549_160);
        assert_eq!(count([3, 8, 36, 3], true, 1, 64), 60_192_808);
        assert_eq!(count([3, 4, 6, 3], true, 32, 4), 25_028_904);
        assert_eq!(count([3, 4, 23, 3], true, 32, 8), 88_791_336);
        assert_eq!(count([3, 4, 6, 3], true, 1, 128), 68_883_240);
        assert_eq!(count([3, 4, 23, 3], true, 1, 128), 126_886_696);
    }
}
