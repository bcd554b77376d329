//! Weights of four bits, to the bit as bitsandbytes makes them (Dettmers et al. 2023, arXiv
//! 2305.14314).
//!
//! Values are taken in blocks; each is stored as the nearest of 16 codes times the largest of its block.
//! These largest values can be quantised once more, to eight bits ("double quantisation"): 4.127 bits
//! a value in all.

mod eight_bit;
mod packed;

use serde::{Deserialize, Serialize};

pub use eight_bit::dynamic_map;
use eight_bit::nearest;
pub use packed::Packed;

/// The 16 values of a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// Quantiles of the normal distribution: for trained weights, which are about normal.
    #[default]
    Nf4,
    /// Floats of four bits.
    Fp4,
}

/// The values of [`Code::Nf4`].
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// The magnitudes of [`Code::Fp4`] by the lower three bits; the fourth is the sign.
const FP4: [f32; 8] =
    [0.0, 0.005_208_333_4, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25];
/// Which of them are next larger each.
const FP4_ORDER: [u8; 8] = [0, 1, 6, 7, 4, 5, 2, 3];

/// How weights are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FourBitConfig {
    /// The 16 values: `nf4` or `fp4`.
    pub code: Code,
    /// Whether the largest values of the blocks are quantised too ("double quantisation").
    pub nested: bool,
}

impl Default for FourBitConfig {
    fn default() -> Self {
        FourBitConfig { code: Code::Nf4, nested: true }
    }
}

impl FourBitConfig {
    /// Quantises values that lie as PyTorch has them, in blocks of 64.
    pub fn quantise(&self, values: &[f32]) -> FourBit {
        FourBit::of(values, self.code, 64, self.nested)
    }
}

/// Largest values of blocks that are quantised together.
pub const NESTED_BLOCK: usize = 256;

impl Code {
    /// All values, by code.
    pub fn values(self) -> [f32; 16] {
        match self {
            Code::Nf4 => NF4,
            Code::Fp4 => std::array::from_fn(|i| if i < 8 { FP4[i] } else { -FP4[i - 8] }),
        }
    }

    /// The code of a value from −1 to 1: the nearest, of two as near the one that is lower.
    fn of(self, x: f32) -> u8 {
        let above = |bounds: &dyn Fn(usize) -> f32, count: usize, x: f32| -> usize {
            (0..count).filter(|i| x > bounds(*i)).count()
        };
        match self {
            Code::Nf4 => above(&|i| f32::midpoint(NF4[i], NF4[i + 1]), 15, x) as u8,
            Code::Fp4 => {
                let magnitude = |i: usize| FP4[FP4_ORDER[i] as usize];
                let place = above(&|i| f32::midpoint(magnitude(i), magnitude(i + 1)), 7, x.abs());
                // Of the two zeros, bitsandbytes takes the one below for what is not above 0.
                let below = if place > 0 { x < 0.0 } else { x > 0.0 };
                FP4_ORDER[place] + if below { 8 } else { 0 }
            }
        }
    }
}

/// The largest value of each block.
#[derive(Clone, Debug, PartialEq)]
pub enum Largest {
    /// As they are.
    Plain(Vec<f32>),
    /// In eight bits: `map[code] · scale of its block + offset`.
    Nested {
        /// One a block of weights.
        codes: Vec<u8>,
        /// One for each 256 of them.
        scales: Vec<f32>,
        /// What the 256 codes stand for.
        map: Vec<f32>,
        /// Their mean.
        offset: f32,
    },
}

/// Values in four bits.
#[derive(Clone, Debug, PartialEq)]
pub struct FourBit {
    /// The code.
    pub code: Code,
    /// Values of a block.
    pub block: usize,
    /// How many values there are.
    pub len: usize,
    /// Two codes a byte, the first in the upper half.
    pub packed: Vec<u8>,
    /// What the codes are multiplied by.
    pub largest: Largest,
}

impl FourBit {
    /// Quantises values; with `nested`, their blocks' largest too.
    ///
    /// # Panics
    /// If a block is not of a multiple of 8 values.
    pub fn of(values: &[f32], code: Code, block: usize, nested: bool) -> Self {
        assert!(block > 0 && block.is_multiple_of(8), "a block has 8 values or a multiple");
        let mut packed = vec![0; values.len().div_ceil(2)];
        let mut largest = Vec::with_capacity(values.len().div_ceil(block));
        for (number, of_block) in values.chunks(block).enumerate() {
            let most = of_block.iter().fold(0f32, |most, x| most.max(x.abs()));
            largest.push(most);
            let scale = if most > 0.0 { 1.0 / most } else { 0.0 };
            for (i, x) in of_block.iter().enumerate() {
                // Of an empty block, bitsandbytes writes code 0.
                let code = if most > 0.0 { code.of((x * scale).clamp(-1.0, 1.0)) } else { 0 };
                let at = number * block + i;
                packed[at / 2] |= if at.is_multiple_of(2) { code << 4 } else { code };
            }
        }
        let largest = if nested { nest(&largest) } else { Largest::Plain(largest) };
        FourBit { code, block, len: values.len(), packed, largest }
    }

    /// The largest value of each block, as far as it is known.
    pub fn largest(&self) -> Vec<f32> {
        match &self.largest {
            Largest::Plain(values) => values.clone(),
            Largest::Nested { codes, scales, map, offset } => codes
                .iter()
                .enumerate()
                .map(|(i, code)| map[*code as usize] * scales[i / NESTED_BLOCK] + offset)
                .collect(),
        }
    }

    /// The values, as far as they are known.
    pub fn values(&self) -> Vec<f32> {
        let (codes, largest) = (self.code.values(), self.largest());
        (0..self.len)
            .map(|i| {
                let byte = self.packed[i / 2];
                let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                codes[code as usize] * largest[i / self.block]
            })
            .collect()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.packed.len()
            + match &self.largest {
                Largest::Plain(values) => 4 * values.len(),
                Largest::Nested { codes, scales, map, .. } => {
                    codes.len() + 4 * (scales.len() + map.len() + 1)
                }
            }
    }
}

fn nest(largest: &[f32]) -> Largest {
    let map = dynamic_map();
    // PyTorch sums in f32, in an order that depends on the processor: its last bit may differ.
    let offset =
        (largest.iter().map(|x| f64::from(*x)).sum::<f64>() / largest.len().max(1) as f64) as f32;
    let mut codes = Vec::with_capacity(largest.len());
    let mut scales = Vec::new();
    for of_block in largest.chunks(NESTED_BLOCK) {
        let rest: Vec<f32> = of_block.iter().map(|x| x - offset).collect();
        let most = rest.iter().fold(0f32, |most, x| most.max(x.abs()));
        scales.push(most);
        let scale = if most > 0.0 { 1.0 / most } else { 0.0 };
        codes.extend(rest.iter().map(|x| nearest(&map, x * scale)));
    }
    Largest::Nested { codes, scales, map, offset }
}
