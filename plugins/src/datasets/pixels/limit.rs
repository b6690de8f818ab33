//! How many pixels a file may announce. The decoders allocate an image before they read it, so a damaged header
//! could otherwise ask for any amount of memory.

/// Larger images are refused; Pillow's limit.
const LARGEST: u64 = 178_956_970;

/// Checks the size of an image against the length of its file. `pixels_per_byte` is the most that one byte of the
/// format can stand for; `None` where a few bytes can stand for any number of pixels.
///
/// # Errors
/// The image is too large, or its file too short for it. The text has no file name.
pub fn check(width: u64, height: u64, bytes: usize, pixels_per_byte: Option<u64>) -> Result<(), String> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(format!("it would have {width} x {height} pixels"));
    }
    if pixels > LARGEST {
        return Err(format!("{width} x {height} pixels are more than the {LARGEST} that are read"));
    }
    match pixels_per_byte {
        Some(most) if pixels > most.saturating_mul(bytes as u64) => {
            Err(format!("its header announces {width} x {height} pixels, too many for its {bytes} bytes"))
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
        assert_eq!(check(100, 50, 1, None), Ok(()));
        assert_eq!(check(0, 50, 1, None).unwrap_err(), "it would have 0 x 50 pixels");
        assert!(check(1 << 20, 1 << 20, usize::MAX, Some(1)).unwrap_err().contains("are more than the 178956970"));
        assert!(check(u64::MAX, u64::MAX, usize::MAX, None).is_err());
    }
}
