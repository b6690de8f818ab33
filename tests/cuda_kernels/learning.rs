//! Updates of what a unit learns: the same bits, and sums in another order.

use super::{devices, on};
use qdrop_core::cuda::abi::{Rates, Regularizer, Site, Sums};
use qdrop_core::cuda::kernels::{self, Channels, Rounding};
use qdrop_core::cuda::{Buffer, Device};
use qdrop_core::kernels::adam::{update, AdamStep};
use qdrop_core::kernels::nhwc::rounding::{self, LaneGrid, LaneShape, Learned};
use qdrop_core::kernels::testing::uniform;

const STEP: AdamStep = AdamStep { learning_rate: 0.03, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step: 7 };

fn read<T: qdrop_core::cuda::abi::Plain>(d: &dyn Device, from: &Buffer<T>, zero: T, len: usize) -> Vec<T> {
    let mut values = vec![zero; len];
    from.read(d, &mut values).unwrap();
    values
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

#[test]
fn roundings_learn_the_same() {
    // A weight of the device is (channel, value); lanes of the CPU are channels.
    for (channels, len) in [(5, 27), (16, 300), (1, 3), (40, 64)] {
        let count = channels * len;
        let lanes =
            |values: &[f32]| -> Vec<f32> { (0..count).map(|i| values[i % channels * len + i / channels]).collect() };
        let [alpha, floor, gradient, mean] = [1, 2, 3, 4].map(|seed| uniform(count, -3.0..3.0, seed));
        let floor: Vec<f32> = floor.iter().map(|v| v.floor()).collect();
        let square = uniform(count, 0.0..1.0, 5);
        let [scale, next] = [6, 7].map(|seed| uniform(channels, 0.01..0.4, seed));
        let zero_point: Vec<f32> = uniform(channels, 0.0..3.9, 8).iter().map(|v| v.floor()).collect();
        let shape = LaneShape { rows: len, lanes: channels };
        for (hard, regularizer) in [(false, Some((0.02, 5.5))), (false, None), (true, None)] {
            let grid = LaneGrid { scale: &scale, zero_point: &zero_point, qmin: 0.0, qmax: 3.0, hard };
            let after = LaneGrid { scale: &next, ..grid };
            let ordered = |values: &[f32]| lanes(values);
            let mut soft = vec![0.0; count];
            rounding::soft_weight(shape, &ordered(&alpha), &ordered(&floor), grid, &mut soft);
            let mut of_scale = vec![0.0; channels];
            rounding::scale_gradient(
                shape,
                &ordered(&alpha),
                &ordered(&floor),
                &ordered(&gradient),
                grid,
                &mut of_scale,
            );
            let [mut a, mut m, mut v] = [&alpha, &mean, &square].map(|values| ordered(values));
            let mut weight = vec![0.0; count];
            let mut room = vec![0.0; rounding::sums(shape, count)];
            let learned = Learned { alpha: &mut a, mean: &mut m, square: &mut v, weight: &mut weight };
            let terms = regularizer.map(|(weight, b)| rounding::Regularizer { weight, b });
            let (floor_lanes, gradient_lanes) = (ordered(&floor), ordered(&gradient));
            let sum =
                rounding::learn(shape, learned, &floor_lanes, &gradient_lanes, grid, after, terms, STEP, &mut room);
            for d in devices() {
                let d = &*d;
                let what = format!("{channels} x {len}, {hard} {regularizer:?}");
                let [da, df, dg, dm, dv] = [&alpha, &floor, &gradient, &mean, &square].map(|values| on(d, values));
                let [ds, dn, dz] = [&scale, &next, &zero_point].map(|values| on(d, values));
                let of = |scale| Rounding {
                    alpha: &da,
                    mean: &dm,
                    square: &dv,
                    floor: &df,
                    scale,
                    zero_point: &dz,
                    bounds: [0.0, 3.0],
                    hard,
                };
                let out = on(d, &vec![0.0; count]);
                kernels::soft_weight(d, &of(&ds), &out).unwrap();
                assert_eq!(lanes(&out.to_vec(d).unwrap()), soft, "{what}");
                let sums = Buffer::<f64>::zeros(d, channels).unwrap();
                kernels::scale_gradient(d, &of(&ds), &dg, &sums).unwrap();
                let got = read(d, &sums, 0.0, channels);
                assert!(got.iter().zip(&of_scale).all(|(a, b)| close(*a, *b)), "{what}: {got:?} {of_scale:?}");
                let rates = Buffer::new(d, &[Rates::default(), Rates::new(STEP)]).unwrap();
                let (r, b) = regularizer.unwrap_or_default();
                let regularizer = Buffer::new(d, &[Regularizer { weight: r, b }]).unwrap();
                let terms = Buffer::<f64>::zeros(d, 1 + kernels::terms(count)).unwrap();
                let total = Buffer::<f64>::zeros(d, 1).unwrap();
                kernels::learn_rounding(d, &of(&dn), &ds, &dg, (&rates, 1), &regularizer, &out, (&terms, 1)).unwrap();
                kernels::add_up(d, &terms, &total).unwrap();
                for (got, want) in [(&da, &a), (&dm, &m), (&dv, &v), (&out, &weight)] {
                    assert_eq!(&lanes(&got.to_vec(d).unwrap()), want, "{what}");
                }
                let got = read(d, &total, 0.0, 1)[0];
                assert!(close(got, sum), "{what}: {got} {sum}");
            }
        }
    }
}

/// Adam's update of changes that are relative to sizes.
fn relative(values: &mut [f32], sizes: &[f32], gradients: &[f64], mean: &mut [f32], square: &mut [f32]) {
    let gradients: Vec<f32> = gradients.iter().map(|g| *g as f32).collect();
    let mut change = vec![0.0; values.len()];
    update(&mut change, &gradients, mean, square, STEP);
    values.iter_mut().zip(change).zip(sizes).for_each(|((v, change), size)| *v += size * change);
}

#[test]
fn channels_learn_the_same() {
    let channels = 300;
    for (count, are_scales) in [(300, false), (300, true), (1, true)] {
        let start = uniform(count, -0.1..0.4, 1);
        let [mean, sizes] = [2, 3].map(|seed| uniform(count, 0.0..1.0, seed));
        let square = uniform(count, 0.0..1.0, 4);
        let gradients: Vec<f64> = uniform(channels, -1.0..1.0, 5).iter().map(|g| f64::from(*g)).collect();
        let [mut value, mut m, mut v] = [&start, &mean, &square].map(|values| values.clone());
        let own = if count == 1 { vec![gradients.iter().sum()] } else { gradients.clone() };
        relative(&mut value, &sizes, &own, &mut m, &mut v);
        if are_scales {
            value.iter_mut().for_each(|s| *s = s.abs().max(f32::EPSILON));
        }
        let all = if count == 1 { vec![value[0]; channels] } else { value.clone() };
        for d in devices() {
            let d = &*d;
            let [dv, dm, ds, size] = [&start, &mean, &square, &sizes].map(|values| on(d, values));
            let earlier = uniform(channels, 0.0..1.0, 6);
            let (out, before) = (on(d, &earlier), on(d, &vec![0.0; channels]));
            let gradient = Buffer::new(d, &gradients).unwrap();
            let variable =
                Channels { value: &dv, mean: &dm, square: &ds, size: &size, gradient: &gradient, are_scales };
            let rates = Buffer::new(d, &[Rates::new(STEP)]).unwrap();
            kernels::learn_channels(d, &variable, (&rates, 0), &out, Some(&before)).unwrap();
            assert_eq!(before.to_vec(d).unwrap(), earlier);
            for (got, want) in [(&dv, &value), (&dm, &m), (&ds, &v), (&out, &all)] {
                // One number for all channels is a sum in another order.
                let got = got.to_vec(d).unwrap();
                match count {
                    1 => assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3))),
                    _ => assert_eq!(&got, want),
                }
            }
        }
    }
}

