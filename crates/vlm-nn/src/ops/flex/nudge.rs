//! Directions of normal numbers, drawn as they are used: a number depends on its key and its place alone.

use super::parallel_chunks;
use super::simd::simd;
use crate::ops::Nudge;

/// Numbers that are drawn together: a pair of uniform ones gives two normal ones (Box and Muller 1958).
const BLOCK: usize = 32;
const HALF: usize = BLOCK / 2;

/// Moves weights.
pub fn nudge(param: &mut [f32], by: &Nudge) {
    // Far apart for keys that are neighbours.
    let key = mixed(by.key);
    let grid = f64::from(by.grid);
    let scalars = [
        by.grid,
        (1.0 / grid) as f32,
        (by.eps / grid) as f32,
        f32::from(by.times) * by.grid,
        ((by.keep - 1.0) / grid) as f32,
        (by.length / grid) as f32,
    ];
    parallel_chunks([param], BLOCK, |start, [param]| {
        let place = start as u64;
        // A tensor of more than 2³² values goes on with another key.
        let key = key ^ (place >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        chunk(param, place as u32, [key as u32, (key >> 32) as u32], scalars);
    });
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mixed(key: u64) -> u64 {
    let x = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 32 bits of a place, in a stream that the key picks.
#[inline(always)]
fn bits(place: u32, key: [u32; 2]) -> u32 {
    #[inline(always)]
    fn round(x: u32) -> u32 {
        let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        x ^ (x >> 16)
    }
    round(round(place.wrapping_add(key[0])) ^ key[1])
}

/// The root of −2 ln u for u = (bits + 1) / 2²⁴, of 24 bits: 0 to 5.77.
#[inline(always)]
fn radius(bits: u32) -> f32 {
    let u = (bits + 1) as i32 as f32 * (1.0 / 16_777_216.0);
    // u = m·2ᵉ with m from 0.7 to 1.4.
    let shifted = u.to_bits().wrapping_sub(0x3F35_04F3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let t = (m - 1.0) / (m + 1.0);
    let s = t * t;
    let mut p = 0.222_222_22;
    p = p * s + 0.285_714_3;
    p = p * s + 0.4;
    p = p * s + 0.666_666_7;
    let ln = e * std::f32::consts::LN_2 + (p * s + 2.0) * t;
    (-2.0 * ln).max(0.0).sqrt()
}

/// sin 2πx for x from −1/4 to 1/4.
#[inline(always)]
fn quarter_sine(x: f32) -> f32 {
    let s = x * x;
    let mut p = -15.094_643;
    p = p * s + 42.058_693;
    p = p * s - 76.705_86;
    p = p * s + 81.605_25;
    p = p * s - 41.341_7;
    (p * s + std::f32::consts::TAU) * x
}

/// A block of normal numbers, and numbers from 0 to 1 that have nothing to do with them.
#[inline(always)]
fn draw(place: u32, key: [u32; 2], z: &mut [f32; BLOCK], dither: &mut [f32; BLOCK]) {
    for lane in 0..HALF {
        let at = place.wrapping_add(lane as u32);
        let (a, b) = (bits(at, key), bits(at.wrapping_add(HALF as u32), key));
        let r = radius(a >> 8);
        // A turn from −1/2 to 1/2, folded to where the sine is known.
        let turn = (b >> 8) as i32 as f32 * (1.0 / 16_777_216.0) - 0.5;
        let folded = 0.25 - (turn.abs() - 0.25).abs();
        z[lane] = r * quarter_sine(0.25 - turn.abs());
        z[lane + HALF] = r * quarter_sine(folded).copysign(turn);
        dither[lane] = ((a & 0xFF) as i32 as f32 + 0.5) * (1.0 / 256.0);
        dither[lane + HALF] = ((b & 0xFF) as i32 as f32 + 0.5) * (1.0 / 256.0);
    }
}

/// Moves values by a block of directions.
#[inline(always)]
fn moved(param: &mut [f32; BLOCK], z: &[f32; BLOCK], dither: &[f32; BLOCK], scalars: [f32; 6]) {
    let [grid, per_grid, eps, times, shrink, length] = scalars;
    for ((p, z), dither) in param.iter_mut().zip(z).zip(dither) {
        let x = (*p * per_grid).round_ties_even() * grid;
        let x = x + (z * eps).round_ties_even() * times;
        let change = (x * shrink - z * length + dither).floor();
        *p = x + change * grid;
    }
}

simd! {
    fn chunk(param: &mut [f32], place: u32, key: [u32; 2], scalars: [f32; 6]) {
        let (mut z, mut dither) = ([0f32; BLOCK], [0f32; BLOCK]);
        let mut place = place;
        let mut blocks = param.chunks_exact_mut(BLOCK);
        for block in &mut blocks {
            draw(place, key, &mut z, &mut dither);
            if let Ok(block) = block.try_into() {
                moved(block, &z, &dither, scalars);
            }
            place = place.wrapping_add(BLOCK as u32);
        }
        let rest = blocks.into_remainder();
        if !rest.is_empty() {
            draw(place, key, &mut z, &mut dither);
            let mut last = [0f32; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            moved(&mut last, &z, &dither, scalars);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}
