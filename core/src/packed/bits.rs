//! Integers of a few bits, one directly after the other.
//!
//! Bit `j` of integer `i` is bit `i * bits + j` of the stream, and bit `n` of the stream is bit `n % 8`, counted from the
//! least significant one, of byte `n / 8`. The last byte is filled up with zeros.

/// Bytes of `count` integers; `None` if no file can hold that many.
pub(super) fn length(count: usize, bits: u32) -> Option<usize> {
    Some(count.checked_mul(bits as usize)?.div_ceil(8))
}

/// The stream of integers below `2^bits`, with 1 to 16 bits.
pub(super) fn pack(integers: &[u16], bits: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(integers.len() * bits as usize / 8 + 1);
    let (mut waiting, mut filled) = (0_u32, 0);
    for integer in integers {
        waiting |= u32::from(*integer) << filled;
        filled += bits;
        while filled >= 8 {
            bytes.push(waiting as u8);
            waiting >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        bytes.push(waiting as u8);
    }
    bytes
}

/// The first `count` integers of a stream, or fewer if it is shorter.
pub(super) fn unpack(bytes: &[u8], bits: u32, count: usize) -> impl Iterator<Item = u16> + '_ {
    let mask = (1_u32 << bits) - 1;
    let (mut waiting, mut filled, mut rest) = (0_u32, 0, bytes.iter());
    let next = move || {
        while filled < bits {
            waiting |= u32::from(*rest.next()?) << filled;
            filled += 8;
        }
        let integer = waiting & mask;
        waiting >>= bits;
        filled -= bits;
        Some(integer as u16)
    };
    std::iter::from_fn(next).take(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bits_cross_bytes() {
        // 1 + 2 * 8 + 7 * 64 + 4 * 512 = 0b1001_1101_0001, and 6 * 4096 more.
        assert_eq!(pack(&[1, 2, 7, 4, 6], 3), [0b1101_0001, 0b0110_1001]);
        assert_eq!(unpack(&[0b1101_0001, 0b0110_1001], 3, 5).collect::<Vec<_>>(), [1, 2, 7, 4, 6]);
    }

    #[test]
    fn integers_of_every_width_come_back() {
        for bits in 1..=16 {
            for count in [0, 1, 7, 8, 9, 1000] {
                let integers: Vec<u16> =
                    (0..count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as u16).collect();
                let bytes = pack(&integers, bits);
                assert_eq!(Some(bytes.len()), length(count, bits), "{bits} bits, {count} integers");
                assert_eq!(unpack(&bytes, bits, count).collect::<Vec<_>>(), integers, "{bits} bits");
                let fewer = unpack(&bytes[..bytes.len().saturating_sub(1)], bits, count);
                assert_eq!(
                    fewer.count(),
                    bytes.len().saturating_sub(1) * 8 / bits as usize,
                    "a stream that ends early"
                );
            }
        }
        assert_eq!(length(usize::MAX / 2, 3), None);
    }
}
