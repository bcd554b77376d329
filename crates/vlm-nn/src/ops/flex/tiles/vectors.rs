//! The product of two panels where vectors know bfloat16 and there are no tiles.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::transmute;

use super::{PANEL, TILE, Tile};

/// Rows that are summed together: with two vectors of columns each, half of the registers.
const ROWS: usize = 8;

/// Computes a block of 32 rows and columns of panels with two tiles a step.
///
/// # Safety
/// `to` has 32 rows of 32 values, `apart` from each other; the processor has `avx512bf16`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn block(
    left: &[Tile],
    right: &[Tile],
    steps: usize,
    to: *mut f32,
    apart: usize,
    add: bool,
) {
    for first in (0..PANEL).step_by(ROWS) {
        let (tile, row) = (first / TILE, first % TILE);
        let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
        let pairs = left.chunks_exact(2).zip(right.chunks_exact(2)).take(steps);
        for (left, right) in pairs {
            let a = &left[tile].0[row * TILE..(row + ROWS) * TILE];
            for pair in 0..TILE {
                let columns = |which: usize| -> __m512bh {
                    let from = right[which].0[pair * TILE..].as_ptr();
                    // SAFETY: 16 pairs follow; both types are 64 bytes of any bits.
                    unsafe { transmute(_mm512_loadu_si512(from.cast())) }
                };
                let (b0, b1) = (columns(0), columns(1));
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let a: __m512bh =
                        unsafe { transmute(_mm512_set1_epi32(a[r * TILE + pair] as i32)) };
                    sums[0] = _mm512_dpbf16_ps(sums[0], a, b0);
                    sums[1] = _mm512_dpbf16_ps(sums[1], a, b1);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                // SAFETY: inside the block.
                unsafe {
                    let to = to.add((first + r) * apart + c * TILE);
                    let sum = if add { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum };
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }
}
