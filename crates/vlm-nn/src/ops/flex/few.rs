//! Products of a few rows with a large matrix, as in writing a text token by token: each value of
//! the matrix is read once and used a few times only, so the speed is that of memory. The general
//! product packs the matrix first, or runs on one thread.

use rayon::prelude::*;

use super::simd::{simd, sum_map};

/// Rows up to which this is faster than the general product.
pub const ROWS: usize = 4;
/// Rows of the matrix taken together: so often is the result read and written less.
const DEPTH: usize = 8;
/// Columns of a task at least: a row of them is a few cache lines.
const COLUMNS: usize = 64;
/// Values of the matrix from which on threads pay.
const PARALLEL: usize = 1 << 15;

/// A matrix `[depth, columns]` whose rows, or whose columns, lie side by side `apart` values from
/// each other.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// As weights lie.
    Rows(&'a [f32], usize),
    /// As a table of tokens lies, seen as the map from states to tokens.
    Columns(&'a [f32], usize),
}

/// `x: [rows, depth]` times the matrix, added to the bias if there is one: `[rows, columns]`.
///
/// A result does not depend on the number of threads.
pub fn product(
    x: &[f32],
    [rows, columns, depth]: [usize; 3],
    matrix: Matrix,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = match bias {
        Some(bias) => bias.repeat(rows),
        None => vec![0f32; rows * columns],
    };
    if depth == 0 || out.is_empty() {
        return out;
    }
    let threads = if depth * columns < PARALLEL { 1 } else { rayon::current_num_threads() };
    let width = columns.div_ceil(threads).next_multiple_of(16).max(COLUMNS);
    // The columns of a task, of each row.
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    for row in out.chunks_mut(columns) {
        for (task, part) in row.chunks_mut(width).enumerate() {
            if parts.len() <= task {
                parts.push(Vec::with_capacity(rows));
            }
            parts[task].push(part);
        }
    }
    let run = |(task, mut part): (usize, Vec<&mut [f32]>)| match matrix {
        Matrix::Rows(values, apart) => by_rows(x, depth, values, apart, task * width, &mut part),
        Matrix::Columns(values, apart) => {
            by_columns(x, depth, values, apart, task * width, &mut part);
        }
    };
    if threads == 1 {
        parts.into_iter().enumerate().for_each(run);
    } else {
        parts.into_par_iter().enumerate().for_each(run);
    }
    out
}

simd! {
    /// Adds multiples of the matrix's rows to the result, columns from `from` on.
    fn by_rows(
        x: &[f32], depth: usize, matrix: &[f32], apart: usize, from: usize, out: &mut [&mut [f32]],
    ) {
        let mut k = 0;
        while k + DEPTH <= depth {
            for (row, out) in out.iter_mut().enumerate() {
                let n = out.len();
                let x: &[f32; DEPTH] = x[row * depth + k..][..DEPTH].try_into().unwrap_or(&[0.0; DEPTH]);
                let w: [&[f32]; DEPTH] = std::array::from_fn(|i| &matrix[(k + i) * apart + from..][..n]);
                for (j, y) in out.iter_mut().enumerate() {
                    // Two sums, so that one does not wait for the other.
                    let a = x[0] * w[0][j] + x[1] * w[1][j] + x[2] * w[2][j] + x[3] * w[3][j];
                    let b = x[4] * w[4][j] + x[5] * w[5][j] + x[6] * w[6][j] + x[7] * w[7][j];
                    *y += a + b;
                }
            }
            k += DEPTH;
        }
        for k in k..depth {
            for (row, out) in out.iter_mut().enumerate() {
                let (x, n) = (x[row * depth + k], out.len());
                for (y, w) in out.iter_mut().zip(&matrix[k * apart + from..][..n]) {
                    *y += x * w;
                }
            }
        }
    }

    /// One sum for each column.
    fn by_columns(
        x: &[f32], depth: usize, matrix: &[f32], apart: usize, from: usize, out: &mut [&mut [f32]],
    ) {
        let n = out.first().map_or(0, |out| out.len());
        for j in 0..n {
            let w = &matrix[(from + j) * apart..][..depth];
            for (row, out) in out.iter_mut().enumerate() {
                let x = &x[row * depth..][..depth];
                out[j] += sum_map(depth, |i| x[i] * w[i]);
            }
        }
    }
}
