use super::*;

fn linear(low: f64, high: f64) -> Range {
    Range { low, high, log: false }
}

#[test]
fn ticks_are_round() {
    assert_eq!(linear(0.0, 10.0).ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    assert_eq!(linear(-1.0, 1.0).ticks(5), [-1.0, -0.5, 0.0, 0.5, 1.0]);
    assert_eq!(linear(0.13, 0.87).ticks(4), [0.2, 0.4, 0.6, 0.8]);
    assert_eq!(linear(0.0, 1e30).ticks(5), [0.0, 2e29, 4e29, 6e29, 8e29, 1e30]);
    assert_eq!(linear(-3e-30, 1e-30).ticks(4), [-3e-30, -2e-30, -1e-30, 0.0, 1e-30]);
    let log = |low, high| Range { low, high, log: true };
    assert_eq!(log(0.01, 50.0).ticks(5), [0.01, 0.1, 1.0, 10.0]);
    assert_eq!(log(1e-6, 1.0).ticks(5), [1e-6, 1e-4, 1e-2, 1.0]);
    assert_eq!(log(0.5, 10.0).ticks(5), [0.5, 1.0, 2.0, 5.0, 10.0]);
}

#[test]
fn ranges_grow_to_ticks() {
    assert_eq!(linear(0.13, 9.2).rounded(5), linear(0.0, 10.0));
    assert_eq!(linear(-0.3, 0.3).rounded(6), linear(-0.3, 0.3));
    let log = Range::of([0.013, 30.0, 0.0, -1.0], true).map(|r| r.rounded(5));
    assert_eq!(log, Some(Range { low: 0.01, high: 50.0, log: true }));
    let exact = Range::of([0.001, 1000.0], true).map(|r| r.rounded(5));
    assert_eq!(exact, Some(Range { low: 0.001, high: 1000.0, log: true }));
}

#[test]
fn values_that_cannot_be_drawn_are_left_out() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e301, 2.0, -3.0];
    assert_eq!(Range::of(values, false), Some(linear(-3.0, 2.0)));
    assert_eq!(Range::of([f64::NAN], false), None);
    assert_eq!(Range::of([0.0, -1.0], true), None);
    assert_eq!(Range::of([], false), None);
}

/// Every range of values has ends that differ and at least two ticks.
#[test]
fn equal_and_extreme_values_have_an_axis() {
    assert_eq!(Range::of([4.0, 4.0], false), Some(linear(2.0, 6.0)));
    assert_eq!(Range::of([0.0], false), Some(linear(-1.0, 1.0)));
    assert_eq!(Range::of([-4.0], false), Some(linear(-6.0, -2.0)));
    assert_eq!(Range::of([3.0], true), Some(Range { low: 1.5, high: 6.0, log: true }));
    for values in [[1e30, 1e30], [1e-30, 3e-30], [-1e300, 1e300], [1e-290, 1e300], [5e-324, 5e-324], [1.0, 1.0 + 1e-9]]
    {
        for log in [false, true] {
            let Some(range) = Range::of(values, log).map(|r| r.rounded(5)) else {
                assert!(log && values.iter().any(|v| *v < SMALLEST), "{values:?}");
                continue;
            };
            let ticks = range.ticks(5);
            assert!((2..=12).contains(&ticks.len()), "{values:?}, {log}: {ticks:?}");
            let scale = Scale { range, from: 0.0, to: 100.0 };
            assert!(ticks.windows(2).all(|pair| scale.at(pair[0]) < scale.at(pair[1])), "{ticks:?}");
        }
    }
}

#[test]
fn a_scale_maps_values_to_coordinates() {
    let scale = Scale { range: linear(-1.0, 3.0), from: 100.0, to: 20.0 };
    assert_eq!([-1.0, 0.0, 3.0, 9.0].map(|v| scale.at(v)), [100.0, 80.0, 20.0, 20.0]);
    let log = Scale { range: Range { low: 0.01, high: 100.0, log: true }, from: 0.0, to: 40.0 };
    for (value, place) in [(0.01, 0.0), (0.1, 10.0), (1.0, 20.0), (100.0, 40.0), (-5.0, 0.0)] {
        assert!((log.at(value) - place).abs() < 1e-12, "{value}");
    }
}

#[test]
fn labels_stand_apart() {
    let range = linear(1.000_01, 1.000_06);
    let (_, markup) = horizontal(range, "time", [60.0, 274.0], 100.0, 0.0);
    // Six labels of seven characters do not fit in 214 units; those of every second tick do.
    assert_eq!(markup.into_string().matches("class=\"middle\"").count(), 3);
}