#[test]
fn sites_learn_the_same() {
    let learned = Site {
        step_scale: 0.5,
        step_zero_point: 3.0,
        qmin: 0.0,
        qmax: 15.0,
        scale: [0.3, 0.1, 0.2],
        zero_point: [3.4, -0.1, 0.4],
        scale_rates: 1,
        zero_point_rates: 0,
        scale_size: 0.3,
        zero_point_size: 1.0,
        factor: 0.01,
    };
    let below = Site { scale: [-0.2, 0.0, 0.0], zero_point: [-2.0, 0.0, 0.0], ..learned };
    let sums = Sums { scale: 12.0, zero_point: -7.0, loss: 0.0 };
    for d in devices() {
        let d = &*d;
        let sites = Buffer::new(d, &[learned, Site::UNUSED, below]).unwrap();
        kernels::prepare_sites(d, &sites).unwrap();
        let [a, unused, c] = read(d, &sites, Site::UNUSED, 3).try_into().unwrap();
        assert_eq!([a.step_scale, a.step_zero_point, c.step_scale, c.step_zero_point], [0.3, 3.0, 0.2, 0.0]);
        assert_eq!([unused.step_scale, unused.step_zero_point], [1.0, 0.0]);
        let totals = Buffer::new(d, &[sums; 3]).unwrap();
        let rates = Buffer::new(d, &[Rates::new(STEP); 2]).unwrap();
        kernels::learn_sites(d, &sites, &totals, &rates).unwrap();
        let [a, unused, _] = read(d, &sites, Site::UNUSED, 3).try_into().unwrap();
        for (got, start, size, gradient) in
            [(a.scale, learned.scale, 0.3, 0.12), (a.zero_point, learned.zero_point, 1.0, -0.07)]
        {
            let [mut value, mut m, mut v] = start.map(|x| [x]);
            relative(&mut value, &[size], &[gradient], &mut m, &mut v);
            assert_eq!(got, [value[0], m[0], v[0]]);
        }
        assert_eq!(unused.scale, Site::UNUSED.scale);
    }
}

#[test]
fn gradients_of_biases_are_sums_over_pixels() {
    for (pixels, channels) in [(1, 1), (37, 40), (500, 64)] {
        let gradient = uniform(pixels * channels, -1.0..1.0, 1);
        let want: Vec<f64> =
            (0..channels).map(|c| gradient.iter().skip(c).step_by(channels).map(|g| f64::from(*g)).sum()).collect();
        for d in devices() {
            let parts = Buffer::<f64>::zeros(&*d, 32 * channels).unwrap();
            let out = Buffer::<f64>::zeros(&*d, channels).unwrap();
            kernels::bias_gradient(&*d, &on(&*d, &gradient), &parts, &out).unwrap();
            let got = read(&*d, &out, 0.0, channels);
            assert!(got.iter().zip(&want).all(|(a, b)| close(*a, *b)), "{got:?} {want:?}");
        }
    }
}
