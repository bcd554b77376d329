//! Matrix products of strided views.

use burn::backend::flex::FlexTensor;
use gemm::Parallelism;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::tiles;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::ops::Precision;

/// A matrix that is only read.
#[derive(Clone, Copy)]
pub struct View {
    pub data: *const f32,
    /// From one row to the next.
    pub rs: isize,
    /// From one column to the next.
    pub cs: isize,
}

impl View {
    /// The whole of a 32-bit tensor of two dimensions, however it is laid out.
    pub fn of(x: &FlexTensor) -> View {
        let (layout, data) = (x.layout(), x.storage::<f32>());
        let strides = layout.strides();
        let data = data[layout.start_offset().min(data.len())..].as_ptr();
        View { data, rs: strides[0], cs: strides[1] }
    }

    pub fn transposed(self) -> View {
        View { data: self.data, rs: self.cs, cs: self.rs }
    }
}

/// Multiplications from which on a product is worth several threads.
const PARALLEL: usize = 1 << 21;

/// `dst [m, n] (+)= alpha · lhs [m, k] · rhs [k, n]`; the rows of `dst` are `rs` apart.
///
/// Without `add` the destination is written without being read, so it may be uninitialised.
///
/// # Safety
/// The three matrices lie in buffers that hold them whole; nobody else writes any of them, nor
/// reads the destination.
pub unsafe fn product(
    [m, n, k]: [usize; 3],
    (dst, rs): (*mut f32, usize),
    lhs: View,
    rhs: View,
    alpha: f32,
    add: bool,
    threads: bool,
) {
    let work = m.saturating_mul(n).saturating_mul(k);
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    let precision = Precision::current();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if alpha == 1.0 && precision != Precision::Highest {
        let (rest, threads) = (precision == Precision::High, threads && work >= PARALLEL);
        // SAFETY: what the caller promises.
        if unsafe { tiles::product([m, n, k], (dst, rs), lhs, rhs, add, rest, threads) } {
            return;
        }
    }
    let threads =
        if threads && work >= PARALLEL { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: what the caller promises.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            rs as isize,
            add,
            lhs.data,
            lhs.cs,
            lhs.rs,
            rhs.data,
            rhs.cs,
            rhs.rs,
            1.0,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}
