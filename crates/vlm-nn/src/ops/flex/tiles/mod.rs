//! Products on the tile units of recent x86 processors (AMX, since Sapphire Rapids).
//!
//! A tile unit multiplies bfloat16 numbers and sums in f32, some ten times as fast as vectors
//! multiply f32. An f32 matrix is split into what bfloat16 holds of it and what it holds of the
//! rest; three products of such parts come close to f32, one is bfloat16's own precision.
//!
//! Both operands are packed into panels of 32 rows (or columns) in the order in which the unit
//! reads them. Processors whose vectors alone know bfloat16 (Zen 4 and later) multiply the same panels row by row,
//! twice as fast as f32. The operand with fewer panels is packed whole; the panels of the other are packed by
//! groups that stay in a core's cache while all panels of the first pass by.

mod pack;
mod vectors;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::cell::Cell;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::product::View;
use pack::{Operand, Side};

/// Rows of a tile, and pairs of values in a row.
const TILE: usize = 16;
/// Rows of a panel: two tiles.
const PANEL: usize = 32;
/// Bytes of a group of panels, so that it stays in a core's second cache.
const GROUP: usize = 768 << 10;
/// Panels of a group at most.
const PANELS: usize = 8;
/// Tiles of an operand's buffer that is kept for the next product: fresh memory costs as much as
/// packing does.
const KEPT: usize = 16 << 10;
/// Multiplications below which packing costs more than the unit saves.
const WORTH: usize = 1 << 18;

/// 16 rows of 16 pairs of bfloat16 values.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u32; TILE * TILE]);

/// What multiplies bfloat16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tiles, which the kernel lets this process use.
    Tiles,
    /// Vectors. They are faster than f32 for one product of parts, not for three.
    Vectors,
}

/// The best that the processor has.
pub fn unit() -> Option<Unit> {
    static UNIT: OnceLock<Option<Unit>> = OnceLock::new();
    *UNIT.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        let packs = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bf16");
        if !packs {
            return None;
        }
        #[allow(unused_unsafe, reason = "safe or not by the version of Rust")]
        // SAFETY: every 64-bit processor has cpuid.
        let (max, leaf) = unsafe { (__cpuid(0).eax, __cpuid_count(7, 0)) };
        let tiles = max >= 7 && leaf.edx & (BF16 | TILES) == BF16 | TILES && permitted();
        Some(if tiles { Unit::Tiles } else { Unit::Vectors })
    })
}

