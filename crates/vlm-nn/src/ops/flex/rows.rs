//! Norms and cross-entropy: one pass over each row.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd::{exp, max_of, simd, sum_map};
use super::{filled, filled_beside};

/// Rows whose weight gradients are summed together. Fixed, so that the order of the sum and
/// with it every bit of the result is the same for any number of threads.
const GROUP: usize = 64;
/// Rows that a task of the forward passes takes.
const ROWS: usize = 32;

pub fn layer_norm(
    x: &[f32],
    w: &[f32],
    b: &[f32],
    n: usize,
    d: usize,
    eps: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    assert!(w.len() == d && b.len() == d, "layer norm: weight and bias are not as wide as x");
    let mut stats = vec![0f32; n * 2];
    // SAFETY: the group's rows, which are as wide as w and b, are written whole.
    let y = unsafe {
        filled_beside(n * d, ROWS * d, (&mut stats, ROWS * 2), |start, y, stats| {
            layer_norm_group(&x[start..start + y.len()], w, b, eps, y, stats);
        })
    };
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
    group: impl Fn(usize, &mut [MaybeUninit<f32>], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let mut partial = vec![0f32; n.div_ceil(GROUP) * sums * d];
    // SAFETY: the two bodies below write every row of their group.
    let dx = unsafe {
        filled_beside(n * d, GROUP * d, (&mut partial, sums * d), |start, dx, partial| {
            group(start / d.max(1), dx, partial);
        })
    };
    (dx, total(&partial, sums * d))
}

/// Adds up sums of `width` values that lie one after another, in order.
fn total(partial: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0f32; width];
    for part in partial.chunks(width.max(1)) {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

/// The sum of each column of rows of `d` values.
pub fn column_sums(x: &[f32], d: usize) -> Vec<f32> {
    let mut partial = vec![0f32; (x.len() / d.max(1)).div_ceil(GROUP) * d];
    let groups = x.par_chunks(GROUP * d.max(1)).zip(partial.par_chunks_mut(d.max(1)));
    groups.for_each(|(x, sums)| column_sums_group(x, sums));
    total(&partial, d)
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
    assert_eq!(w.len(), d, "layer norm: the weight is not as wide as x");
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
    assert_eq!(w.len(), d, "rms norm: the weight is not as wide as x");
    let mut rstd = vec![0f32; n];
    // SAFETY: the group's rows, which are as wide as w, are written whole.
    let y = unsafe {
        filled_beside(n * d, ROWS * d, (&mut rstd, ROWS), |start, y, rstd| {
            rms_norm_group(&x[start..start + y.len()], w, eps, y, rstd);
        })
    };
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
    assert_eq!(w.len(), d, "rms norm: the weight is not as wide as x");
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

/// What rows of logits should be.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// A share for each class.
    Shares(&'a [f32]),
    /// One class each.
    Classes(&'a [usize]),
}

/// The loss of each row and its log-sum-exp.
pub fn cross_entropy(
    logits: &[f32],
    wanted: Wanted<'_>,
    n: usize,
    d: usize,
) -> (Vec<f32>, Vec<f32>) {
    let row = |i: usize| {
        let range = i * d..(i + 1) * d;
        let logits = &logits[range.clone()];
        let lse = log_sum_exp(logits);
        let loss = match wanted {
            Wanted::Shares(shares) => shortfall(logits, &shares[range], lse),
            Wanted::Classes(classes) => lse - logits[classes[i]],
        };
        (loss, lse)
    };
    (0..n).into_par_iter().with_min_len(8).map(row).unzip()
}

/// Turns logits into their gradient.
pub fn cross_entropy_backward(
    logits: &mut [f32],
    wanted: Wanted<'_>,
    lse: &[f32],
    grad: &[f32],
    d: usize,
) {
    logits.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, x)| {
        softmax_gradient(x, lse[i], grad[i]);
        match wanted {
            Wanted::Shares(shares) => less(x, &shares[i * d..(i + 1) * d], grad[i]),
            Wanted::Classes(classes) => x[classes[i]] -= grad[i],
        }
    });
}

/// Turns the pairs of each head of rows `[rows, width]`; the angles of a row are those of the same
/// row of `cos` and `sin`, which may be those of one sample.
pub fn rotate(x: &[f32], cos: &[f32], sin: &[f32], width: usize, heads: usize) -> Vec<f32> {
    let half = width / heads / 2;
    // SAFETY: `rotate_row` writes both halves of every head.
    unsafe {
        filled(x.len(), width, |start, part| {
            for (i, out) in part.chunks_exact_mut(width).enumerate() {
                let at = start + i * width;
                let angle = at / width * half % cos.len();
                rotate_row(
                    &x[at..at + width],
                    out,
                    &cos[angle..angle + half],
                    &sin[angle..angle + half],
                );
            }
        })
    }
}

simd! {
    fn rotate_row(x: &[f32], out: &mut [MaybeUninit<f32>], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
            let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
            for i in 0..half {
                first[i].write(a[i] * cos[i] - b[i] * sin[i]);
                second[i].write(b[i] * cos[i] + a[i] * sin[i]);
            }
        }
    }

    fn layer_norm_group(
        x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [MaybeUninit<f32>], stats: &mut [f32],
    ) {
        let d = w.len();
        for ((x, y), stats) in x.chunks(d).zip(y.chunks_mut(d)).zip(stats.chunks_mut(2)) {
            let mean = sum_map(d, |i| x[i]) / d as f32;
            let var = sum_map(d, |i| (x[i] - mean) * (x[i] - mean)) / d as f32;
            let rstd = 1.0 / (var + eps).sqrt();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                y.write((*x - mean) * rstd * *w + *b);
            }
            stats.copy_from_slice(&[mean, rstd]);
        }
    }

    fn layer_norm_backward_group(
        x: &[f32], w: &[f32], mean: &[f32], rstd: &[f32], grad: &[f32],
        dx: &mut [MaybeUninit<f32>], sums: &mut [f32],
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
                dx[i].write((g[i] * w[i] - level - normed * along) * rstd);
            }
        }
    }

    fn rms_norm_group(
        x: &[f32], w: &[f32], eps: f32, y: &mut [MaybeUninit<f32>], rstd: &mut [f32],
    ) {
        let d = w.len();
        for ((x, y), rstd) in x.chunks(d).zip(y.chunks_mut(d)).zip(rstd) {
            *rstd = 1.0 / (sum_map(d, |i| x[i] * x[i]) / d as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                y.write(*x * *rstd * *w);
            }
        }
    }

    fn rms_norm_backward_group(
        x: &[f32], w: &[f32], rstd: &[f32], grad: &[f32],
        dx: &mut [MaybeUninit<f32>], dw: &mut [f32],
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
                dx[i].write((g[i] * w[i] - normed * along) * rstd);
            }
        }
    }

    fn log_sum_exp(logits: &[f32]) -> f32 {
        let max = max_of(logits);
        max + sum_map(logits.len(), |i| exp(logits[i] - max)).ln()
    }

    /// Σ share · (lse − logit), which stays exact where a share is 0 and a logit huge.
    fn shortfall(logits: &[f32], shares: &[f32], lse: f32) -> f32 {
        sum_map(logits.len(), |i| shares[i] * (lse - logits[i]))
    }

    fn column_sums_group(x: &[f32], sums: &mut [f32]) {
        for x in x.chunks(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += *x;
            }
        }
    }

    fn softmax_gradient(x: &mut [f32], lse: f32, grad: f32) {
        for x in x {
            *x = exp(*x - lse) * grad;
        }
    }

    fn less(x: &mut [f32], shares: &[f32], grad: f32) {
        for (x, share) in x.iter_mut().zip(shares) {
            *x -= share * grad;
        }
    }
}
