//! Gradients of every operation: against finite differences, and the kernels against the
//! composition of candle's operations that other devices use.

use crate::support::*;
use qdrop_core::ops::{composite, Activation, Conv2dGeometry, Grid, Keep, Padding, Pool2dGeometry};
use qdrop_core::prelude::*;

type Function<'a> = &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

/// A fixed random combination of the outputs, which makes any function scalar.
fn combine(out: &Tensor) -> Tensor {
    let weights = noise(out.dims(), 77).to_device(out.device()).unwrap();
    (out * weights).unwrap().sum_all().unwrap()
}

fn gradients(f: Function<'_>, inputs: &[Tensor], device: &Device) -> Vec<Vec<f32>> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&x.to_device(device).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = combine(&f(&tensors).unwrap()).backward().unwrap();
    vars.iter().map(|v| vec(grads.get(v.as_tensor()).unwrap())).collect()
}

/// Compares gradients with central differences, which are computed in f64 from f32 values.
fn check_differences(label: &str, f: Function<'_>, inputs: &[Tensor]) {
    const STEP: f32 = 1e-2;
    let analytic = gradients(f, inputs, &Device::Cpu);
    let value = |inputs: &[Tensor]| -> f64 {
        let out = f(inputs).unwrap();
        let weights = vec(&noise(out.dims(), 77));
        vec(&out).iter().zip(weights).map(|(o, w)| f64::from(*o) * f64::from(w)).sum()
    };
    for (k, input) in inputs.iter().enumerate() {
        let base = vec(input);
        for i in (0..base.len()).step_by((base.len() / 40).max(1)) {
            let shifted = |by: f32| {
                let mut values = base.clone();
                values[i] += by;
                let mut inputs = inputs.to_vec();
                inputs[k] = Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap();
                value(&inputs)
            };
            let want = (shifted(STEP) - shifted(-STEP)) / (2.0 * f64::from(STEP));
            let got = f64::from(analytic[k][i]);
            assert!(
                (got - want).abs() <= 5e-3 * want.abs().max(1.0),
                "{label}: input {k}[{i}]: {got}, differences {want}"
            );
        }
    }
}

/// Compares the kernels on the CPU with the composition on every device.
fn check_composite(label: &str, kernel: Function<'_>, composite: Function<'_>, inputs: &[Tensor]) {
    let value = vec(&kernel(inputs).unwrap());
    let grads = gradients(kernel, inputs, &Device::Cpu);
    for device in devices() {
        let moved: Vec<Tensor> = inputs.iter().map(|x| x.to_device(&device).unwrap()).collect();
        let error = worst(&vec(&composite(&moved).unwrap()), &value, 1.0);
        assert!(error < 1e-5, "{label}: values differ by {error} on {device:?}");
        for (k, (got, want)) in gradients(composite, inputs, &device).iter().zip(&grads).enumerate() {
            let error = worst(got, want, 1.0);
            assert!(error < 1e-4, "{label}: gradients of input {k} differ by {error} on {device:?}");
        }
    }
}

fn check(label: &str, kernel: Function<'_>, composite: Function<'_>, inputs: &[Tensor]) {
    check_differences(label, kernel, inputs);
    check_composite(label, kernel, composite, inputs);
}

#[test]
fn convolutions() {
    let square = |stride, padding, dilation, groups| Conv2dGeometry {
        stride: [stride; 2],
        padding: Padding::all(padding),
        dilation: [dilation; 2],
        groups,
    };
    let odd = Conv2dGeometry {
        stride: [2, 1],
        padding: Padding { top: 0, bottom: 2, left: 1, right: 3 },
        dilation: [1, 2],
        groups: 2,
    };
    for (label, geometry, weight) in [
        ("3x3", square(1, 1, 1, 1), [6, 4, 3, 3]),
        ("3x3 stride 2", square(2, 1, 1, 1), [5, 4, 3, 3]),
        ("1x1", square(1, 0, 1, 1), [6, 4, 1, 1]),
        ("1x1 stride 2", square(2, 0, 1, 1), [6, 4, 1, 1]),
        ("7x7 stride 2", square(2, 3, 1, 1), [3, 4, 7, 7]),
        ("grouped", square(1, 1, 1, 2), [6, 2, 3, 3]),
        ("depthwise", square(1, 1, 1, 4), [4, 1, 3, 3]),
        ("depthwise stride 2", square(2, 1, 1, 4), [8, 1, 3, 3]),
        ("dilated", square(1, 2, 2, 1), [6, 4, 3, 3]),
        ("uneven", odd, [6, 2, 3, 2]),
    ] {
        let inputs = [noise(&[2, 4, 9, 8], 1), noise(&weight, 2), noise(&[weight[0]], 3)];
        check(
            label,
            &|i| ops::conv2d(&i[0], &i[1], Some(&i[2]), &geometry),
            &|i| composite::conv2d(&i[0], &i[1], Some(&i[2]), &geometry),
            &inputs,
        );
    }
}

