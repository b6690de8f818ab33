//! Bilinear resizing of bytes, as OpenCV's `resize` with `INTER_LINEAR` computes it.

use super::super::pixels::Rgb;

/// A weight of 1: OpenCV's weights have 11 bits.
const ONE: f32 = 2048.0;

/// Two neighbouring places along an axis and their weights.
struct Pair {
    places: [usize; 2],
    weights: [i32; 2],
}

/// What each of `to` places reads of `from` places, at least 1 each. OpenCV treats what lies beyond the ends in two ways: with
/// `whole` the place at the end gets all the weight, else both weights stay and read it.
fn pairs(from: usize, to: usize, whole: bool) -> Vec<Pair> {
    let scale = 1.0 / (to as f64 / from as f64);
    let last = from as i64 - 1;
    let pair = |place: usize| {
        let position = ((place as f64 + 0.5) * scale - 0.5) as f32;
        let mut first = position.floor() as i64;
        let mut second_part = position - first as f32;
        if whole && !(0..last).contains(&first) {
            (first, second_part) = (first.clamp(0, last), 0.0);
        }
        let weight = |part: f32| (part * ONE).round_ties_even() as i32;
        Pair {
            places: [first, first + 1].map(|place| place.clamp(0, last) as usize),
            weights: [weight(1.0 - second_part), weight(second_part)],
        }
    };
    (0..to).map(pair).collect()
}

/// Resizes an image to `width` x `height` pixels; no size is 0.
pub fn resize(image: &Rgb, width: usize, height: usize) -> Rgb {
    let columns = pairs(image.width, width, true);
    // Rows with the new width: sums of 19 bits, of which OpenCV keeps the upper 15.
    let mut wide: Vec<u16> = Vec::with_capacity(image.height * width * 3);
    for row in image.data.chunks_exact(image.width * 3) {
        for Pair { places: [a, b], weights } in &columns {
            let value = |c: usize| weights[0] * i32::from(row[a * 3 + c]) + weights[1] * i32::from(row[b * 3 + c]);
            wide.extend([0, 1, 2].map(|c| (value(c) >> 4) as u16));
        }
    }
    let mut data = Vec::with_capacity(width * height * 3);
    let row = |place: usize| &wide[place * width * 3..(place + 1) * width * 3];
    for Pair { places, weights } in pairs(image.height, height, false) {
        let [upper, lower] = places.map(row);
        let part = |value: u16, weight: i32| (weight * i32::from(value)) >> 16;
        // The weights add up to 1, but for rounding, so that no value exceeds 255.
        let value = |(a, b): (&u16, &u16)| ((part(*a, weights[0]) + part(*b, weights[1]) + 2) >> 2) as u8;
        data.extend(upper.iter().zip(lower).map(value));
    }
    Rgb { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, values: &[u8]) -> Rgb {
        Rgb { width, height, data: values.iter().flat_map(|v| [*v; 3]).collect() }
    }

    /// Values that `cv2.resize` of OpenCV 4.14 gives.
    #[test]
    fn values_are_those_of_opencv() {
        let image = grey(3, 2, &[0, 100, 255, 7, 250, 30]);
        for (width, height, want) in RESIZED {
            assert_eq!(resize(&image, width, height), grey(width, height, want), "{width} x {height}");
        }
    }

    const RESIZED: [(usize, usize, &[u8]); 6] = [
        (3, 2, &[0, 100, 255, 7, 250, 30]),
        (5, 3, &[0, 40, 100, 193, 255, 4, 72, 175, 155, 143, 7, 104, 250, 118, 30]),
        (2, 1, &[46, 151]),
        (1, 1, &[175]),
        (
            6,
            4,
            &[0, 25, 75, 139, 216, 255, 2, 36, 104, 153, 183, 199, 5, 57, 161, 181, 118, 86, 7, 68, 189, 195, 85, 30],
        ),
        (4, 5, &[0, 62, 158, 255, 1, 72, 159, 232, 4, 111, 163, 143, 6, 149, 166, 52, 7, 159, 167, 30]),
    ];
}
