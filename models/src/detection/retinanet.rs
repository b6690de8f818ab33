//! RetinaNet (arXiv 1708.02002): a head of one stage, which all levels of the pyramid share.

use super::fpn::{Pyramid, Top};
use super::layers::{anchors, levels, rows, Layers};
use super::names::{key_maps, HeadNames};
use super::settings::{DetectorParams, Variant, R101, R18, R50};
use crate::resnet::ResNet;
use qdrop_core::kernels::boxes::{detect_dense, AnchorRule, DenseSettings};
use qdrop_core::prelude::*;
use std::collections::HashMap;

/// Anchors of each cell of a level.
const ANCHORS: usize = 9;
/// Convolutions of a tower.
const DEPTH: usize = 4;

const NAMES: [HeadNames; 10] = [
    HeadNames {
        own: "classes.0",
        mmdet: "bbox_head.cls_convs.0.conv",
        torchvision: "head.classification_head.conv.0.0",
        older: "head.classification_head.conv.0",
    },
    HeadNames {
        own: "classes.1",
        mmdet: "bbox_head.cls_convs.1.conv",
        torchvision: "head.classification_head.conv.1.0",
        older: "head.classification_head.conv.2",
    },
    HeadNames {
        own: "classes.2",
        mmdet: "bbox_head.cls_convs.2.conv",
        torchvision: "head.classification_head.conv.2.0",
        older: "head.classification_head.conv.4",
    },
    HeadNames {
        own: "classes.3",
        mmdet: "bbox_head.cls_convs.3.conv",
        torchvision: "head.classification_head.conv.3.0",
        older: "head.classification_head.conv.6",
    },
    HeadNames {
        own: "classes.scores",
        mmdet: "bbox_head.retina_cls",
        torchvision: "head.classification_head.cls_logits",
        older: "head.classification_head.cls_logits",
    },
    HeadNames {
        own: "boxes.0",
        mmdet: "bbox_head.reg_convs.0.conv",
        torchvision: "head.regression_head.conv.0.0",
        older: "head.regression_head.conv.0",
    },
    HeadNames {
        own: "boxes.1",
        mmdet: "bbox_head.reg_convs.1.conv",
        torchvision: "head.regression_head.conv.1.0",
        older: "head.regression_head.conv.2",
    },
    HeadNames {
        own: "boxes.2",
        mmdet: "bbox_head.reg_convs.2.conv",
        torchvision: "head.regression_head.conv.2.0",
        older: "head.regression_head.conv.4",
    },
    HeadNames {
        own: "boxes.3",
        mmdet: "bbox_head.reg_convs.3.conv",
        torchvision: "head.regression_head.conv.3.0",
        older: "head.regression_head.conv.6",
    },
    HeadNames {
        own: "boxes.deltas",
        mmdet: "bbox_head.retina_reg",
        torchvision: "head.regression_head.bbox_reg",
        older: "head.regression_head.bbox_reg",
    },
];

struct RetinaNet {
    resnet: ResNet,
}

impl Architecture for RetinaNet {
    fn graph(&self, params: &Params) -> Result<Graph> {
        Pyramid { resnet: self.resnet, first: 1, top: Top::Convolutions }.graph(&DetectorParams::of(params)?)
    }

    fn head(&self, params: &Params) -> Result<Option<Box<dyn Head>>> {
        Ok(Some(Box::new(RetinaHead::new(&DetectorParams::of(params)?)?)))
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        Ok(key_maps(graph, &NAMES))
    }
}

/// Two towers of convolutions: for classes, and for boxes.
struct RetinaHead {
    towers: Layers,
    labels: Labels,
    anchors: Vec<AnchorRule>,
    settings: DenseSettings,
}

impl RetinaHead {
    fn new(p: &DetectorParams) -> Result<Self> {
        let labels = p.labels();
        let towers = Layers::new(p.pyramid, |b, input| {
            let mut tower = |name: &str, last: &str, channels: usize| {
                let mut x = input;
                for i in 0..DEPTH {
                    x = b.conv2d(&format!("{name}.{i}"), x, Conv2d::new(p.pyramid, 3).padding(1).bias())?;
                    x = b.relu(&format!("{name}.relu{i}"), x)?;
                }
                b.conv2d(&format!("{name}.{last}"), x, Conv2d::new(channels, 3).padding(1).bias())
            };
            Ok([tower("classes", "scores", ANCHORS * labels.count())?, tower("boxes", "deltas", ANCHORS * 4)?])
        })?;
        let (anchors, settings) = match p.variant {
            Variant::Mmdet => (AnchorRule::mmdet_retina(), DenseSettings::mmdet()),
            Variant::Torchvision => (AnchorRule::torchvision_retina(), DenseSettings::torchvision()),
        };
        Ok(Self { towers, labels, anchors, settings })
    }
}

impl Head for RetinaHead {
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.towers.parameters()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::Objects { most: self.settings.selection.limit, labels: self.labels }]
    }

    fn forward(
        &self,
        features: &[Tensor],
        parameters: &HashMap<String, Tensor>,
        sizes: &[ImageSize],
    ) -> Result<Vec<Tensor>> {
        let maps = self.towers.run(parameters, features)?;
        let mut found = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            let anchors = anchors(&self.anchors, &maps, *size)?;
            let levels = levels(&anchors, self.labels.count(), &maps, i)?;
            found.push(detect_dense(&levels, (*size).into(), &self.settings).map_err(Error::message)?);
        }
        rows(found, self.settings.selection.limit)
    }
}

register_architecture! {
    name: "retinanet_r18_fpn", aliases: ["retinanet_r18"],
    summary: "RetinaNet with ResNet-18 and a feature pyramid, of mmdetection",
    build: || Box::new(RetinaNet { resnet: R18 })
}

register_architecture! {
    name: "retinanet_r50_fpn", aliases: ["retinanet_r50", "retinanet_resnet50_fpn"],
    summary: "RetinaNet with ResNet-50 and a feature pyramid, of mmdetection or torchvision",
    build: || Box::new(RetinaNet { resnet: R50 })
}

register_architecture! {
    name: "retinanet_r101_fpn", aliases: ["retinanet_r101"],
    summary: "RetinaNet with ResNet-101 and a feature pyramid, of mmdetection or torchvision",
    build: || Box::new(RetinaNet { resnet: R101 })
}