#[test]
fn linear_layers() {
    let inputs = [noise(&[5, 7], 1), noise(&[6, 7], 2), noise(&[6], 3)];
    let composite = |i: &[Tensor]| i[0].matmul(&i[1].t()?)?.broadcast_add(&i[2]);
    check("linear", &|i| ops::linear(&i[0], &i[1], Some(&i[2])), &composite, &inputs);
}

#[test]
fn poolings() {
    let geometry = |kernel, stride, padding, ceil_mode, count_include_pad| Pool2dGeometry {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: Padding::all(padding),
        ceil_mode,
        count_include_pad,
    };
    for g in [
        geometry(3, 2, 1, false, true),
        geometry(2, 2, 0, true, true),
        geometry(3, 2, 1, true, false),
        geometry(3, 1, 1, false, false),
        Pool2dGeometry { padding: Padding { top: 0, bottom: 1, left: 1, right: 0 }, ..geometry(3, 2, 0, false, true) },
        Pool2dGeometry { padding: Padding { top: 0, bottom: 1, left: 1, right: 0 }, ..geometry(3, 2, 0, true, false) },
        Pool2dGeometry { kernel: [1, 3], stride: [2, 1], ..geometry(3, 2, 0, false, true) },
    ] {
        // Distinct values, further apart than the difference step, so that the maximum does not change.
        let n = 2 * 2 * 7 * 8;
        let order = qdrop_core::random::permutation(qdrop_kernels::random::Stream { seed: 4, id: [0; 3] }, n);
        let distinct: Vec<f32> = order.iter().map(|v| *v as f32 * 0.05 - 5.0).collect();
        let x = [Tensor::from_vec(distinct, (2, 2, 7, 8), &Device::Cpu).unwrap()];
        check(&format!("max {g:?}"), &|i| ops::max_pool2d(&i[0], &g), &|i| composite::max_pool2d(&i[0], &g), &x);
        check(
            &format!("average {g:?}"),
            &|i| ops::average_pool2d(&i[0], &g),
            &|i| composite::average_pool2d(&i[0], &g),
            &x,
        );
    }
}

#[test]
fn normalization_over_the_channels() {
    for dims in [&[2, 5, 3, 2][..], &[4, 5]] {
        let inputs = [noise(dims, 1), noise(&[5], 2), noise(&[5], 3)];
        // By its definition, element by element.
        let (n, pixels) = (dims[0], dims[2..].iter().product::<usize>());
        let [x, weight, bias] = [0, 1, 2].map(|i: usize| vec(&inputs[i]));
        let mut want = vec![0.0_f32; x.len()];
        for (image, pixel) in (0..n).flat_map(|i| (0..pixels).map(move |p| (i, p))) {
            let at = |c: usize| (image * 5 + c) * pixels + pixel;
            let mean = (0..5).map(|c| f64::from(x[at(c)])).sum::<f64>() / 5.0;
            let variance = (0..5).map(|c| (f64::from(x[at(c)]) - mean).powi(2)).sum::<f64>() / 5.0;
            for c in 0..5 {
                let normal = (f64::from(x[at(c)]) - mean) / (variance + 1e-2).sqrt();
                want[at(c)] = (normal * f64::from(weight[c]) + f64::from(bias[c])) as f32;
            }
        }
        let run = |i: &[Tensor]| ops::layer_norm(&i[0], &i[1], &i[2], 1e-2);
        let got = vec(&run(&inputs).unwrap());
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?} {want:?}");
        check("layer_norm", &run, &run, &inputs);
    }
}

