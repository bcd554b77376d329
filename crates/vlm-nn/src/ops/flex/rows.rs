//! Norms and cross-entropy: one pass over each row.

use rayon::prelude::*;

use super::parallel_chunks;
use super::simd::{exp, max_of, simd, sum_map};

/// Rows whose weight gradients are summed together. Fixed, so that the order of the sum and
/// with it every bit of the result is the same for any number of threads.
const GROUP: usize = 64;

pub fn layer_norm(
    x: &[f32],
    w: &[f32],
    b: &[f32],
    n: usize,
    d: usize,
    eps: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut y = vec![0f32; n * d];
    let mut stats = vec![0f32; n * 2];
    y.par_chunks_mut(GROUP * d).zip(stats.par_chunks_mut(GROUP * 2)).enumerate().for_each(
        |(i, (y, stats))| {
            let start = i * GROUP * d;
            layer_norm_group(&x[start..start + y.len()], w, b, eps, y, stats);
        },
    );
    let mean = stats.iter().step_by(2).copied().collect();
    let rstd = stats.iter().skip(1).step_by(2).copied().collect();
    (y, mean, rstd)
}

/// Runs `group(first row, dx, partial sums)` over groups of rows and adds up the partial sums
/// in order. `sums` values are summed for each column.
fn with_column_sums(
    n: usize,
    d: usize,
    sums: usize,
    group: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let mut dx = vec![0f32; n * d];
    let groups = n.div_ceil(GROUP).max(1);
    let mut partial = vec![0f32; groups * sums * d];
    dx.par_chunks_mut(GROUP * d)
        .zip(partial.par_chunks_mut(sums * d))
        .enumerate()
        .for_each(|(i, (dx, partial))| group(i * GROUP, dx, partial));
    let mut total = vec![0f32; sums * d];
    for part in partial.chunks(sums * d) {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    (dx, total)
}

pub fn layer_norm_backward(
    x: &[f32],
    w: &[f32],
    mean: &[f32],
    rstd: &[f32],
    grad: &[f32],
    n: usize,
    d: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (dx, mut dw) = with_column_sums(n, d, 2, |row, dx, sums| {
        let rows = dx.len() / d;
        let range = row * d..row * d + dx.len();
        layer_norm_backward_group(
            &x[range.clone()],
            w,
            &mean[row..row + rows],
            &rstd[row..row + rows],
            &grad[range],
            dx,
            sums,
        );
    });
    let db = dw.split_off(d);
    (dx, dw, db)
}

pub fn rms_norm(x: &[f32], w: &[f32], n: usize, d: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let mut y = vec![0f32; n * d];
    let mut rstd = vec![0f32; n];
    y.par_chunks_mut(GROUP * d).zip(rstd.par_chunks_mut(GROUP)).enumerate().for_each(
        |(i, (y, rstd))| {
            let start = i * GROUP * d;
            rms_norm_group(&x[start..start + y.len()], w, eps, y, rstd);
        },
    );
    (y, rstd)
}

pub fn rms_norm_backward(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    grad: &[f32],
    n: usize,
    d: usize,
) -> (Vec<f32>, Vec<f32>) {
    with_column_sums(n, d, 1, |row, dx, sums| {
        let rows = dx.len() / d;
        let range = row * d..row * d + dx.len();
        rms_norm_backward_group(
            &x[range.clone()],
            w,
            &rstd[row..row + rows],
            &grad[range],
            dx,
            sums,
        );
    })
}

pub fn cross_entropy(logits: &[f32], targets: &[f32], n: usize, d: usize) -> (Vec<f32>, Vec<f32>) {
    let row = |i: usize| {
        let range = i * d..(i + 1) * d;
        cross_entropy_row(&logits[range.clone()], &targets[range])
    };
    (0..n).into_par_iter().with_min_len(8).map(row).unzip()
}

pub fn cross_entropy_backward(
    logits: &[f32],
    targets: &[f32],
    lse: &[f32],
    grad: &[f32],
    d: usize,
) -> Vec<f32> {
    let mut dx = vec![0f32; logits.len()];
    parallel_chunks([&mut dx], d, |start, [dx]| {
        for (i, dx) in dx.chunks_mut(d).enumerate() {
            let row = start / d + i;
            let range = row * d..(row + 1) * d;
            softmax_gradient(&logits[range.clone()], &targets[range], lse[row], grad[row], dx);
        }
    });
    dx
}

simd! {
    fn layer_norm_group(
        x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32],
    ) {
        let d = w.len();
        for ((x, y), stats) in x.chunks(d).zip(y.chunks_mut(d)).zip(stats.chunks_mut(2)) {
            let mean = sum_map(d, |i| x[i]) / d as f32;
            let var = sum_map(d, |i| (x[i] - mean) * (x[i] - mean)) / d as f32;
            let rstd = 1.0 / (var + eps).sqrt();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                *y = (*x - mean) * rstd * *w + *b;
            }
            stats.copy_from_slice(&[mean, rstd]);
        }
    }

    fn layer_norm_backward_group(
        x: &[f32], w: &[f32], mean: &[f32], rstd: &[f32], grad: &[f32],
        dx: &mut [f32], sums: &mut [f32],
    ) {
        let d = w.len();
        let (dw, db) = sums.split_at_mut(d);
        for (r, dx) in dx.chunks_mut(d).enumerate() {
            let x = &x[r * d..(r + 1) * d];
            let g = &grad[r * d..(r + 1) * d];
            let (mean, rstd) = (mean[r], rstd[r]);
            let level = sum_map(d, |i| g[i] * w[i]) / d as f32;
            let along = sum_map(d, |i| g[i] * w[i] * (x[i] - mean)) * rstd / d as f32;
            for i in 0..d {
                let normed = (x[i] - mean) * rstd;
                dw[i] += g[i] * normed;
                db[i] += g[i];
                dx[i] = (g[i] * w[i] - level - normed * along) * rstd;
            }
        }
    }

    fn rms_norm_group(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
        let d = w.len();
        for ((x, y), rstd) in x.chunks(d).zip(y.chunks_mut(d)).zip(rstd) {
            *rstd = 1.0 / (sum_map(d, |i| x[i] * x[i]) / d as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = *x * *rstd * *w;
            }
        }
    }

    fn rms_norm_backward_group(
        x: &[f32], w: &[f32], rstd: &[f32], grad: &[f32], dx: &mut [f32], dw: &mut [f32],
    ) {
        let d = w.len();
        for (r, dx) in dx.chunks_mut(d).enumerate() {
            let x = &x[r * d..(r + 1) * d];
            let g = &grad[r * d..(r + 1) * d];
            let rstd = rstd[r];
            let along = sum_map(d, |i| g[i] * w[i] * x[i]) * rstd / d as f32;
            for i in 0..d {
                let normed = x[i] * rstd;
                dw[i] += g[i] * normed;
                dx[i] = (g[i] * w[i] - normed * along) * rstd;
            }
        }
    }

    fn cross_entropy_row(logits: &[f32], targets: &[f32]) -> (f32, f32) {
        let max = max_of(logits);
        let sum = sum_map(logits.len(), |i| exp(logits[i] - max));
        let lse = max + sum.ln();
        // Σ target · (lse − logit), which stays exact where a target is 0 and a logit huge.
        let loss = sum_map(logits.len(), |i| targets[i] * (lse - logits[i]));
        (loss, lse)
    }

    fn softmax_gradient(logits: &[f32], targets: &[f32], lse: f32, grad: f32, dx: &mut [f32]) {
        for ((dx, x), t) in dx.iter_mut().zip(logits).zip(targets) {
            *dx = (exp(*x - lse) - *t) * grad;
        }
    }
}
