//! Cases that can be checked by hand. The limit for rounding is a few units in the last place: a precision of 1 is computed
//! as 1 / (1 + 2^-52).

use super::*;

const EXACT: f64 = 1e-15;

fn truth(label: usize, x: f64, side: f64) -> Truth {
    Truth { label, bbox: [x, 0.0, side, side], area: side * side, crowd: false }
}

fn found(label: usize, x: f64, side: f64, score: f64) -> Found {
    Found { label, bbox: [x, 0.0, side, side], score }
}

fn picture(id: u64, truth: &[Truth], found: &[Found]) -> Picture {
    Picture { id, truth: truth.to_vec(), found: found.to_vec() }
}

#[track_caller]
fn check(pictures: &[Picture], expected: [Option<f64>; 6]) {
    let value: [Option<f64>; 6] = average_precision(pictures, 0).unwrap().value.into();
    for (value, expected) in value.iter().zip(expected) {
        let close = match (value, expected) {
            (Some(value), Some(expected)) => (value - expected).abs() <= EXACT,
            (value, expected) => value.is_none() && expected.is_none(),
        };
        assert!(close, "{value:?} is not {expected:?}");
    }
}

#[test]
fn a_perfect_detector_has_1() {
    let truths = [truth(1, 0.0, 10.0), truth(1, 100.0, 50.0), truth(7, 300.0, 200.0)];
    let hits = [found(1, 0.0, 10.0, 0.9), found(1, 100.0, 50.0, 0.8), found(7, 300.0, 200.0, 0.3)];
    check(&[picture(1, &truths, &hits)], [Some(1.0); 6]);
}

#[test]
fn a_wrong_detection_ahead_halves_the_precision() {
    let found = [found(0, 500.0, 50.0, 0.9), found(0, 0.0, 50.0, 0.8)];
    let half = Some(0.5);
    check(&[picture(1, &[truth(0, 0.0, 50.0)], &found)], [half, half, half, None, half, None]);
    // Behind the hit it costs nothing.
    let found = [found[0], Found { score: 0.95, ..found[1] }];
    let one = Some(1.0);
    check(&[picture(1, &[truth(0, 0.0, 50.0)], &found)], [one, one, one, None, one, None]);
}

#[test]
fn precision_counts_at_the_levels_of_recall_that_are_reached() {
    // One of two is found: recall is 0.5, and 51 of the 101 levels are reached.
    let truths = [truth(0, 0.0, 50.0), truth(0, 100.0, 50.0)];
    let part = Some(51.0 / 101.0);
    check(&[picture(1, &truths, &[found(0, 0.0, 50.0, 0.5)])], [part, part, part, None, part, None]);
    // Then a miss and the other: precision 2/3 at the remaining 50 levels.
    let found = [found(0, 0.0, 50.0, 0.5), found(0, 500.0, 50.0, 0.4), found(0, 100.0, 50.0, 0.3)];
    let part = Some((51.0 + 50.0 * 2.0 / 3.0) / 101.0);
    check(&[picture(1, &truths, &found)], [part, part, part, None, part, None]);
}

#[test]
fn an_overlap_equal_to_the_threshold_is_enough() {
    // 15 of 20 pixels in width: IoU 0.75, which 6 of the 10 thresholds allow.
    let truth = Truth { label: 0, bbox: [0.0, 0.0, 20.0, 20.0], area: 400.0, crowd: false };
    let found = Found { label: 0, bbox: [0.0, 0.0, 15.0, 20.0], score: 0.5 };
    let (part, one) = (Some(0.6), Some(1.0));
    check(&[picture(1, &[truth], &[found])], [part, one, one, part, None, None]);
}

#[test]
fn a_true_box_is_found_once() {
    let twice = [found(0, 0.0, 50.0, 0.9), found(0, 0.0, 50.0, 0.8), found(0, 100.0, 50.0, 0.7)];
    let truths = [truth(0, 0.0, 50.0), truth(0, 100.0, 50.0)];
    let part = Some((51.0 + 50.0 * 2.0 / 3.0) / 101.0);
    check(&[picture(1, &truths, &twice)], [part, part, part, None, part, None]);
}

