//! Non-maximum suppression, overlaps, anchors and deltas.

use super::inputs::*;
use crate::boxes::*;

const ALL: usize = usize::MAX;

#[test]
fn suppression_is_that_of_torchvision() {
    let (boxes, scores) = (random_boxes(10, 400, 100.0, 10.0, 40.0), coarse(12, 400));
    let want = golden_places("nms.ties");
    assert_eq!(nms(&boxes, &scores, 0.5, ALL).unwrap(), want);
    assert_eq!(nms(&boxes, &scores, 0.5, 7).unwrap(), want[..7]);
    // 0.6 in f32 is larger than in f64, and 0.7 is smaller.
    let edge = [[0.0, 0.0, 4.0, 1.0], [1.0, 0.0, 5.0, 1.0], [0.0, 50.0, 8.5, 51.0], [1.5, 50.0, 10.0, 51.0]];
    for threshold in [0.6, 0.7] {
        let want = golden_places(&format!("nms.edge.{threshold}"));
        assert_eq!(nms(&edge, &[0.9, 0.8, 0.7, 0.6], threshold, ALL).unwrap(), want);
    }
}

#[test]
fn groups_do_not_suppress_each_other() {
    for (name, count, number) in [("few", 900, 8), ("many", 1500, 5)] {
        let (boxes, labels) = (random_boxes(20, count, 60.0, 10.0, 40.0), groups(22, count, number));
        let run = |scores: &[f32], grouping, limit| grouped_nms(&boxes, scores, &labels, grouping, 0.5, limit).unwrap();
        let (distinct, ties) = (noise(24, count, 0.0, 1.0), coarse(23, count));
        let want = golden_places(&format!("batched.{name}"));
        assert_eq!(run(&distinct, Grouping::torchvision(), ALL), want);
        assert_eq!(run(&distinct, Grouping::torchvision(), 40), want[..40]);
        assert_eq!(run(&distinct, Grouping::mmdet(), ALL), golden_places(&format!("batched.{name}.mmdet")));
        let (got, mut want) =
            (run(&ties, Grouping::torchvision(), ALL), golden_places(&format!("batched.{name}.ties")));
        if name == "many" {
            // Beyond 1000 boxes torchvision sorts what is left with PyTorch's sort that is not stable.
            want.sort_by(|a, b| descending(ties[*a], ties[*b]).then(a.cmp(b)));
        }
        assert_eq!(got, want);
    }
}

#[test]
fn the_rounding_of_shifted_boxes_counts() {
    let boxes: Vec<BBox> = random_boxes(30, 1000, 10.0, 1.0, 3.0)
        .into_iter()
        .map(|[x1, y1, x2, y2]| [x1 + 1300.0, y1, x2 + 1300.0, y2])
        .collect();
    let labels: Vec<usize> = groups(32, 1000, 4).into_iter().map(|group| group * 26).collect();
    let scores = noise(33, 1000, 0.0, 1.0);
    let run = |grouping| grouped_nms(&boxes, &scores, &labels, grouping, 0.5, ALL).unwrap();
    assert_eq!(run(Grouping::torchvision()), golden_places("batched.rounded"));
    assert_eq!(run(Grouping::mmdet()), golden_places("batched.rounded"));
    let apart = run(Grouping { together: 0, always_shift: false });
    assert_eq!(apart, golden_places("batched.apart"));
    assert_ne!(apart, golden_places("batched.rounded"));
}

#[test]
fn the_number_of_boxes_decides_whether_they_are_treated_together() {
    // The last number is one for which they are treated in the other way.
    for (count, grouping, other) in [
        (1000, Grouping::torchvision(), 999),
        (1001, Grouping::torchvision(), 1001),
        (9_999, Grouping::mmdet(), 9_998),
        (10_000, Grouping::mmdet(), 10_000),
    ] {
        let boxes: Vec<BBox> =
            random_boxes(70, count, 60.0, 10.0, 40.0).into_iter().map(|b| b.map(|edge| edge - 60.0)).collect();
        let (labels, scores) = (groups(72, count, 6), noise(73, count, 0.0, 1.0));
        let run = |grouping| grouped_nms(&boxes, &scores, &labels, grouping, 0.5, ALL).unwrap();
        let got = run(grouping);
        assert_eq!(got, golden_places(&format!("batched.negative.{count}")));
        assert_ne!(got, run(Grouping { together: other, ..grouping }));
    }
}

