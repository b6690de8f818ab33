//! Every method of a convolution against the definition.

use super::super::{from_planes, to_planes};
use super::*;
use crate::conv::{reference, Padding};
use crate::testing;
use proptest::prelude::*;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    testing::uniform(len, -1.0..1.0, seed)
}

/// Compares sums of so many products of numbers between -1 and 1.
fn close(what: &str, got: &[f32], want: &[f64], products: usize) -> Result<(), TestCaseError> {
    let size = (products as f64).sqrt().max(4.0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        prop_assert!((f64::from(*g) - w).abs() <= 1e-5 * w.abs().max(size), "{what} {i}: {g} {w}");
    }
    Ok(())
}

/// A batch of images with a border; what lies there is zero.
fn images(planes: &[f32], layout: Layout) -> Buffer {
    let mut out = Buffer::zeros(layout.len());
    let each = planes.len() / layout.batch;
    for (i, image) in out.chunks_exact_mut(layout.image()).enumerate() {
        from_planes(&planes[i * each..][..each], layout, image);
    }
    out
}

fn planes(images: &[f32], layout: Layout) -> Vec<f32> {
    let each = layout.height * layout.values();
    let mut out = vec![0.0; layout.batch * each];
    for (out, image) in out.chunks_exact_mut(each).zip(images.chunks_exact(layout.image())) {
        to_planes(image, layout, out);
    }
    out
}

prop_compose! {
    fn shapes()(
        batch in 1_usize..4, groups in 1_usize..4, icg in prop::sample::select(vec![1_usize, 2, 3, 8, 17, 24]),
        ocg in prop::sample::select(vec![1_usize, 2, 7, 16, 24, 33, 48]),
        depthwise in any::<bool>(), channels in prop::sample::select(vec![2_usize, 5, 16, 19, 33]),
        size in [3_usize..20, 3_usize..20], kernel in [1_usize..4, 1_usize..4],
        stride in [1_usize..4, 1_usize..4], dilation in [1_usize..3, 1_usize..3],
        pad in [0_usize..4, 0_usize..4, 0_usize..4, 0_usize..4],
    ) -> Conv2dShape {
        let (groups, icg, ocg) = if depthwise { (channels, 1, 1) } else { (groups, icg, ocg) };
        Conv2dShape {
            batch, in_channels: groups * icg, in_height: size[0], in_width: size[1],
            out_channels: groups * ocg, kernel, stride, dilation, groups,
            padding: Padding { top: pad[0], bottom: pad[1], left: pad[2], right: pad[3] },
        }
    }
}

