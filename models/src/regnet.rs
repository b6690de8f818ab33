//! RegNetX and RegNetY (arXiv 2003.13678) with the tensor names of the published QDrop and BRECQ
//! checkpoints. Checkpoints of torchvision and timm can be loaded too.

use crate::rounding::divisible;
use qdrop_core::ops::Activation;
use qdrop_core::prelude::*;

/// PyTorch's default epsilon of batch normalization.
const EPS: f64 = 1e-5;
/// Channels of the first convolution.
const STEM: usize = 32;
/// Widths are multiples of this.
const QUANTUM: f64 = 8.0;
/// Channels inside a squeeze-and-excitation as a share of the block's input channels (RegNetY).
const SE_RATIO: f64 = 0.25;

/// The parameters of a network of the family (section 3.3 of the paper).
struct RegNet {
    /// Slope of the widths.
    slope: f64,
    /// Width of the first block.
    initial: f64,
    /// Ratio between successive widths, before rounding.
    multiplier: f64,
    /// Number of blocks.
    depth: usize,
    /// Channels in a group.
    group_width: usize,
    /// Whether every block has squeeze-and-excitation (RegNetY).
    excitation: bool,
    /// Whether widths become multiples of the group width by torchvision's rule, which never reduces them by
    /// more than 10 %. Two published networks differ by it.
    torchvision_widths: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegNetParams {
    /// Number of classes.
    classes: usize,
    /// Channels of the image.
    in_channels: usize,
    /// Height and width of the image.
    image_size: usize,
}

impl Default for RegNetParams {
    fn default() -> Self {
        Self { classes: 1000, in_channels: 3, image_size: 224 }
    }
}

/// Width, group width and number of blocks of one stage.
type Stage = (usize, usize, usize);

impl RegNet {
    /// Equations 2 to 4 of the paper. Then the widths are rounded to multiples of the group width.
    fn stages(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        for block in 0..self.depth {
            let linear = self.initial + self.slope * block as f64;
            let step = ((linear / self.initial).ln() / self.multiplier.ln()).round_ties_even();
            let exact = self.initial * self.multiplier.powf(step);
            let width = ((exact / QUANTUM).round_ties_even() * QUANTUM) as usize;
            match stages.last_mut() {
                Some((last, _, blocks)) if *last == width => *blocks += 1,
                _ => stages.push((width, 0, 1)),
            }
        }
        for (width, group_width, _) in &mut stages {
            *group_width = self.group_width.min(*width);
            *width = match self.torchvision_widths {
                true => divisible(*width as f64, *group_width),
                false => (*width as f64 / *group_width as f64).round_ties_even() as usize * *group_width,
            };
        }
        stages
    }

