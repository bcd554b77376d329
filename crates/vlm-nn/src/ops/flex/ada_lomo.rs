//! AdaLomo's step of a matrix: three passes over what is there, and nothing as large beside it.

use rayon::prelude::*;

use super::simd::{simd, sum_map};
use crate::ops::AdaLomoStep;

/// Rows that a task takes. Fixed, so that the order of every sum is.
const GROUP: usize = 64;

/// Changes a matrix `[n, m]`, the moments of its `n` rows, and those of its `m` columns.
pub fn step(p: &mut [f32], g: &[f32], rows: &mut [f32], columns: &mut [f32], step: &AdaLomoStep) {
    let (n, m) = (rows.len(), columns.len());
    if n * m == 0 {
        return;
    }
    let beta = step.beta as f32;
    let mixed = |old: f32, sum: f32, count: usize| {
        old * beta + (1.0 - beta) * (sum / count as f32 + step.eps[0] as f32)
    };
    let partial: Vec<Vec<f32>> = g
        .par_chunks(GROUP * m)
        .zip(rows.par_chunks_mut(GROUP))
        .map(|(g, rows)| {
            let mut sums = vec![0f32; m];
            for (g, row) in g.chunks(m).zip(rows) {
                *row = mixed(*row, squares(g), m);
                add_squares(g, &mut sums);
            }
            sums
        })
        .collect();
    for (j, column) in columns.iter_mut().enumerate() {
        let sum = partial.iter().map(|sums| sums[j]).sum();
        *column = mixed(*column, sum, n);
    }
    let level = rows.iter().sum::<f32>() / n as f32;
    let by_row: Vec<f32> = rows.iter().map(|row| (level / row).sqrt()).collect();
    let by_column: Vec<f32> = columns.iter().map(|column| 1.0 / column.sqrt()).collect();
    let sums: Vec<[f64; 2]> = g
        .par_chunks(GROUP * m)
        .zip(p.par_chunks(GROUP * m))
        .zip(by_row.par_chunks(GROUP))
        .map(|((g, p), by_row)| {
            let rows = g.chunks(m).zip(p.chunks(m)).zip(by_row);
            rows.fold([0.0; 2], |[update, size], ((g, p), by)| {
                let length = f64::from(weighed(g, &by_column)) * f64::from(by * by);
                [update + length, size + f64::from(squares(p))]
            })
        })
        .collect();
    let mean =
        |which: usize| (sums.iter().map(|sum| sum[which]).sum::<f64>() / (n * m) as f64).sqrt();
    let lr = step.lr * mean(1).max(step.eps[1]);
    let length = lr / (mean(0) / step.clip_threshold).max(1.0);
    let keep = (1.0 - lr * step.weight_decay) as f32;
    p.par_chunks_mut(GROUP * m)
        .zip(g.par_chunks(GROUP * m))
        .zip(by_row.par_chunks(GROUP))
        .for_each(|((p, g), by_row)| {
            for ((p, g), by) in p.chunks_mut(m).zip(g.chunks(m)).zip(by_row) {
                change(p, g, &by_column, keep, length as f32 * by);
            }
        });
}

simd! {
    fn squares(x: &[f32]) -> f32 {
        sum_map(x.len(), |i| x[i] * x[i])
    }

    fn add_squares(x: &[f32], sums: &mut [f32]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
    }

    /// The sum of the squares of values times those of their columns.
    fn weighed(x: &[f32], by: &[f32]) -> f32 {
        sum_map(x.len(), |i| x[i] * by[i] * (x[i] * by[i]))
    }

    fn change(p: &mut [f32], g: &[f32], by: &[f32], keep: f32, length: f32) {
        for ((p, g), by) in p.iter_mut().zip(g).zip(by) {
            *p = *p * keep - length * g * by;
        }
    }
}