#[test]
fn thousands_of_boxes_are_treated_group_by_group() {
    let (boxes, scores) = (random_boxes(40, 10_500, 80.0, 10.0, 40.0), noise(43, 10_500, 0.0, 1.0));
    let labels: Vec<usize> = groups(42, 10_500, 3).into_iter().map(|group| group * 40).collect();
    for (name, grouping) in [("mmdet", Grouping::mmdet()), ("torchvision", Grouping::torchvision())] {
        let got = grouped_nms(&boxes, &scores, &labels, grouping, 0.5, ALL).unwrap();
        assert_eq!(got, golden_places(&format!("batched.split.{name}")));
    }
}

#[test]
fn nothing_and_numbers_that_are_none() {
    for grouping in [Grouping::mmdet(), Grouping::torchvision(), Grouping { together: 0, always_shift: false }] {
        assert!(grouped_nms(&[], &[], &[], grouping, 0.5, ALL).unwrap().is_empty());
        let boxes = [[f32::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]];
        let kept = grouped_nms(&boxes, &[0.1, f32::NAN, 0.9], &[0, 0, 1], grouping, 0.5, ALL).unwrap();
        assert_eq!(kept, [1, 2, 0]);
        let error = grouped_nms(&boxes, &[0.0; 3], &[0; 2], grouping, 0.5, ALL).unwrap_err();
        assert_eq!(error, BoxesError::Length { what: "groups of boxes", expected: 3, actual: 2 });
    }
    assert!(nms(&[], &[], 0.5, ALL).unwrap().is_empty());
    assert!(nms(&[[0.0; 4]], &[], 0.5, ALL).is_err());
}

#[test]
fn overlaps_are_those_of_torchvision() {
    let (a, b) = (random_boxes(10, 20, 40.0, 5.0, 40.0), random_boxes(14, 15, 40.0, 5.0, 40.0));
    let got: Vec<f32> = a.iter().flat_map(|a| b.iter().map(|b| iou(*a, *b))).collect();
    assert_eq!(got, golden("iou"));
}

#[test]
fn anchors_are_those_of_both_libraries() {
    let maps = [[200, 272], [100, 136], [50, 68], [25, 34], [13, 17], [7, 9]];
    let pyramids = [
        ("rpn", AnchorRule::torchvision_rpn(), AnchorRule::mmdet_rpn(), &maps[..5]),
        ("retina", AnchorRule::torchvision_retina(), AnchorRule::mmdet_retina(), &maps[1..]),
    ];
    for (name, theirs, ours, maps) in pyramids {
        for (family, rules) in [("torchvision", theirs), ("mmdet", ours)] {
            assert_eq!(rules.len(), maps.len());
            for (i, (rule, map)) in rules.iter().zip(maps).enumerate() {
                let all: Vec<BBox> = rule.level(*map, [800, 1088]).unwrap().iter().collect();
                assert_eq!(all.len(), map[0] * map[1] * rule.scales.len() * 3);
                let ends = [&all[..27], &all[all.len() - 27..]].concat();
                assert_eq!(ends, golden_boxes(&format!("anchors.{name}.{i}.{family}")));
            }
        }
    }
}

#[test]
fn anchors_need_a_map_and_a_scale() {
    assert!(AnchorRule::mmdet(4, &[8.0]).level([0, 3], [8, 8]).is_err());
    assert!(AnchorRule::mmdet(4, &[]).level([2, 3], [8, 8]).is_err());
}

#[test]
fn deltas_move_boxes_as_in_both_libraries() {
    let (boxes, mut deltas) = (random_boxes(45, 100, 1000.0, 1.0, 300.0), boxes_of(&noise(47, 400, -3.0, 3.0)));
    deltas.iter_mut().for_each(|d| d[2..].fill(0.0));
    for (family, coder) in [
        ("torchvision", DeltaCoder::torchvision([10.0, 10.0, 5.0, 5.0])),
        ("mmdet", DeltaCoder::mmdet([0.1, 0.1, 0.2, 0.2])),
    ] {
        let got: Vec<BBox> = boxes.iter().zip(&deltas).map(|(b, d)| coder.decode(*d, *b)).collect();
        assert_eq!(got, golden_boxes(&format!("decode.{family}")));
    }
}
