use super::*;
use crate::conv::{reference, Conv2dShape, Padding};
use proptest::prelude::*;

fn noise(len: usize, salt: usize) -> Vec<f32> {
    (0..len).map(|i| (((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0) - 1.0).collect()
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
        stride in [1_usize..3, 1_usize..3], dilation in [1_usize..3, 1_usize..3], pad in [0_usize..3, 0_usize..3],
    ) -> Conv2dShape {
        let (groups, icg, ocg) = if depthwise { (channels, 1, 1) } else { (groups, icg, ocg) };
        Conv2dShape {
            batch, in_channels: groups * icg, in_height: size[0], in_width: size[1],
            out_channels: groups * ocg, kernel, stride, dilation, groups,
            padding: Padding { top: pad[0], bottom: pad[0], left: pad[1], right: pad[1] },
        }
    }
}

fn check(s: &Conv2dShape, more: usize) -> Result<(), TestCaseError> {
    let (x, w, g) = (noise(s.input_len(), 1), noise(s.weight_len(), 2), noise(s.output_len(), 3));
    let border = s.padding.top.max(s.padding.left) + more;
    let layout = |height, width, channels, border| Layout { batch: s.batch, height, width, channels, border };
    let x_layout = layout(s.in_height, s.in_width, s.in_channels, border);
    let out_layout = layout(s.out_height(), s.out_width(), s.out_channels, more);
    let g_layout = Layout { border: border_of_gradient(s) + more, ..out_layout };
    let dx_layout = Layout { border: more, ..x_layout };
    let (xs, gs) = (images(&x, x_layout), images(&g, g_layout));
    let bias = noise(s.out_channels, 4);
    let (mut out, mut dx) = (Buffer::zeros(out_layout.len()), Buffer::zeros(dx_layout.len()));
    let mut want = reference::forward(s, &x, &w);
    let plane = s.out_height() * s.out_width();
    want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i / plane % s.out_channels]));
    let (dw, dw_twice);
    if s.groups == s.in_channels && s.groups == s.out_channels {
        // (channel, ky, kx) to (ky, kx, channel) and back.
        let taps = s.kernel[0] * s.kernel[1];
        let exchange = |v: &[f32], inner: usize, outer: usize| -> Vec<f32> {
            (0..v.len()).map(|i| v[i % outer * inner + i / outer]).collect()
        };
        let weight = exchange(&w, taps, s.in_channels);
        depthwise_forward(s, (&xs, x_layout), &weight, Some(&bias), (&mut out, out_layout));
        depthwise_backward_input(s, (&gs, g_layout), &weight, (&mut dx, dx_layout));
        let mut d = vec![9.0; weight.len()];
        depthwise_backward_weight(s, (&xs, x_layout), (&gs, g_layout), &mut d, true);
        dw = exchange(&d, s.in_channels, taps);
        depthwise_backward_weight(s, (&xs, x_layout), (&gs, g_layout), &mut d, false);
        dw_twice = exchange(&d, s.in_channels, taps);
    } else {
        let packed = PackedShape::of(s);
        let mut weight = Buffer::zeros(packed.len());
        packed.pack(&w, &mut weight);
        let mut lanes = Buffer::zeros(packed.lanes());
        packed.pack_lanes(&bias, &mut lanes);
        RowPlan::forward(s, x_layout, out_layout).run(&xs, &weight, Some(&lanes), &mut out);
        let mut rotated = Buffer::zeros(PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed }.len());
        rotate(s, &weight, &mut rotated);
        RowPlan::backward_input(s, g_layout, dx_layout).run(&gs, &rotated, None, &mut dx);
        let mut d = Buffer::zeros(packed.len());
        d.fill(9.0);
        let plan = WeightPlan::new(s, x_layout, g_layout);
        plan.run(&xs, &gs, &mut d, true);
        let unpacked = |d: &[f32]| {
            let mut out = vec![0.0; w.len()];
            packed.unpack(d, &mut out);
            out
        };
        dw = unpacked(&d);
        plan.run(&xs, &gs, &mut d, false);
        dw_twice = unpacked(&d);
    }
    let taps = s.kernel[0] * s.kernel[1];
    close("forward", &planes(&out, out_layout), &want, taps * s.in_channels)?;
    close("backward input", &planes(&dx, dx_layout), &reference::backward_input(s, &w, &g), taps * s.out_channels)?;
    let want = reference::backward_weight(s, &x, &g);
    let pixels = s.batch * plane;
    close("backward weight", &dw, &want, pixels)?;
    close("backward weight, added", &dw_twice, &want.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 4 * pixels)?;
    // Nothing is written into borders.
    for (buffer, layout) in [(&out, out_layout), (&dx, dx_layout)] {
        let inside: f64 = planes(buffer, layout).iter().map(|v| f64::from(v.abs())).sum();
        let all: f64 = buffer.iter().map(|v| f64::from(v.abs())).sum();
        prop_assert!((inside - all).abs() <= 1e-9 * all, "the border was written");
    }
    Ok(())
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

