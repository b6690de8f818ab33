//! Weights of few bits: packed in bytes, and unpacked by the graph itself.
//!
//! Operators with types of 2 and 4 bits are younger than many runtimes, so bytes hold the codes, and shifts and masks take
//! them out. A runtime does that once, when it loads the file. Bytes hold 8, 4 or 2 codes of 1, 2 or 4 bits; a weight of
//! another width is divided into such parts, as 3 bits into the lower two and the highest one.

use super::file::{int, text, Constant, File};
use crate::proto::tensor_proto::DataType;
use qdrop_core::model::{IntegerLayer, WeightCodes};

/// Widths that divide a byte.
const WIDTHS: [u32; 3] = [4, 2, 1];

/// Some bits of each code, packed.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// How many lower bits of the codes are not in this part.
    shift: u32,
    /// Bits of each code in this part.
    width: u32,
    /// Byte `i` holds the codes from `i * 8 / width`, the first one in its lowest bits.
    bytes: Vec<u8>,
}

/// Divides codes of at most 7 bits into packed parts.
fn parts(codes: &[u16], bits: u32) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut shift = 0;
    for width in WIDTHS {
        // A width occurs once at most: the widths are the binary digits of the number of bits.
        if bits & width == 0 {
            continue;
        }
        let mask = (1_u16 << width) - 1;
        let byte = |codes: &[u16]| {
            let code = |(i, code): (usize, &u16)| ((code >> shift & mask) as u8) << (i as u32 * width);
            codes.iter().enumerate().map(code).fold(0, |byte, code| byte | code)
        };
        parts.push(Part { shift, width, bytes: codes.chunks((8 / width) as usize).map(byte).collect() });
        shift += width;
    }
    parts
}

/// Adds the codes of a weight as a value of type uint8, or uint16 beyond 8 bits, in the weight's shape.
fn codes(file: &mut File, name: &str, weight: &WeightCodes) -> String {
    let shape = weight.shape.iter().copied();
    match weight.bits {
        9.. => file.constant(&format!("{name}.codes"), Constant::new(weight.codes.iter().copied(), shape)),
        8 => file.constant(&format!("{name}.codes"), Constant::new(weight.codes.iter().map(|c| *c as u8), shape)),
        bits => {
            let mut all: Option<String> = None;
            for part in parts(&weight.codes, bits) {
                let unpacked = unpacked(file, name, &part, weight);
                all = Some(match all {
                    Some(lower) => file.node("BitwiseOr", &[&lower, &unpacked], &format!("{name}.codes"), Vec::new()),
                    None => unpacked,
                });
            }
            all.unwrap_or_default()
        }
    }
}

/// Adds the bits of one part, at their place within the codes.
fn unpacked(file: &mut File, name: &str, part: &Part, weight: &WeightCodes) -> String {
    let (width, per_byte) = (part.width, (8 / part.width) as usize);
    let packed = Constant::new(part.bytes.iter().copied(), [part.bytes.len(), 1]);
    let packed = file.constant(&format!("{name}.packed{width}"), packed);
    let shifts = Constant::new((0..per_byte).map(|i| (i as u32 * width) as u8), [per_byte]);
    let shifts = file.constant(&format!("shifts{width}"), shifts);
    let mask = file.constant(&format!("mask{width}"), Constant::scalar(((1_u16 << width) - 1) as u8));
    let wanted = format!("{name}.bits{width}");
    let mut value = file.node("BitShift", &[&packed, &shifts], &wanted, vec![text("direction", "RIGHT")]);
    value = file.node("BitwiseAnd", &[&value, &mask], &wanted, Vec::new());
    let count = weight.codes.len();
    if !count.is_multiple_of(per_byte) {
        // The last byte holds fewer codes.
        let flat = file.constant("flat", Constant::new([-1_i64], [1]));
        value = file.node("Reshape", &[&value, &flat], &wanted, Vec::new());
        let start = file.constant("zeros", Constant::new([0_i64], [1]));
        let end = file.constant("count", Constant::new([count as i64], [1]));
        value = file.node("Slice", &[&value, &start, &end], &wanted, Vec::new());
    }
    let shape = Constant::new(weight.shape.iter().map(|side| *side as i64), [weight.shape.len()]);
    let shape = file.constant("shape", shape);
    value = file.node("Reshape", &[&value, &shape], &wanted, Vec::new());
    if part.shift > 0 {
        let shift = file.constant("shift", Constant::scalar(part.shift as u8));
        value = file.node("BitShift", &[&value, &shift], &wanted, vec![text("direction", "LEFT")]);
    }
    value
}

/// The shape in which one number for each output channel, or a single one, is broadcast to the weight.
fn column(weight: &WeightCodes, count: usize) -> Vec<usize> {
    let mut shape = vec![1; weight.shape.len()];
    if let Some(first) = shape.first_mut() {
        *first = count;
    }
    shape
}

