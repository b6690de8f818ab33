//! Values as multiples of a scale, and sums of integers as values: what stands before and after a sum that is exact.

use super::each::each_row;
use super::layout::Written;
use crate::rounding::round_half_even;

/// Writes `round(x / scale)` in the place of x. `x` are multiples of the scale, so these are the integers.
pub fn to_steps(scale: f32, out: Written<'_>) {
    // The product is that close to an integer that it need not be the correctly rounded quotient.
    let inverse = 1.0 / scale;
    each_row(
        out,
        #[inline(always)]
        |_, line| line.iter_mut().for_each(|v| *v = round_half_even(*v * inverse)),
    );
}

/// Writes `round(sum) * factor + offset` in the place of sums of integers, with one factor and one offset for each channel.
/// Sums that were computed with fractions, as Winograd's are, become integers again.
///
/// # Panics
/// The numbers of factors, offsets and channels differ.
pub fn from_sums(factors: &[f32], offsets: &[f32], out: Written<'_>) {
    let channels = out.1.channels;
    assert_eq!([factors.len(), offsets.len()], [channels; 2], "factors");
    each_row(
        out,
        #[inline(always)]
        |_, line| {
            for pixel in line.chunks_exact_mut(channels) {
                for ((v, factor), offset) in pixel.iter_mut().zip(factors).zip(offsets) {
                    *v = round_half_even(*v) * factor + offset;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::testing::{images, uniform};

    #[test]
    fn steps_and_sums_are_those_of_plain_loops() {
        let layout = Layout { batch: 2, height: 3, width: 5, channels: 21, border: 1 };
        let mut values = images(layout, 1);
        let scale = 0.0137_f32;
        let integers: Vec<f32> = values.iter().map(|v| (v * 300.0).round()).collect();
        values.iter_mut().zip(&integers).for_each(|(v, i)| *v = i * scale);
        to_steps(scale, (&mut values, layout));
        let row = |values: &[f32], i: usize| values[layout.offset(i / 3, i % 3)..][..layout.values()].to_vec();
        (0..6).for_each(|i| assert_eq!(row(&values, i), row(&integers, i)));

        let (factors, offsets) = (uniform(21, 0.0..1.0, 2), uniform(21, -1.0..1.0, 3));
        values.iter_mut().zip(uniform(integers.len(), -0.4..0.4, 4)).for_each(|(v, error)| *v += error);
        from_sums(&factors, &offsets, (&mut values, layout));
        let wanted: Vec<Vec<f32>> = (0..6)
            .map(|i| row(&integers, i).iter().enumerate().map(|(j, v)| v * factors[j % 21] + offsets[j % 21]).collect())
            .collect();
        (0..6).for_each(|i| assert_eq!(row(&values, i), wanted[i]));
    }
}
