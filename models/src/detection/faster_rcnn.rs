//! Faster R-CNN (arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144).

use super::fpn::{Pyramid, Top};
use super::layers::{anchors, images, levels, parameter, rows, Images, Layers};
use super::names::{key_maps, HeadNames};
use super::settings::{DetectorParams, Variant, R101, R50};
use crate::resnet::ResNet;
use qdrop_core::kernels::boxes::{
    classify, propose, roi_align, AnchorRule, BBox, ClassifySettings, Detection, FeatureMap, ProposalSettings,
    RoiAlignSettings,
};
use qdrop_core::ops;
use qdrop_core::prelude::*;
use std::collections::HashMap;

/// Anchors of each cell of a level.
const ANCHORS: usize = 3;
/// Height and width of the features of a box.
const POOLED: usize = 7;

const NAMES: [HeadNames; 7] = [
    HeadNames { own: "rpn.conv", mmdet: "rpn_head.rpn_conv", torchvision: "rpn.head.conv.0.0", older: "rpn.head.conv" },
    HeadNames {
        own: "rpn.scores",
        mmdet: "rpn_head.rpn_cls",
        torchvision: "rpn.head.cls_logits",
        older: "rpn.head.cls_logits",
    },
    HeadNames {
        own: "rpn.deltas",
        mmdet: "rpn_head.rpn_reg",
        torchvision: "rpn.head.bbox_pred",
        older: "rpn.head.bbox_pred",
    },
    HeadNames {
        own: "boxes.layer1",
        mmdet: "roi_head.bbox_head.shared_fcs.0",
        torchvision: "roi_heads.box_head.fc6",
        older: "roi_heads.box_head.fc6",
    },
    HeadNames {
        own: "boxes.layer2",
        mmdet: "roi_head.bbox_head.shared_fcs.1",
        torchvision: "roi_heads.box_head.fc7",
        older: "roi_heads.box_head.fc7",
    },
    HeadNames {
        own: "boxes.classes",
        mmdet: "roi_head.bbox_head.fc_cls",
        torchvision: "roi_heads.box_predictor.cls_score",
        older: "roi_heads.box_predictor.cls_score",
    },
    HeadNames {
        own: "boxes.deltas",
        mmdet: "roi_head.bbox_head.fc_reg",
        torchvision: "roi_heads.box_predictor.bbox_pred",
        older: "roi_heads.box_predictor.bbox_pred",
    },
];

struct FasterRcnn {
    resnet: ResNet,
}

impl Architecture for FasterRcnn {
    fn graph(&self, params: &Params) -> Result<Graph> {
        Pyramid { resnet: self.resnet, first: 0, top: Top::None }.graph(&DetectorParams::of(params)?)
    }

    fn head(&self, params: &Params) -> Result<Option<Box<dyn Head>>> {
        Ok(Some(Box::new(FasterRcnnHead::new(&DetectorParams::of(params)?)?)))
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        Ok(key_maps(graph, &NAMES))
    }
}

/// The region proposal network, and the layers that classify what it proposes.
struct FasterRcnnHead {
    /// The region proposal network of one level.
    proposing: Layers,
    /// Names and shapes of the layers that classify.
    classifying: Vec<(String, Vec<usize>)>,
    labels: Labels,
    /// Outputs of the classifier: the classes and the background.
    classes: usize,
    anchors: Vec<AnchorRule>,
    proposals: ProposalSettings,
    pooling: RoiAlignSettings,
    selection: ClassifySettings,
}

impl FasterRcnnHead {
    fn new(p: &DetectorParams) -> Result<Self> {
        let proposing = Layers::new(p.pyramid, |b, x| {
            let x = b.conv2d("rpn.conv", x, Conv2d::new(p.pyramid, 3).padding(1).bias())?;
            let x = b.relu("rpn.relu", x)?;
            let scores = b.conv2d("rpn.scores", x, Conv2d::new(ANCHORS, 1).bias())?;
            Ok([scores, b.conv2d("rpn.deltas", x, Conv2d::new(4 * ANCHORS, 1).bias())?])
        })?;
        let labels = p.labels();
        // mmdetection's background is one more class, without deltas; torchvision's is label 0.
        let (classes, with_deltas) = match p.variant {
            Variant::Mmdet => (labels.count() + 1, labels.count()),
            Variant::Torchvision => (labels.count(), labels.count()),
        };
        let sizes = [
            ("boxes.layer1", p.hidden, p.pyramid * POOLED * POOLED),
            ("boxes.layer2", p.hidden, p.hidden),
            ("boxes.classes", classes, p.hidden),
            ("boxes.deltas", 4 * with_deltas, p.hidden),
        ];
        let classifying = sizes.into_iter().flat_map(|(name, out, input)| {
            [(format!("{name}.weight"), vec![out, input]), (format!("{name}.bias"), vec![out])]
        });
        let (anchors, proposals, pooling, selection) = match p.variant {
            Variant::Mmdet => (
                AnchorRule::mmdet_rpn(),
                ProposalSettings::mmdet(),
                RoiAlignSettings::mmdet(),
                ClassifySettings::mmdet(),
            ),
            Variant::Torchvision => (
                AnchorRule::torchvision_rpn(),
                ProposalSettings::torchvision(),
                RoiAlignSettings::torchvision(),
                ClassifySettings::torchvision(),
            ),
        };
        let classifying = classifying.collect();
        Ok(Self { proposing, classifying, labels, classes, anchors, proposals, pooling, selection })
    }

