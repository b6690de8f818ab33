//! Bilinear resizing of floats, as PyTorch's `interpolate` without aligned corners and without antialiasing computes it.

/// Two neighbouring places along an axis and their weights.
struct Pair {
    places: [usize; 2],
    weights: [f32; 2],
}

/// What each of `to` places reads of `from` places, at least 1 each.
fn pairs(from: usize, to: usize) -> Vec<Pair> {
    let scale = from as f32 / to as f32;
    let pair = |place: usize| {
        // PyTorch rounds once here with one thread, and the product as well with several, which is 0.00003 of a pixel at place
        // 1,000. Once is more exact, and what compilers for GPUs make of the expression.
        let position = scale.mul_add(place as f32 + 0.5, -0.5).max(0.0);
        let first = (position as usize).min(from - 1);
        let second_part = (position - first as f32).clamp(0.0, 1.0);
        Pair { places: [first, (first + 1).min(from - 1)], weights: [1.0 - second_part, second_part] }
    };
    (0..to).map(pair).collect()
}

/// Resizes the planes of an image, (C, H, W) with the height and width `from`, to the height and width `to`; no size is 0.
pub fn resize(image: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let [rows, columns] = [0, 1].map(|axis| pairs(from[axis], to[axis]));
    let mut out = Vec::with_capacity(image.len() / (from[0] * from[1]) * to[0] * to[1]);
    for plane in image.chunks_exact(from[0] * from[1]) {
        for row in &rows {
            let [upper, lower] = row.places.map(|place| &plane[place * from[1]..(place + 1) * from[1]]);
            out.extend(columns.iter().map(|Pair { places: [a, b], weights }| {
                // PyTorch multiplies the weights first.
                let [[wa, wb], [wc, wd]] = row.weights.map(|w| weights.map(|weight| w * weight));
                upper[*a] * wa + upper[*b] * wb + lower[*a] * wc + lower[*b] * wd
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_pytorch() {
        // Two planes of 2 x 3 values. Halves and quarters are exact.
        let image = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, -1.0, -2.0, -4.0, 0.5, 0.25, 0.125];
        let wide = [
            [0.0, 0.25, 0.75, 1.25, 1.75, 2.0, 4.0, 5.0, 7.0, 10.0, 14.0, 16.0],
            [-1.0, -1.25, -1.75, -2.5, -3.5, -4.0, 0.5, 0.4375, 0.3125, 0.21875, 0.15625, 0.125],
        ];
        assert_eq!(resize(&image, [2, 3], [2, 6]), wide.concat());
        assert_eq!(resize(&image, [2, 3], [1, 3]), [2.0, 4.5, 9.0, -0.25, -0.875, -1.9375]);
        assert_eq!(resize(&image, [2, 3], [2, 3]), image);
        assert_eq!(resize(&[3.0], [1, 1], [2, 2]), [3.0; 4]);
    }
}
