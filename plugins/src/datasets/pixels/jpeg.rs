//! Decodes JPEG with libjpeg, which Pillow uses too.

use super::{limit, Rgb};
use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{
    jpeg_common_struct, jpeg_error_mgr, jpeg_std_error, JERR_FILE_READ, JWRN_ADOBE_XFORM, JWRN_BOGUS_ICC,
    JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR,
};
use std::io::{self, BufRead, Read};
use std::os::raw::c_int;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

/// A Huffman code has at least one bit for each block of 8 x 8 pixels.
const PIXELS_PER_BYTE: u64 = 8 * 64;

/// Decodes a whole file. A file that ends early or whose data is damaged is refused.
///
/// # Errors
/// What is wrong with the file.
pub fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    // libjpeg reports errors by unwinding.
    let result = catch_unwind(AssertUnwindSafe(|| read(bytes).map_err(|e| e.to_string())));
    result.unwrap_or_else(|damage| match damage.downcast::<Damage>() {
        Ok(damage) => Err(damage.0),
        Err(other) => resume_unwind(other),
    })
}

/// The payload with which the error handlers unwind.
struct Damage(String);

fn read(bytes: &[u8]) -> io::Result<Rgb> {
    let decoder = Decompress::builder().with_err(strict_errors()).from_reader(Whole(bytes))?;
    let (width, height) = decoder.size();
    let most = if is_arithmetic(bytes) { None } else { Some(PIXELS_PER_BYTE) };
    limit::check(width as u64, height as u64, bytes.len(), most).map_err(io::Error::other)?;
    let four = matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let mut pixels = if four { decoder.to_colorspace(ColorSpace::JCS_CMYK)? } else { decoder.rgb()? };
    let data: Vec<u8> = pixels.read_scanlines()?;
    // Reads up to the end marker.
    pixels.finish()?;
    let data = if four { data.chunks_exact(4).flat_map(cmyk_to_rgb).collect() } else { data };
    Ok(Rgb { width, height, data })
}

/// The bytes of a file. Reading past their end is an error, where the usual readers of libjpeg make up an end marker
/// and fill the rest of the picture with grey.
struct Whole<'a>(&'a [u8]);

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Another kind than `UnexpectedEof`, which would be taken as an end marker.
        if self.0.is_empty() {
            Err(io::ErrorKind::InvalidData.into())
        } else {
            Ok(self.0)
        }
    }

    fn consume(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}

/// Marker and content of the segments before the first scan (ITU T.81, B.1.1.4).
pub fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        match *rest {
            [0xff, marker, high, low, ..] if marker != 0xda => {
                let end = 2 + usize::from(u16::from_be_bytes([high, low]));
                let content = rest.get(4..end).unwrap_or_default();
                rest = rest.get(end..).unwrap_or_default();
                Some((marker, content))
            }
            _ => None,
        }
    })
}

/// Whether the first frame is coded arithmetically (ITU T.81, table B.1: SOF9 and SOF10).
fn is_arithmetic(bytes: &[u8]) -> bool {
    let mut frames = segments(bytes).filter(|(marker, _)| matches!(marker, 0xc0..=0xc3 | 0xc9..=0xcb));
    frames.next().is_some_and(|(marker, _)| marker >= 0xc9)
}

/// Converts a pixel as Pillow does: the file has inverted values, as all programs write them since Adobe's did.
fn cmyk_to_rgb(pixel: &[u8]) -> [u8; 3] {
    let paper = u32::from(pixel[3]);
    [pixel[0], pixel[1], pixel[2]].map(|ink| {
        // Division by 255, rounded to the nearest.
        let product = (255 - u32::from(ink)) * paper + 128;
        paper.saturating_sub((product + (product >> 8)) >> 8) as u8
    })
}

/// Error handlers that stop at errors and at damaged data.
fn strict_errors() -> jpeg_error_mgr {
    let mut errors = jpeg_error_mgr {
        error_exit: None,
        emit_message: None,
        output_message: None,
        format_message: None,
        reset_error_mgr: None,
        msg_code: 0,
        msg_parm: Default::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    };
    // SAFETY: the function only fills the structure with its default handlers and its table of messages.
    unsafe { jpeg_std_error(&mut errors) };
    errors.error_exit = Some(stop);
    errors.emit_message = Some(message);
    errors
}

/// Reports an error. libjpeg requires that this does not return.
extern "C-unwind" fn stop(decoder: &mut jpeg_common_struct) {
    let text = match code(decoder) {
        JERR_FILE_READ => "it ends early".to_string(),
        _ => text(decoder),
    };
    resume_unwind(Box::new(Damage(text)));
}

/// Receives warnings, of level -1, and traces.
extern "C-unwind" fn message(decoder: &mut jpeg_common_struct, level: c_int) {
    // These do not concern the pixels. Bytes that no marker announces are common between the last block and the end
    // marker; Pillow passes over them as well.
    const HARMLESS: [c_int; 4] = [JWRN_ADOBE_XFORM, JWRN_BOGUS_ICC, JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR];
    if level < 0 && !HARMLESS.contains(&code(decoder)) {
        stop(decoder);
    }
}

/// The number of the current message.
fn code(decoder: &jpeg_common_struct) -> c_int {
    // SAFETY: `err` is null or the structure that `strict_errors` made, which lives as long as the decoder.
    unsafe { decoder.err.as_ref() }.map_or(0, |errors| errors.msg_code)
}

/// Length of the longest message; JMSG_LENGTH_MAX of jpeglib.h.
const LONGEST: usize = 200;

/// The text of the current message.
fn text(decoder: &mut jpeg_common_struct) -> String {
    type Declared = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]);
    type Real = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut buffer = [0u8; LONGEST];
    // SAFETY: as in `code`.
    if let Some(format) = unsafe { decoder.err.as_ref() }.and_then(|errors| errors.format_message) {
        // SAFETY: in C the second parameter is `char *`, for a buffer of JMSG_LENGTH_MAX bytes that is written to.
        let format = unsafe { std::mem::transmute::<Declared, Real>(format) };
        // SAFETY: both pointers are valid for the call, and the buffer has the length that the handler expects.
        unsafe { format(decoder, buffer.as_mut_ptr()) };
    }
    let length = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