/// Compares the three passes of a method; every border is so much wider than it must be.
fn check_method(method: Method, s: &Conv2dShape, more: usize) -> Result<(), TestCaseError> {
    let (x, w, g) = (noise(s.input_len(), 1), noise(s.weight_len(), 2), noise(s.output_len(), 3));
    let border = s.padding.top.max(s.padding.bottom).max(s.padding.left).max(s.padding.right) + more;
    let layout = |height, width, channels, border| Layout { batch: s.batch, height, width, channels, border };
    let x_layout = layout(s.in_height, s.in_width, s.in_channels, border);
    let z_layout = layout(s.out_height(), s.out_width(), s.out_channels, more);
    let gz_layout = Layout { border: border_of_gradient(s) + more, ..z_layout };
    let gx_layout = Layout { border: more, ..x_layout };
    let (xs, gs) = (images(&x, x_layout), images(&g, gz_layout));
    let packing = Packing::of(s);
    let (weight, bias) = (packing.pack(&w), noise(s.out_channels, 4));
    let lanes = packing.pack_lanes(&bias);

    let layouts = Layouts { x: x_layout, z: z_layout, gz: gz_layout, gx: Some(gx_layout) };
    let mut convolution = Convolution::with(method, s, layouts, true);
    convolution.prepare(&weight);
    let (mut z, mut gx) = (Buffer::zeros(z_layout.len()), Buffer::zeros(gx_layout.len()));
    convolution.forward((&xs, x_layout), &weight, Some(&lanes), (&mut z, z_layout));
    let once = z.clone();
    convolution.forward((&xs, x_layout), &weight, Some(&lanes), (&mut z, z_layout));
    prop_assert_eq!(&once[..], &z[..]);
    let mut want = reference::forward(s, &x, &w);
    let plane = s.out_height() * s.out_width();
    want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i / plane % s.out_channels]));
    let taps = s.kernel[0] * s.kernel[1];
    close("forward", &planes(&z, z_layout), &want, taps * s.in_channels)?;
    if method == Method::of(s) {
        let forward = ForwardConvolution::new(s, x_layout, z_layout);
        let mut again = Buffer::zeros(z_layout.len());
        let weight = ForwardConvolution::weight(s, &w);
        forward.run((&xs, x_layout), &weight, Some(&lanes), (&mut again, z_layout));
        prop_assert_eq!(&again[..], &z[..]);
    }

    convolution.backward_input((&gs, gz_layout), &weight, (&mut gx, gx_layout));
    let want = reference::backward_input(s, &w, &g);
    close("backward input", &planes(&gx, gx_layout), &want, taps * s.out_channels)?;

    let want = reference::backward_weight(s, &x, &g);
    // What Winograd's transforms add and subtract is larger than the result.
    let products = s.batch * plane * if matches!(method, Method::Winograd(_)) { 4 } else { 1 };
    let mut grad = Buffer::zeros(packing.len());
    grad.fill(9.0);
    for times in 1..3 {
        convolution.backward_weight((&xs, x_layout), (&gs, gz_layout), &mut grad, times == 1);
        convolution.finish_gradient(&mut grad);
        let want: Vec<f64> = want.iter().map(|v| f64::from(times) * v).collect();
        close("backward weight", &packing.unpack(&grad), &want, products * times as usize * times as usize)?;
    }
    // Nothing is written into borders.
    for (buffer, layout) in [(&z, z_layout), (&gx, gx_layout)] {
        let inside: f64 = planes(buffer, layout).iter().map(|v| f64::from(v.abs())).sum();
        let all: f64 = buffer.iter().map(|v| f64::from(v.abs())).sum();
        prop_assert!((inside - all).abs() <= 1e-9 * all, "the border was written");
    }
    Ok(())
}

/// Compares the method that is chosen, and the direct one.
fn check(s: &Conv2dShape, more: usize) -> Result<(), TestCaseError> {
    let method = Method::of(s);
    check_method(method, s, more)?;
    match method {
        Method::Winograd(packed) => check_method(Method::Direct(packed), s, more),
        _ => Ok(()),
    }
}

fn check_winograd(s: &Conv2dShape, more: usize) -> Result<(), TestCaseError> {
    check_method(Method::Winograd(PackedShape::of(s)), s, more)
}

