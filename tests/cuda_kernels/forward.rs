//! Kernels of forward passes: the same bits as those of the CPU.

use super::{devices, on};
use qdrop_core::cuda::kernels::{self as device_kernels, After, AfterSums, ChannelsOf, Pooling};
use qdrop_core::kernels::activation::Activation;
use qdrop_core::kernels::conv::Padding;
use qdrop_core::kernels::nhwc::pool::{average_pool, max_pool, mean};
use qdrop_core::kernels::nhwc::stage::{apply, Bounds, Function, Stage, TensorGrid};
use qdrop_core::kernels::nhwc::*;
use qdrop_core::kernels::pool::Pool2dShape;
use qdrop_core::kernels::testing::{images, uniform};

fn layout(batch: usize, [height, width]: [usize; 2], channels: usize) -> Layout {
    Layout { batch, height, width, channels, border: 0 }
}

/// A CPU kernel's output.
fn computed(layout: Layout, run: impl FnOnce(Written<'_>)) -> Vec<f32> {
    let mut out = Buffer::zeros(layout.len());
    run((&mut out, layout));
    out.to_vec()
}

#[test]
fn what_follows_a_convolution_is_the_same() {
    let activations = [
        None,
        Some(Activation::Relu),
        Some(Activation::Relu6),
        Some(Activation::Silu),
        Some(Activation::HardSwish),
        Some(Activation::HardSigmoid),
        Some(Activation::Sigmoid),
        Some(Activation::Gelu),
    ];
    let grid = TensorGrid { scale: 0.21, zero_point: 3.0, qmin: 0.0, qmax: 15.0 };
    for (layout, channels) in [(layout(2, [3, 5], 21), 21), (layout(3, [1, 1], 5), 5), (layout(1, [4, 4], 32), 32)] {
        let len = layout.len();
        let z: Vec<f32> = images(layout, 1).iter().map(|v| v * 8.0).collect();
        let [shortcut, rest] = [2, 3].map(|seed| images(layout, seed).to_vec());
        let [factors, bias] = [4, 5].map(|seed| uniform(channels, -0.4..0.4, seed));
        let bounds = uniform(channels, 0.2..3.0, 6);
        let functions = activations.iter().map(|a| a.map(Function::Activation)).chain([Some(Function::Clip(()))]);
        for (i, function) in functions.enumerate() {
            // All parts, in turn.
            let [has_sums, has_rest, has_shortcut, has_grid] = [i % 2 == 0, i % 4 == 0, i % 3 != 1, i != 3];
            let mut want = z.clone();
            match has_sums {
                true => {
                    let rest = has_rest.then_some((&rest[..], layout));
                    from_sums(&factors, &bias, rest, (&mut want, layout));
                }
                false => want.iter_mut().enumerate().for_each(|(i, v)| *v += bias[i % channels]),
            }
            let of_cpu = Bounds::new(&bounds);
            let stage = Stage { activation: function.map(|f| f.map(|()| &of_cpu)), grid: has_grid.then_some(grid) };
            let other = has_shortcut.then_some((&shortcut[..], layout));
            let mut with_border = Buffer::zeros(len);
            with_border.copy_from_slice(&want);
            apply(stage, other, (&mut with_border, layout));
            for d in devices() {
                let d = &*d;
                let [x, shortcut, rest] = [&z, &shortcut, &rest].map(|values| on(d, values));
                let [factors, bias, bounds] = [&factors, &bias, &bounds].map(|values| on(d, values));
                let after = After {
                    sums: has_sums.then_some(AfterSums { factors: &factors, rest: has_rest.then_some(&rest) }),
                    bias: Some(&bias),
                    shortcut: has_shortcut.then_some(&shortcut),
                    activation: function.map(|f| f.map(|()| &bounds)),
                    grid: stage.grid,
                };
                device_kernels::finish(d, &x, channels, after).unwrap();
                assert_eq!(x.to_vec(d).unwrap(), with_border.to_vec(), "{function:?} {layout:?}");
            }
        }
    }
}

#[test]
fn operations_without_parameters_are_the_same() {
    for (batch, size, channels) in [(2, [3, 5], 21), (1, [1, 1], 4), (3, [4, 4], 48), (1, [2, 3], 300)] {
        let layout = layout(batch, size, channels);
        let one = Layout { height: 1, width: 1, ..layout };
        let pixels = size[0] * size[1];
        let [x, y] = [images(layout, 1), images(layout, 2)];
        let [factors, offsets, gate] = [3, 4, 5].map(|seed| images(one, seed).to_vec());
        let [factors, offsets] = [&factors[..channels], &offsets[..channels]];
        let read = (&x[..], layout);
        let groups = if channels % 3 == 0 { 3 } else { 2 };
        let run = |out: Layout, body: &dyn Fn(Written<'_>)| computed(out, |written| body(written));
        let scale = 1.0 / 128.0;
        let step = |part| {
            let mut values = x.clone();
            to_steps(scale, part, (&mut values, layout));
            values.to_vec()
        };
        let wanted = [
            run(layout, &|out| affine(read, factors, Some(offsets), Write::Replace, out)),
            run(layout, &|out| multiply(read, (&y, layout), Write::Replace, out)),
            run(layout, &|out| multiply(read, (&gate, one), Write::Replace, out)),
            if channels % groups == 0 {
                run(layout, &|out| shuffle_channels(read, groups, Write::Replace, out))
            } else {
                vec![]
            },
            run(one, &|out| mean(read, out)),
            run(layout, &|out| layer_norm(read, [factors, offsets], 1e-6, out)),
            run(Layout { channels: channels + 3, ..layout }, &|out| {
                copy_channels(read, 1, channels - 1, Write::Replace, out, 3);
            }),
            step(Steps::Whole),
            step(Steps::Rest),
            x.to_vec(),
        ];
        for d in devices() {
            let d = &*d;
            let [x, y, gate, factors, offsets] = [&x[..], &y, &gate, factors, offsets].map(|values| on(d, values));
            for (i, want) in wanted.iter().enumerate().filter(|(_, want)| !want.is_empty()) {
                let out = on(d, &vec![0.0; want.len()]);
                match i {
                    0 => device_kernels::affine(d, &x, [&factors, &offsets], &out),
                    1 => device_kernels::multiply(d, &x, &y, &out, [batch, pixels, channels]),
                    2 => device_kernels::multiply(d, &x, &gate, &out, [batch, pixels, channels]),
                    3 => device_kernels::shuffle(d, &x, groups, channels, &out),
                    4 => device_kernels::mean(d, &x, [pixels, channels], &out),
                    5 => device_kernels::layer_norm(d, &x, [&factors, &offsets], 1e-6, &out),
                    6 => {
                        let from = ChannelsOf { values: &x, channels, first: 1 };
                        let to = ChannelsOf { values: &out, channels: channels + 3, first: 3 };
                        device_kernels::copy_channels(d, from, to, channels - 1)
                    }
                    7 => device_kernels::to_steps(d, &x, scale, false, &out),
                    8 => device_kernels::to_steps(d, &x, scale, true, &out),
                    _ => device_kernels::copy_values(d, &x, &out),
                }
                .unwrap();
                assert_eq!(&out.to_vec(d).unwrap(), want, "operation {i} of {layout:?}");
            }
        }
    }
}

#[test]
fn pools_are_the_same() {
    let padding = |[top, bottom, left, right]: [usize; 4]| Padding { top, bottom, left, right };
    for (size, kernel, stride, sides, ceil_mode, count_include_pad) in [
        ([7, 9], [3, 3], [2, 2], [1, 1, 1, 1], false, true),
        ([8, 5], [3, 2], [2, 1], [0, 1, 1, 0], true, false),
        ([6, 6], [2, 2], [2, 2], [0; 4], false, false),
        ([5, 5], [3, 3], [3, 3], [1, 0, 1, 0], true, true),
    ] {
        let (batch, channels) = (2, 21);
        let shape = Pool2dShape {
            planes: channels,
            in_height: size[0],
            in_width: size[1],
            kernel,
            stride,
            padding: padding(sides),
            ceil_mode,
            count_include_pad,
        };
        let from = layout(batch, size, channels);
        let to = layout(batch, [shape.out_height(), shape.out_width()], channels);
        let x = images(from, 1);
        for pooling in [Pooling::Max, Pooling::Average] {
            let want = computed(to, |out| match pooling {
                Pooling::Max => max_pool(&shape, (&x, from), out),
                Pooling::Average => average_pool(&shape, (&x, from), out),
            });
            for d in devices() {
                let (x, out) = (on(&*d, &x), on(&*d, &vec![0.0; to.len()]));
                device_kernels::pool(&*d, pooling, &shape, [batch, channels], &x, &out).unwrap();
                assert_eq!(out.to_vec(&*d).unwrap(), want, "{shape:?}");
            }
        }
    }
}
