//! What a step does to weights and gradients, each as one pass over the memory it touches.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// The scalars of one AdamW step (Loshchilov and Hutter 2017, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// How many steps this parameter has had, this one included.
    pub step: u64,
    /// Multiplies the gradient first (clipping by norm).
    pub grad_scale: f64,
}

impl AdamWStep {
    /// Step length and the divisor of the second moment, both bias-corrected.
    fn corrected(&self) -> (f64, f64) {
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let first = 1.0 - self.betas[0].powi(power);
        let second = 1.0 - self.betas[1].powi(power);
        (self.lr / first, second.sqrt())
    }
}

/// One AdamW step on plain (not differentiated) tensors.
///
/// Returns the new parameter, first and second moment. Buffers that nobody else holds are
/// updated in place, so pass them by value.
pub fn adamw_step<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: [Tensor<D>; 2],
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [m, v] = moments;
    let (param, m, v) = <Dispatch as Update>::adamw(
        param.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step,
    );
    (Tensor::from_dispatch(param), [Tensor::from_dispatch(m), Tensor::from_dispatch(v)])
}

/// `old · decay + new · (1 − decay)` on plain tensors of one shape; `old` is updated in place if
/// nobody else holds its buffer.
pub fn average<const D: usize>(old: Tensor<D>, new: Tensor<D>, decay: f64) -> Tensor<D> {
    let out = <Dispatch as Update>::average(old.into_dispatch(), new.into_dispatch(), decay);
    Tensor::from_dispatch(out)
}

/// The sum of the squares of a plain tensor's values, `[1]`.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let len: usize = x.dims().iter().product();
    let x = x.reshape([len]);
    Tensor::from_dispatch(<Dispatch as Update>::square_sum(x.into_dispatch()))
}

/// Updates of weights; never differentiated.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))
)]
pub trait Update: Backend {
    /// See [`adamw_step`].
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::<Self>(param, grad, m, v, step)
    }
    /// See [`average`].
    fn average(old: FloatTensor<Self>, new: FloatTensor<Self>, decay: f64) -> FloatTensor<Self> {
        composed_average::<Self>(old, new, decay)
    }
    /// See [`square_sum`].
    fn square_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_square_sum::<Self>(x)
    }
}

fn composed_average<B: Backend>(
    old: FloatTensor<B>,
    new: FloatTensor<B>,
    decay: f64,
) -> FloatTensor<B> {
    let old = B::float_mul_scalar(old, decay.into());
    B::float_add(old, B::float_mul_scalar(new, (1.0 - decay).into()))
}

fn composed_square_sum<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_sum(B::float_mul(x.clone(), x))
}

fn composed<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    m: FloatTensor<B>,
    v: FloatTensor<B>,
    step: AdamWStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let mul = |x: FloatTensor<B>, by: f64| B::float_mul_scalar(x, by.into());
    let [b1, b2] = step.betas;
    let (length, root) = step.corrected();
    let grad = mul(grad, step.grad_scale);
    let m = B::float_add(mul(m, b1), mul(grad.clone(), 1.0 - b1));
    let square = B::float_mul(grad.clone(), grad);
    let v = B::float_add(mul(v, b2), mul(square, 1.0 - b2));
    let denominator =
        B::float_add_scalar(mul(B::float_sqrt(v.clone()), 1.0 / root), step.eps.into());
    let change = mul(B::float_div(m.clone(), denominator), length);
    let param = B::float_sub(mul(param, 1.0 - step.lr * step.weight_decay), change);
    (param, m, v)
}

#[cfg(feature = "tch")]
impl Update for burn::backend::LibTorch {}

#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
impl Update for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl Update for burn::backend::Flex {
    fn adamw(
        mut param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        mut m: FloatTensor<Self>,
        mut v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        use super::flex::{is_plain, parallel_chunks, values};
        if ![&param, &m, &v].into_iter().all(is_plain) {
            return composed::<Self>(param, grad, m, v, step);
        }
        let grad = values(grad);
        let grad = grad.storage::<f32>();
        let (length, root) = step.corrected();
        let scalars = [
            1.0 - step.lr * step.weight_decay,
            length,
            1.0 / root,
            step.eps,
            step.betas[0],
            step.betas[1],
            step.grad_scale,
        ]
        .map(|x| x as f32);
        let (p, mm, vv) =
            (param.storage_mut::<f32>(), m.storage_mut::<f32>(), v.storage_mut::<f32>());
        parallel_chunks([p, mm, vv], 1, |start, [p, m, v]| {
            let g = &grad[start..start + p.len()];
            adamw_chunk(p, g, m, v, scalars);
        });
        (param, m, v)
    }

    fn average(
        mut old: FloatTensor<Self>,
        new: FloatTensor<Self>,
        decay: f64,
    ) -> FloatTensor<Self> {
        use super::flex::{is_plain, parallel_chunks, values};
        let new = values(new);
        if !is_plain(&old) || !is_plain(&new) {
            return composed_average::<Self>(old, new, decay);
        }
        let from = new.storage::<f32>();
        let keep = decay as f32;
        parallel_chunks([old.storage_mut::<f32>()], 1, |start, [old]| {
            average_chunk(old, &from[start..start + old.len()], keep);
        });
        old
    }

    fn square_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        use super::flex::{is_plain, sum_of_chunks, values};
        let x = values(x);
        if !is_plain(&x) {
            return composed_square_sum::<Self>(x);
        }
        sum_of_chunks(x.storage(), square_chunk)
    }
}

#[cfg(feature = "flex")]
super::flex::simd! {
    fn average_chunk(old: &mut [f32], new: &[f32], keep: f32) {
        for (old, new) in old.iter_mut().zip(new) {
            *old = *old * keep + *new * (1.0 - keep);
        }
    }

    fn square_chunk(x: &[f32]) -> f32 {
        super::flex::sum_map(x.len(), |i| x[i] * x[i])
    }

    fn adamw_chunk(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], scalars: [f32; 7]) {
        let [keep, length, root, eps, b1, b2, by] = scalars;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = *g * by;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *p = *p * keep - length * *m / (v.sqrt() * root + eps);
        }
    }
}
