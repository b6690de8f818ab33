//! The gradient of a bias.

use super::layout::Read;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Channels that one task sums: the f64 sums of so many stay in registers.
const CHANNELS: usize = 32;

/// Adds to `out`, which has one number for each channel, the sum of `gz` over images, rows and columns: the
/// gradient of a bias, where `gz` is that of what the bias was added to. Each channel is summed in this order, in
/// f64, whatever the number of threads.
pub fn bias_gradient((gz, layout): Read<'_>, out: &mut [f64]) {
    assert_eq!(out.len(), layout.channels, "one sum for each channel");
    out.par_chunks_mut(CHANNELS).enumerate().for_each(|(i, sums)| {
        let first = i * CHANNELS;
        vectorize(
            #[inline(always)]
            || match sums.len() {
                32 => channels::<32>((gz, layout), first, sums),
                24 => channels::<24>((gz, layout), first, sums),
                16 => channels::<16>((gz, layout), first, sums),
                8 => channels::<8>((gz, layout), first, sums),
                _ => any_channels((gz, layout), first, sums),
            },
        );
    });
}

/// The values of all rows.
#[inline(always)]
fn rows<'a>((gz, layout): Read<'a>) -> impl Iterator<Item = &'a [f32]> {
    let places = (0..layout.batch).flat_map(move |image| (0..layout.height).map(move |row| layout.offset(image, row)));
    places.map(move |at| &gz[at..at + layout.values()])
}

/// The sums of `N` channels from `first` on.
#[inline(always)]
fn channels<const N: usize>(gz: Read<'_>, first: usize, out: &mut [f64]) {
    let mut sums = [0.0; N];
    sums.copy_from_slice(out);
    for row in rows(gz) {
        for pixel in row.chunks_exact(gz.1.channels) {
            let values = &pixel[first..first + N];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from(*value);
            }
        }
    }
    out.copy_from_slice(&sums);
}

/// The sums of any number of channels from `first` on.
#[inline(always)]
fn any_channels(gz: Read<'_>, first: usize, sums: &mut [f64]) {
    for row in rows(gz) {
        for pixel in row.chunks_exact(gz.1.channels) {
            let values = &pixel[first..first + sums.len()];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from(*value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_bias_has_the_sum_over_all_pixels(
            batch in 1_usize..4, height in 1_usize..6, width in 1_usize..9, border in 0_usize..3,
            channels in prop::sample::select(vec![1_usize, 3, 8, 16, 24, 32, 37, 48, 72, 144]),
        ) {
            let layout = Layout { batch, height, width, channels, border };
            // Also in the border, which does not count.
            let gz = testing::uniform(layout.len(), -0.5..0.5, 5);
            let before: Vec<f64> = (0..channels).map(|c| c as f64).collect();
            let mut want = before.clone();
            for image in 0..batch {
                for row in 0..height {
                    for column in 0..width {
                        for (c, sum) in want.iter_mut().enumerate() {
                            *sum += f64::from(gz[layout.offset(image, row) + column * channels + c]);
                        }
                    }
                }
            }
            let mut got = before.clone();
            bias_gradient((&gz, layout), &mut got);
            prop_assert_eq!(&got, &want);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let mut got = before;
            pool.install(|| bias_gradient((&gz, layout), &mut got));
            prop_assert_eq!(&got, &want);
        }
    }
}