#[test]
fn the_later_of_two_equal_overlaps_is_taken() {
    // The first detection overlaps both boxes alike, the second one only the left box.
    let truths = [truth(0, 0.0, 50.0), truth(0, 4.0, 50.0)];
    let both = [found(0, 2.0, 50.0, 0.9), Found { label: 0, bbox: [0.0, 0.0, 40.0, 50.0], score: 0.8 }];
    let at_75 = |truths: &[Truth]| average_precision(&[picture(1, truths, &both)], 0).unwrap().value.at_75;
    assert!((at_75(&truths).unwrap() - 1.0).abs() < EXACT);
    // In the other order the first detection takes the left box. The right one overlaps the second detection by
    // 36 / 54, which is less than 0.75.
    let reversed = [truths[1], truths[0]];
    assert!((at_75(&reversed).unwrap() - 51.0 / 101.0).abs() < EXACT);
}

#[test]
fn detections_in_a_crowd_do_not_count() {
    let crowd = Truth { crowd: true, ..truth(0, 200.0, 400.0) };
    let truths = [truth(0, 0.0, 50.0), crowd];
    // Two lie in the crowd, ahead of the hit.
    let inside = [found(0, 210.0, 50.0, 0.9), found(0, 400.0, 50.0, 0.8), found(0, 0.0, 50.0, 0.7)];
    let one = Some(1.0);
    check(&[picture(1, &truths, &inside)], [one, one, one, None, one, None]);
    // A true box goes before a crowd that overlaps more, whatever their order: 40 of 50 pixels in width are IoU 0.8,
    // which 7 of the 10 thresholds allow.
    let around = Truth { crowd: true, ..truth(0, 0.0, 400.0) };
    let part = Found { label: 0, bbox: [0.0, 0.0, 40.0, 50.0], score: 0.5 };
    for truths in [[truths[0], around], [around, truths[0]]] {
        check(&[picture(1, &truths, &[part])], [Some(0.7), one, one, None, Some(0.7), None]);
    }
    // A crowd is nothing to be found.
    check(&[picture(1, &[crowd], &inside)], [None; 6]);
}

#[test]
fn an_object_of_another_size_is_passed_over() {
    // A small and a large object. The detection of the large one is the better one, but does not count among small ones.
    let truths = [truth(0, 0.0, 20.0), truth(0, 100.0, 200.0)];
    let both = [found(0, 100.0, 200.0, 0.9), found(0, 0.0, 20.0, 0.5)];
    let one = Some(1.0);
    check(&[picture(1, &truths, &both)], [one, one, one, one, None, one]);
    // A wrong box counts in the range of its own size: 20 x 20 is small.
    let wrong = [found(0, 500.0, 20.0, 0.95), both[0], both[1]];
    let (half, two_thirds) = (Some(0.5), Some(2.0 / 3.0));
    check(&[picture(1, &truths, &wrong)], [two_thirds, two_thirds, two_thirds, half, None, one]);
}

#[test]
fn an_area_on_a_limit_belongs_to_both_ranges() {
    let one = Some(1.0);
    check(&[picture(1, &[truth(0, 0.0, 32.0)], &[found(0, 0.0, 32.0, 0.5)])], [one, one, one, one, one, None]);
    check(&[picture(1, &[truth(0, 0.0, 96.0)], &[found(0, 0.0, 96.0, 0.5)])], [one, one, one, None, one, one]);
    // The area of the object decides, not that of its box.
    let thin = Truth { area: 100.0, ..truth(0, 0.0, 96.0) };
    check(&[picture(1, &[thin], &[found(0, 0.0, 96.0, 0.5)])], [one, one, one, one, None, None]);
}

