//! Decodes image files to what Pillow's `Image.open(file).convert("RGB")` gives.

use super::super::formats::{format_of, Format};
use super::{complete, jpeg, limit, Rgb};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use qdrop_core::prelude::*;
use std::io::Cursor;
use std::path::Path;

/// Decodes an image file: JPEG, PNG, BMP, WebP, TIFF, PPM/PGM/PBM, or the first frame of a GIF. The content decides what it
/// is, not the name.
///
/// # Errors
/// The file cannot be read, is of none of these formats, or is incomplete or damaged.
pub fn decode(file: &Path) -> Result<Rgb> {
    read(file, false)
}

/// Decodes an image file like [`decode`], and turns the image as its EXIF data says, which OpenCV's `imread` does.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_upright(file: &Path) -> Result<Rgb> {
    read(file, true)
}

fn read(file: &Path, upright: bool) -> Result<Rgb> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    decode_as(&bytes, upright).map_err(|e| Error::data(file, format!("cannot be decoded: {e}; replace or remove it")))
}

/// Decodes the content of an image file.
///
/// # Errors
/// What is wrong with it.
pub fn decode_bytes(bytes: &[u8]) -> Result<Rgb, String> {
    decode_as(bytes, false)
}

/// With `upright` formats are turned that Pillow leaves as they are.
fn decode_as(bytes: &[u8], upright: bool) -> Result<Rgb, String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    let format = format_of(bytes).ok_or("it is none of JPEG, PNG, BMP, WebP, TIFF, PPM, PGM, PBM and GIF")?;
    complete::check(bytes, format)?;
    match format {
        Format::Jpeg if upright => Ok(turn(jpeg::decode(bytes)?, jpeg_orientation(bytes))),
        Format::Jpeg => jpeg::decode(bytes),
        Format::Pnm => other(bytes, ImageFormat::Pnm, Some(8), upright),
        Format::Png => other(bytes, ImageFormat::Png, None, upright),
        Format::Bmp => other(bytes, ImageFormat::Bmp, None, upright),
        Format::WebP => other(bytes, ImageFormat::WebP, None, upright),
        Format::Tiff => other(bytes, ImageFormat::Tiff, None, upright),
        Format::Gif => other(bytes, ImageFormat::Gif, None, upright),
    }
}

/// The orientation in the EXIF data of a JPEG file (CIPA DC-008, 4.7.2).
fn jpeg_orientation(bytes: &[u8]) -> Orientation {
    let exif = jpeg::segments(bytes).filter(|(marker, _)| *marker == 0xe1);
    let mut exif = exif.filter_map(|(_, content)| content.strip_prefix(b"Exif\0\0"));
    exif.find_map(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

fn turn(image: Rgb, orientation: Orientation) -> Rgb {
    let Rgb { width, height, data } = image;
    if orientation == Orientation::NoTransforms {
        return Rgb { width, height, data };
    }
    // No side of a JPEG has more than 16 bits.
    let mut image = DynamicImage::ImageRgb8(RgbImage::from_raw(width as u32, height as u32, data).unwrap_or_default());
    image.apply_orientation(orientation);
    Rgb { width: image.width() as usize, height: image.height() as usize, data: image.into_rgb8().into_raw() }
}

/// Bytes that decoders may use before the size of the image is known.
const LARGEST: u64 = 1 << 30;
/// Bytes that decoders may use beside the image.
const SOME: u64 = 1 << 20;

fn memory(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Decodes with the crate `image`. `most` is the number of pixels that a byte of the format can stand for at most.
fn other(bytes: &[u8], format: ImageFormat, most: Option<u64>, upright: bool) -> Result<Rgb, String> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(memory(LARGEST));
    let mut decoder = reader.into_decoder().map_err(cause)?;
    let (width, height) = decoder.dimensions();
    limit::check(width.into(), height.into(), bytes.len(), most)?;
    // Decoders need a few copies of the image, but a frame of a GIF could be larger than the image.
    decoder.set_limits(memory(SOME + 4 * decoder.total_bytes())).map_err(cause)?;
    // Of the formats with an orientation, Pillow turns only TIFF.
    let orientation = match format {
        ImageFormat::Tiff => decoder.orientation().map_err(cause)?,
        _ if upright => decoder.orientation().map_err(cause)?,
        _ => Orientation::NoTransforms,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(cause)?;
    image.apply_orientation(orientation);
    // The colour type of a PNG: grey values, of which one may be transparent, are no grey values with an alpha channel.
    let grey = format == ImageFormat::Png && bytes.get(25) == Some(&0);
    Ok(Rgb { width: image.width() as usize, height: image.height() as usize, data: to_rgb(image, grey) })
}

fn cause(error: ImageError) -> String {
    match error {
        ImageError::Unsupported(_) => format!("{error}; save it with 8 bits of red, green and blue"),
        _ => error.to_string(),
    }
}

/// Converts to 8 bits and 3 channels as Pillow does: an alpha channel is dropped, grey values of 16 bits are
/// saturated at 255, and of colours of 16 bits the upper 8 bits are taken.
fn to_rgb(image: DynamicImage, grey: bool) -> Vec<u8> {
    let upper = |value: &u16| (value >> 8) as u8;
    let saturated = |value: &u16| (*value).min(255) as u8;
    match image {
        DynamicImage::ImageLuma16(values) => values.iter().flat_map(|value| [saturated(value); 3]).collect(),
        DynamicImage::ImageLumaA16(values) => {
            let value = |v: &u16| if grey { saturated(v) } else { upper(v) };
            values.pixels().flat_map(|pixel| [value(&pixel.0[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(colors) => colors.iter().map(upper).collect(),
        DynamicImage::ImageRgba16(colors) => colors.pixels().flat_map(|p| [0, 1, 2].map(|i| upper(&p.0[i]))).collect(),
        other => other.into_rgb8().into_raw(),
    }
}
