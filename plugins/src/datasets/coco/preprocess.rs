//! From a picture to the tensor that a detector takes.

use super::super::pixels::{self, limit, Rgb};
use super::{bilinear, resize};
use qdrop_core::prelude::*;

/// Whose preprocessing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Bytes are resized as OpenCV does, then normalized (mmdetection's pipelines `Resize`, `RandomFlip`, `Normalize`, `Pad`).
    Mmdet,
    /// Values in [0, 1] are normalized, then resized as floats (torchvision's `GeneralizedRCNNTransform`).
    Torchvision,
}

/// How pictures are preprocessed.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Whose it is.
    pub style: Style,
    /// The shorter side in pixels, where the longer one does not forbid it.
    pub short: usize,
    /// The longest that the longer side may be.
    pub long: usize,
    /// Sides of the tensor are multiples of it.
    pub size_divisor: usize,
    /// Mean of each channel, in the network's order: for pixels from 0 to 255 or, for torchvision's, from 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of each channel.
    pub std: [f64; 3],
    /// Whether the network takes blue first.
    pub bgr: bool,
}

impl Preprocessing {
    /// Height and width of a picture of this height and width after it is resized.
    ///
    /// # Errors
    /// A side would have no pixel, or there would be too many.
    pub fn resized(&self, size: [usize; 2]) -> Result<[usize; 2], String> {
        let [longer, shorter] = [size[0].max(size[1]), size[0].min(size[1])];
        limit::size(longer as u64, shorter as u64)?;
        let scale = (self.long as f64 / longer as f64).min(self.short as f64 / shorter as f64);
        let resized = size.map(|side| match self.style {
            Style::Mmdet => (side as f64 * scale + 0.5) as usize,
            Style::Torchvision => (side as f64 * scale) as usize,
        });
        limit::size(resized[1] as u64, resized[0] as u64).map_err(|e| format!("resized, {e}"))?;
        Ok(resized)
    }

    /// The tensor (3, H, W) of a picture and its sizes; `flip` mirrors left and right.
    ///
    /// # Errors
    /// Those of [`resized`](Self::resized).
    pub fn apply(&self, image: &Rgb, flip: bool) -> Result<(Vec<f32>, ImageSize), String> {
        let original = [image.height, image.width];
        let resized = self.resized(original)?;
        let tensor = resized.map(|side| side.next_multiple_of(self.size_divisor));
        let planes = match self.style {
            Style::Mmdet => self.normalize(&resize::resize(image, resized[1], resized[0]), flip),
            Style::Torchvision => {
                let [mean, std] = [self.mean, self.std].map(|values| values.map(|value| value as f32));
                bilinear::resize(&pixels::normalize(image, mean, std, flip), original, resized)
            }
        };
        Ok((padded(&planes, resized, tensor), ImageSize { original, resized, tensor }))
    }

    /// Normalizes bytes as mmcv's `imnormalize` does: OpenCV subtracts in single precision, and multiplies with the reciprocal in
    /// double precision.
    fn normalize(&self, image: &Rgb, flip: bool) -> Vec<f32> {
        let mut out = Vec::with_capacity(image.data.len());
        for c in 0..3 {
            let (mean, factor) = (self.mean[c] as f32, 1.0 / self.std[c]);
            let values: [f32; 256] = std::array::from_fn(|byte| (f64::from(byte as f32 - mean) * factor) as f32);
            let source = if self.bgr { 2 - c } else { c };
            for row in image.data.chunks_exact(image.width * 3) {
                let pixels = row.chunks_exact(3).map(|pixel| values[usize::from(pixel[source])]);
                if flip {
                    out.extend(pixels.rev());
                } else {
                    out.extend(pixels);
                }
            }
        }
        out
    }

