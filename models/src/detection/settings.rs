//! What a recipe says about a detector.

use crate::resnet::ResNet;
use qdrop_core::prelude::*;

/// Whose rules and checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// mmdetection 2.
    #[default]
    Mmdet,
    /// torchvision.
    Torchvision,
}

/// Parameters of all detectors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectorParams {
    /// Whose rules and checkpoints: mmdet or torchvision.
    pub variant: Variant,
    /// Number of classes without a background; for torchvision, one more than the largest number of a category.
    pub classes: Option<usize>,
    /// Height and width of an image of the usual size, from which costs are estimated: multiples of 32.
    pub image_size: [usize; 2],
    /// Epsilon of batch normalization. Those of torchvision's published detectors are 0, those of a training that began with its
    /// ImageNet weights 1e-5.
    pub norm_eps: Option<f64>,
    /// Channels of the first stage; the network of the papers has 64.
    pub width: usize,
    /// Channels of the pyramid; that of the papers has 256.
    pub pyramid: usize,
    /// Features of a box in the head of Faster R-CNN; that of the papers has 1024.
    pub hidden: usize,
}

impl Default for DetectorParams {
    fn default() -> Self {
        Self {
            variant: Variant::Mmdet,
            classes: None,
            image_size: [800, 1088],
            norm_eps: None,
            width: 64,
            pyramid: 256,
            hidden: 1024,
        }
    }
}

impl DetectorParams {
    /// Reads and checks them.
    pub fn of(params: &Params) -> Result<Self> {
        let this: Self = params.parse()?;
        let classes = this.classes.unwrap_or(1);
        let sizes = [("width", this.width), ("pyramid", this.pyramid), ("hidden", this.hidden), ("classes", classes)];
        params.at_least_one(&sizes)?;
        if this.image_size.iter().any(|size| *size == 0 || size % 32 != 0) {
            return Err(params.error("image_size", "a height and a width that are multiples of 32"));
        }
        Ok(this)
    }

    pub fn eps(&self) -> f64 {
        self.norm_eps.unwrap_or(match self.variant {
            Variant::Mmdet => 1e-5,
            Variant::Torchvision => 0.0,
        })
    }

    /// The number of labels, and how they are numbered.
    pub fn labels(&self) -> Labels {
        match self.variant {
            Variant::Mmdet => Labels::InOrder { classes: self.classes.unwrap_or(80) },
            Variant::Torchvision => Labels::ByCategory { below: self.classes.unwrap_or(91) },
        }
    }
}

/// The ResNets of detectors.
pub const R18: ResNet = ResNet { blocks: [2, 2, 2, 2], bottleneck: false, groups: 1, group_width: 64 };
pub const R50: ResNet = ResNet { blocks: [3, 4, 6, 3], bottleneck: true, ..R18 };
pub const R101: ResNet = ResNet { blocks: [3, 4, 23, 3], ..R50 };