    fn block(&self, b: &mut GraphBuilder, name: &str, x: NodeId, stage: Stage, stride: usize) -> Result<NodeId> {
        let (width, group_width, _) = stage;
        let n = |part: &str| format!("{name}.{part}");
        let input = b.channels(x);
        let shortcut = if input != width || stride != 1 {
            let y = b.conv2d(&n("proj"), x, Conv2d::new(width, 1).stride(stride))?;
            b.batch_norm(&n("bn"), y, EPS)?
        } else {
            x
        };
        let mut y = b.conv2d(&n("f.a"), x, Conv2d::new(width, 1))?;
        y = b.batch_norm(&n("f.a_bn"), y, EPS)?;
        y = b.relu(&n("f.a_relu"), y)?;
        y = b.conv2d(&n("f.b"), y, Conv2d::new(width, 3).stride(stride).padding(1).groups(width / group_width))?;
        y = b.batch_norm(&n("f.b_bn"), y, EPS)?;
        y = b.relu(&n("f.b_relu"), y)?;
        if self.excitation {
            let squeezed = (SE_RATIO * input as f64).round_ties_even() as usize;
            let mut s = b.global_average_pool(&n("f.se.avg_pool"), y)?;
            s = b.conv2d(&n("f.se.f_ex.0"), s, Conv2d::new(squeezed, 1).bias())?;
            s = b.relu(&n("f.se.f_ex.1"), s)?;
            s = b.conv2d(&n("f.se.f_ex.2"), s, Conv2d::new(width, 1).bias())?;
            s = b.activation(&n("f.se.f_ex.3"), s, Activation::Sigmoid)?;
            y = b.mul(&n("f.se"), y, s)?;
        }
        y = b.conv2d(&n("f.c"), y, Conv2d::new(width, 1))?;
        y = b.batch_norm(&n("f.c_bn"), y, EPS)?;
        let sum = b.add(&n("add"), shortcut, y)?;
        b.relu(&n("relu"), sum)
    }
}

impl Architecture for RegNet {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: RegNetParams = params.parse()?;
        params.at_least_one(&[("classes", p.classes), ("in_channels", p.in_channels), ("image_size", p.image_size)])?;
        let mut b = GraphBuilder::new([p.in_channels, p.image_size, p.image_size]);
        let image = b.input();
        let mut x = b.unit("stem", |b| {
            let x = b.conv2d("stem.conv", image, Conv2d::new(STEM, 3).stride(2).padding(1))?;
            let x = b.batch_norm("stem.bn", x, EPS)?;
            b.relu("stem.relu", x)
        })?;
        for (i, stage) in self.stages().into_iter().enumerate() {
            for block in 0..stage.2 {
                let name = format!("s{}.b{}", i + 1, block + 1);
                let stride = if block == 0 { 2 } else { 1 };
                x = b.unit(&name, |b| self.block(b, &name, x, stage, stride))?;
            }
        }
        x = b.global_average_pool("avgpool", x)?;
        x = b.flatten("flatten", x)?;
        x = b.unit("head", |b| b.linear("head.fc", x, p.classes))?;
        b.finish(x)
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        let map = |other: fn(&str) -> Option<String>| {
            KeyMap::of_nodes(graph.nodes().filter_map(|(_, node)| Some((node.name.clone(), other(&node.name)?))))
        };
        Ok(vec![map(torchvision_name), map(timm_name)])
    }
}

/// Stage number, block number and the name within the block.
fn parts(name: &str) -> Option<(usize, usize, &str)> {
    let (stage, rest) = name.strip_prefix('s')?.split_once(".b")?;
    let (block, own) = rest.split_once('.')?;
    Some((stage.parse().ok()?, block.parse().ok()?, own))
}

fn torchvision_name(name: &str) -> Option<String> {
    let Some((stage, block, own)) = parts(name) else {
        let whole = match name {
            "stem.conv" => "stem.0",
            "stem.bn" => "stem.1",
            "head.fc" => "fc",
            _ => return None,
        };
        return Some(whole.into());
    };
    let own = match own {
        "proj" => "proj.0",
        "bn" => "proj.1",
        "f.a" => "f.a.0",
        "f.a_bn" => "f.a.1",
        "f.b" => "f.b.0",
        "f.b_bn" => "f.b.1",
        "f.c" => "f.c.0",
        "f.c_bn" => "f.c.1",
        "f.se.f_ex.0" => "f.se.fc1",
        "f.se.f_ex.2" => "f.se.fc2",
        _ => return None,
    };
    Some(format!("trunk_output.block{stage}.block{stage}-{}.{own}", block - 1))
}

fn timm_name(name: &str) -> Option<String> {
    let (stage, block, own) = parts(name)?;
    let own = match own {
        "proj" => "downsample.conv",
        "bn" => "downsample.bn",
        "f.a" => "conv1.conv",
        "f.a_bn" => "conv1.bn",
        "f.b" => "conv2.conv",
        "f.b_bn" => "conv2.bn",
        "f.c" => "conv3.conv",
        "f.c_bn" => "conv3.bn",
        "f.se.f_ex.0" => "se.fc1",
        "f.se.f_ex.2" => "se.fc2",
        _ => return None,
    };
    Some(format!("s{stage}.b{block}.{own}"))
}

/// Registers members of the family: name, timm's name, summary, slope, initial width, multiplier,
/// depth, group width, squeeze-and-excitation, torchvision's widths.
macro_rules! regnets {
    ($($name:literal, $alias:literal, $summary:literal, $slope:literal, $initial:literal, $multiplier:literal,
       $depth:literal, $group:literal, $excitation:literal, $torchvision:literal;)*) => {
        $(register_architecture! {
            name: $name, aliases: [$alias], summary: $summary,
            build: || Box::new(RegNet {
                slope: $slope, initial: $initial, multiplier: $multiplier, depth: $depth, group_width: $group,
                excitation: $excitation, torchvision_widths: $torchvision,
            })
        })*
    };
}

