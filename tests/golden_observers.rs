//! Every observer against the ranges of the reference implementation.

use crate::support::*;
use qdrop_core::prelude::*;
use qdrop_kernels::range_search::{error, Bounds, Candidate, POWER};

const BITS: [u32; 4] = [2, 3, 4, 8];

fn observe(name: &str, spec: &QuantSpec, calls: &[&Tensor]) -> Range {
    let entry = registries().observers.get(name, "test").unwrap();
    let mut observer = entry.build(spec, &Params::none("test")).unwrap();
    calls.iter().for_each(|x| observer.observe(x).unwrap());
    observer.range().unwrap()
}

/// The error of a range, for cases in which the grid search found another candidate.
fn score(x: &[f32], min: f32, max: f32, spec: &QuantSpec) -> f64 {
    let (scale, zero_point) = QParams::of_pair(min, max, spec);
    error(x, Candidate { scale, zero_point }, Bounds { qmin: spec.qmin(), qmax: spec.qmax(), power: POWER })
}

fn check(label: &str, x: Option<&[f32]>, got: [f32; 4], want: &[f32], spec: &QuantSpec, tolerance: f32) {
    // Differences are relative to the width of the range, because one end may be close to zero.
    let width = (want[1] - want[0]).abs().max(1e-8);
    let close = (got[0] - want[0]).abs() <= tolerance * width
        && (got[1] - want[1]).abs() <= tolerance * width
        && (got[2] - want[2]).abs() <= tolerance * want[2]
        && got[3] == want[3];
    let no_worse = || x.is_some_and(|x| score(x, got[0], got[1], spec) <= score(x, want[0], want[1], spec));
    if !(close || no_worse()) {
        panic!("{label}: got {got:?}, want {want:?}");
    }
}

#[test]
fn ranges_and_grids_are_the_reference_ones() {
    let golden = golden("observers.safetensors");
    let mut compared = 0;
    for name in ["minmax", "avg_minmax", "mse", "avg_mse", "mse_fast", "avg_mse_fast"] {
        let tolerance = if name.contains("fast") { 1e-3 } else { 1e-4 };
        for bits in BITS {
            for (grid, symmetric) in [("asym", false), ("sym", true)] {
                for sign in ["pos", "neg", "mixed"] {
                    let Some(want) = golden.get(&format!("observer.{name}.b{bits}.{grid}.{sign}")) else { continue };
                    let spec = spec(bits, symmetric, Granularity::PerTensor);
                    let calls = [&golden[&format!("x.{sign}.a")], &golden[&format!("x.{sign}.b")]];
                    let range = observe(name, &spec, &calls);
                    let params = QParams::from_range(&range, &spec).unwrap();
                    let got = [range.min[0], range.max[0], params.scale[0], params.zero_point[0]];
                    check(&format!("{name} {bits} {grid} {sign}"), None, got, &vec(want), &spec, tolerance);
                    compared += 1;
                }
                let Some(want) = golden.get(&format!("observer.{name}.b{bits}.{grid}.weight_ch0")) else { continue };
                let spec = spec(bits, symmetric, Granularity::PerAxis(0));
                let x = &golden["x.weight"];
                let range = observe(name, &spec, &[x]);
                let params = QParams::from_range(&range, &spec).unwrap();
                let want = want.to_vec2::<f32>().unwrap();
                let rows = x.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
                for c in 0..range.min.len() {
                    let got = [range.min[c], range.max[c], params.scale[c], params.zero_point[c]];
                    let want = [want[0][c], want[1][c], want[2][c], want[3][c]];
                    let label = format!("{name} {bits} {grid} channel {c}");
                    check(&label, Some(&rows[c]), got, &want, &spec, tolerance);
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, golden.keys().filter(|k| k.starts_with("observer.")).count());
}

#[test]
fn averaging_observers_refuse_channels() {
    let spec = spec(4, false, Granularity::PerAxis(0));
    let entry = registries().observers.get("AvgMSEObserver", "test").unwrap();
    let params = Params::none("quant.weight.observer.params");
    let error = entry.build(&spec, &params).err().unwrap().to_string();
    assert!(error.starts_with("quant.weight.observer: this observer averages over calls"), "{error}");
}
