//! Formats of image files, and how a file is recognized as one of them.

use std::io::Read;
use std::path::Path;

/// A format of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// Windows bitmap.
    Bmp,
    /// WebP.
    WebP,
    /// TIFF, including BigTIFF.
    Tiff,
    /// Netpbm: PBM, PGM and PPM, as text or binary.
    Pnm,
    /// GIF.
    Gif,
}

/// Extensions of image files in lower case.
const EXTENSIONS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "gif"];

/// Bytes from the start of a file that [`format_of`] looks at.
pub const HEAD: usize = 18;

/// The format of a file that begins with `bytes`; `None` if it is no image of a known format.
pub fn format_of(bytes: &[u8]) -> Option<Format> {
    let at = |start: usize, magic: &[u8]| bytes.get(start..start + magic.len()) == Some(magic);
    if at(0, b"\xff\xd8\xff") {
        Some(Format::Jpeg)
    } else if at(0, b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if at(0, b"BM") && bitmap_header(bytes) {
        Some(Format::Bmp)
    } else if at(0, b"RIFF") && at(8, b"WEBP") {
        Some(Format::WebP)
    } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| at(0, *magic)) {
        Some(Format::Tiff)
    } else if matches!(bytes, [b'P', b'1'..=b'6', b'#' | b' ' | b'\t' | b'\r' | b'\n', ..]) {
        Some(Format::Pnm)
    } else if at(0, b"GIF87a") || at(0, b"GIF89a") {
        Some(Format::Gif)
    } else {
        None
    }
}

/// Whether the size of the second header is one that bitmaps have. The two letters alone also begin many texts.
fn bitmap_header(bytes: &[u8]) -> bool {
    matches!(bytes.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

/// Whether the file's name ends in an extension of image files, in whatever case.
pub fn has_image_extension(file: &Path) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a file is an image: by its name, and where that does not tell, by its first bytes. A file that cannot be opened
/// counts as an image, so that decoding it reports it.
pub fn is_image(file: &Path) -> bool {
    if has_image_extension(file) {
        return true;
    }
    let mut head = Vec::with_capacity(HEAD);
    match std::fs::File::open(file).and_then(|f| f.take(HEAD as u64).read_to_end(&mut head)) {
        Ok(_) => format_of(&head).is_some(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognized_by_their_first_bytes() {
        let bmp = |size: u8| [b"BM\x36\x0c\0\0\0\0\0\0\x36\0\0\0".as_slice(), &[size, 0, 0, 0]].concat();
        let known: [(&[u8], Format); 16] = [
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Format::Jpeg),
            (b"\xff\xd8\xff\xdb", Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Format::Png),
            (&bmp(40), Format::Bmp),
            (&bmp(124), Format::Bmp),
            (&bmp(12), Format::Bmp),
            (b"RIFF\x1c\0\0\0WEBPVP8L", Format::WebP),
            (b"II*\0\x08\0\0\0", Format::Tiff),
            (b"MM\0*\0\0\0\x08", Format::Tiff),
            (b"MM\0+\0\x08", Format::Tiff),
            (b"P6\n8 8\n255\n", Format::Pnm),
            (b"P5 8 8 255\n", Format::Pnm),
            (b"P3#text", Format::Pnm),
            (b"P1\r\n", Format::Pnm),
            (b"GIF87a", Format::Gif),
            (b"GIF89a", Format::Gif),
        ];
        for (bytes, format) in known {
            assert_eq!(format_of(bytes), Some(format), "{bytes:?}");
            assert!(bytes.len() <= HEAD, "{bytes:?}");
            // What is cut before its end is not taken for something else.
            (0..2).for_each(|n| assert_eq!(format_of(&bytes[..n]), None, "{bytes:?}"));
        }
        let others: [&[u8]; 9] = [
            b"",
            b"BMW and other cars",
            b"RIFF\x1c\0\0\0WAVE",
            b"P7\n",
            b"P6x",
            b"GIF88a",
            b"hello",
            b"\xff\xd8",
            &bmp(3),
        ];
        for bytes in others {
            assert_eq!(format_of(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn extensions_count_in_any_case() {
        for name in ["a.JPEG", "a.Jpg", "a.b.png", "a.TIFF", "a.pgm", "a.jfif", "a.WebP", "a.GIF"] {
            assert!(has_image_extension(Path::new(name)), "{name}");
        }
        for name in ["jpg", ".png", "a.jpg.txt", "a", "a.jp", "a.svg", "a."] {
            assert!(!has_image_extension(Path::new(name)), "{name}");
        }
    }
}