/// The zero points with the type of the codes, if it can hold them.
fn zero_point(file: &mut File, name: &str, weight: &WeightCodes, kind: DataType) -> String {
    let (wanted, shape) = (format!("{name}.zero_point"), column(weight, weight.zero_point.len()));
    let bytes: Option<Vec<u8>> = weight.zero_point.iter().map(|z| u8::try_from(*z).ok()).collect();
    let constant = match bytes {
        Some(bytes) => Constant::new(bytes, shape),
        None => Constant::new(weight.zero_point.iter().copied(), shape),
    };
    let stored = file.constant(&wanted, constant);
    cast(file, &stored, &format!("{wanted}.{}", kind.as_str_name().to_lowercase()), kind)
}

fn cast(file: &mut File, value: &str, wanted: &str, kind: DataType) -> String {
    file.node("Cast", &[value], wanted, vec![int("to", kind as usize)])
}

/// Adds a quantized weight as multiples of its scale, in floating point: `code - zero_point`.
pub fn steps(file: &mut File, name: &str, weight: &WeightCodes) -> String {
    let codes = codes(file, name, weight);
    let value = cast(file, &codes, &format!("{name}.float"), DataType::Float);
    let zero_point = zero_point(file, name, weight, DataType::Float);
    file.node("Sub", &[&value, &zero_point], &format!("{name}.steps"), Vec::new())
}

/// Adds a quantized weight in floating point: `(code - zero_point) * scale`.
pub fn float_weight(file: &mut File, name: &str, weight: &WeightCodes) -> String {
    let value = steps(file, name, weight);
    let scale = Constant::new(weight.scale.iter().copied(), column(weight, weight.scale.len()));
    let scale = file.constant(&format!("{name}.scale"), scale);
    file.node("Mul", &[&value, &scale], name, Vec::new())
}

/// Adds a quantized weight as signed bytes, `(code - zero_point) * factor`.
pub fn integers(file: &mut File, name: &str, weight: &WeightCodes, layer: &IntegerLayer) -> String {
    match weight.bits {
        // Nothing is packed, so the bytes can be stored as they are.
        8 => {
            let channels = weight.shape.first().copied().unwrap_or_default();
            let integers = (0..channels).flat_map(|c| weight.integers(c)).map(|w| (w * layer.factor as i32) as i8);
            file.constant(&format!("{name}.int8"), Constant::new(integers, weight.shape.iter().copied()))
        }
        _ => {
            let codes = codes(file, name, weight);
            let wide = cast(file, &codes, &format!("{name}.int32"), DataType::Int32);
            let zero_point = zero_point(file, name, weight, DataType::Int32);
            let mut value = file.node("Sub", &[&wide, &zero_point], &format!("{name}.steps"), Vec::new());
            if layer.factor > 1 {
                let factor = file.constant("factor", Constant::scalar(layer.factor as i32));
                value = file.node("Mul", &[&value, &factor], &format!("{name}.steps"), Vec::new());
            }
            cast(file, &value, &format!("{name}.int8"), DataType::Int8)
        }
    }
}

/// Adds a quantized weight as signed bytes, and their values in floating point.
pub fn integer_weight(file: &mut File, name: &str, weight: &WeightCodes, layer: &IntegerLayer) -> String {
    let integers = integers(file, name, weight, layer);
    let channels = layer.weight_scale.len();
    let scale = Constant::new(layer.weight_scale.iter().copied(), [channels]);
    let scale = file.constant(&format!("{name}.scale"), scale);
    let zero = file.constant("zero_points", Constant::new(vec![0_i8; channels], [channels]));
    file.node("DequantizeLinear", &[&integers, &scale, &zero], name, vec![int("axis", 0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_packed_and_found_again() {
        for bits in 1..=7 {
            let codes: Vec<u16> = (0..37_u16).map(|i| (i * 29 + 3) % (1 << bits)).collect();
            let parts = parts(&codes, bits);
            let size: usize = parts.iter().map(|part| part.bytes.len()).sum();
            assert!(size * 8 < codes.len() * bits as usize + 8 * parts.len(), "{bits} bits take {size} bytes");
            let code = |i: usize| {
                let bits_of = |part: &Part| {
                    let at = i as u32 * part.width;
                    let byte = u32::from(part.bytes[(at / 8) as usize]);
                    (byte >> (at % 8) & ((1 << part.width) - 1)) << part.shift
                };
                parts.iter().map(bits_of).sum::<u32>() as u16
            };
            assert_eq!((0..codes.len()).map(code).collect::<Vec<_>>(), codes, "{bits} bits");
        }
        let part = |width, shift, bytes: &[u8]| Part { width, shift, bytes: bytes.to_vec() };
        assert_eq!(parts(&[1, 2, 3], 4), [part(4, 0, &[0x21, 0x03])]);
        assert_eq!(parts(&[7, 0, 5, 2, 4], 3), [part(2, 0, &[0b10_01_00_11, 0b00]), part(1, 2, &[0b1_0101])]);
    }
}
