//! What a head says about one level of the pyramid.

use super::error::{check_len, check_positive};
use super::{BBox, BoxesError, LevelAnchors};

/// A head's outputs for one level of one image: logits of shape (anchors * classes, H, W) and deltas of shape
/// (anchors * 4, H, W), with the anchors that they are about.
#[derive(Debug, Clone, Copy)]
pub struct HeadLevel<'a> {
    anchors: &'a LevelAnchors,
    logits: &'a [f32],
    deltas: &'a [f32],
    classes: usize,
}

impl<'a> HeadLevel<'a> {
    /// Checks that the slices have the sizes of the anchors' map.
    ///
    /// # Errors
    /// They do not, or there is no class.
    pub fn new(
        anchors: &'a LevelAnchors,
        classes: usize,
        logits: &'a [f32],
        deltas: &'a [f32],
    ) -> Result<Self, BoxesError> {
        check_positive("the number of classes", classes)?;
        check_len("logits of a head", logits.len(), &[anchors.count(), classes])?;
        check_len("deltas of a head", deltas.len(), &[anchors.count(), 4])?;
        Ok(Self { anchors, logits, deltas, classes })
    }

    /// Classes of each anchor; at least 1.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Where the anchors are.
    pub fn anchors(&self) -> &'a LevelAnchors {
        self.anchors
    }

    /// The logits, (anchors * classes, H, W).
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// Place in the list (y, x, anchor, class) of the logit of a channel and a cell.
    pub fn place(&self, channel: usize, cell: usize) -> usize {
        cell * self.anchors.per_cell() * self.classes + channel
    }

    /// The reference box and the deltas of an anchor of the list (y, x, anchor).
    pub(super) fn anchor(&self, index: usize) -> (BBox, [f32; 4]) {
        let (cell, anchor) = (index / self.anchors.per_cell(), index % self.anchors.per_cell());
        let deltas = [0, 1, 2, 3].map(|j| self.deltas[(anchor * 4 + j) * self.anchors.cells() + cell]);
        (self.anchors.get(index), deltas)
    }
}
