//! The two inner loops of the resampler.
//!
//! Written so that the compiler turns them into vector code. The x86-64 baseline has no vector
//! product of 32-bit integers, so each pass is compiled a second time for AVX2 and picked when the
//! program runs; the results are the same integers either way.

use super::filter::{PRECISION_BITS, Weights};
use super::resample::to_byte;

/// Half a step, for rounding.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Rows that share one reading of the weights.
const ROWS: usize = 4;

/// Bytes of a row that are summed at once along the columns.
const LANES: usize = 32;

macro_rules! with_avx2 {
    ($(#[$doc:meta])* $name:ident, $wide:ident, $body:ident, ($($arg:ident: $kind:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name($($arg: $kind),*) -> Vec<u8> {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2, which was asked for just now.
                return unsafe { $wide($($arg),*) };
            }
            $body($($arg),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn $wide($($arg: $kind),*) -> Vec<u8> {
            $body($($arg),*)
        }
    };
}

with_avx2!(
    /// Shortens or lengthens each row: `[rows, width, 3]` to `[rows, weights.starts.len(), 3]`.
    /// Pixel 0 of a row is position `first` of the axis that the weights speak of.
    along_rows, along_rows_avx2, rows_body, (source: &[u8], width: usize, first: usize, weights: &Weights)
);

with_avx2!(
    /// The same along columns: `[rows, stride]` to `[weights.starts.len(), stride]`. Row 0 of
    /// `source` is row `first` of the axis that the weights speak of.
    along_columns, along_columns_avx2, columns_body,
    (source: &[u8], stride: usize, first: usize, weights: &Weights)
);

#[inline(always)]
fn rows_body(source: &[u8], width: usize, first: usize, weights: &Weights) -> Vec<u8> {
    let stride = width * 3;
    let out_stride = weights.starts.len() * 3;
    let mut out = vec![0; source.len() / stride * out_stride];
    // Pixels of four bytes, with room behind the row for weights that are 0.
    let mut padded: [Vec<[u8; 4]>; ROWS] =
        std::array::from_fn(|_| vec![[0; 4]; width + weights.taps]);
    // Each weight once per byte of a pixel.
    let spread: Vec<[i32; 4]> = weights.values.iter().map(|&w| [w; 4]).collect();

    let groups = source.chunks(stride * ROWS).zip(out.chunks_mut(out_stride * ROWS));
    for (rows, out_rows) in groups {
        for (padded, row) in padded.iter_mut().zip(rows.chunks_exact(stride)) {
            for (wide, pixel) in padded.iter_mut().zip(row.chunks_exact(3)) {
                *wide = [pixel[0], pixel[1], pixel[2], 0];
            }
        }
        for (index, &start) in weights.starts.iter().enumerate() {
            let start = start - first;
            let taps = &spread[index * weights.taps..(index + 1) * weights.taps];
            let windows: [&[[u8; 4]]; ROWS] =
                std::array::from_fn(|r| &padded[r][start..start + weights.taps]);
            let sums = weigh(windows, taps);
            for (sum, row) in sums.iter().zip(out_rows.chunks_exact_mut(out_stride)) {
                // All four lanes, also the unused one, so that this is vector code too.
                let pixel: [u8; 4] =
                    std::array::from_fn(|lane| to_byte(sum[lane] + sum[lane + 4] + HALF));
                row[index * 3..index * 3 + 3].copy_from_slice(&pixel[..3]);
            }
        }
    }
    out
}

/// Sums of even and odd taps side by side, `[row][2 × 4]`.
#[inline(always)]
fn weigh(windows: [&[[u8; 4]]; ROWS], taps: &[[i32; 4]]) -> [[i32; 8]; ROWS] {
    let mut sums = [[0i32; 8]; ROWS];
    let taps = taps.as_chunks::<2>().0;
    let windows = windows.map(|w| w.as_chunks::<2>().0);
    // By index, checks included: zipped iterators let the compiler vectorise over the taps instead
    // of over the lanes, which took twice as long for large pictures.
    for (tap, weight) in taps.iter().enumerate() {
        let weight = weight.as_flattened();
        for row in 0..ROWS {
            let pixels = windows[row][tap].as_flattened();
            for lane in 0..8 {
                sums[row][lane] += i32::from(pixels[lane]) * weight[lane];
            }
        }
    }
    sums
}

#[inline(always)]
fn columns_body(source: &[u8], stride: usize, first: usize, weights: &Weights) -> Vec<u8> {
    let mut out = vec![0; weights.starts.len() * stride];
    for (index, row) in out.chunks_exact_mut(stride).enumerate() {
        let start = weights.starts[index] - first;
        let rows = &source[start * stride..];
        let taps = weights.row(index);
        let (blocks, rest) = row.as_chunks_mut::<LANES>();
        let done = blocks.len() * LANES;
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut sums = [HALF; LANES];
            for (row, &weight) in rows.chunks_exact(stride).zip(taps) {
                let bytes = &row[block * LANES..(block + 1) * LANES];
                for lane in 0..LANES {
                    sums[lane] += i32::from(bytes[lane]) * weight;
                }
            }
            *out = sums.map(to_byte);
        }
        for (lane, out) in rest.iter_mut().enumerate() {
            let mut sum = HALF;
            for (row, &weight) in rows.chunks_exact(stride).zip(taps) {
                sum += i32::from(row[done + lane]) * weight;
            }
            *out = to_byte(sum);
        }
    }
    out
}
