//! The convolutions of a head, on the kernels of forward passes.

use qdrop_core::inference::Inference;
use qdrop_core::kernels::boxes::{AnchorRule, Detection, HeadLevel, LevelAnchors};
use qdrop_core::prelude::*;
use std::collections::HashMap;

/// Convolutions that read the images of each level of a pyramid, and compute two values.
pub struct Layers {
    graph: Graph,
}

/// Images (N, C, H, W) on the host.
pub struct Images {
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    values: Vec<f32>,
}

impl Images {
    /// One image (C, H, W).
    pub fn image(&self, index: usize) -> &[f32] {
        let each = self.channels * self.size[0] * self.size[1];
        self.values.get(index * each..(index + 1) * each).unwrap_or_default()
    }
}

/// The values of a tensor (N, C, H, W).
pub fn images(x: &Tensor) -> Result<Images> {
    let (_, channels, height, width) = x.dims4()?;
    Ok(Images { channels, size: [height, width], values: x.flatten_all()?.to_vec1()? })
}

/// A parameter of a head.
pub fn parameter<'a>(parameters: &'a HashMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    parameters.get(name).ok_or_else(|| Error::message(format!("the head has no parameter '{name}'")))
}

/// The anchors of each level, for an image of this size.
pub fn anchors(rules: &[AnchorRule], maps: &[[Images; 2]], size: ImageSize) -> Result<Vec<LevelAnchors>> {
    let level = |(rule, [scores, _]): (&AnchorRule, &[Images; 2])| rule.level(scores.size, size.tensor);
    rules.iter().zip(maps).map(|level_of| level(level_of).map_err(Error::message)).collect()
}

/// What the maps, scores and deltas, say of the anchors of each level in one image.
pub fn levels<'a>(
    anchors: &'a [LevelAnchors],
    classes: usize,
    maps: &'a [[Images; 2]],
    image: usize,
) -> Result<Vec<HeadLevel<'a>>> {
    let level = |(anchors, [scores, deltas]): (&'a LevelAnchors, &'a [Images; 2])| {
        HeadLevel::new(anchors, classes, scores.image(image), deltas.image(image)).map_err(Error::message)
    };
    anchors.iter().zip(maps).map(level).collect()
}

impl Layers {
    /// `body` adds the layers that read images of so many channels.
    pub fn new(channels: usize, body: impl FnOnce(&mut GraphBuilder, NodeId) -> Result<[NodeId; 2]>) -> Result<Self> {
        let mut b = GraphBuilder::new([channels, 32, 32]);
        let input = b.input();
        let outputs = body(&mut b, input)?;
        Ok(Self { graph: b.finish_with_outputs(&outputs)?.with_any_size(true) })
    }

    /// Names and shapes of all parameters.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.graph.parameter_shapes()
    }

    /// Both values for the images of each level.
    pub fn run(&self, parameters: &HashMap<String, Tensor>, levels: &[Tensor]) -> Result<Vec<[Images; 2]>> {
        let device = levels.first().map_or(Device::Cpu, |level| level.device().clone());
        let own = self.graph.parameter_shapes().into_iter().map(|(name, _)| {
            let value = parameter(parameters, &name)?.clone();
            Ok((name, value))
        });
        let model = QuantModel::new(self.graph.clone(), own.collect::<Result<_>>()?, device);
        let mut inference = Inference::of_network(&model, Precision::Float)?;
        let of_level = |level: &Tensor| match &inference.forward(level)?[..] {
            [first, second] => Ok([images(first)?, images(second)?]),
            other => Err(Error::message(format!("{} values of a head's layers", other.len()))),
        };
        levels.iter().map(of_level).collect()
    }
}

/// What was found in each image, as the rows of one output.
pub fn rows(found: Vec<Vec<Detection>>, most: usize) -> Result<Vec<Tensor>> {
    let count = found.len();
    let mut values = Vec::with_capacity(count * most * OBJECT_VALUES);
    for image in found {
        let used = image.iter().take(most).flat_map(|d| {
            let [x1, y1, x2, y2] = d.bbox;
            [x1, y1, x2, y2, d.score, d.label as f32]
        });
        values.extend(used);
        let unused = most.saturating_sub(image.len());
        values.extend((0..unused).flat_map(|_| [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]));
    }
    Ok(vec![Tensor::from_vec(values, (count, most, OBJECT_VALUES), &Device::Cpu)?])
}
