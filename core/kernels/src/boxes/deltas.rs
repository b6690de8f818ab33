//! Deltas: how a head says by how much a box is to move and to grow.

use super::BBox;

/// Largest logarithm of a growth: `ln(1000 / 16)`, so that `exp` stays finite.
const MAX_LOG: f32 = 4.135_166_5;

/// Turns a head's deltas into boxes (R-CNN, arXiv 1311.2524, appendix C).
///
/// The centre moves by the first two deltas times the reference's width and height, and its size is multiplied by `exp`
/// of the last two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaCoder {
    family: Family,
    factors: [f32; 4],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    Mmdet,
    Torchvision,
}

impl DeltaCoder {
    /// mmdetection's: deltas are multiplied by `stds`, and the last two are clamped on both sides.
    pub fn mmdet(stds: [f32; 4]) -> Self {
        Self { family: Family::Mmdet, factors: stds }
    }

    /// torchvision's: deltas are divided by `weights`, and the last two are clamped above only.
    pub fn torchvision(weights: [f32; 4]) -> Self {
        Self { family: Family::Torchvision, factors: weights }
    }

    /// The box that `deltas` make of a reference. It is not clipped.
    pub fn decode(&self, deltas: [f32; 4], reference: BBox) -> BBox {
        let [x1, y1, x2, y2] = reference;
        let (width, height) = (x2 - x1, y2 - y1);
        // The families round differently, so each has its own order of operations.
        let ([x, y], [dx, dy, dw, dh], lowest) = match self.family {
            Family::Mmdet => ([(x1 + x2) * 0.5, (y1 + y2) * 0.5], zip(deltas, self.factors, |d, f| d * f), -MAX_LOG),
            Family::Torchvision => {
                ([x1 + 0.5 * width, y1 + 0.5 * height], zip(deltas, self.factors, |d, f| d / f), f32::NEG_INFINITY)
            }
        };
        let (x, y) = (x + width * dx, y + height * dy);
        let half_width = width * dw.clamp(lowest, MAX_LOG).exp() * 0.5;
        let half_height = height * dh.clamp(lowest, MAX_LOG).exp() * 0.5;
        [x - half_width, y - half_height, x + half_width, y + half_height]
    }
}

/// Four results of four pairs.
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: [f32; 4] = [1.0; 4];

    #[test]
    fn boxes_move_and_grow() {
        let reference = [10.0, 20.0, 30.0, 60.0];
        for coder in [DeltaCoder::mmdet(UNIT), DeltaCoder::torchvision(UNIT)] {
            assert_eq!(coder.decode([0.0; 4], reference), reference);
            assert_eq!(coder.decode([0.5, -0.25, 0.0, 0.0], reference), [20.0, 10.0, 40.0, 50.0]);
        }
        assert_eq!(DeltaCoder::mmdet([0.5; 4]).decode([1.0, 0.0, 0.0, 0.0], reference), [20.0, 20.0, 40.0, 60.0]);
        assert_eq!(DeltaCoder::torchvision([2.0; 4]).decode([1.0, 0.0, 0.0, 0.0], reference), [20.0, 20.0, 40.0, 60.0]);
    }

    #[test]
    fn growth_is_clamped() {
        let width = |coder: DeltaCoder, delta| {
            let [x1, _, x2, _] = coder.decode([0.0, 0.0, delta, 0.0], [-8.0, 0.0, 8.0, 1.0]);
            x2 - x1
        };
        // 16 pixels can grow to 1000; the tolerance is that of `exp` in f32.
        for coder in [DeltaCoder::mmdet(UNIT), DeltaCoder::torchvision(UNIT)] {
            assert!((width(coder, 9.0) - 1000.0).abs() < 1e-3);
            assert!(width(coder, f32::NAN).is_nan());
        }
        assert!((width(DeltaCoder::mmdet(UNIT), -9.0) - 0.256).abs() < 1e-6);
        assert!((width(DeltaCoder::torchvision(UNIT), -9.0) - 16.0 * (-9.0_f32).exp()).abs() < 1e-8);
    }
}