#[test]
fn shuffled_channels() {
    let x = [noise(&[2, 6, 2, 3], 5)];
    let run = |i: &[Tensor]| ops::shuffle_channels(&i[0], 2);
    let order: Vec<f32> = (0..6).map(|c| c as f32).collect();
    let channels = Tensor::from_vec(order, (1, 6, 1, 1), &Device::Cpu).unwrap();
    assert_eq!(vec(&ops::shuffle_channels(&channels, 2).unwrap()), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check("shuffle_channels", &run, &run, &x);
}

#[test]
fn activations() {
    // Inputs away from the kinks at -3, 0, 3 and 6.
    let values: Vec<f32> = (0..64).map(|i| i as f32 * 0.23 - 6.07).collect();
    let x = [Tensor::from_vec(values, (4, 16), &Device::Cpu).unwrap()];
    use Activation::*;
    for activation in [Relu, Relu6, Silu, HardSwish, HardSigmoid, Sigmoid, Gelu] {
        check(
            &format!("{activation:?}"),
            &|i| ops::activation(&i[0], activation),
            &|i| composite::activation(&i[0], activation),
            &x,
        );
    }
}

#[test]
fn activations_have_pytorchs_gradient_at_their_kinks() {
    for (activation, at, want) in [
        (Activation::Relu, 0.0, 0.0),
        (Activation::Relu6, 0.0, 0.0),
        (Activation::Relu6, 6.0, 0.0),
        (Activation::HardSigmoid, 3.0, 0.0),
        (Activation::HardSwish, 3.0, 1.0),
        (Activation::HardSwish, -3.0, 0.0),
    ] {
        for function in [ops::activation, composite::activation] {
            let x = Var::new(&[at as f32], &Device::Cpu).unwrap();
            let grads = function(x.as_tensor(), activation).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(vec(grads.get(x.as_tensor()).unwrap()), [want], "{activation:?} at {at}");
        }
    }
}

#[test]
fn clips_have_a_bound_for_each_channel() {
    let bound = Tensor::new(&[0.31_f32, 1.02, 6.0, 2.0, 0.7], &Device::Cpu).unwrap();
    let at = |x: &Tensor| bound.to_device(x.device());
    for dims in [&[3, 5, 4, 7][..], &[40, 5]] {
        // Inputs away from the kinks.
        let apart = |v: f32| [0.0, 0.31, 1.02, 6.0, 2.0, 0.7].iter().all(|k| (v - k).abs() > 0.015);
        let values = vec(&noise(dims, 9).affine(4.0, 3.0).unwrap());
        let values: Vec<f32> = values.into_iter().map(|v| if apart(v) { v } else { v + 0.04 }).collect();
        let x = [Tensor::from_vec(values, dims, &Device::Cpu).unwrap()];
        check("clip", &|i| ops::clip(&i[0], &bound), &|i| composite::clip(&i[0], &at(&i[0])?), &x);
    }
    type Clip = fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;
    for function in [ops::clip as Clip, composite::clip as Clip] {
        // At the kinks the gradient is 0, as that of ReLU6.
        let x = Var::new(&[[0.0_f32, 1.02, 5.9, 2.1, -0.1], [0.31, 1.0, 6.0, 2.0, 0.1]], &Device::Cpu).unwrap();
        let value = function(x.as_tensor(), &bound).unwrap();
        assert_eq!(vec(&value), [0.0, 1.02, 5.9, 2.0, 0.0, 0.31, 1.0, 6.0, 2.0, 0.1]);
        let grads = value.sum_all().unwrap().backward().unwrap();
        assert_eq!(vec(grads.get(x.as_tensor()).unwrap()), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        let error = function(&noise(&[2, 4, 3], 1), &bound).unwrap_err().to_string();
        assert!(error.contains("a clip needs a bound for each of 4 channels, but 5 were given"), "{error}");
    }
    for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let bound = Tensor::new(&[1.0, wrong], &Device::Cpu).unwrap();
        let error = ops::clip(&noise(&[2, 2], 1), &bound).unwrap_err().to_string();
        let want = format!("the bounds of a clip are positive numbers, but that of channel 1 is {wrong}");
        assert!(error.contains(&want), "{error}");
    }
}

#[test]
fn fake_quantization_kernel_equals_composition() {
    for granularity in [Granularity::PerTensor, Granularity::PerAxis(1)] {
        let channels = if granularity == Granularity::PerTensor { 1 } else { 3 };
        let grid = Grid { qmin: 0.0, qmax: 7.0, granularity };
        let scale = (noise(&[channels], 5).abs().unwrap() * 0.2).unwrap();
        let scale = (scale + 0.05).unwrap();
        let zero_point = Tensor::new(vec![3.0_f32; channels], &Device::Cpu).unwrap();
        check_composite(
            "fake_quantize",
            &|i| ops::fake_quantize(&i[0], &i[1], &i[2], &grid),
            &|i| composite::fake_quantize(&i[0], &i[1], &i[2], &grid),
            &[noise(&[4, 3, 5, 5], 6), scale, zero_point],
        );
    }
}

#[test]
fn adaround_and_its_regularizer() {
    let grid = Grid { qmin: 0.0, qmax: 3.0, granularity: Granularity::PerAxis(0) };
    let alpha = (noise(&[4, 9], 7) * 1.5).unwrap();
    let floor = ((noise(&[4, 9], 8) * 1.2).unwrap()).floor().unwrap();
    let scale = Tensor::new(&[0.1_f32, 0.2, 0.3, 0.4], &Device::Cpu).unwrap();
    let zero_point = Tensor::new(&[1.0_f32, 2.0, 1.0, 2.0], &Device::Cpu).unwrap();
    let at = |x: &Tensor, alpha: &Tensor| x.to_device(alpha.device()).unwrap();
    check(
        "adaround",
        &|i| ops::adaround(&i[0], &floor, &scale, &zero_point, &grid),
        &|i| composite::adaround(&i[0], &at(&floor, &i[0]), &at(&scale, &i[0]), &at(&zero_point, &i[0]), &grid),
        std::slice::from_ref(&alpha),
    );
    for b in [2.0, 5.0] {
        check(
            "regularizer",
            &|i| ops::adaround_regularizer(&i[0], b),
            &|i| composite::adaround_regularizer(&i[0], b),
            std::slice::from_ref(&alpha),
        );
    }
}

#[test]
fn drop_and_loss() {
    let inputs = [noise(&[3, 4, 5], 1), noise(&[3, 4, 5], 2)];
    let mask = noise(&[3, 4, 5], 3).gt(0.0).unwrap();
    let keep = Keep::Mask(mask.clone());
    check(
        "drop",
        &|i| ops::drop(&i[0], &i[1], &keep),
        &|i| composite::drop(&i[0], &i[1], &mask.to_device(i[0].device())?),
        &inputs,
    );
    let target = noise(&[3, 4, 5], 4);
    check(
        "reconstruction_loss",
        &|i| ops::reconstruction_loss(&i[0], &target),
        &|i| composite::reconstruction_loss(&i[0], &target.to_device(i[0].device())?),
        &inputs[..1],
    );
}

/// A graph of one node. If the node needs two values, it reads the input twice.
fn node(build: impl Fn(&mut GraphBuilder, NodeId) -> Result<NodeId>) -> (Graph, NodeId) {
    let mut b = GraphBuilder::new([3, 4, 5]);
    let x = b.input();
    let y = build(&mut b, x).unwrap();
    (b.finish(y).unwrap(), y)
}

#[test]
fn all_other_graph_operations() {
    use qdrop_core::graph::execute;
    use std::collections::HashMap;
    let image = || noise(&[2, 3, 4, 5], 1);
    let padding = Padding { top: 1, bottom: 0, left: 2, right: 1 };
    let pooled = |b: &mut GraphBuilder, x| b.global_average_pool("pool", x);
    let statistics: HashMap<String, Tensor> = ["weight", "bias", "running_mean", "running_var"]
        .iter()
        .enumerate()
        .map(|(i, own)| (format!("bn.{own}"), (noise(&[3], i as u32).abs().unwrap() + 0.5).unwrap()))
        .chain([("clip.bound".into(), Tensor::new(&[0.305_f32, 0.92, 2.0], &Device::Cpu).unwrap())])
        .collect();
    for (label, (graph, id), inputs) in [
        ("add", node(|b, x| b.add("n", x, x)), vec![image(), noise(&[2, 3, 4, 5], 2)]),
        ("mul", node(|b, x| b.mul("n", x, x)), vec![image(), noise(&[2, 3, 4, 5], 2)]),
        (
            "mul, broadcast",
            node(|b, x| pooled(b, x).and_then(|p| b.mul("n", x, p))),
            vec![image(), noise(&[2, 3, 1, 1], 2)],
        ),
        ("concat", node(|b, x| b.concat("n", &[x, x])), vec![image(), noise(&[2, 3, 4, 5], 2)]),
        ("pad", node(|b, x| b.pad("n", x, padding)), vec![image()]),
        ("upsample", node(|b, x| b.upsample_nearest("n", x, [2, 3])), vec![image()]),
        ("flatten", node(|b, x| b.flatten("n", x)), vec![image()]),
        ("global average", node(pooled), vec![image()]),
        ("batch norm", node(|b, x| b.batch_norm("bn", x, 1e-5)), vec![image()]),
        // The noise has no value at the kinks of the elements that are moved.
        ("clip", node(|b, x| b.clip("clip", x)), vec![image()]),
    ] {
        let node = graph.node(id);
        let run = |i: &[Tensor]| {
            let inputs: Vec<&Tensor> = i.iter().collect();
            execute(node, &inputs, &statistics, Default::default()).map_err(candle_core::Error::wrap)
        };
        assert_eq!(run(&inputs).unwrap().dims()[1..], node.shape, "{label}");
        check_differences(label, &run, &inputs);
    }
}

#[test]
fn rounding_is_half_to_even_everywhere() {
    let values = [-2.5_f32, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, 1e7, -3e9, 4194303.5];
    for device in devices() {
        let x = Tensor::new(&values, &device).unwrap();
        let rounded = vec(&composite::round_half_even(&x).unwrap());
        for (got, value) in rounded.iter().zip(values) {
            assert_eq!(*got, value.round_ties_even(), "{value}");
        }
    }
}
