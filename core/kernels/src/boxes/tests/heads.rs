//! Results of whole heads.

use super::inputs::*;
use crate::boxes::*;

/// Of scores: a few roundings of f32.
const OF_SCORES: f32 = 1e-6;

/// Of edges, relative. An edge inside the picture can be the difference of two numbers of 16,000 pixels, and
/// exponential functions differ in the last bit.
const OF_EDGES: f32 = 1e-4;

const LARGE: ImageSizes = ImageSizes { resized: [790, 1066], original: [553, 746] };
const SMALL: ImageSizes = ImageSizes { resized: [30, 61], original: [40, 81] };

/// Compares detections with stored ones. Those whose scores differ by no more than the tolerance may be in another
/// order.
fn compare(name: &str, got: &[Detection], with_labels: bool) {
    let (boxes, scores) = (golden_boxes(&format!("{name}.boxes")), golden(&format!("{name}.scores")));
    let labels = match with_labels {
        true => golden_places(&format!("{name}.labels")),
        false => vec![0; scores.len()],
    };
    assert_eq!(got.len(), scores.len(), "{name}");
    let got_scores: Vec<f32> = got.iter().map(|d| d.score).collect();
    assert!(apart(&got_scores, &scores) <= OF_SCORES, "{name}");
    assert!(got_scores.is_sorted_by(|a, b| a >= b), "{name}");
    let mut used = vec![false; got.len()];
    for ((bbox, score), label) in boxes.iter().zip(&scores).zip(labels) {
        let same = |d: &Detection| {
            let close = (d.score - score).abs() <= OF_SCORES && apart(&d.bbox, bbox) <= OF_EDGES;
            close && d.label == label
        };
        let found = got.iter().zip(&used).position(|(d, used)| !used && same(d));
        let place = found.unwrap_or_else(|| panic!("{name}: no {bbox:?} of class {label} with score {score}"));
        used[place] = true;
    }
}

/// The outputs of a head for one level: the size of the map, logits, deltas.
type Outputs = ([usize; 2], Vec<f32>, Vec<f32>);

/// The anchors of all levels, and what a head says about them.
fn levels<'a>(anchors: &'a [LevelAnchors], classes: usize, outputs: &'a [Outputs]) -> Vec<HeadLevel<'a>> {
    let level = |(anchors, (_, logits, deltas)): (&'a LevelAnchors, &'a Outputs)| {
        HeadLevel::new(anchors, classes, logits, deltas).unwrap()
    };
    anchors.iter().zip(outputs).map(level).collect()
}

fn anchors(rules: &[AnchorRule], outputs: &[Outputs], padded: [usize; 2]) -> Vec<LevelAnchors> {
    rules.iter().zip(outputs).map(|(rule, (map, ..))| rule.level(*map, padded).unwrap()).collect()
}

/// Compares the proposals of both families.
fn compare_proposals(name: &str, outputs: &[Outputs], sizes: ImageSizes, padded: [usize; 2], limit: usize) {
    for (family, rules, settings) in [
        ("torchvision", AnchorRule::torchvision_rpn(), ProposalSettings::torchvision()),
        ("mmdet", AnchorRule::mmdet_rpn(), ProposalSettings::mmdet()),
    ] {
        assert_eq!(settings.limit, 1000);
        let settings = ProposalSettings { limit, ..settings };
        let anchors = anchors(&rules, outputs, padded);
        let found = propose(&levels(&anchors, 1, outputs), sizes.resized, &settings).unwrap();
        let pairs = found.boxes.iter().zip(&found.scores);
        let got: Vec<Detection> = pairs.map(|(b, s)| Detection { bbox: *b, score: *s, label: 0 }).collect();
        compare(&format!("propose.{name}.{family}"), &got, false);
        // Boxes that are moved out of the picture are too small.
        let away: Vec<Outputs> = outputs
            .iter()
            .map(|(map, logits, _)| {
                let moved = |j| vec![if j % 4 == 0 { 6000.0 } else { 0.0 }; map[0] * map[1]];
                (*map, logits.clone(), (0..12).flat_map(moved).collect())
            })
            .collect();
        let found = propose(&levels(&anchors, 1, &away), sizes.resized, &settings).unwrap();
        assert_eq!(found, Proposals::default());
    }
}