    /// It in a few words.
    pub fn text(&self) -> String {
        let Self { style, short, long, size_divisor, mean, std, bgr } = self;
        let resize = match style {
            Style::Mmdet => "resized as by OpenCV and normalized",
            Style::Torchvision => "normalized and resized as by torchvision",
        };
        let order = if *bgr { "BGR" } else { "RGB" };
        format!(
            "shorter side to {short} pixels, longer side to at most {long}, {resize}, {order}, mean {mean:?}, std {std:?}, sides \
             padded with zeros to multiples of {size_divisor}"
        )
    }
}

/// Planes of the height and width `size` with zeros to the right and below, up to those of `tensor`.
fn padded(planes: &[f32], size: [usize; 2], tensor: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; planes.len() / (size[0] * size[1]) * tensor[0] * tensor[1]];
    for (plane, out) in planes.chunks_exact(size[0] * size[1]).zip(out.chunks_exact_mut(tensor[0] * tensor[1])) {
        for (row, out) in plane.chunks_exact(size[1]).zip(out.chunks_exact_mut(tensor[1])) {
            out[..size[1]].copy_from_slice(row);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(style: Style) -> Preprocessing {
        let (mean, std) = ([0.0; 3], [1.0; 3]);
        Preprocessing { style, short: 800, long: 1333, size_divisor: 32, mean, std, bgr: false }
    }

    #[test]
    fn sizes_are_rounded_as_each_library_does() {
        let [mmdet, torchvision] = [Style::Mmdet, Style::Torchvision].map(of);
        for (size, opencv, floor) in SIZES {
            assert_eq!(mmdet.resized(size), Ok(opencv), "{size:?}");
            assert_eq!(torchvision.resized(size), Ok(floor), "{size:?}");
        }
        let error = mmdet.resized([1, 4000]).unwrap_err();
        assert_eq!(error, "resized, it would have 1333 x 0 pixels");
        assert_eq!(mmdet.resized([0, 7]).unwrap_err(), "it would have 7 x 0 pixels");
    }

    /// Heights and widths, and what they become: with mmcv's `rescale_size`, and in torchvision, where a product that should be
    /// whole can lie below.
    const SIZES: [([usize; 2], [usize; 2], [usize; 2]); 6] = [
        ([480, 640], [800, 1067], [800, 1066]),
        ([640, 426], [1202, 800], [1201, 800]),
        ([334, 500], [800, 1198], [799, 1197]),
        ([51, 640], [106, 1333], [106, 1333]),
        ([50, 298], [224, 1333], [223, 1332]),
        ([640, 640], [800, 800], [800, 800]),
    ];

    #[test]
    fn channels_are_mirrored_exchanged_and_padded() {
        let image = Rgb { width: 2, height: 1, data: vec![1, 2, 3, 4, 5, 6] };
        let mut it = of(Style::Mmdet);
        (it.short, it.long, it.size_divisor) = (1, 2, 3);
        let zeros = [0.0; 7];
        let wanted = |values: [[f32; 2]; 3]| values.map(|pair| [&pair[..], &zeros].concat()).concat();
        let (tensor, size) = it.apply(&image, false).unwrap();
        assert_eq!(tensor, wanted([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]));
        assert_eq!(size, ImageSize { original: [1, 2], resized: [1, 2], tensor: [3, 3] });
        assert_eq!(it.apply(&image, true).unwrap().0, wanted([[4.0, 1.0], [5.0, 2.0], [6.0, 3.0]]));
        it.bgr = true;
        (it.mean, it.std) = ([1.0, 2.0, 3.0], [2.0, 4.0, 8.0]);
        assert_eq!(it.apply(&image, false).unwrap().0, wanted([[1.0, 2.5], [0.0, 0.75], [-0.25, 0.125]]));
        (it.style, it.bgr, it.mean, it.std) = (Style::Torchvision, false, [0.0; 3], [1.0 / 255.0; 3]);
        let values = it.apply(&image, true).unwrap().0;
        let want = wanted([[4.0, 1.0], [5.0, 2.0], [6.0, 3.0]]);
        assert!(values.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-6), "{values:?}");
    }
}