regnets! {
    "regnetx_200m", "regnetx_002", "RegNetX-200M", 36.44, 24.0, 2.49, 13, 8, false, false;
    "regnetx_400m", "regnetx_004", "RegNetX-400M", 24.48, 24.0, 2.54, 22, 16, false, false;
    "regnetx_400m_tv", "regnetx_004_tv", "RegNetX-400M with torchvision's widths", 24.48, 24.0, 2.54, 22, 16, false, true;
    "regnetx_600m", "regnetx_006", "RegNetX-600M", 36.97, 48.0, 2.24, 16, 24, false, false;
    "regnetx_800m", "regnetx_008", "RegNetX-800M", 35.73, 56.0, 2.28, 16, 16, false, false;
    "regnetx_1600m", "regnetx_016", "RegNetX-1.6G", 34.01, 80.0, 2.25, 18, 24, false, false;
    "regnetx_3200m", "regnetx_032", "RegNetX-3.2G", 26.31, 88.0, 2.25, 25, 48, false, false;
    "regnetx_4000m", "regnetx_040", "RegNetX-4.0G", 38.65, 96.0, 2.43, 23, 40, false, false;
    "regnetx_6400m", "regnetx_064", "RegNetX-6.4G", 60.83, 184.0, 2.07, 17, 56, false, false;
    "regnety_200m", "regnety_002", "RegNetY-200M", 36.44, 24.0, 2.49, 13, 8, true, false;
    "regnety_400m", "regnety_004", "RegNetY-400M", 27.89, 48.0, 2.09, 16, 8, true, false;
    "regnety_600m", "regnety_006", "RegNetY-600M", 32.54, 48.0, 2.32, 15, 16, true, false;
    "regnety_800m", "regnety_008", "RegNetY-800M", 38.84, 56.0, 2.40, 14, 16, true, false;
    "regnety_800m_tv", "regnety_008_tv", "RegNetY-800M with torchvision's widths", 38.84, 56.0, 2.40, 14, 16, true, true;
    "regnety_1600m", "regnety_016", "RegNetY-1.6G", 20.71, 48.0, 2.65, 27, 24, true, false;
    "regnety_3200m", "regnety_032", "RegNetY-3.2G", 42.63, 80.0, 2.66, 21, 24, true, false;
    "regnety_4000m", "regnety_040", "RegNetY-4.0G", 31.41, 96.0, 2.24, 22, 64, true, false;
    "regnety_6400m", "regnety_064", "RegNetY-6.4G", 33.22, 112.0, 2.27, 25, 72, true, false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_core::architecture::ArchitectureKind;
    use qdrop_core::registry::Registry;

    fn graph(name: &str) -> (Box<dyn Architecture>, Graph) {
        let registry = Registry::<ArchitectureKind>::collect().unwrap();
        let net = registry.get(name, "test").unwrap().build().unwrap();
        let graph = net.graph(&Params::none("p")).unwrap();
        (net, graph)
    }

    #[test]
    fn other_namings() {
        let (net, graph) = graph("regnety_400m");
        let maps = net.key_maps(&graph).unwrap();
        for (canonical, torchvision, timm) in [
            ("stem.bn.bias", "stem.1.bias", "stem.bn.bias"),
            ("s1.b1.proj.weight", "trunk_output.block1.block1-0.proj.0.weight", "s1.b1.downsample.conv.weight"),
            (
                "s2.b3.f.b_bn.running_mean",
                "trunk_output.block2.block2-2.f.b.1.running_mean",
                "s2.b3.conv2.bn.running_mean",
            ),
            ("s1.b1.f.se.f_ex.2.bias", "trunk_output.block1.block1-0.f.se.fc2.bias", "s1.b1.se.fc2.bias"),
            ("head.fc.weight", "fc.weight", "head.fc.weight"),
        ] {
            assert!(graph.parameter_shapes().iter().any(|(n, _)| n == canonical), "{canonical}");
            assert_eq!(maps[0].checkpoint_name(canonical), torchvision);
            assert_eq!(maps[1].checkpoint_name(canonical), timm);
        }
    }
}
