//! Operands in the order in which the tile unit reads them.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{PANEL, TILE, Tile};

/// Values along the depth in a tile.
const DEPTH: usize = 32;

/// Which of the two operands, and so how its panels lie.
#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    /// Rows of pairs along the depth.
    Left,
    /// Pairs along the depth, of 16 columns.
    Right,
}

/// An operand as a list of `len` vectors along the depth.
#[derive(Clone, Copy)]
pub struct Operand {
    pub data: *const f32,
    pub len: usize,
    pub depth: usize,
    /// From one vector to the next.
    pub apart: isize,
    /// From one value of a vector to the next.
    pub along: isize,
    pub side: Side,
    /// Whether the rest that bfloat16 leaves is packed too.
    pub rest: bool,
}

// SAFETY: it is only read.
unsafe impl Sync for Operand {}

impl Operand {
    pub fn panels(&self) -> usize {
        self.len.div_ceil(PANEL)
    }
    /// Tiles of a panel.
    pub fn tiles(&self) -> usize {
        self.depth.div_ceil(DEPTH) * self.step()
    }
    /// Tiles for 32 values of the depth.
    fn step(&self) -> usize {
        if self.rest { 4 } else { 2 }
    }

    /// Packs panel `panel` into `out`, which has room for its tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub fn pack(&self, panel: usize, out: &mut [MaybeUninit<Tile>]) {
        for (step, out) in out.chunks_exact_mut(self.step()).enumerate() {
            let depth = step * DEPTH;
            for half in 0..2 {
                let first = panel * PANEL + half * TILE;
                let (high, low) = self.tile(first, depth);
                store(high, out[half].as_mut_ptr());
                if self.rest {
                    store(low, out[2 + half].as_mut_ptr());
                }
            }
        }
    }

    /// The values of 16 vectors from `first` on, 32 of each from `depth` on, zeros where there are
    /// none, and the rest that bfloat16 leaves of them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn tile(&self, first: usize, depth: usize) -> ([__m512i; TILE], [__m512i; TILE]) {
        let zero = _mm512_setzero_si512();
        let (mut high, mut low) = ([zero; TILE], [zero; TILE]);
        let vectors = self.len.saturating_sub(first).min(TILE);
        let values = (self.depth - depth).min(DEPTH);
        let at = |vector: usize, value: usize| {
            let offset = vector as isize * self.apart + value as isize * self.along;
            self.data.wrapping_offset(offset)
        };
        if self.along == 1 {
            let masks = [mask(values), mask(values.saturating_sub(TILE))];
            for i in 0..vectors {
                let from = at(first + i, depth);
                // SAFETY: the masks leave what the operand has.
                let (a, b) = unsafe {
                    (
                        _mm512_maskz_loadu_ps(masks[0], from),
                        _mm512_maskz_loadu_ps(masks[1], from.wrapping_add(TILE)),
                    )
                };
                high[i] = side_by_side(a, b);
                if self.rest {
                    low[i] = side_by_side(rest(a), rest(b));
                }
            }
        } else {
            let mask = mask(vectors);
            for i in 0..values.div_ceil(2) {
                let second = if 2 * i + 1 < values { mask } else { 0 };
                // SAFETY: as above.
                let (a, b) = unsafe {
                    (
                        _mm512_maskz_loadu_ps(mask, at(first, depth + 2 * i)),
                        _mm512_maskz_loadu_ps(second, at(first, depth + 2 * i + 1)),
                    )
                };
                high[i] = pairs(a, b);
                if self.rest {
                    low[i] = pairs(rest(a), rest(b));
                }
            }
        }
        if (self.along == 1) != (self.side == Side::Left) {
            high = transposed(high);
            if self.rest {
                low = transposed(low);
            }
        }
        (high, low)
    }
}

fn mask(values: usize) -> __mmask16 {
    if values >= 16 { !0 } else { (1 << values) - 1 }
}

/// 32 values, one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn side_by_side(a: __m512, b: __m512) -> __m512i {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(b, a)) }
}

/// What bfloat16 holds of 16 values, in the low halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn halves(a: __m512) -> __m512i {
    // SAFETY: both are 256 plain bits.
    _mm512_cvtepu16_epi32(unsafe {
        std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(a))
    })
}

/// 16 pairs of a value of `a` and one of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pairs(a: __m512, b: __m512) -> __m512i {
    _mm512_or_si512(halves(a), _mm512_slli_epi32(halves(b), 16))
}

/// What bfloat16 leaves of the values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn rest(a: __m512) -> __m512 {
    _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(halves(a), 16)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn store(rows: [__m512i; TILE], to: *mut Tile) {
    for (i, row) in rows.into_iter().enumerate() {
        // SAFETY: a tile is 16 such rows.
        unsafe { _mm512_store_si512(to.cast::<__m512i>().add(i), row) };
    }
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn transposed(r: [__m512i; TILE]) -> [__m512i; TILE] {
    let zero = _mm512_setzero_si512();
    let (mut a, mut b) = ([zero; TILE], [zero; TILE]);
    // Pairs of rows, then fours, inside each quarter of a register.
    for i in (0..TILE).step_by(2) {
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..TILE).step_by(4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    // b[4 g + c] holds column 4 q + c of rows 4 g to 4 g + 3 in its quarter q.
    for c in 0..4 {
        let [x, y, z, w] = [b[c], b[4 + c], b[8 + c], b[12 + c]];
        let (even, odd) = (
            [_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(z, w, 0x88)],
            [_mm512_shuffle_i32x4(x, y, 0xdd), _mm512_shuffle_i32x4(z, w, 0xdd)],
        );
        a[c] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
        a[8 + c] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
        a[4 + c] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
        a[12 + c] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
    }
    a
}
