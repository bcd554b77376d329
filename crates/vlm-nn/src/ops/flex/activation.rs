//! Activations, vectorised.

use std::mem::MaybeUninit;

use super::simd::{erf, exp, sigmoid, simd, tanh};
use super::{CHUNK, filled, filled_beside, parallel_chunks};
use crate::ops::composed::{TANH_CUBIC, TANH_SLOPE};
use crate::ops::kernels::Activation;

pub fn forward(x: &[f32], kind: Activation) -> Vec<f32> {
    // SAFETY: every value of a chunk has one of x, which has as many.
    unsafe { filled(x.len(), 1, |start, y| forward_chunk(&x[start..start + y.len()], y, kind)) }
}

/// Turns the gradient of the output into that of the input, in place.
pub fn backward(x: &[f32], grad: &mut [f32], kind: Activation) {
    parallel_chunks([grad], 1, |start, [grad]| {
        backward_chunk(&x[start..start + grad.len()], grad, kind);
    });
}

/// The activation of each gate, times `up`.
pub fn gated(gate: &[f32], up: &[f32], kind: Activation) -> Vec<f32> {
    // SAFETY: every value of a chunk is written by the activation.
    unsafe {
        filled(gate.len(), 1, |start, y| {
            let range = start..start + y.len();
            forward_chunk(&gate[range.clone()], y, kind);
            times(y.assume_init_mut(), &up[range]);
        })
    }
}

/// Returns the gradient of the gate, and turns that of the output into that of `up`.
pub fn gated_backward(gate: &[f32], up: &[f32], grad: &mut [f32], kind: Activation) -> Vec<f32> {
    // SAFETY: every value of a chunk is a copy at first.
    unsafe {
        filled_beside(gate.len(), CHUNK, (grad, CHUNK), |start, to_gate, grad| {
            let range = start..start + grad.len();
            let (gate, up) = (&gate[range.clone()], &up[range]);
            let to_gate = to_gate.write_copy_of_slice(grad);
            times(to_gate, up);
            backward_chunk(gate, to_gate, kind);
            // In pieces that stay in the nearest cache.
            let mut open = [MaybeUninit::uninit(); 1024];
            for (grad, gate) in grad.chunks_mut(1024).zip(gate.chunks(1024)) {
                let open = &mut open[..grad.len()];
                forward_chunk(gate, open, kind);
                times(grad, open.assume_init_ref());
            }
        })
    }
}

#[inline(always)]
fn each(x: &[f32], y: &mut [MaybeUninit<f32>], f: impl Fn(f32) -> f32) {
    for (y, x) in y.iter_mut().zip(x) {
        y.write(f(*x));
    }
}

#[inline(always)]
fn each_grad(x: &[f32], g: &mut [f32], slope: impl Fn(f32) -> f32) {
    for (g, x) in g.iter_mut().zip(x) {
        *g *= slope(*x);
    }
}

#[inline(always)]
fn inner(x: f32) -> f32 {
    tanh(x * (TANH_SLOPE as f32 + (TANH_SLOPE * TANH_CUBIC) as f32 * x * x))
}

/// The derivative of `x·σ(s·x)`.
#[inline(always)]
fn sigmoid_unit(x: f32, s: f32) -> f32 {
    let sig = sigmoid(s * x);
    sig * (1.0 + s * x * (1.0 - sig))
}

const ROOT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1/√(2π).
const DENSITY: f32 = 0.398_942_3;

simd! {
    fn times(y: &mut [f32], by: &[f32]) {
        for (y, by) in y.iter_mut().zip(by) {
            *y *= by;
        }
    }

    fn forward_chunk(x: &[f32], y: &mut [MaybeUninit<f32>], kind: Activation) {
        match kind {
            Activation::Gelu => {
                each(x, y, |x| 0.5 * x * (1.0 + erf(x * ROOT_HALF, exp(-0.5 * x * x))));
            }
            Activation::GeluTanh => each(x, y, |x| 0.5 * x * (1.0 + inner(x))),
            Activation::QuickGelu => each(x, y, |x| x * sigmoid(1.702 * x)),
            Activation::Silu => each(x, y, |x| x * sigmoid(x)),
            Activation::Relu => each(x, y, |x| if x > 0.0 { x } else { 0.0 }),
            Activation::Tanh => each(x, y, tanh),
        }
    }

    fn backward_chunk(x: &[f32], g: &mut [f32], kind: Activation) {
        match kind {
            Activation::Gelu => each_grad(x, g, |x| {
                let e = exp(-0.5 * x * x);
                0.5 * (1.0 + erf(x * ROOT_HALF, e)) + x * DENSITY * e
            }),
            Activation::GeluTanh => each_grad(x, g, |x| {
                let t = inner(x);
                let slope = TANH_SLOPE as f32 + (3.0 * TANH_SLOPE * TANH_CUBIC) as f32 * x * x;
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
            }),
            Activation::QuickGelu => each_grad(x, g, |x| sigmoid_unit(x, 1.702)),
            Activation::Silu => each_grad(x, g, |x| sigmoid_unit(x, 1.0)),
            Activation::Relu => each_grad(x, g, |x| if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Tanh => each_grad(x, g, |x| {
                let t = tanh(x);
                1.0 - t * t
            }),
        }
    }
}
