//! Damage that the decoders of the crate `image` pass over, and for which Pillow refuses a file.

use super::super::formats::Format;

/// Checks a file beyond what its decoder does.
///
/// # Errors
/// What is wrong with it.
pub fn check(bytes: &[u8], format: Format) -> Result<(), String> {
    let complete = match format {
        Format::Png => return png(bytes),
        Format::WebP => webp(bytes),
        Format::Gif => gif(bytes),
        _ => Some(()),
    };
    complete.ok_or_else(|| "it is incomplete".into())
}

/// The checksums of the chunks before the pixels (PNG specification, 5.3); the decoder compares those of the pixels.
fn png(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((length, chunk)) = rest.split_first_chunk().map(|(n, rest)| (u32::from_be_bytes(*n) as usize, rest))
    {
        let name = chunk.get(..4).unwrap_or_default();
        let content = length.checked_add(4).and_then(|end| chunk.split_at_checked(end));
        if name == b"IDAT" {
            break;
        }
        let Some((content, after)) = content else { break };
        let Some((checksum, after)) = after.split_first_chunk() else { break };
        if u32::from_be_bytes(*checksum) != crc32fast::hash(content) {
            return Err(format!("its chunk {} is damaged", name.escape_ascii()));
        }
        rest = after;
    }
    Ok(())
}

/// The length of the file, and its chunks within it (RFC 9649, 2.3 and 2.4).
fn webp(bytes: &[u8]) -> Option<()> {
    let length = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let end = length(4)?.checked_add(8)?;
    let mut at = 12_usize;
    while at.saturating_add(8) <= end {
        let length = length(at + 4)?;
        if at.checked_add(8)?.checked_add(length)? > end {
            return None;
        }
        at = at.checked_add(8)?.checked_add(length.checked_next_multiple_of(2)?)?;
    }
    (end <= bytes.len()).then_some(())
}

/// The blocks up to the first image, whole (GIF89a specification, 15 to 27).
fn gif(bytes: &[u8]) -> Option<()> {
    let colours = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + colours(*bytes.get(10)?);
    loop {
        let kind = *bytes.get(at)?;
        at = match kind {
            // An extension: its label, and blocks.
            0x21 => at + 2,
            // An image: its place, its colours, the size of its codes, and blocks.
            0x2c => at + 11 + colours(*bytes.get(at + 9)?),
            _ => return None,
        };
        let blocks = at;
        while let Some(length) = bytes.get(at).copied().filter(|n| *n > 0) {
            at += 1 + usize::from(length);
        }
        if kind == 0x2c {
            // The empty block at the end may be missing.
            return (blocks < at && at <= bytes.len()).then_some(());
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_chunk_before_the_pixels_is_named() {
        let chunk = |name: &[u8; 4], content: &[u8], checksum: u32| {
            let mut all = (content.len() as u32).to_be_bytes().to_vec();
            all.extend(name);
            all.extend(content);
            all.extend(checksum.to_be_bytes());
            all
        };
        let file = |text: u32| {
            let chunks = [chunk(b"tEXt", b"a\0b", text), chunk(b"IDAT", b"x", 0), chunk(b"tEXt", b"a\0b", 1)];
            [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.concat()].concat()
        };
        assert_eq!(check(&file(crc32fast::hash(b"tEXta\0b")), Format::Png), Ok(()));
        assert_eq!(check(&file(1), Format::Png).unwrap_err(), "its chunk tEXt is damaged");
    }

    #[test]
    fn lengths_are_those_of_the_file() {
        let webp = |length: u32, chunk: u32, pixels: usize| {
            let mut all = b"RIFF".to_vec();
            all.extend(length.to_le_bytes());
            all.extend(b"WEBPVP8L");
            all.extend(chunk.to_le_bytes());
            all.resize(20 + pixels, 0);
            check(&all, Format::WebP)
        };
        assert_eq!((webp(18, 6, 6), webp(18, 5, 6), webp(18, 6, 9)), (Ok(()), Ok(()), Ok(())));
        for damaged in [webp(18, 6, 5), webp(20, 6, 6), webp(16, 6, 6), webp(u32::MAX, u32::MAX, 6)] {
            assert_eq!(damaged.unwrap_err(), "it is incomplete");
        }
        // Two global colours, an extension, and an image with one block.
        let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0".to_vec();
        gif.extend([[0; 6].as_slice(), b"!\xf9\x04\0\0\0\0\0", b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;"].concat());
        for cut in 0..gif.len() {
            let complete = check(&gif[..gif.len() - cut], Format::Gif).is_ok();
            assert_eq!(complete, cut <= 2, "{cut}");
        }
    }
}