#[test]
fn proposals_are_those_of_both_libraries() {
    let large = [[200, 272], [100, 136], [50, 68], [25, 34], [13, 17]];
    let small = [[8, 16], [4, 8], [2, 4], [1, 2], [1, 1]];
    for (name, sizes, padded, maps, seed) in
        [("large", LARGE, [800, 1088], large, 100), ("small", SMALL, [32, 64], small, 150)]
    {
        let level = |(i, map): (u64, [usize; 2])| {
            let cells = map[0] * map[1];
            (map, rare(seed + 3 * i, 3 * cells, -6.0, 0.004), wild(seed + 3 * i + 1, 12 * cells))
        };
        let outputs: Vec<Outputs> = (0..).zip(maps).map(level).collect();
        compare_proposals(name, &outputs, sizes, padded, 1000);
    }
}

#[test]
fn thin_proposals_are_those_of_both_libraries() {
    let sizes = ImageSizes { resized: [1300, 1333], original: [650, 666] };
    let level = |(i, map): (u64, [usize; 2])| {
        let cells = map[0] * map[1];
        let width = if i == 3 { [-15.0, -11.0] } else { [-4.1, -3.7] };
        let ranges = [[-0.001, 0.001], [-0.001, 0.001], width, [-4.1, -3.7]];
        let mut deltas = noise(780 + 3 * i, 12 * cells, 0.0, 1.0);
        for (delta, [low, high]) in deltas.chunks_exact_mut(cells).zip(ranges.into_iter().cycle()) {
            delta.iter_mut().for_each(|d| *d = low + (high - low) * *d);
        }
        (map, noise(779 + 3 * i, 3 * cells, -5.0, 40.0), deltas)
    };
    let outputs: Vec<Outputs> = (0..).zip([[2, 1], [3, 3], [4, 4], [6, 6], [20, 20]]).map(level).collect();
    compare_proposals("thin", &outputs, sizes, [1312, 1344], 2000);
}

#[test]
fn detections_are_selected_as_in_both_libraries() {
    let labels = groups(82, 1200, 4).into_iter().map(|group| group * 26);
    let boxes = random_boxes(80, 1200, 10.0, 1.0, 3.0).into_iter().zip(noise(83, 1200, 0.0, 1.0));
    let candidates: Vec<Detection> = boxes
        .zip(labels)
        .map(|(([x1, y1, x2, y2], score), label)| Detection { bbox: [x1 + 1000.0, y1, x2 + 1000.0, y2], score, label })
        .collect();
    for (family, settings) in [("torchvision", Selection::torchvision()), ("mmdet", Selection::mmdet())] {
        assert_eq!(settings.limit, 100);
        let got = Selection { limit: 1100, ..settings }.select(candidates.clone(), LARGE).unwrap();
        // There is no exponential function here, so not a bit differs.
        assert_eq!(got.iter().map(|d| d.bbox).collect::<Vec<_>>(), golden_boxes(&format!("select.{family}.boxes")));
        assert_eq!(got.iter().map(|d| d.score).collect::<Vec<_>>(), golden(&format!("select.{family}.scores")));
        assert_eq!(got.iter().map(|d| d.label).collect::<Vec<_>>(), golden_places(&format!("select.{family}.labels")));
    }
}