    /// Scores (boxes, classes) and deltas of boxes, from their features (boxes, C * 7 * 7).
    fn classify(&self, features: Tensor, parameters: &HashMap<String, Tensor>) -> Result<[Vec<f32>; 2]> {
        let linear = |x: &Tensor, layer: &str| -> Result<Tensor> {
            let get = |part: &str| parameter(parameters, &format!("{layer}.{part}"));
            Ok(ops::linear(x, get("weight")?, Some(get("bias")?))?)
        };
        let x = linear(&features, "boxes.layer1")?.relu()?;
        let x = linear(&x, "boxes.layer2")?.relu()?;
        let values = |layer: &str| -> Result<Vec<f32>> { Ok(linear(&x, layer)?.flatten_all()?.to_vec1()?) };
        Ok([values("boxes.classes")?, values("boxes.deltas")?])
    }
}

impl Head for FasterRcnnHead {
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.proposing.parameters().into_iter().chain(self.classifying.iter().cloned()).collect()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::Objects { most: self.selection.selection.limit, labels: self.labels }]
    }

    fn forward(
        &self,
        features: &[Tensor],
        parameters: &HashMap<String, Tensor>,
        sizes: &[ImageSize],
    ) -> Result<Vec<Tensor>> {
        let Some(coarsest) = features.last() else { return Err(Error::message("a head without features")) };
        // Another level for the proposals alone: every second row and column of the last one.
        let halved = coarsest.max_pool2d_with_stride(1, 2)?;
        let pyramid: Vec<Tensor> = features.iter().cloned().chain([halved]).collect();
        let maps = self.proposing.run(parameters, &pyramid)?;
        let features = features.iter().map(images).collect::<Result<Vec<_>>>()?;
        let mut found = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            let anchors = anchors(&self.anchors, &maps, *size)?;
            let levels = levels(&anchors, 1, &maps, i)?;
            let proposed = propose(&levels, size.resized, &self.proposals).map_err(Error::message)?;
            found.push(self.objects(&proposed.boxes, &features, (i, *size), parameters)?);
        }
        rows(found, self.selection.selection.limit)
    }
}

impl FasterRcnnHead {
    /// What is found in the proposals of image `i`.
    fn objects(
        &self,
        proposals: &[BBox],
        features: &[Images],
        (i, size): (usize, ImageSize),
        parameters: &HashMap<String, Tensor>,
    ) -> Result<Vec<Detection>> {
        if proposals.is_empty() {
            return Ok(Vec::new());
        }
        // The strides of the pyramid's levels, whatever the padding.
        let maps = features.iter().enumerate().map(|(level, f)| {
            let [height, width] = f.size;
            FeatureMap::new(f.image(i), [f.channels, height, width], 4 << level)
        });
        let maps = maps.collect::<Result<Vec<_>, _>>().map_err(Error::message)?;
        let pooled = roi_align(&maps, proposals, &self.pooling).map_err(Error::message)?;
        let each = pooled.len() / proposals.len();
        let device = parameters.values().next().map_or(Device::Cpu, |p| p.device().clone());
        let pooled = Tensor::from_vec(pooled, (proposals.len(), each), &device)?;
        let [logits, deltas] = self.classify(pooled, parameters)?;
        classify(proposals, self.classes, &logits, &deltas, size.into(), &self.selection).map_err(Error::message)
    }
}

register_architecture! {
    name: "faster_rcnn_r50_fpn", aliases: ["faster_rcnn_r50", "fasterrcnn_resnet50_fpn"],
    summary: "Faster R-CNN with ResNet-50 and a feature pyramid, of mmdetection or torchvision",
    build: || Box::new(FasterRcnn { resnet: R50 })
}

register_architecture! {
    name: "faster_rcnn_r101_fpn", aliases: ["faster_rcnn_r101"],
    summary: "Faster R-CNN with ResNet-101 and a feature pyramid, of mmdetection or torchvision",
    build: || Box::new(FasterRcnn { resnet: R101 })
}
