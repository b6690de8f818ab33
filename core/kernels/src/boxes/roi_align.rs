//! RoIAlign: the features of boxes, resampled to one size (Mask R-CNN, arXiv 1703.06870, section 3).

use super::error::{check_len, check_positive, BoxesError};
use super::geometry::{area, BBox};
use rayon::prelude::*;
use std::ops::Range;

/// Boxes with a longer side than this, in cells of the map, are refused: the number of adaptive samples grows with it.
const MAX_SIDE: f32 = 65_536.0;

/// One level of the pyramid of an image: features of shape (channels, height, width).
#[derive(Debug, Clone, Copy)]
pub struct FeatureMap<'a> {
    values: &'a [f32],
    size: [usize; 3],
    scale: f32,
}

impl<'a> FeatureMap<'a> {
    /// A map of `size` (channels, height, width), each of whose cells stands for `stride` pixels of the image.
    ///
    /// # Errors
    /// The slice does not have this size, or a size or the stride is 0.
    pub fn new(values: &'a [f32], size: [usize; 3], stride: usize) -> Result<Self, BoxesError> {
        check_positive("every size of a feature map", size.into_iter().min().unwrap_or(0))?;
        check_positive("the stride of a feature map", stride)?;
        check_len("features of a map", values.len(), &size)?;
        Ok(Self { values, size, scale: 1.0 / stride as f32 })
    }
}

/// Which level of the pyramid a box reads, by its size (Feature Pyramid Networks, arXiv 1612.03144, equation 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelRule {
    /// mmdetection's: `floor(log2(sqrt(area) / 56 + 1e-6))`.
    Mmdet,
    /// torchvision's, for a first level of stride 4: `floor(4 + log2(sqrt(area) / 224) + 1e-6) - 2`.
    Torchvision,
}

impl LevelRule {
    /// The level of a box, from 0 to `levels - 1`.
    pub fn level(self, bbox: BBox, levels: usize) -> usize {
        let size = area(bbox).sqrt();
        let level = match self {
            Self::Mmdet => (size / 56.0 + 1e-6).log2().floor(),
            Self::Torchvision => (4.0 + (size / 224.0).log2() + 1e-6).floor() - 2.0,
        };
        // The cast makes 0 of what is negative or not a number.
        (level as usize).min(levels.saturating_sub(1))
    }
}

/// How many points of each part of a box are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// This number along each axis.
    Fixed(usize),
    /// One for each cell of the map that the part covers along an axis, rounded up.
    Adaptive,
}

/// How boxes are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoiAlignSettings {
    /// Height and width of the result.
    pub size: usize,
    /// Take a cell's value to be at its centre, not at its corner. If not, boxes are at least one cell wide and high.
    pub aligned: bool,
    /// Samples of each part.
    pub sampling: Sampling,
    /// Which level a box reads.
    pub level: LevelRule,
}

impl RoiAlignSettings {
    /// mmdetection's: 7 x 7, aligned, adaptive.
    pub fn mmdet() -> Self {
        Self { size: 7, aligned: true, sampling: Sampling::Adaptive, level: LevelRule::Mmdet }
    }

    /// torchvision's: 7 x 7, not aligned, two samples along each axis.
    pub fn torchvision() -> Self {
        Self { size: 7, aligned: false, sampling: Sampling::Fixed(2), level: LevelRule::Torchvision }
    }
}

