//! What stands between the convolutions of a unit that learns: choices, values and gradients have the same bits.

use super::{devices, on, sums_agree};
use qdrop_core::cuda::abi::{Choices, Draw, Rows, Site, Sums};
use qdrop_core::cuda::kernels::{self, Chosen, StageInput};
use qdrop_core::cuda::{Buffer, Device};
use qdrop_core::kernels::activation::Activation;
use qdrop_core::kernels::drop::{self, Keep, Mixing, GROUP};
use qdrop_core::kernels::nhwc::stage::{self as cpu, groups_of_row, Bounds, Function, Stage, TensorGrid};
use qdrop_core::kernels::nhwc::{Buffer as Values, Layout};
use qdrop_core::kernels::random::Stream;
use qdrop_core::kernels::testing::{images, uniform};

const STREAM: Stream = Stream { seed: 0x1234_5678_9ABC_DEF0, id: [3, 1, 4] };

/// Rows with a rest of a group, rows shorter than a group, several blocks of groups.
const LAYOUTS: [Layout; 4] = [
    Layout { batch: 2, height: 3, width: 5, channels: 21, border: 0 },
    Layout { batch: 3, height: 1, width: 1, channels: 7, border: 0 },
    Layout { batch: 2, height: 17, width: 4, channels: 32, border: 0 },
    Layout { batch: 1, height: 2, width: 43, channels: 6, border: 0 },
];

fn rows(layout: Layout) -> Rows {
    Rows::new(layout.batch, [layout.channels, layout.height, layout.width])
}

fn scaled(layout: Layout, seed: u64) -> Values {
    let mut values = images(layout, seed);
    values.iter_mut().for_each(|v| *v *= 6.0);
    values
}

/// The choices of a device with this probability.
fn drawn(d: &dyn Device, layout: Layout, probability: f32) -> Buffer<Choices> {
    let kept = Buffer::zeros(d, layout.batch * layout.height * groups_of_row(layout)).unwrap();
    let draws = Buffer::new(d, &[Draw::constant(true), Draw::new(STREAM, probability)]).unwrap();
    kernels::draw_choices(d, &kept, &draws, 1).unwrap();
    kept
}

#[test]
fn choices_are_the_same() {
    for layout in LAYOUTS {
        for probability in [0.0, 0.25, 0.3, 0.5, 1.0] {
            let (row, groups) = (layout.values(), groups_of_row(layout));
            let keep = Keep::Random { stream: STREAM, probability };
            for d in devices() {
                let kept = drawn(&*d, layout, probability);
                let mut got = vec![Choices::default(); layout.batch * layout.height * groups];
                kept.read(&*d, &mut got).unwrap();
                for (i, got) in got.iter().enumerate() {
                    let want = keep.group(i, 0, 0);
                    let count = GROUP.min(row - i % groups * GROUP);
                    let same = |j: usize| (got.0[j % 16] >> (j / 16) & 1 != 0) == want.keeps(j);
                    assert!((0..count).all(same), "{layout:?} {probability} {i}");
                }
            }
        }
    }
}

#[test]
fn mixed_inputs_are_the_same() {
    for layout in LAYOUTS {
        let samples = Layout { batch: 5, ..layout };
        let [quantized, full] = [images(samples, 1), images(samples, 2)];
        let numbers: Vec<u32> = (0..layout.batch as u32).map(|i| (i * 3 + 1) % 5).collect();
        let mut want = Values::zeros(layout.len());
        let keep = Mixing::Chosen(Keep::Random { stream: STREAM, probability: 0.5 });
        let pair = |i: usize| {
            let at = numbers[i] as usize * layout.image();
            [&quantized[at..at + layout.image()], &full[at..at + layout.image()]]
        };
        cpu::mix(&pair, Layout { batch: 1, ..layout }, (keep, 0), (&mut want, layout));
        for d in devices() {
            let d = &*d;
            let kept = drawn(d, layout, 0.5);
            let (quantized, full, out) = (on(d, &quantized), on(d, &full), on(d, &vec![0.0; layout.len()]));
            let numbers = Buffer::new(d, &numbers).unwrap();
            let chosen = [&quantized, &full].map(|values| Chosen { values, numbers: &numbers });
            kernels::gather_mix(d, chosen, &kept, &out, rows(layout)).unwrap();
            assert_eq!(out.to_vec(d).unwrap(), want.to_vec(), "{layout:?}");
        }
    }
}

fn functions() -> impl Iterator<Item = Option<Function<()>>> {
    let activations = [
        Activation::Relu,
        Activation::Relu6,
        Activation::Silu,
        Activation::HardSwish,
        Activation::HardSigmoid,
        Activation::Sigmoid,
        Activation::Gelu,
    ];
    let known = activations.into_iter().map(|a| Some(Function::Activation(a)));
    [None, Some(Function::Clip(()))].into_iter().chain(known)
}

