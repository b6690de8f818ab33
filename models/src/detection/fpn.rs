//! The feature pyramid: what the graph of a detector is.

use super::settings::{DetectorParams, Variant};
use crate::resnet::{Body, ResNet, Stem};
use qdrop_core::prelude::*;

/// The levels above those that the ResNet's stages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Top {
    None,
    /// Two more by convolutions (RetinaNet, arXiv 1708.02002).
    Convolutions,
}

/// A pyramid over the ResNet's stages from `first` on (0 is the first one).
#[derive(Debug, Clone, Copy)]
pub struct Pyramid {
    pub resnet: ResNet,
    pub first: usize,
    pub top: Top,
}

impl Pyramid {
    /// The graph of ResNet and pyramid, whose outputs are the levels from the finest on.
    ///
    /// A lateral convolution adapts the channels of a stage; the coarser level is enlarged and added; an output convolution
    /// follows. Published quantized detectors quantize what laterals compute, and neither sums nor levels.
    pub fn graph(self, p: &DetectorParams) -> Result<Graph> {
        let mut b = GraphBuilder::new([3, p.image_size[0], p.image_size[1]]);
        let image = b.input();
        let body = Body { width: p.width, stem: Stem::Imagenet, eps: p.eps() };
        let stages = self.resnet.stages(&mut b, image, body)?;
        let read = &stages[self.first..];
        let conv = |kernel: usize| Conv2d::new(p.pyramid, kernel).padding(kernel / 2).bias();
        let mut laterals = Vec::new();
        for (i, stage) in read.iter().enumerate() {
            let name = format!("lateral.{i}");
            let lateral = b.unit(&name, |b| b.conv2d(&name, *stage, conv(1)))?;
            b.place(lateral, Placement::Always);
            laterals.push(lateral);
        }
        let mut merged = laterals.clone();
        for i in (0..merged.len() - 1).rev() {
            let enlarged = b.upsample_nearest(&format!("upsample.{i}"), merged[i + 1], [2, 2])?;
            merged[i] = b.add(&format!("merge.{i}"), laterals[i], enlarged)?;
            b.place(merged[i], Placement::Never);
        }
        let mut levels = Vec::new();
        for (i, value) in merged.iter().enumerate() {
            let name = format!("output.{i}");
            levels.push(b.unit(&name, |b| b.conv2d(&name, *value, conv(3)))?);
        }
        if self.top == Top::Convolutions {
            let from = match p.variant {
                Variant::Mmdet => stages[3],
                Variant::Torchvision => levels[levels.len() - 1],
            };
            let p6 = b.unit("p6", |b| b.conv2d("p6", from, conv(3).stride(2)))?;
            let p7 = b.unit("p7", |b| {
                let activated = match p.variant {
                    Variant::Mmdet => p6,
                    Variant::Torchvision => b.relu("p6_relu", p6)?,
                };
                b.conv2d("p7", activated, conv(3).stride(2))
            })?;
            levels.extend([p6, p7]);
        }
        Ok(b.finish_with_outputs(&levels)?.with_any_size(true))
    }
}
