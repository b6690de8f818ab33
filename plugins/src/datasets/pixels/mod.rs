//! Decodes and preprocesses images.

mod complete;
mod decode;
mod jpeg;
pub(super) mod limit;

pub use decode::{decode, decode_bytes, decode_upright};

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use qdrop_core::kernels::random::Stream;
use qdrop_core::prelude::*;

/// An RGB image, 8 bits per channel, in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Interleaved channel values.
    pub data: Vec<u8>,
}

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub left: usize,
    /// Upper edge.
    pub top: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

/// Copies the pixels of a rectangle of the image.
fn cut(image: &Rgb, crop: Crop) -> Vec<u8> {
    let rows = image.data.chunks_exact(image.width * 3).skip(crop.top).take(crop.height);
    rows.flat_map(|row| &row[crop.left * 3..(crop.left + crop.width) * 3]).copied().collect()
}

/// Bilinear resampling of a rectangle with antialiasing, as Pillow computes it. The rectangle is copied
/// first, so that pixels outside of it have no influence on its edges.
///
/// # Errors
/// A size is 0, or the result has more pixels than an image may have: the picture is much longer than wide.
pub fn resize(image: &Rgb, crop: Crop, width: usize, height: usize) -> Result<Rgb> {
    let failed = |e: &dyn std::fmt::Display| Error::message(format!("cannot resize an image: {e}"));
    limit::size(width as u64, height as u64).map_err(|e| failed(&e))?;
    let source = Image::from_vec_u8(crop.width as u32, crop.height as u32, cut(image, crop), PixelType::U8x3)
        .map_err(|e| failed(&e))?;
    let mut target = Image::new(width as u32, height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))?;
    Ok(Rgb { width, height, data: target.into_vec() })
}

/// Resizes so that the shorter side has `size` pixels. The length of the longer side is rounded down, as in
/// torchvision.
///
/// # Errors
/// Those of [`resize`].
pub fn resize_shorter(image: &Rgb, size: usize) -> Result<Rgb> {
    let (width, height) = (image.width, image.height);
    let (new_width, new_height) =
        if width <= height { (size, size * height / width.max(1)) } else { (size * width / height.max(1), size) };
    if (new_width, new_height) == (width, height) {
        return Ok(image.clone());
    }
    resize(image, Crop { left: 0, top: 0, width, height }, new_width, new_height)
}

/// The center `size` x `size` pixels; a smaller image gets a black border.
pub fn center_crop(image: &Rgb, size: usize) -> Rgb {
    // torchvision rounds (height - size) / 2 to the nearest even integer on ties.
    let offset = |full: usize| ((full as f64 - size as f64) / 2.0).round_ties_even() as i64;
    let (left, top) = (offset(image.width), offset(image.height));
    let mut data = vec![0; size * size * 3];
    for y in 0..size {
        for x in 0..size {
            let (sx, sy) = (x as i64 + left, y as i64 + top);
            if sx >= 0 && sy >= 0 && (sx as usize) < image.width && (sy as usize) < image.height {
                let from = (sy as usize * image.width + sx as usize) * 3;
                let to = (y * size + x) * 3;
                data[to..to + 3].copy_from_slice(&image.data[from..from + 3]);
            }
        }
    }
    Rgb { width: size, height: size, data }
}

/// The rectangle of torchvision's RandomResizedCrop (scale 0.08 to 1, ratio 3/4 to 4/3).
pub fn random_crop(width: usize, height: usize, random: &Stream) -> Crop {
    let area = (width * height) as f64;
    let ratio = (0.75_f64.ln(), (4.0_f64 / 3.0).ln());
    for attempt in 0..10 {
        let u = |i: usize| random.uniform(attempt * 4 + i);
        let target = area * (0.08 + 0.92 * u(0));
        let aspect = (ratio.0 + (ratio.1 - ratio.0) * u(1)).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let place = |room: usize, u: f64| ((room + 1) as f64 * u) as usize;
            return Crop { left: place(width - w, u(2)), top: place(height - h, u(3)), width: w, height: h };
        }
    }
    // Fall back to the whole image, cropped to the nearest allowed ratio.
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < 0.75 {
        (width, (width as f64 / 0.75).round() as usize)
    } else if aspect > 4.0 / 3.0 {
        ((height as f64 * 4.0 / 3.0).round() as usize, height)
    } else {
        (width, height)
    };
    Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// Scales to [0, 1], normalizes and converts to planes (C, H, W); `flip` mirrors left and right.
pub fn normalize(image: &Rgb, mean: [f32; 3], std: [f32; 3], flip: bool) -> Vec<f32> {
    let plane = image.width * image.height;
    let mut out = vec![0.0; 3 * plane];
    for (c, out) in out.chunks_exact_mut(plane).enumerate() {
        for (i, o) in out.iter_mut().enumerate() {
            let (y, x) = (i / image.width, i % image.width);
            let x = if flip { image.width - 1 - x } else { x };
            let value = f32::from(image.data[(y * image.width + x) * 3 + c]) / 255.0;
            *o = (value - mean[c]) / std[c];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_stay_inside_and_depend_on_the_seed() {
        let mut different = 0;
        for i in 0..200 {
            let stream = Stream { seed: 1, id: [i, 0, 0] };
            let crop = random_crop(50 + i as usize, 300, &stream);
            assert!(crop.left + crop.width <= 50 + i as usize && crop.top + crop.height <= 300);
            assert_eq!(crop, random_crop(50 + i as usize, 300, &stream));
            different += usize::from(crop != random_crop(50 + i as usize, 300, &Stream { seed: 2, id: [i, 0, 0] }));
        }
        assert!(different > 150);
    }

    #[test]
    fn sizes_follow_torchvision() {
        let image = Rgb { width: 7, height: 5, data: vec![9; 105] };
        let resized = resize_shorter(&image, 10).unwrap();
        assert_eq!((resized.width, resized.height), (14, 10));
        assert!(resized.data.iter().all(|v| *v == 9));
        assert_eq!(center_crop(&resized, 4).data, vec![9; 48]);
        let small = center_crop(&image, 9);
        assert_eq!(small.data[0], 0);
        let n = normalize(&Rgb { width: 2, height: 1, data: vec![0, 0, 0, 255, 255, 255] }, [0.5; 3], [0.5; 3], true);
        assert_eq!(n, [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]);
    }
}
