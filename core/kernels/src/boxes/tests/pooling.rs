//! RoIAlign and the choice of levels.

use super::inputs::*;
use crate::boxes::*;

/// Features and results are of the size of 1; the order of sums differs.
const TOLERANCE: f32 = 2e-6;

/// Four levels of two channels, for a picture that is padded to 544 x 608.
fn levels() -> Vec<Vec<f32>> {
    (0..4).map(|i| noise(50 + i, 2 * (136 >> i) * (152 >> i), -1.0, 1.0)).collect()
}

fn maps(levels: &[Vec<f32>]) -> Vec<FeatureMap<'_>> {
    let map = |(i, values)| FeatureMap::new(values, [2, 136_usize >> i, 152_usize >> i], 4_usize << i).unwrap();
    levels.iter().map(Vec::as_slice).enumerate().map(map).collect()
}

fn boxes() -> Vec<BBox> {
    let mut boxes = random_boxes(60, 10, 300.0, 4.0, 300.0);
    boxes.extend([
        [0.0, 0.0, 600.0, 536.0],
        [100.0, 50.0, 560.0, 520.0],
        [10.5, 20.25, 122.5, 132.25],
        [0.0, 0.0, 224.0, 224.0],
        [1.0, 2.0, 449.0, 450.0],
        [590.0, 500.0, 600.0, 536.0],
        [-60.0, -40.0, 100.0, 90.0],
        [500.0, 400.0, 700.0, 640.0],
        [900.0, 900.0, 1000.0, 1000.0],
        [33.0, 44.0, 33.0, 44.0],
        [50.0, 60.0, 51.0, 61.0],
        [40.0, 40.0, 20.0, 20.0],
        [300.0, 10.0, 310.0, 500.0],
        [5.0, 250.0, 598.0, 262.0],
        [599.5, 535.5, 600.0, 536.0],
        [551.0, 10.0, 611.0, 70.0],
        [550.0, 10.0, 610.0, 70.0],
    ]);
    boxes
}

#[test]
fn boxes_are_pooled_from_their_levels() {
    let (levels, boxes) = (levels(), boxes());
    for (name, settings) in [("torchvision", RoiAlignSettings::torchvision()), ("mmdet", RoiAlignSettings::mmdet())] {
        let got = roi_align(&maps(&levels), &boxes, &settings).unwrap();
        let distance = apart(&got, &golden(&format!("pool.{name}")));
        assert!(distance <= TOLERANCE, "{name}: {distance}");
    }
}

#[test]
fn boxes_are_pooled_in_each_way() {
    let (levels, boxes): (_, Vec<BBox>) = (levels(), boxes().into_iter().step_by(2).collect());
    for (name, aligned) in [("aligned", true), ("corner", false)] {
        for (count, sampling) in [("adaptive", Sampling::Adaptive), ("3", Sampling::Fixed(3))] {
            let settings = RoiAlignSettings { size: 5, aligned, sampling, level: LevelRule::Mmdet };
            let got = roi_align(&maps(&levels)[..1], &boxes, &settings).unwrap();
            let distance = apart(&got, &golden(&format!("pool.{name}.{count}")));
            assert!(distance <= TOLERANCE, "{name} {count}: {distance}");
        }
    }
}

#[test]
fn a_map_of_one_pixel_is_pooled() {
    let values = noise(59, 2, -1.0, 1.0);
    let map = FeatureMap::new(&values, [2, 1, 1], 128).unwrap();
    let got = roi_align(&[map], &boxes()[..8], &RoiAlignSettings::mmdet()).unwrap();
    assert!(apart(&got, &golden("pool.pixel")) <= TOLERANCE);
}

#[test]
fn levels_are_chosen_by_size() {
    let sides: [f32; 18] = [
        1.0, 55.9, 56.0, 111.9, 111.9999, 112.0, 112.0001, 200.0, 223.999, 223.9999, 224.0, 300.0, 447.9, 447.9999,
        448.0, 449.0, 2000.0, 0.0,
    ];
    for (name, rule) in [("torchvision", LevelRule::Torchvision), ("mmdet", LevelRule::Mmdet)] {
        let got: Vec<usize> = sides.iter().map(|side| rule.level([0.0, 0.0, *side, *side], 4)).collect();
        assert_eq!(got, golden_places(&format!("levels.{name}")));
        assert_eq!(rule.level([0.0, 0.0, f32::NAN, 1.0], 4), 0);
        assert_eq!(rule.level([0.0, 0.0, 2000.0, 2000.0], 0), 0);
    }
}

#[test]
fn what_cannot_be_pooled_is_an_error() {
    let values = [0.0; 6];
    let map = FeatureMap::new(&values, [1, 2, 3], 4).unwrap();
    let settings = RoiAlignSettings::mmdet();
    for bad in [f32::NAN, f32::INFINITY, 1e9] {
        let boxes = [[0.0; 4], [0.0, 0.0, bad, 4.0]];
        assert_eq!(roi_align(&[map], &boxes, &settings).unwrap_err(), BoxesError::Box { index: 1 });
    }
    assert!(roi_align(&[map], &[], &settings).unwrap().is_empty());
    assert!(roi_align(&[], &[], &settings).is_err());
    assert!(roi_align(&[map], &[[0.0; 4]], &RoiAlignSettings { size: 0, ..settings }).is_err());
    assert!(roi_align(&[map], &[[0.0; 4]], &RoiAlignSettings { sampling: Sampling::Fixed(0), ..settings }).is_err());
    let other = FeatureMap::new(&values, [2, 1, 3], 4).unwrap();
    assert!(roi_align(&[map, other], &[], &settings).is_err());
    assert!(FeatureMap::new(&values, [1, 2, 4], 4).is_err());
    assert!(FeatureMap::new(&values, [1, 2, 3], 0).is_err());
    assert!(FeatureMap::new(&[], [0, 2, 3], 4).is_err());
}