/// The three passes in the form of Winograd, against the reference.
fn check_winograd(s: &Conv2dShape, more: usize) -> Result<(), TestCaseError> {
    let (x, w, g) = (noise(s.input_len(), 1), noise(s.weight_len(), 2), noise(s.output_len(), 3));
    let layout = |channels, border| Layout { batch: s.batch, height: s.in_height, width: s.in_width, channels, border };
    let (x_layout, g_layout) = (layout(s.in_channels, 1 + more), layout(s.out_channels, 1 + more));
    let (xs, gs) = (images(&x, x_layout), images(&g, g_layout));
    let packed = PackedShape::of(s);
    let mut weight = Buffer::zeros(packed.len());
    packed.pack(&w, &mut weight);
    let bias = noise(s.out_channels, 4);
    let mut lanes = vec![0.0; packed.lanes()];
    packed.pack_lanes(&bias, &mut lanes);

    let mut u = Buffer::zeros(transformed_len(&packed));
    transformed(&packed, &weight, &mut u);
    let out_layout = layout(s.out_channels, more);
    let mut out = Buffer::zeros(out_layout.len());
    let plan = WinogradPlan::forward(s, x_layout, out_layout);
    plan.run(&xs, &u, Some(&lanes), &mut out);
    let once = out.clone();
    plan.run(&xs, &u, Some(&lanes), &mut out);
    prop_assert_eq!(&once[..], &out[..]);
    let mut want = reference::forward(s, &x, &w);
    let plane = s.out_height() * s.out_width();
    want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i / plane % s.out_channels]));
    close("forward", &planes(&out, out_layout), &want, 9 * s.in_channels)?;

    let exchanged = PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed };
    let mut rotated = Buffer::zeros(exchanged.len());
    let mut u = Buffer::zeros(transformed_len(&exchanged));
    mirrored(s, &weight, &mut rotated, &mut u);
    let dx_layout = layout(s.in_channels, more);
    let mut dx = Buffer::zeros(dx_layout.len());
    WinogradPlan::backward_input(s, g_layout, dx_layout).run(&gs, &u, None, &mut dx);
    close("backward input", &planes(&dx, dx_layout), &reference::backward_input(s, &w, &g), 9 * s.out_channels)?;

    let mut du = Buffer::zeros(transformed_len(&packed));
    du.fill(9.0);
    let plan = WinogradWeightPlan::new(s, x_layout, g_layout);
    let want = reference::backward_weight(s, &x, &g);
    for times in 1..3 {
        plan.run(&xs, &gs, &mut du, times == 1);
        let mut dw = Buffer::zeros(packed.len());
        gradient_of_weight(&packed, &du, &mut dw);
        let mut unpacked = vec![0.0; w.len()];
        packed.unpack(&dw, &mut unpacked);
        let want: Vec<f64> = want.iter().map(|v| f64::from(times) * v).collect();
        close("backward weight", &unpacked, &want, 4 * s.batch * plane)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn winograd_agrees_with_the_reference(
        batch in 1_usize..4, groups in 1_usize..4, inputs in 1_usize..40, outputs in 1_usize..40,
        size in [1_usize..20, 1_usize..20], more in 0_usize..2,
    ) {
        let channels = [groups * inputs, groups * outputs];
        check_winograd(&Conv2dShape { groups, ..three_by_three(batch, channels, size) }, more)?;
    }
}

#[test]
fn winograd_is_for_three_by_three() {
    let s = three_by_three(2, [64, 96], [15, 14]);
    assert!(winograd_applies(&s) && winograd_applies(&Conv2dShape { groups: 4, ..s }));
    check_winograd(&s, 0).unwrap();
    // More threads than rows of positions.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(9).build().unwrap();
    pool.install(|| check_winograd(&s, 1)).unwrap();
    for other in [
        Conv2dShape { stride: [1, 2], ..s },
        Conv2dShape { dilation: [2, 2], ..s },
        Conv2dShape { groups: 8, ..s },
        Conv2dShape { padding: Padding::all(0), ..s },
        Conv2dShape { kernel: [3, 1], ..s },
        Conv2dShape { in_channels: 3, ..s },
        Conv2dShape { in_height: 2, ..s },
        Conv2dShape { in_channels: 544, out_channels: 544, ..s },
    ] {
        assert!(!winograd_applies(&other));
    }
    // Weights that do not stay in the cache.
    let wide = Conv2dShape { batch: 7, in_channels: 290, in_height: 7, in_width: 7, out_channels: 288, ..s };
    assert!(winograd_applies(&wide));
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
    let (mut weight, mut u) = (Buffer::zeros(packed.len()), Buffer::zeros(transformed_len(&packed)));
    packed.pack(&w, &mut weight);
    transformed(&packed, &weight, &mut u);
    let want = reference::forward(&s, &x, &w);
    let error = |out: &[f32]| {
        planes(out, written).iter().zip(&want).map(|(v, w)| (f64::from(*v) - w).powi(2)).sum::<f64>().sqrt()
    };
    let [mut direct, mut winograd] = [written, written].map(|l| Buffer::zeros(l.len()));
    RowPlan::forward(&s, read, written).run(&xs, &weight, None, &mut direct);
    WinogradPlan::forward(&s, read, written).run(&xs, &u, None, &mut winograd);
    let (direct, winograd) = (error(&direct), error(&winograd));
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
    ] {
        check(&s, 0).unwrap();
        check(&s, 1).unwrap();
    }
}