/// The features of boxes of one image, of shape (boxes, channels, size, size).
///
/// `maps` are the levels of the pyramid, finest first, all with the same number of channels. The box is divided into
/// size x size parts; each result is the mean of samples inside its part, interpolated between the four cells around.
/// Samples farther than one cell outside of the map are 0.
///
/// # Errors
/// There is no map, the numbers of channels differ, the size or the number of samples is 0, or a box is not finite or
/// has a side of more than 65,536 cells.
pub fn roi_align(maps: &[FeatureMap<'_>], boxes: &[BBox], settings: &RoiAlignSettings) -> Result<Vec<f32>, BoxesError> {
    let Some(channels) = maps.first().map(|map| map.size[0]) else {
        return Err(BoxesError::Zero("the number of feature maps"));
    };
    check_positive("the size of pooled features", settings.size)?;
    if let Sampling::Fixed(samples) = settings.sampling {
        check_positive("the number of samples", samples)?;
    }
    for map in maps {
        check_len("channels of a feature map", map.size[0], &[channels])?;
    }
    let grids = boxes.iter().enumerate().map(|(index, bbox)| {
        let level = settings.level.level(*bbox, maps.len());
        Grid::new(&maps[level], *bbox, settings).map(|grid| (level, grid)).ok_or(BoxesError::Box { index })
    });
    let grids: Vec<(usize, Grid)> = grids.collect::<Result<_, _>>()?;
    let per_channel = settings.size * settings.size;
    let mut out = vec![0.0; boxes.len() * channels * per_channel];
    out.par_chunks_mut(channels * per_channel)
        .zip(&grids)
        .for_each(|(out, (level, grid))| grid.pool(&maps[*level], out));
    Ok(out)
}

/// Where a box is sampled. Interpolation, mean and the zeros outside are products of one factor for each axis, so a
/// result is a weighted sum over rows of weighted sums over columns.
struct Grid {
    rows: Axis,
    columns: Axis,
    /// Samples of each part, at least 1.
    count: f32,
}

impl Grid {
    /// None if the box is not finite or too large.
    fn new(map: &FeatureMap<'_>, bbox: BBox, settings: &RoiAlignSettings) -> Option<Self> {
        let offset = if settings.aligned { 0.5 } else { 0.0 };
        let [x1, y1, x2, y2] = bbox.map(|edge| edge * map.scale - offset);
        let least = if settings.aligned { f32::NEG_INFINITY } else { 1.0 };
        let (width, height) = ((x2 - x1).max(least), (y2 - y1).max(least));
        let fits = |start: f32, size: f32| start.is_finite() && size.abs() <= MAX_SIDE;
        if !fits(x1, width) || !fits(y1, height) {
            return None;
        }
        let rows = Axis::new(y1, height, map.size[1], settings);
        let columns = Axis::new(x1, width, map.size[2], settings);
        let count = rows.samples.saturating_mul(columns.samples).max(1) as f32;
        Some(Self { rows, columns, count })
    }

    /// Writes the (channels, size, size) features of the box.
    fn pool(&self, map: &FeatureMap<'_>, out: &mut [f32]) {
        let [_, height, width] = map.size;
        let (rows, columns) = (&self.rows, &self.columns);
        let mut line = vec![0.0; columns.span.len()];
        let planes = map.values.chunks_exact(height * width);
        for (plane, out) in planes.zip(out.chunks_exact_mut(rows.parts.len() * columns.parts.len())) {
            for (part, out) in rows.parts.iter().zip(out.chunks_exact_mut(columns.parts.len())) {
                line.fill(0.0);
                for (y, weight) in &rows.entries[part.clone()] {
                    let row = &plane[y * width..][columns.span.clone()];
                    line.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
                }
                for (part, out) in columns.parts.iter().zip(out) {
                    let entries = &columns.entries[part.clone()];
                    let sum: f32 = entries.iter().map(|(x, weight)| weight * line[x - columns.span.start]).sum();
                    *out = sum / self.count;
                }
            }
        }
    }
}

/// Weights of the cells along one axis.
struct Axis {
    /// Cells and their weights, part by part.
    entries: Vec<(usize, f32)>,
    /// Where the entries of each part are.
    parts: Vec<Range<usize>>,
    /// Samples of each part, those outside of the map included.
    samples: usize,
    /// Cells that are read.
    span: Range<usize>,
}

impl Axis {
    /// The axis of a box from `start`, `size` cells long, on a map of `cells`.
    fn new(start: f32, size: f32, cells: usize, settings: &RoiAlignSettings) -> Self {
        let part = size / settings.size as f32;
        let samples = match settings.sampling {
            Sampling::Fixed(samples) => samples,
            Sampling::Adaptive => part.ceil() as usize,
        };
        let (mut entries, mut parts) = (Vec::new(), Vec::new());
        for p in 0..settings.size {
            let first = entries.len();
            for k in 0..samples {
                let position = start + p as f32 * part + (k as f32 + 0.5) * part / samples as f32;
                for (cell, weight) in around(position, cells).into_iter().flatten() {
                    add(&mut entries, first, cell, weight);
                }
            }
            parts.push(first..entries.len());
        }
        let low = entries.iter().map(|(cell, _)| *cell).min().unwrap_or(0);
        let high = entries.iter().map(|(cell, _)| cell + 1).max().unwrap_or(0);
        Self { entries, parts, samples, span: low..high }
    }
}

/// The two cells that a sample is interpolated from, with their weights. None far outside of the map, and one at its
/// last cell.
fn around(position: f32, cells: usize) -> [Option<(usize, f32)>; 2] {
    if !(-1.0..=cells as f32).contains(&position) {
        return [None, None];
    }
    let position = position.max(0.0);
    let low = position as usize;
    if low + 1 >= cells {
        return [Some((cells - 1, 1.0)), None];
    }
    let high = position - low as f32;
    [Some((low, 1.0 - high)), Some((low + 1, high))]
}

/// Adds a weight to the entries from `first` on. Samples advance, so a cell that is there is one of the last two.
fn add(entries: &mut Vec<(usize, f32)>, first: usize, cell: usize, weight: f32) {
    let from = first.max(entries.len().saturating_sub(2));
    match entries[from..].iter_mut().find(|(known, _)| *known == cell) {
        Some((_, sum)) => *sum += weight,
        None => entries.push((cell, weight)),
    }
}
