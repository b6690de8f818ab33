//! How far two networks find the same objects.

use super::objects::FoundObject;
use qdrop_core::kernels::boxes::iou;

/// Objects of a lower score are left out: networks list many that nobody would use.
const SCORE: f32 = 0.3;
/// Two boxes are the same if they overlap by more than this.
const OVERLAP: f32 = 0.5;

/// The share of objects that both networks find, with the same label and boxes that overlap: twice their number, divided by the
/// number of the objects of both (Dice's coefficient), from 0 to 1. 1 where both find nothing. The best objects choose first.
pub fn agreement(one: &[FoundObject], other: &[FoundObject]) -> f64 {
    let [one, other] = [one, other].map(|all| all.iter().filter(|o| o.score >= SCORE).collect::<Vec<_>>());
    if one.is_empty() && other.is_empty() {
        return 1.0;
    }
    let mut taken = vec![false; other.len()];
    for object in &one {
        let free = other.iter().enumerate().filter(|(i, o)| !taken[*i] && o.label == object.label);
        let overlaps = free.map(|(i, o)| (iou(object.corners, o.corners), i));
        if let Some((overlap, i)) = overlaps.max_by(|a, b| a.0.total_cmp(&b.0)) {
            taken[i] = overlap > OVERLAP;
        }
    }
    let both = taken.iter().filter(|taken| **taken).count();
    2.0 * both as f64 / (one.len() + other.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_the_same_by_label_and_overlap() {
        let at = |x: f32, label: usize, score: f32| FoundObject { label, score, corners: [x, 0.0, x + 10.0, 10.0] };
        assert_eq!(agreement(&[], &[at(0.0, 1, 0.2)]), 1.0);
        assert_eq!(agreement(&[], &[at(0.0, 1, 0.4)]), 0.0);
        let float = [at(0.0, 1, 0.9), at(50.0, 2, 0.8), at(90.0, 1, 0.7)];
        assert_eq!(agreement(&float, &float), 1.0);
        // One moved by a tenth, one of another label, one moved by half, one twice.
        let own = [at(1.0, 1, 0.9), at(50.0, 1, 0.8), at(95.0, 1, 0.7), at(0.5, 1, 0.6)];
        assert_eq!(agreement(&own, &float), 2.0 / 7.0);
    }
}
