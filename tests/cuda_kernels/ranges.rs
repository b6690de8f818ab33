//! The search for a range.

use super::devices;
use qdrop_core::kernels::range_search::{error, min_max, search, Bounds, Candidate, POWER};
use qdrop_core::kernels::testing::normal;
use qdrop_core::prelude::*;
use qdrop_core::rows::Rows;

fn candidates(count: usize) -> Vec<Candidate> {
    (0..count).map(|i| Candidate { scale: 0.02 + 0.7 * i as f32 / count as f32, zero_point: (i % 16) as f32 }).collect()
}

#[test]
fn a_device_finds_the_extremes_and_the_best_of_all_grids() {
    let bounds = Bounds { qmin: 0.0, qmax: 15.0, power: POWER };
    // Less than a block, pieces with a rest, several tiles of candidates.
    for (len, count) in [(1, 1), (7, 3), (1000, 40), (4096, 300), (9001, 129), (20_000, 2)] {
        let values = normal(len, 7);
        let x = Tensor::from_slice(&values, len, &Device::Cpu).unwrap();
        let (candidates, what) = (candidates(count), format!("{len} values, {count} grids"));
        let want = search(&values, &candidates, bounds).unwrap();
        for device in devices() {
            let rows = Rows::on(device, &x).unwrap();
            assert_eq!(rows.extremes().unwrap(), [min_max(&values)], "{what}");
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b;
            let found = rows.map(|_, row| row.search(&candidates, bounds)).unwrap()[0].unwrap();
            assert!(close(found.1, want.1), "{what}: {found:?}, {want:?}");
            assert!(close(error(&values, candidates[found.0], bounds), want.1), "{what}: {found:?}, {want:?}");
            for candidate in [candidates[0], candidates[count / 2]] {
                let got = rows.map(|_, row| row.error(candidate, bounds)).unwrap()[0];
                assert!(close(got, error(&values, candidate, bounds)), "{what}: {candidate:?}");
            }
            assert!(rows.map(|_, row| row.search(&[], bounds)).unwrap()[0].is_none());
        }
    }
    let none = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
    for device in devices() {
        assert!(Rows::on(device, &none).is_err());
    }
}