#[test]
fn equal_scores_are_judged_in_the_order_of_pictures_and_detections() {
    let (hit, wrong) = (found(0, 0.0, 50.0, 0.5), found(0, 500.0, 50.0, 0.5));
    let all = |pictures: &[Picture]| average_precision(pictures, 0).unwrap().value.all.unwrap();
    let truths = [truth(0, 0.0, 50.0)];
    assert!((all(&[picture(1, &truths, &[hit, wrong])]) - 1.0).abs() < EXACT);
    assert!((all(&[picture(1, &truths, &[wrong, hit])]) - 0.5).abs() < EXACT);
    // By ascending id, in whatever order the pictures are given.
    assert!((all(&[picture(9, &[], &[wrong]), picture(8, &truths, &[hit])]) - 1.0).abs() < EXACT);
    assert!((all(&[picture(8, &[], &[wrong]), picture(9, &truths, &[hit])]) - 0.5).abs() < EXACT);
    // Zero has no sign.
    let zeros = [Found { score: -0.0, ..hit }, Found { score: 0.0, ..wrong }];
    assert!((all(&[picture(1, &truths, &zeros)]) - 1.0).abs() < EXACT);
}

#[test]
fn the_hundred_best_of_a_label_and_picture_count() {
    let mut many = vec![found(0, 0.0, 50.0, 0.1)];
    many.extend((0..99).map(|_| found(0, 500.0, 50.0, 0.9)));
    let truths = [truth(0, 0.0, 50.0)];
    let all = |found: &[Found]| average_precision(&[picture(1, &truths, found)], 0).unwrap().value.all.unwrap();
    assert!((all(&many) - 0.01).abs() < EXACT);
    many.push(found(0, 500.0, 50.0, 0.9));
    assert_eq!(all(&many), 0.0);
    // Those of another label take no place.
    many[5].label = 1;
    assert!((all(&many) - 0.01).abs() < EXACT);
}

#[test]
fn labels_without_a_true_box_do_not_count() {
    let one = Some(1.0);
    let found = [found(3, 500.0, 50.0, 0.9), found(usize::MAX, 0.0, 50.0, 0.9), found(0, 0.0, 50.0, 0.8)];
    check(&[picture(1, &[truth(0, 0.0, 50.0)], &found)], [one, one, one, None, one, None]);
}

#[test]
fn without_truth_or_detections() {
    check(&[], [None; 6]);
    check(&[picture(1, &[], &[])], [None; 6]);
    check(&[picture(1, &[], &[found(0, 0.0, 50.0, 0.5)])], [None; 6]);
    let zero = Some(0.0);
    check(&[picture(1, &[truth(0, 0.0, 50.0)], &[])], [zero, zero, zero, None, zero, None]);
    // Boxes without an area overlap nothing.
    check(&[picture(1, &[truth(0, 0.0, 0.0)], &[found(0, 0.0, 0.0, 0.5)])], [zero, zero, zero, zero, None, None]);
}

#[test]
fn bad_pictures_are_refused() {
    type Change<'a> = &'a dyn Fn(&mut Picture);
    let good = picture(4, &[truth(0, 0.0, 50.0)], &[found(0, 0.0, 50.0, 0.5), found(0, 0.0, 50.0, 0.5)]);
    let message = |change: Change| {
        let mut bad = good.clone();
        change(&mut bad);
        average_precision(&[picture(1, &[], &[]), bad], GROUPS).unwrap_err().to_string()
    };
    let cases: [(&str, Change); 5] = [
        ("picture 4: the score of detection 1 is not a finite number", &|p| p.found[1].score = f64::NAN),
        ("picture 4: the box of detection 0 is not a finite number", &|p| p.found[0].bbox[2] = f64::INFINITY),
        ("picture 4: the box of true box 0 is not a finite number", &|p| p.truth[0].bbox[0] = f64::NEG_INFINITY),
        ("picture 4: the area of true box 0 is not a finite number", &|p| p.truth[0].area = f64::NAN),
        ("picture 1 is given twice; give each picture once", &|p| p.id = 1),
    ];
    for (expected, change) in cases {
        assert_eq!(message(change), expected);
    }
}