/// What has the form of Winograd, if there are channels enough.
fn three_by_three(batch: usize, channels: [usize; 2], size: [usize; 2]) -> Conv2dShape {
    Conv2dShape {
        batch,
        in_channels: channels[0],
        in_height: size[0],
        in_width: size[1],
        out_channels: channels[1],
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        groups: 1,
        padding: Padding::all(1),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn winograd_agrees_with_the_reference(
        batch in 1_usize..4, groups in 1_usize..4, inputs in 2_usize..40, outputs in 2_usize..40,
        size in [1_usize..20, 1_usize..20], more in 0_usize..2,
    ) {
        let channels = [groups * inputs, groups * outputs];
        check_winograd(&Conv2dShape { groups, ..three_by_three(batch, channels, size) }, more)?;
    }
}

#[test]
fn the_method_follows_from_the_shape() {
    let s = three_by_three(2, [64, 96], [15, 14]);
    let winograd = |s: &Conv2dShape| matches!(Method::of(s), Method::Winograd(_));
    assert!(winograd(&s) && winograd(&Conv2dShape { groups: 4, ..s }));
    for other in [
        Conv2dShape { stride: [1, 2], ..s },
        Conv2dShape { dilation: [2, 2], ..s },
        Conv2dShape { groups: 8, ..s },
        Conv2dShape { padding: Padding::all(0), ..s },
        Conv2dShape { kernel: [3, 1], ..s },
        Conv2dShape { in_channels: 3, ..s },
        Conv2dShape { in_height: 2, ..s },
        Conv2dShape { in_channels: 544, out_channels: 544, ..s },
        // One output channel for each group of two inputs, and a depthwise kernel too large for its own method.
        Conv2dShape { in_channels: 64, out_channels: 32, groups: 32, ..s },
        Conv2dShape { in_channels: 64, out_channels: 64, groups: 64, kernel: [9, 9], padding: Padding::all(4), ..s },
    ] {
        assert!(matches!(Method::of(&other), Method::Direct(_)), "{other:?}");
    }
    assert_eq!(Method::of(&Conv2dShape { out_channels: 64, groups: 64, ..s }), Method::Depthwise);
}

#[test]
fn winograd_agrees_with_the_reference_on_large_shapes() {
    let s = three_by_three(2, [64, 96], [15, 14]);
    check_winograd(&s, 0).unwrap();
    // More threads than rows of positions.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(9).build().unwrap();
    pool.install(|| check_winograd(&s, 1)).unwrap();
    // Weights that do not stay in the cache.
    let wide = Conv2dShape { batch: 7, in_channels: 290, in_height: 7, in_width: 7, out_channels: 288, ..s };
    assert_eq!(Method::of(&wide), Method::Winograd(PackedShape::of(&wide)));
    check_winograd(&wide, 0).unwrap();
}

/// The points of the transforms are chosen for small errors.
#[test]
fn winograd_rounds_little_worse_than_the_direct_form() {
    let s = three_by_three(2, [128, 32], [14, 14]);
    // As after an activation function.
    let x: Vec<f32> = noise(s.input_len(), 1).iter().map(|v| v.max(0.0)).collect();
    let w = noise(s.weight_len(), 2);
    let layout = |channels| Layout { batch: 2, height: 14, width: 14, channels, border: 1 };
    let (read, written) = (layout(s.in_channels), layout(s.out_channels));
    let (xs, packed) = (images(&x, read), PackedShape::of(&s));
    let weight = Packing::of(&s).pack(&w);
    let want = reference::forward(&s, &x, &w);
    let error = |method| {
        let layouts = Layouts { x: read, z: written, gz: written, gx: None };
        let mut convolution = Convolution::with(method, &s, layouts, false);
        convolution.prepare(&weight);
        let mut out = Buffer::zeros(written.len());
        convolution.forward((&xs, read), &weight, None, (&mut out, written));
        planes(&out, written).iter().zip(&want).map(|(v, w)| (f64::from(*v) - w).powi(2)).sum::<f64>().sqrt()
    };
    let (direct, winograd) = (error(Method::Direct(packed)), error(Method::Winograd(packed)));
    assert!(winograd < 3.0 * direct, "{winograd} against {direct}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn agrees_with_the_reference(s in shapes(), more in 0_usize..2) {
        prop_assume!(s.validate().is_ok());
        check(&s, more)?;
    }
}

#[test]
fn shapes_of_networks_agree_with_the_reference() {
    let shape = |channels: [usize; 2], size, kernel, stride, groups| Conv2dShape {
        batch: 3,
        in_channels: channels[0],
        in_height: size,
        in_width: size,
        out_channels: channels[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: Padding::all(kernel / 2),
        dilation: [1, 1],
        groups,
    };
    let padded = Conv2dShape { padding: Padding::all(1), ..shape([8, 24], 6, 1, 1, 1) };
    for s in [
        // A product of all pixels, but for the padding.
        padded,
        shape([64, 64], 14, 3, 1, 1),
        // Weights that do not stay in the cache.
        shape([160, 320], 7, 3, 1, 1),
        shape([64, 128], 15, 3, 2, 1),
        shape([24, 144], 28, 1, 1, 1),
        shape([320, 640], 7, 1, 1, 1),
        shape([240, 240], 14, 3, 2, 10),
        shape([960, 960], 7, 3, 1, 960),
        shape([96, 96], 28, 3, 2, 96),
        shape([64, 128], 14, 1, 2, 1),
        // Kernels larger than most.
        shape([3, 40], 23, 7, 2, 1),
        shape([8, 24], 17, 11, 2, 2),
        shape([20, 20], 15, 9, 1, 20),
    ] {
        check(&s, 0).unwrap();
        check(&s, 1).unwrap();
    }
}
