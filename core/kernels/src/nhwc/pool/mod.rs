//! Pooling of channels-last images.

mod average;
mod max;
mod mean;

pub use average::{average_pool, average_pool_backward};
pub use max::{max_pool, max_pool_backward, max_pool_with_taps, MOST_TAPS};
pub use mean::{mean, mean_backward};

#[cfg(test)]
mod tests {
    use super::super::{from_planes, to_planes, Buffer, Layout, Write};
    use super::*;
    use crate::conv::Padding;
    use crate::pool::{average_backward, average_forward, max_backward, max_forward, Pool2dShape};
    use crate::testing::uniform;
    use proptest::prelude::*;

    #[test]
    fn pooling_agrees_with_that_of_planes() {
        for (channels, size, kernel, stride, padding) in [(5, 13, 3, 2, 1), (16, 8, 2, 2, 0), (3, 7, 7, 1, 3)] {
            let planes: Vec<f32> = (0..2 * channels * size * size).map(|i| (i * 7919 % 1009) as f32 - 500.0).collect();
            let shape = |planes| Pool2dShape {
                planes,
                in_height: size,
                in_width: size,
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: Padding::all(padding),
                ceil_mode: false,
                count_include_pad: true,
            };
            let all = shape(2 * channels);
            let (height, width) = (all.out_height(), all.out_width());
            let mut want = vec![0.0; 2 * channels * height * width];
            max_forward(&all, &planes, &mut want);
            let x = Layout { batch: 2, height: size, width: size, channels, border: 1 };
            let out = Layout { height, width, border: 2, ..x };
            let (mut values, mut pooled) = (Buffer::zeros(x.len()), Buffer::zeros(out.len()));
            for (p, image) in planes.chunks(channels * size * size).zip(values.chunks_exact_mut(x.image())) {
                from_planes(p, x, image);
            }
            max_pool(&shape(channels), (&values, x), (&mut pooled, out));
            let mut got = vec![0.0; want.len()];
            for (p, image) in got.chunks_mut(channels * height * width).zip(pooled.chunks_exact(out.image())) {
                to_planes(image, out, p);
            }
            assert_eq!(got, want);
            let one = Layout { height: 1, width: 1, border: 0, ..x };
            let mut means = Buffer::zeros(one.len());
            mean((&values, x), (&mut means, one));
            for (plane, mean) in planes.chunks(size * size).zip(means.iter()) {
                let want = plane.iter().sum::<f32>() / plane.len() as f32;
                assert!((mean - want).abs() < 1e-2, "{mean} {want}");
            }
            let mut spread = Buffer::zeros(x.len());
            mean_backward((&means, one), Write::Replace, (&mut spread, x));
            let mut got = vec![0.0; planes.len()];
            for (p, image) in got.chunks_mut(channels * size * size).zip(spread.chunks_exact(x.image())) {
                to_planes(image, x, p);
            }
            for (plane, mean) in got.chunks(size * size).zip(means.iter()) {
                assert!(plane.iter().all(|g| *g == mean * (1.0 / plane.len() as f32)));
            }
        }
    }

    /// Images from planes of all images.
    fn images(planes: &[f32], layout: Layout) -> Buffer {
        let mut values = Buffer::zeros(layout.len());
        let each = layout.height * layout.values();
        for (p, image) in planes.chunks(each).zip(values.chunks_exact_mut(layout.image())) {
            from_planes(p, Layout { batch: 1, ..layout }, image);
        }
        values
    }

    fn planes(values: &[f32], layout: Layout) -> Vec<f32> {
        let each = layout.height * layout.values();
        let mut planes = vec![0.0; layout.batch * each];
        for (p, image) in planes.chunks_mut(each).zip(values.chunks_exact(layout.image())) {
            to_planes(image, Layout { batch: 1, ..layout }, p);
        }
        planes
    }

    fn worst(got: &[f32], want: &[f32]) -> f32 {
        got.iter().zip(want).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Values of few levels, so that many are equal: the first one gets the gradient.
        #[test]
        fn pools_and_their_gradients_agree_with_those_of_planes(
            channels in prop::sample::select(vec![1_usize, 3, 16, 21, 40]), size in prop::array::uniform2(1_usize..12),
            kernel in prop::array::uniform2(1_usize..5), stride in prop::array::uniform2(1_usize..4),
            sides in prop::array::uniform4(0_usize..3), flags in prop::array::uniform3(any::<bool>()),
            borders in prop::array::uniform2(0_usize..3),
        ) {
            let [top, bottom, left, right] = sides;
            let [ceil_mode, count_include_pad, add] = flags;
            let of = |planes| Pool2dShape {
                planes,
                in_height: size[0],
                in_width: size[1],
                kernel,
                stride,
                padding: Padding { top, bottom, left, right },
                ceil_mode,
                count_include_pad,
            };
            let (one, all) = (of(channels), of(2 * channels));
            prop_assume!(2 * top.max(bottom) <= kernel[0] && 2 * left.max(right) <= kernel[1]);
            prop_assume!(all.as_conv().validate().is_ok());
            let x = Layout { batch: 2, height: size[0], width: size[1], channels, border: borders[0] };
            let out = Layout { height: all.out_height(), width: all.out_width(), border: borders[1], ..x };
            let write = if add { Write::Add } else { Write::Replace };
            let count = |l: Layout| l.batch * l.height * l.values();
            let read: Vec<f32> = uniform(count(x), -3.0..3.0, 1).iter().map(|v| v.round()).collect();
            let gradient = uniform(count(out), -1.0..1.0, 2);
            let before = uniform(count(x), -1.0..1.0, 3);
            let added = |of: Vec<f32>| -> Vec<f32> {
                of.iter().zip(&before).map(|(g, b)| if add { g + b } else { *g }).collect()
            };
            let values = images(&read, x);
            let g = images(&gradient, out);

            let mut want = vec![0.0; count(out)];
            max_forward(&all, &read, &mut want);
            let (mut pooled, mut taps) = (Buffer::zeros(out.len()), vec![0; count(out)]);
            max_pool_with_taps(&one, (&values, x), (&mut pooled, out), &mut taps);
            prop_assert_eq!(planes(&pooled, out), want.clone());
            let mut again = Buffer::zeros(out.len());
            max_pool(&one, (&values, x), (&mut again, out));
            prop_assert_eq!(planes(&again, out), want);
            let mut want = vec![0.0; count(x)];
            max_backward(&all, &read, &gradient, &mut want);
            let mut got = images(&before, x);
            max_pool_backward(&one, (&g, out), &taps, write, (&mut got, x));
            prop_assert!(worst(&planes(&got, x), &added(want)) < 1e-5);

            let mut want = vec![0.0; count(out)];
            average_forward(&all, &read, &mut want);
            average_pool(&one, (&values, x), (&mut pooled, out));
            prop_assert!(worst(&planes(&pooled, out), &want) < 1e-6);
            let mut want = vec![0.0; count(x)];
            average_backward(&all, &gradient, &mut want);
            let mut got = images(&before, x);
            average_pool_backward(&one, (&g, out), write, (&mut got, x));
            prop_assert!(worst(&planes(&got, x), &added(want)) < 1e-5);
        }
    }
}
