//! Boxes, their areas and overlaps.

/// A box: left, top, right and bottom edge (x1, y1, x2, y2) in pixels. Its width is x2 - x1.
pub type BBox = [f32; 4];

/// Width times height. It is negative if exactly one of them is.
#[inline(always)]
pub fn area([x1, y1, x2, y2]: BBox) -> f32 {
    (x2 - x1) * (y2 - y1)
}

/// Intersection over union of two boxes, from 0 to 1. Not a number if both are empty.
pub fn iou(a: BBox, b: BBox) -> f32 {
    overlap(a, area(a), b, area(b))
}

/// Intersection over union of two boxes whose areas are known.
#[inline(always)]
pub(super) fn overlap(a: BBox, area_a: f32, b: BBox, area_b: f32) -> f32 {
    // Comparisons, not `f32::max`, whose rule for numbers that are none costs instructions.
    let larger = |p: f32, q: f32| if p > q { p } else { q };
    let smaller = |p: f32, q: f32| if p < q { p } else { q };
    let width = larger(smaller(a[2], b[2]) - larger(a[0], b[0]), 0.0);
    let height = larger(smaller(a[3], b[3]) - larger(a[1], b[1]), 0.0);
    let intersection = width * height;
    intersection / (area_a + area_b - intersection)
}

/// The part of a box that is inside an image of a height and a width.
#[inline(always)]
pub fn clip([x1, y1, x2, y2]: BBox, [height, width]: [usize; 2]) -> BBox {
    let (height, width) = (height as f32, width as f32);
    [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)]
}

/// The smallest width and height that a box may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeRule {
    /// Both are larger than this number of pixels.
    Above(f32),
    /// Both are at least this number of pixels.
    AtLeast(f32),
}

impl SizeRule {
    /// Whether a box is large enough. One with an edge that is not a number is not.
    pub fn allows(self, [x1, y1, x2, y2]: BBox) -> bool {
        let (width, height) = (x2 - x1, y2 - y1);
        match self {
            Self::Above(size) => width > size && height > size,
            Self::AtLeast(size) => width >= size && height >= size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_of_simple_boxes() {
        let a = [0.0, 0.0, 4.0, 2.0];
        assert_eq!(area(a), 8.0);
        assert_eq!(iou(a, a), 1.0);
        // They share 2 x 1 pixels.
        assert_eq!(iou(a, [2.0, 1.0, 5.0, 3.0]), 2.0 / 12.0);
        // They touch.
        assert_eq!(iou(a, [4.0, 0.0, 5.0, 2.0]), 0.0);
        assert!(iou([1.0; 4], [1.0; 4]).is_nan());
    }

    #[test]
    fn boxes_are_clipped_and_measured() {
        assert_eq!(clip([-3.0, 2.0, 50.0, 60.0], [20, 40]), [0.0, 2.0, 40.0, 20.0]);
        assert!(clip([f32::NAN, 0.0, 1.0, 1.0], [2, 2])[0].is_nan());
        let thin = [0.0, 0.0, 1.0, 0.5];
        assert!(SizeRule::AtLeast(0.5).allows(thin) && !SizeRule::Above(0.5).allows(thin));
        assert!(!SizeRule::Above(0.0).allows([0.0, 0.0, f32::NAN, 1.0]));
    }
}
