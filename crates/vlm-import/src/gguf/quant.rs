//! The types of tensors, and how their blocks are decoded.
//!
//! Blocks of 32 values have a scale, or a scale and a minimum, in half precision. The K types have
//! blocks of 256 with scales of 6 or 8 bits for parts of a block.

use half::f16;

/// A type of tensor that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, clippy::upper_case_acronyms, non_camel_case_types)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

const ALL: [(u32, Kind, &str); 11] = [
    (0, Kind::F32, "F32"),
    (1, Kind::F16, "F16"),
    (30, Kind::BF16, "BF16"),
    (2, Kind::Q4_0, "Q4_0"),
    (3, Kind::Q4_1, "Q4_1"),
    (6, Kind::Q5_0, "Q5_0"),
    (7, Kind::Q5_1, "Q5_1"),
    (8, Kind::Q8_0, "Q8_0"),
    (12, Kind::Q4_K, "Q4_K"),
    (13, Kind::Q5_K, "Q5_K"),
    (14, Kind::Q6_K, "Q6_K"),
];

/// Types that are not read, for messages.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl Kind {
    /// The type of a number in the table of tensors.
    pub fn of(number: u32) -> Option<Kind> {
        ALL.iter().find(|(n, ..)| *n == number).map(|(_, kind, _)| *kind)
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, kind, _)| *kind == self).map_or("", |(.., name)| name)
    }

    /// All that are read.
    pub(crate) fn list() -> String {
        ALL.map(|(.., name)| name).join(", ")
    }

    /// The name of one that is not.
    pub(crate) fn known(number: u32) -> String {
        let found = OTHERS.iter().find(|(n, _)| *n == number);
        found.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
    }

    /// Values and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 | Kind::BF16 => (1, 2),
            Kind::Q4_0 => (32, 18),
            Kind::Q4_1 => (32, 20),
            Kind::Q5_0 => (32, 22),
            Kind::Q5_1 => (32, 24),
            Kind::Q8_0 => (32, 34),
            Kind::Q4_K => (256, 144),
            Kind::Q5_K => (256, 176),
            Kind::Q6_K => (256, 210),
        }
    }

    /// Decodes whole blocks to the end of `out`; a rest that is no block is left.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        for block in bytes.chunks_exact(self.block().1) {
            match self {
                Kind::F32 => out.push(f32::from_bits(word(block, 0))),
                Kind::F16 => out.push(half(block, 0)),
                Kind::BF16 => out.push(f32::from_bits(u32::from(short(block, 0)) << 16)),
                Kind::Q4_0 => fours(half(block, 0), None, None, &block[2..], out),
                Kind::Q4_1 => fours(half(block, 0), Some(half(block, 2)), None, &block[4..], out),
                Kind::Q5_0 => {
                    fours(half(block, 0), None, Some(word(block, 2)), &block[6..], out);
                }
                Kind::Q5_1 => {
                    let (least, high) = (half(block, 2), word(block, 4));
                    fours(half(block, 0), Some(least), Some(high), &block[8..], out);
                }
                Kind::Q8_0 => {
                    let scale = half(block, 0);
                    out.extend(block[2..].iter().map(|q| f32::from(*q as i8) * scale));
                }
                Kind::Q4_K => parts(block, None, &block[16..], out),
                Kind::Q5_K => parts(block, Some(&block[16..48]), &block[48..], out),
                Kind::Q6_K => sixes(block, out),
            }
        }
    }
}

fn short(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from(short(block, at)) | u32::from(short(block, at + 2)) << 16
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_bits(short(block, at)).to_f32()
}

/// 32 values of four bits, or five with `high`: first all lower halves of bytes, then all upper
/// ones. Without `least` they are counted from the middle.
fn fours(scale: f32, least: Option<f32>, high: Option<u32>, bytes: &[u8], out: &mut Vec<f32>) {
    let middle = if least.is_some() {
        0.0
    } else if high.is_some() {
        16.0
    } else {
        8.0
    };
    for i in 0..32 {
        let low = (bytes[i % 16] >> (i / 16 * 4)) & 15;
        let fifth = (high.unwrap_or(0) >> i & 1) as u8;
        let steps = scale * (f32::from(low | fifth << 4) - middle);
        out.push(least.map_or(steps, |least| steps + least));
    }
}

/// 256 values in eight parts, each with a scale and a minimum of six bits.
fn parts(block: &[u8], high: Option<&[u8]>, low: &[u8], out: &mut Vec<f32>) {
    let (scale, least) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    for part in 0..8 {
        let (steps, minimum) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let shared = packed[part + 4];
            (shared & 15 | packed[part - 4] >> 2 & 48, shared >> 4 | packed[part] >> 2 & 48)
        };
        let (scale, least) = (scale * f32::from(steps), least * f32::from(minimum));
        for i in 0..32 {
            let four = low[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
            let fifth = high.map_or(0, |high| high[i] >> part & 1);
            out.push(scale * f32::from(four | fifth << 4) - least);
        }
    }
}

/// 256 values in sixteen parts, each with a scale of eight bits.
fn sixes(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half(block, 208);
    for i in 0..256 {
        let (side, within) = (i / 128, i % 128);
        let four = low[side * 64 + within % 64] >> (within / 64 * 4) & 15;
        let two = high[side * 32 + within % 32] >> (within / 32 * 2) & 3;
        let value = f32::from(four | two << 4) - 32.0;
        out.push(scale * f32::from(scales[i / 16] as i8) * value);
    }
}
