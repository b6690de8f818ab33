//! How many pixels a file may announce. The decoders allocate an image before they read it, so a damaged header
//! could otherwise ask for any amount of memory.

/// Larger images are refused; Pillow's limit.
const LARGEST: u64 = 178_956_970;
/// Where a format can code any number of pixels with a few bytes, every file may have this many.
const FREE: u64 = 1 << 24;
/// And this many for each of its bytes: DEFLATE codes at most 1032 bytes with one, and a pixel has at least 1 bit.
const DENSEST: u64 = 1032 * 8;

/// Checks the size of an image against the length of its file. `pixels_per_byte` is the most that one byte of the
/// format can code; `None` where a few bytes can code any number of pixels, such as a plane of one colour.
///
/// # Errors
/// The image is too large, or its file too short for it. The text has no file name.
pub fn check(width: u64, height: u64, bytes: usize, pixels_per_byte: Option<u64>) -> Result<(), String> {
    size(width, height)?;
    let bytes = bytes as u64;
    let most = match pixels_per_byte {
        Some(most) => most.saturating_mul(bytes),
        None => DENSEST.saturating_mul(bytes).max(FREE),
    };
    if width * height > most {
        return Err(format!("its header announces {width} x {height} pixels, too many for its {bytes} bytes"));
    }
    Ok(())
}

/// Checks the size of an image.
///
/// # Errors
/// A side is 0, or there are too many pixels.
pub fn size(width: u64, height: u64) -> Result<(), String> {
    match width.saturating_mul(height) {
        0 => Err(format!("it would have {width} x {height} pixels")),
        pixels if pixels > LARGEST => {
            Err(format!("{width} x {height} pixels are more than the {LARGEST} that are read"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_bounds_its_image() {
        assert_eq!(check(100, 50, 10, Some(500)), Ok(()));
        let error = check(100, 50, 9, Some(500)).unwrap_err();
        assert_eq!(error, "its header announces 100 x 50 pixels, too many for its 9 bytes");
        assert_eq!(check(4096, 4096, 1, None), Ok(()));
        assert!(check(4096, 4097, 1, None).unwrap_err().contains("too many for its 1 bytes"));
        assert_eq!(check(4096, 4097, 2100, None), Ok(()));
        assert_eq!(check(0, 50, 1, None).unwrap_err(), "it would have 0 x 50 pixels");
        assert!(check(1 << 20, 1 << 20, usize::MAX, Some(1)).unwrap_err().contains("are more than the 178956970"));
        assert!(check(u64::MAX, u64::MAX, usize::MAX, None).is_err());
    }
}