/// Asks the kernel for the tile registers, which it saves only for processes that asked.
fn permitted() -> bool {
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: this call takes two numbers and changes nothing but what it asks for.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

/// What a product is written to.
#[derive(Clone, Copy)]
struct Target {
    unit: Unit,
    data: *mut f32,
    /// From one row to the next.
    apart: usize,
    rows: usize,
    columns: usize,
    add: bool,
}

// SAFETY: each task writes blocks of its own.
unsafe impl Sync for Target {}

impl Target {
    /// Computes the block that panel `i` of the left and `j` of the right side make.
    ///
    /// # Safety
    /// The panels have as many steps, nobody else has the block, and tiles are set up.
    unsafe fn block(&self, (i, left): (usize, &[Tile]), (j, right): (usize, &[Tile]), rest: bool) {
        let rows = (self.rows - i * PANEL).min(PANEL);
        let columns = (self.columns - j * PANEL).min(PANEL);
        let to = self.data.wrapping_add(i * PANEL * self.apart + j * PANEL);
        let steps = left.len() / if rest { 4 } else { 2 };
        let run = match (self.unit, rest) {
            (Unit::Tiles, true) => split_block,
            (Unit::Tiles, false) => plain_block,
            (Unit::Vectors, _) => vectors::block,
        };
        if rows == PANEL && columns == PANEL {
            // SAFETY: the whole block is the caller's.
            return unsafe { run(left, right, steps, to, self.apart, self.add) };
        }
        let mut whole = [0f32; PANEL * PANEL];
        // SAFETY: `whole` is a block.
        unsafe { run(left, right, steps, whole.as_mut_ptr(), PANEL, false) };
        for (r, row) in whole.chunks_exact(PANEL).take(rows).enumerate() {
            for (c, value) in row[..columns].iter().enumerate() {
                // SAFETY: inside the block.
                unsafe {
                    let to = to.add(r * self.apart + c);
                    *to = if self.add { *to + value } else { *value };
                }
            }
        }
    }
}

/// The instructions of a block: the sums are zeroed or loaded, the steps run, the sums stored.
macro_rules! block {
    ($name:ident, $bytes:literal, $($step:literal),* $(,)?) => {
        /// # Safety
        /// `to` has 32 rows of 32 values, `apart` from each other; tiles are set up.
        unsafe fn $name(
            left: &[Tile], right: &[Tile], steps: usize, to: *mut f32, apart: usize, add: bool,
        ) {
            // SAFETY: each step reads as many tiles of both panels; the sums lie as promised.
            unsafe {
                asm!(
                    "test {add}, {add}",
                    "jz 3f",
                    "tileloadd tmm0, [{to} + {apart}]",
                    "tileloadd tmm1, [{to} + {apart} + 64]",
                    "tileloadd tmm2, [{below} + {apart}]",
                    "tileloadd tmm3, [{below} + {apart} + 64]",
                    "jmp 2f",
                    "3:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    $($step,)*
                    concat!("add {l}, ", $bytes),
                    concat!("add {r}, ", $bytes),
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{to} + {apart}], tmm0",
                    "tilestored [{to} + {apart} + 64], tmm1",
                    "tilestored [{below} + {apart}], tmm2",
                    "tilestored [{below} + {apart} + 64], tmm3",
                    add = in(reg) u64::from(add),
                    to = in(reg) to,
                    below = in(reg) to.wrapping_add(TILE * apart),
                    apart = in(reg) apart * 4,
                    row = in(reg) 64u64,
                    l = inout(reg) left.as_ptr() => _,
                    r = inout(reg) right.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

block!(
    plain_block,
    "2048",
    "tileloadd tmm4, [{l} + {row}]",
    "tileloadd tmm6, [{r} + {row}]",
    "tileloadd tmm7, [{r} + {row} + 1024]",
    "tileloadd tmm5, [{l} + {row} + 1024]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7",
);

// High parts with each other, then each high part with the other side's rest.
block!(
    split_block,
    "4096",
    "tileloadd tmm4, [{l} + {row}]",
    "tileloadd tmm6, [{r} + {row} + 2048]",
    "tileloadd tmm7, [{r} + {row} + 3072]",
    "tileloadd tmm5, [{l} + {row} + 1024]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7",
    "tileloadd tmm6, [{r} + {row}]",
    "tileloadd tmm7, [{r} + {row} + 1024]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7",
    "tileloadd tmm4, [{l} + {row} + 2048]",
    "tileloadd tmm5, [{l} + {row} + 3072]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7",
);

/// Runs `body` with the tile registers set up: eight of 16 rows of 64 bytes.
fn with_tiles<R>(body: impl FnOnce() -> R) -> R {
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    for tile in 0..8 {
        config.0[16 + 2 * tile] = 64;
        config.0[48 + tile] = 16;
    }
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: the processor has tiles, or none would have been set up.
            unsafe { asm!("tilerelease", options(nostack)) };
        }
    }
    // SAFETY: as above; the configuration is one that every such unit takes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr(), options(nostack, readonly)) };
    let _release = Release;
    body()
}

thread_local! {
    /// The packed operand of the last product.
    static WHOLE: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
    /// The packed group of the last job.
    static GROUPS: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
}

/// `dst [m, n] (+)= lhs [m, k] · rhs [k, n]`; the rows of `dst` are `apart` from each other. With
/// `rest`, what bfloat16 leaves of the operands counts too. False, with nothing done, if there is no
/// such unit or the matrices do not suit it.
///
/// # Safety
/// The three matrices lie in buffers that hold them whole; nobody else writes any of them, nor
/// reads the destination. Without `add` it may be uninitialised.
pub unsafe fn product(
    [m, n, k]: [usize; 3],
    (dst, apart): (*mut f32, usize),
    lhs: View,
    rhs: View,
    add: bool,
    rest: bool,
    threads: bool,
) -> bool {
    let beside = |view: View| view.rs == 1 || view.cs == 1;
    let Some(unit) = unit() else { return false };
    let slow = rest && unit == Unit::Vectors;
    if m.saturating_mul(n).saturating_mul(k) < WORTH || slow || !(beside(lhs) && beside(rhs)) {
        return false;
    }
    let left = Operand {
        data: lhs.data,
        len: m,
        depth: k,
        apart: lhs.rs,
        along: lhs.cs,
        side: Side::Left,
        rest,
    };
    let right = Operand {
        data: rhs.data,
        len: n,
        depth: k,
        apart: rhs.cs,
        along: rhs.rs,
        side: Side::Right,
        rest,
    };
    let target = Target { unit, data: dst, apart, rows: m, columns: n, add };
    let left_goes = left.panels() >= right.panels();
    let (go, stay) = if left_goes { (left, right) } else { (right, left) };
    let tiles = stay.tiles();

    let mut whole = WHOLE.take();
    whole.clear();
    whole.reserve_exact(stay.panels() * tiles);
    let room = &mut whole.spare_capacity_mut()[..stay.panels() * tiles];
    // SAFETY: the processor has what `unit` asked for.
    let pack = |(panel, out): (usize, &mut [_])| unsafe { stay.pack(panel, out) };
    if threads {
        room.par_chunks_exact_mut(tiles).enumerate().for_each(pack);
    } else {
        room.chunks_exact_mut(tiles).enumerate().for_each(pack);
    }
    // SAFETY: every panel has been packed.
    unsafe { whole.set_len(stay.panels() * tiles) };

    let workers = if threads { rayon::current_num_threads() } else { 1 };
    let most = (GROUP / (tiles * size_of::<Tile>())).clamp(1, PANELS);
    let jobs = (go.panels().div_ceil(most).next_multiple_of(workers)).min(go.panels());
    let run = |job: usize| {
        let mut group = GROUPS.take();
        let panels = job * go.panels() / jobs..(job + 1) * go.panels() / jobs;
        group.clear();
        group.reserve_exact(panels.len() * tiles);
        let room = &mut group.spare_capacity_mut()[..panels.len() * tiles];
        for (panel, out) in panels.clone().zip(room.chunks_exact_mut(tiles)) {
            // SAFETY: as above.
            unsafe { go.pack(panel, out) };
        }
        // SAFETY: every panel of the group has been packed.
        unsafe { group.set_len(panels.len() * tiles) };
        let multiply = || {
            for stay in whole.chunks_exact(tiles).enumerate() {
                for go in panels.clone().zip(group.chunks_exact(tiles)) {
                    let (left, right) = if left_goes { (go, stay) } else { (stay, go) };
                    // SAFETY: the panels of a group belong to one job.
                    unsafe { target.block(left, right, rest) };
                }
            }
        };
        match unit {
            Unit::Tiles => with_tiles(multiply),
            Unit::Vectors => multiply(),
        }
        GROUPS.set(group);
    };
    if threads && jobs > 1 {
        (0..jobs).into_par_iter().for_each(run);
    } else {
        (0..jobs).for_each(run);
    }
    if whole.capacity() <= KEPT {
        WHOLE.set(whole);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that no power of two hides: a product of them needs all bits.
    fn values(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(next).collect()
    }

    fn view(data: &[f32], [rows, columns]: [usize; 2], transposed: bool) -> View {
        let (rs, cs) = if transposed { (1, rows as isize) } else { (columns as isize, 1) };
        View { data: data.as_ptr(), rs, cs }
    }

    fn at(view: View, i: usize, j: usize) -> f64 {
        // SAFETY: callers stay inside the matrix.
        f64::from(unsafe { *view.data.offset(i as isize * view.rs + j as isize * view.cs) })
    }

    #[test]
    fn products_of_every_layout_and_ragged_size_follow_double_precision() {
        let Some(unit) = unit() else {
            eprintln!("not tested: this processor has nothing for bfloat16");
            return;
        };
        for [m, n, k] in [[64, 96, 64], [65, 131, 71], [33, 31, 300], [300, 40, 33], [31, 999, 17]]
        {
            for (case, rest) in (0..8).zip([false, true].into_iter().cycle()) {
                if rest && unit == Unit::Vectors {
                    continue;
                }
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                let (lhs, rhs) = (view(&a, [m, k], case & 2 > 0), view(&b, [k, n], case & 4 > 0));
                // A wider buffer: nothing beside the product may change.
                let apart = n + 3;
                for add in [false, true] {
                    let mut dst = vec![7f32; m * apart];
                    let to = (dst.as_mut_ptr(), apart);
                    // SAFETY: all three are as large as said.
                    assert!(unsafe { product([m, n, k], to, lhs, rhs, add, rest, true) });
                    let scale = (k as f64 / 9.0).sqrt();
                    let most = if rest { 3e-5 } else { 2e-2 } * scale;
                    for (i, row) in dst.chunks_exact(apart).enumerate() {
                        for j in 0..n {
                            let sum: f64 = (0..k).map(|l| at(lhs, i, l) * at(rhs, l, j)).sum();
                            let want = sum + if add { 7.0 } else { 0.0 };
                            let off = (f64::from(row[j]) - want).abs();
                            assert!(
                                off < most,
                                "{m} {n} {k}, case {case}: off by {off} at {i} {j}"
                            );
                        }
                        assert_eq!(row[n..], [7.0; 3]);
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_suit_is_left_to_others() {
        let data = values(300 * 300, 3);
        let spread = View { data: data.as_ptr(), rs: 600, cs: 2 };
        let dense = View { data: data.as_ptr(), rs: 100, cs: 1 };
        let mut dst = vec![0f32; 100 * 100];
        let to = (dst.as_mut_ptr(), 100);
        // SAFETY: the views stay inside the data.
        unsafe {
            assert!(!product([100, 100, 100], to, spread, dense, false, true, false));
            assert!(!product([4, 100, 100], to, dense, dense, false, true, false));
        }
        assert!(dst.iter().all(|value| *value == 0.0));
    }
}