/// Checks the sums of a device against those of the rows of the CPU, whose terms are at most `largest`.
fn check_sums(d: &dyn Device, sums: &Buffer<Sums>, blocks: u32, want: &[cpu::Sums], layout: Layout, what: &str) {
    let ranges = Buffer::new(d, &[0, blocks]).unwrap();
    let totals = Buffer::zeros(d, 1).unwrap();
    kernels::add_sums(d, sums, &ranges, &totals).unwrap();
    let mut got = [Sums::default()];
    totals.read(d, &mut got).unwrap();
    let total = |of: fn(&cpu::Sums) -> f64| want.iter().map(of).sum::<f64>();
    let pairs = [
        (got[0].scale, total(|s| s.scale)),
        (got[0].zero_point, total(|s| s.zero_point)),
        (got[0].loss, total(|s| s.loss)),
    ];
    for (got, want) in pairs {
        assert!(sums_agree(got, want, layout.len(), 20.0), "{what}: {got} {want}");
    }
}

#[test]
fn stages_and_their_gradients_are_the_same() {
    let grid = TensorGrid { scale: 0.21, zero_point: 3.0, qmin: 0.0, qmax: 15.0 };
    for (number, function) in functions().enumerate() {
        let layout = LAYOUTS[number % LAYOUTS.len()];
        for (probability, has_shortcut, has_grid) in
            [(0.5, true, true), (1.0, false, true), (0.5, number % 2 == 0, false)]
        {
            let what = format!("{function:?} {layout:?} {probability} {has_shortcut} {has_grid}");
            let [z, shortcut] = [scaled(layout, 1), scaled(layout, 2)];
            let [gradient, target] = [images(layout, 3), scaled(layout, 4)];
            let [bias, shortcut_bias] = [5, 6].map(|seed| uniform(layout.channels, -1.0..1.0, seed));
            let bounds = uniform(layout.channels, 0.2..3.0, 7);
            let of_cpu = Bounds::new(&bounds);
            let with = |values: &Values, bias: &[f32]| {
                let mut values = values.clone();
                values.iter_mut().enumerate().for_each(|(i, v)| *v += bias[i % layout.channels]);
                values
            };
            let (sum, other) = (with(&z, &bias), with(&shortcut, &shortcut_bias));
            let other = has_shortcut.then_some((&other[..], layout));
            let stage = Stage { activation: function.map(|f| f.map(|()| &of_cpu)), grid: has_grid.then_some(grid) };
            let keep = Keep::Random { stream: STREAM, probability };
            let (mixing, loss) = ((Mixing::Chosen(keep), 0), (0.37, [-0.5, 2.5]));
            let rows_of_cpu = layout.batch * layout.height;
            let mut kept = vec![drop::Choices::default(); rows_of_cpu * groups_of_row(layout)];
            let mut sums = [vec![cpu::Sums::default(); rows_of_cpu], vec![cpu::Sums::default(); rows_of_cpu]];
            let [mut value, mut of_z, mut of_end] =
                [Values::zeros(layout.len()), gradient.clone(), Values::zeros(layout.len())];
            cpu::forward(stage, (&sum, layout), other, mixing, (&mut value, layout), &mut kept);
            cpu::backward(stage, (&sum, layout), other, mixing, &kept, (&mut of_z, layout), &mut sums[0]);
            let of_image = |i: usize| &target[i * layout.image()..][..layout.image()];
            let targets: cpu::Targets<'_> = (&of_image, Layout { batch: 1, ..layout });
            cpu::end(stage, (&sum, layout), other, targets, loss, mixing, (&mut of_end, layout), &mut sums[1]);
            for d in devices() {
                let d = &*d;
                let site = Site { step_scale: 0.21, step_zero_point: 3.0, qmin: 0.0, qmax: 15.0, ..Site::UNUSED };
                let sites = Buffer::new(d, &[Site::UNUSED, site]).unwrap();
                // Nothing is rounded without a quantizer.
                let kept = drawn(d, layout, if has_grid { probability } else { 0.0 });
                let [z, shortcut, target] = [&z, &shortcut, &target].map(|values| on(d, values));
                let [bias, shortcut_bias, bounds] = [&bias, &shortcut_bias, &bounds].map(|values| on(d, values));
                let input = StageInput {
                    z: &z,
                    bias: Some(&bias),
                    shortcut: has_shortcut.then_some(&shortcut),
                    shortcut_bias: has_shortcut.then_some(&shortcut_bias),
                    kept: &kept,
                    sites: &sites,
                    site: usize::from(has_grid),
                    activation: function.map(|f| f.map(|()| &bounds)),
                    rows: rows(layout),
                };
                let out = on(d, &vec![0.0; layout.len()]);
                kernels::forward(d, input, &out).unwrap();
                assert_eq!(out.to_vec(d).unwrap(), value.to_vec(), "{what}");
                let blocks = rows(layout).blocks();
                let device_sums = Buffer::zeros(d, blocks as usize).unwrap();
                let device_gradient = on(d, &gradient);
                kernels::backward(d, input, &device_gradient, &device_sums, 0).unwrap();
                assert_eq!(device_gradient.to_vec(d).unwrap(), of_z.to_vec(), "gradient of {what}");
                check_sums(d, &device_sums, blocks, &sums[0], layout, &what);
                let numbers: Vec<u32> = (0..layout.batch as u32).collect();
                let numbers = Buffer::new(d, &numbers).unwrap();
                let target = Chosen { values: &target, numbers: &numbers };
                kernels::end(d, input, target, loss, &device_gradient, &device_sums, 0).unwrap();
                assert_eq!(device_gradient.to_vec(d).unwrap(), of_end.to_vec(), "end of {what}");
                check_sums(d, &device_sums, blocks, &sums[1], layout, &what);
            }
        }
    }
}