/// Settings of both families, their classes with the background, and the classes that have deltas.
fn heads() -> [(&'static str, ClassifySettings, usize, usize); 2] {
    [("torchvision", ClassifySettings::torchvision(), 91, 91), ("mmdet", ClassifySettings::mmdet(), 81, 80)]
}

#[test]
fn classes_are_those_of_both_libraries() {
    for (name, count, high) in [("few", 120, 6.0), ("many", 700, 6.5), ("none", 5, 0.5)] {
        let boxes: Vec<BBox> = random_boxes(200, count, 700.0, 20.0, 400.0)
            .into_iter()
            .map(|[x1, y1, x2, y2]| [x1, y1, x2.min(1066.0), y2.min(790.0)])
            .collect();
        for (family, settings, classes, columns) in heads() {
            let logits = noise(210, count * classes, 0.0, high);
            let deltas: Vec<f32> = wild(220, count * columns * 4).into_iter().map(|d| d * 4.0).collect();
            let got = classify(&boxes, classes, &logits, &deltas, LARGE, &settings).unwrap();
            compare(&format!("classify.{name}.{family}"), &got, true);
        }
    }
}

#[test]
fn thin_boxes_are_dropped_by_torchvision() {
    let boxes = random_boxes(230, 20, 500.0, 20.0, 200.0);
    for (family, settings, classes, columns) in heads() {
        let logits = noise(240, 20 * classes, 0.0, 6.5);
        let mut deltas = noise(250, 20 * columns * 4, -1.0, 0.0);
        deltas.iter_mut().skip(3).step_by(4).for_each(|d| *d *= 60.0);
        let got = classify(&boxes, classes, &logits, &deltas, LARGE, &settings).unwrap();
        compare(&format!("classify.thin.{family}"), &got, true);
    }
}

#[test]
fn dense_results_are_those_of_both_libraries() {
    let large = ImageSizes { resized: [250, 377], original: [333, 500] };
    let large_maps = [[32, 48], [16, 24], [8, 12], [4, 6], [2, 3]];
    let small_maps = [[4, 8], [2, 4], [1, 2], [1, 1], [1, 1]];
    let every = ImageSizes { resized: [70, 90], original: [140, 180] };
    let every_maps = [[9, 13], [5, 6], [3, 3], [2, 2], [1, 1]];
    for (name, sizes, padded, maps, low, seed) in [
        ("large", large, [256, 384], large_maps, -6.0, 300),
        ("small", SMALL, [32, 64], small_maps, -6.0, 350),
        ("none", SMALL, [32, 64], small_maps, -10.0, 350),
        ("all", every, [96, 96], every_maps, -6.0, 400),
    ] {
        for (family, rules, mut settings, classes) in [
            ("torchvision", AnchorRule::torchvision_retina(), DenseSettings::torchvision(), 91),
            ("mmdet", AnchorRule::mmdet_retina(), DenseSettings::mmdet(), 80),
        ] {
            if name == "all" {
                settings.selection.limit = usize::MAX;
            }
            let level = |(i, map): (u64, [usize; 2])| {
                let cells = map[0] * map[1];
                let logits = rare(seed + 3 * i, 9 * classes * cells, low, 0.004);
                (map, logits, wild(seed + 3 * i + 1, 36 * cells))
            };
            let outputs: Vec<Outputs> = (0..).zip(maps).map(level).collect();
            let anchors = anchors(&rules, &outputs, padded);
            let got = detect_dense(&levels(&anchors, classes, &outputs), sizes, &settings).unwrap();
            compare(&format!("dense.{name}.{family}"), &got, true);
        }
    }
}

#[test]
fn numbers_that_are_none_are_no_detections() {
    let anchors = AnchorRule::mmdet(4, &[8.0]).level([2, 2], [8, 8]).unwrap();
    let (logits, deltas) = (vec![f32::NAN; 24], vec![f32::NAN; 48]);
    let level = HeadLevel::new(&anchors, 2, &logits, &deltas).unwrap();
    for settings in [DenseSettings::mmdet(), DenseSettings::torchvision()] {
        assert!(detect_dense(&[level], SMALL, &settings).unwrap().is_empty());
        assert!(detect_dense(&[], SMALL, &settings).unwrap().is_empty());
        // Scores are fine but boxes are not: their edges are no numbers either.
        let fine = HeadLevel::new(&anchors, 2, &[0.0; 24], &deltas).unwrap();
        assert_eq!(detect_dense(&[fine], SMALL, &settings).unwrap().len(), 24);
    }
    let level = HeadLevel::new(&anchors, 1, &logits[..12], &deltas).unwrap();
    for settings in [ProposalSettings::mmdet(), ProposalSettings::torchvision()] {
        assert!(propose(&[level], [8, 8], &settings).unwrap().boxes.is_empty());
        assert!(propose(&[], [8, 8], &settings).unwrap().boxes.is_empty());
    }
    let boxes = [[0.0, 0.0, 4.0, 4.0]];
    for (settings, deltas) in [(ClassifySettings::mmdet(), 4), (ClassifySettings::torchvision(), 8)] {
        let found = classify(&boxes, 2, &[f32::NAN, 1.0], &vec![0.0; deltas], SMALL, &settings).unwrap();
        assert!(found.is_empty());
        assert!(classify(&[], 2, &[], &[], SMALL, &settings).unwrap().is_empty());
    }
}

#[test]
fn a_score_on_the_threshold_is_not_enough() {
    // 1/20 is the threshold, and 1/19 is above it.
    for (classes, count) in [(20, 0), (19, 18)] {
        let deltas = vec![0.0; 4 * (classes - 1)];
        let boxes = [[0.0, 0.0, 4.0, 4.0]];
        let got = classify(&boxes, classes, &vec![0.0; classes], &deltas, SMALL, &ClassifySettings::mmdet()).unwrap();
        assert_eq!(got.len(), count);
    }
    let anchors = AnchorRule::mmdet(4, &[8.0]).level([1, 1], [4, 4]).unwrap();
    let level = HeadLevel::new(&anchors, 1, &[0.0, 1e-6, -1.0], &[0.0; 12]).unwrap();
    let settings = DenseSettings { score: 0.5, ..DenseSettings::mmdet() };
    assert_eq!(detect_dense(&[level], SMALL, &settings).unwrap().len(), 1);
}

#[test]
fn any_numbers_are_taken() {
    // All bit patterns: huge and tiny numbers, infinities, and what is not a number.
    let any = |seed, count| -> Vec<f32> {
        unit(seed, count).map(|u| f32::from_bits((u * 4_294_967_296.0) as u32 | (u * 1e12) as u32 & 0xff)).collect()
    };
    let anchors = AnchorRule::torchvision(&[3.0]).level([8, 8], [64, 64]).unwrap();
    for seed in 500..540 {
        let (logits, deltas) = (any(seed, 384), any(seed + 100, 768));
        let level = HeadLevel::new(&anchors, 2, &logits, &deltas).unwrap();
        let single = HeadLevel::new(&anchors, 1, &logits[..192], &deltas).unwrap();
        let boxes = boxes_of(&any(seed + 200, 192));
        for dense in [DenseSettings::mmdet(), DenseSettings::torchvision()] {
            assert!(detect_dense(&[level], SMALL, &dense).unwrap().len() <= 300);
        }
        for settings in [ProposalSettings::mmdet(), ProposalSettings::torchvision()] {
            let found = propose(&[single, single], [64, 64], &settings).unwrap();
            assert!(found.boxes.iter().flatten().all(|edge| (0.0..=64.0).contains(edge)));
            let map = FeatureMap::new(&logits, [6, 8, 8], 8).unwrap();
            assert!(roi_align(&[map], &found.boxes, &RoiAlignSettings::mmdet()).is_ok());
        }
        assert!(classify(&boxes, 5, &logits[..240], &deltas, SMALL, &ClassifySettings::mmdet()).is_ok());
        assert!(classify(&boxes, 4, &logits[..192], &deltas, SMALL, &ClassifySettings::torchvision()).is_ok());
        assert!(nms(&boxes, &logits[..48], f64::NAN, 10).unwrap().len() <= 10);
    }
}

#[test]
fn slices_of_other_sizes_are_errors() {
    let anchors = AnchorRule::mmdet(4, &[8.0]).level([2, 2], [8, 8]).unwrap();
    assert!(HeadLevel::new(&anchors, 2, &[0.0; 24], &[0.0; 48]).is_ok());
    assert!(HeadLevel::new(&anchors, 2, &[0.0; 23], &[0.0; 48]).is_err());
    assert!(HeadLevel::new(&anchors, 2, &[0.0; 24], &[0.0; 47]).is_err());
    assert!(HeadLevel::new(&anchors, 0, &[], &[0.0; 48]).is_err());
    let level = HeadLevel::new(&anchors, 2, &[0.0; 24], &[0.0; 48]).unwrap();
    assert!(propose(&[level], [8, 8], &ProposalSettings::mmdet()).is_err());
    let settings = ClassifySettings::mmdet();
    let error = classify(&[[0.0; 4]], 3, &[0.0; 3], &[0.0; 12], SMALL, &settings).unwrap_err();
    assert_eq!(error.to_string(), "deltas of proposals: 12 elements where the sizes ask for 8");
    assert!(classify(&[[0.0; 4]], 3, &[0.0; 4], &[0.0; 8], SMALL, &settings).is_err());
    assert!(classify(&[[0.0; 4]], 1, &[0.0], &[], SMALL, &settings).is_err());
    assert!(classify(&[], 0, &[], &[], SMALL, &settings).is_err());
}
