//! Mutations of files: the same for the same number.

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        if count == 0 {
            0
        } else {
            (self.next() % count as u64) as usize
        }
    }
}

/// Lengths and counts at which readers go wrong.
const INTERESTING: [u64; 14] =
    [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x0100_0000, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];

/// The mutation with this number of one of the seeds.
pub fn mutated(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        step(&mut bytes, seeds, &mut random);
    }
    bytes
}

fn step(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let length = bytes.len();
    let at = random.below(length);
    match random.below(8) {
        0 if length > 0 => bytes[at] ^= 1 << random.below(8),
        1 if length > 0 => bytes[at] = random.next() as u8,
        2 => {
            let value = INTERESTING[random.below(INTERESTING.len())];
            let width = [1, 2, 4, 8][random.below(4)].min(length - at);
            let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
            let from = if random.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
            bytes[at..at + width].copy_from_slice(from);
        }
        3 => {
            let end = at + random.below((length - at).min(64) + 1);
            bytes.drain(at..end);
        }
        4 => {
            let end = at + random.below((length - at).min(256) + 1);
            let copy = bytes[at..end].to_vec();
            let to = random.below(length + 1);
            bytes.splice(to..to, copy);
        }
        5 => bytes.truncate(at),
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            let end = from + random.below(other.len() - from + 1);
            bytes.splice(at.., other[from..end].iter().copied());
        }
        _ => {
            let added: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, added);
        }
    }
}
