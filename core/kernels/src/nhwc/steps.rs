//! Values as multiples of a scale, and sums of integers as values: what stands before and after a sum that is exact.

use super::each::{check_pixels, each_row, row_of};
use super::layout::{Read, Written};
use crate::rounding::round_half_even;

/// What of `x / scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// The nearest integer.
    Whole,
    /// The rest that this leaves, from -1/2 to 1/2. It is exact where the scale is a power of two.
    Rest,
}

/// Writes a part of `x / scale` in the place of x, which are multiples of the scale, or any values if the scale is a power of
/// two.
pub fn to_steps(scale: f32, part: Steps, out: Written<'_>) {
    // The product is exact, or that close to an integer that it need not be the correctly rounded quotient.
    let inverse = 1.0 / scale;
    match part {
        Steps::Whole => each_row(
            out,
            #[inline(always)]
            |_, line| line.iter_mut().for_each(|v| *v = round_half_even(*v * inverse)),
        ),
        Steps::Rest => each_row(
            out,
            #[inline(always)]
            |_, line| line.iter_mut().for_each(|v| *v = *v * inverse - round_half_even(*v * inverse)),
        ),
    }
}

/// Writes `(round(sum) + rest) * factor + offset` in the place of sums of integers, with one factor and one offset for each
/// channel, and sums of the rest that rounding the values to integers left, if it left some. Sums that were computed with
/// fractions, as Winograd's are, become integers again.
///
/// # Panics
/// The numbers of factors, offsets and channels, or the sizes of both sums differ.
pub fn from_sums(factors: &[f32], offsets: &[f32], rest: Option<Read<'_>>, out: Written<'_>) {
    let channels = out.1.channels;
    assert_eq!([factors.len(), offsets.len()], [channels; 2], "factors");
    let affine = factors.iter().zip(offsets);
    match rest {
        None => each_row(
            out,
            #[inline(always)]
            |_, line| {
                for pixel in line.chunks_exact_mut(channels) {
                    let values = pixel.iter_mut().zip(affine.clone());
                    values.for_each(|(v, (factor, offset))| *v = round_half_even(*v) * factor + offset);
                }
            },
        ),
        Some(rest) => {
            check_pixels(rest.1, out.1);
            each_row(
                out,
                #[inline(always)]
                |place, line| {
                    let rest = row_of(rest, place).chunks_exact(channels);
                    for (pixel, rest) in line.chunks_exact_mut(channels).zip(rest) {
                        let values = pixel.iter_mut().zip(rest).zip(affine.clone());
                        values.for_each(|((v, rest), (factor, offset))| {
                            *v = (round_half_even(*v) + rest) * factor + offset;
                        });
                    }
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::testing::{images, uniform};

    const LAYOUT: Layout = Layout { batch: 2, height: 3, width: 5, channels: 21, border: 1 };

    fn row(values: &[f32], i: usize) -> Vec<f32> {
        values[LAYOUT.offset(i / 3, i % 3)..][..LAYOUT.values()].to_vec()
    }

    #[test]
    fn steps_and_sums_are_those_of_plain_loops() {
        let mut values = images(LAYOUT, 1);
        let scale = 0.0137_f32;
        let integers: Vec<f32> = values.iter().map(|v| (v * 300.0).round()).collect();
        values.iter_mut().zip(&integers).for_each(|(v, i)| *v = i * scale);
        to_steps(scale, Steps::Whole, (&mut values, LAYOUT));
        (0..6).for_each(|i| assert_eq!(row(&values, i), row(&integers, i)));

        let (factors, offsets) = (uniform(21, 0.0..1.0, 2), uniform(21, -1.0..1.0, 3));
        values.iter_mut().zip(uniform(integers.len(), -0.4..0.4, 4)).for_each(|(v, error)| *v += error);
        let (sums, rest) = (values.clone(), images(LAYOUT, 5));
        for rest in [None, Some(&rest)] {
            let mut values = sums.clone();
            from_sums(&factors, &offsets, rest.map(|rest| (&rest[..], LAYOUT)), (&mut values, LAYOUT));
            for i in 0..6 {
                let rest = rest.map_or(vec![0.0; LAYOUT.values()], |rest| row(rest, i));
                let sums = row(&integers, i).into_iter().zip(rest).enumerate();
                let wanted: Vec<f32> = sums.map(|(j, (v, r))| (v + r) * factors[j % 21] + offsets[j % 21]).collect();
                assert_eq!(row(&values, i), wanted);
            }
        }
    }

    #[test]
    fn steps_of_powers_of_two_and_their_rest_are_exact() {
        let values = images(LAYOUT, 1);
        let parts = [Steps::Whole, Steps::Rest].map(|part| {
            let mut steps = values.clone();
            to_steps(1.0 / 128.0, part, (&mut steps, LAYOUT));
            steps
        });
        for i in 0..6 {
            let [whole, rest] = [&parts[0], &parts[1]].map(|part| row(part, i));
            for ((v, whole), rest) in row(&values, i).iter().zip(whole).zip(rest) {
                assert!(whole == whole.round() && rest.abs() <= 0.5);
                assert_eq!(f64::from(whole) + f64::from(rest), f64::from(*v) * 128.0);
            }
        }
    }
}