/// Pictures with some objects of three labels, of which a detector finds a part.
fn some_pictures(count: u64) -> Vec<Picture> {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..count)
        .map(|i| {
            let truth: Vec<Truth> = (0..random(4))
                .map(|k| truth(random(3) as usize, k as f64 * 300.0, [20.0, 60.0, 150.0][random(3) as usize]))
                .collect();
            let mut found: Vec<Found> = truth
                .iter()
                .map(|t| found(t.label, t.bbox[0] + random(9) as f64, t.bbox[2], random(20) as f64 / 20.0))
                .collect();
            found.extend((0..random(3)).map(|_| found_anywhere(&mut random)));
            picture(1000 - i, &truth, &found)
        })
        .collect()
}

fn found_anywhere(random: &mut impl FnMut(u64) -> u64) -> Found {
    found(random(3) as usize, 2000.0, 30.0, random(20) as f64 / 20.0)
}

#[test]
fn the_standard_error_is_that_of_leaving_out_each_group() {
    for (count, groups) in [(83, 10), (7, 50)] {
        let pictures = some_pictures(count);
        let estimate = average_precision(&pictures, groups).unwrap();
        let groups = groups.min(pictures.len());
        // The ids descend, so that the picture at `i` is at `count - 1 - i` in their order.
        let without: Vec<[Option<f64>; 6]> = (0..groups)
            .map(|group| {
                let keep = pictures.iter().rev().enumerate().filter(|(i, _)| i % groups != group);
                let keep: Vec<Picture> = keep.map(|(_, picture)| picture.clone()).collect();
                average_precision(&keep, 0).unwrap().value.into()
            })
            .collect();
        let errors: [Option<f64>; 6] = estimate.standard_error.into();
        for (figure, error) in errors.into_iter().enumerate() {
            let values: Option<Vec<f64>> = without.iter().map(|values| values[figure]).collect();
            let expected = values.map(|values| {
                let mean = values.iter().sum::<f64>() / groups as f64;
                let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
                ((groups as f64 - 1.0) / groups as f64 * squares).sqrt()
            });
            assert_eq!(error.is_some(), expected.is_some());
            assert!((error.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < EXACT, "{error:?} {expected:?}");
        }
        // The groups do not change the value.
        assert_eq!(estimate.value, average_precision(&pictures, 0).unwrap().value);
    }
}

#[test]
fn an_average_of_equal_pictures_has_no_error_and_that_of_one_picture_none_to_give() {
    let pictures: Vec<Picture> =
        (0..100).map(|i| picture(i, &[truth(0, 0.0, 50.0)], &[found(0, 0.0, 50.0, 0.5)])).collect();
    let (zero, error) = (Some(0.0), average_precision(&pictures, GROUPS).unwrap().standard_error);
    assert_eq!(error, [zero, zero, zero, None, zero, None].into());
    for groups in [0, 1] {
        assert_eq!(average_precision(&pictures, groups).unwrap().standard_error, AveragePrecision::default());
    }
    assert_eq!(average_precision(&pictures[..1], GROUPS).unwrap().standard_error, AveragePrecision::default());
    // All objects are on one picture: without it there is no average.
    let pictures = [pictures[0].clone(), picture(1, &[], &[found(0, 0.0, 50.0, 0.9)]), picture(2, &[], &[])];
    let estimate = average_precision(&pictures, GROUPS).unwrap();
    assert_eq!((estimate.value.all, estimate.standard_error.all), (Some(0.5), None));
}

#[test]
fn threads_do_not_change_the_result() {
    let pictures = some_pictures(500);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| average_precision(&pictures, GROUPS).unwrap())
    };
    assert_eq!(on(1), on(3));
    let mut other_order = pictures.clone();
    other_order.rotate_left(123);
    assert_eq!(on(1), average_precision(&other_order, GROUPS).unwrap());
}
