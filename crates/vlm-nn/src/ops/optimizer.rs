//! What a step does to weights and gradients, each as one pass over the memory it touches.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

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

/// The scalars of a step of stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// What is left of the weight: 1 less the learning rate times the weight decay.
    pub keep: f64,
    /// What the gradient is multiplied by.
    pub length: f64,
    /// The largest value of a gradient; 0 for any.
    pub clip: f64,
}

/// `param · keep − length · grad` on plain flat tensors; a buffer that nobody else holds is updated in place.
pub fn sgd_step(param: Tensor<1>, grad: Tensor<1>, step: SgdStep) -> Tensor<1> {
    let out = <Dispatch as Update>::sgd(param.into_dispatch(), grad.into_dispatch(), step);
    Tensor::from_dispatch(out)
}

/// The scalars of a step of AdaLomo (Lv et al. 2023, arXiv 2310.10195).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaLomoStep {
    /// Learning rate of this step, relative to the size of a weight.
    pub lr: f64,
    /// Decay of the moments in this step.
    pub beta: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Root mean square of an update that is left as it is.
    pub clip_threshold: f64,
    /// Added to squares; the least size of a weight.
    pub eps: [f64; 2],
}

/// One step of AdaLomo on plain flat tensors: of a matrix, whose second moments are those of its rows and
/// columns, or of a vector, which has no columns. Returns the new weight and moments.
pub fn ada_lomo_step(
    param: Tensor<1>,
    grad: Tensor<1>,
    rows: Tensor<1>,
    columns: Option<Tensor<1>>,
    step: AdaLomoStep,
) -> (Tensor<1>, Tensor<1>, Option<Tensor<1>>) {
    match columns {
        None => {
            let (param, rows) = ada_lomo_vector(param, grad, rows, step);
            (param, rows, None)
        }
        Some(columns) => {
            let (param, rows, columns) = <Dispatch as Update>::ada_lomo(
                param.into_dispatch(),
                grad.into_dispatch(),
                rows.into_dispatch(),
                columns.into_dispatch(),
                step,
            );
            let lift = Tensor::from_dispatch;
            (lift(param), lift(rows), Some(lift(columns)))
        }
    }
}

fn ada_lomo_vector(
    param: Tensor<1>,
    grad: Tensor<1>,
    moment: Tensor<1>,
    step: AdaLomoStep,
) -> (Tensor<1>, Tensor<1>) {
    let square = grad.clone() * grad.clone() + step.eps[0];
    let moment = moment * step.beta + square * (1.0 - step.beta);
    let update = grad / moment.clone().sqrt();
    let mean = |x: Tensor<1>| -> f64 {
        let count = x.dims()[0].max(1) as f64;
        f64::from(square_sum(x).into_scalar::<f32>()) / count
    };
    let lr = step.lr * mean(param.clone()).sqrt().max(step.eps[1]);
    let shorten = (mean(update.clone()).sqrt() / step.clip_threshold).max(1.0);
    let param = param * (1.0 - lr * step.weight_decay) - update * (lr / shorten);
    (param, moment)
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
    /// See [`sgd_step`].
    fn sgd(param: FloatTensor<Self>, grad: FloatTensor<Self>, step: SgdStep) -> FloatTensor<Self> {
        composed_sgd::<Self>(param, grad, step)
    }
    /// See [`ada_lomo_step`]; of a matrix.
    fn ada_lomo(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        columns: FloatTensor<Self>,
        step: AdaLomoStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed_ada_lomo::<Self>(param, grad, rows, columns, step)
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

fn composed_sgd<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    step: SgdStep,
) -> FloatTensor<B> {
    let grad = match step.clip > 0.0 {
        true => B::float_clamp(grad, (-step.clip).into(), step.clip.into()),
        false => grad,
    };
    let change = B::float_mul_scalar(grad, step.length.into());
    B::float_sub(B::float_mul_scalar(param, step.keep.into()), change)
}

fn composed_ada_lomo<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    rows: FloatTensor<B>,
    columns: FloatTensor<B>,
    step: AdaLomoStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (n, m) = (rows.shape()[0], columns.shape()[0]);
    let mul = |x: FloatTensor<B>, by: f64| B::float_mul_scalar(x, by.into());
    let matrix = |x: FloatTensor<B>| B::float_reshape(x, Shape::new([n, m]));
    let (param, grad) = (matrix(param), matrix(grad));
    let square = B::float_add_scalar(B::float_mul(grad.clone(), grad.clone()), step.eps[0].into());
    let mixed = |old: FloatTensor<B>, new: FloatTensor<B>, shape: [usize; 2]| {
        let old = B::float_reshape(old, Shape::new(shape));
        B::float_add(mul(old, step.beta), mul(new, 1.0 - step.beta))
    };
    let rows = mixed(rows, B::float_mean_dim(square.clone(), 1), [n, 1]);
    let columns = mixed(columns, B::float_mean_dim(square, 0), [1, m]);
    let inverse = |x: FloatTensor<B>| B::float_recip(B::float_sqrt(x));
    let level = B::float_mean_dim(rows.clone(), 0);
    let update = B::float_mul(grad, inverse(B::float_div(rows.clone(), level)));
    let update = B::float_mul(update, inverse(columns.clone()));
    // The two sizes stay on the device: nothing waits for them.
    let size = |x: FloatTensor<B>| {
        let square = B::float_reshape(composed_square_sum::<B>(x), Shape::new([1, 1]));
        B::float_sqrt(mul(square, 1.0 / (n * m) as f64))
    };
    let lr = mul(B::float_clamp_min(size(param.clone()), step.eps[1].into()), step.lr);
    let shorten =
        B::float_clamp_min(mul(size(update.clone()), 1.0 / step.clip_threshold), 1f32.into());
    let keep = B::float_add_scalar(mul(lr.clone(), -step.weight_decay), 1f32.into());
    let change = B::float_mul(update, B::float_div(lr, shorten));
    let param = B::float_sub(B::float_mul(param, keep), change);
    let flat = |x: FloatTensor<B>, len: usize| B::float_reshape(x, Shape::new([len]));
    (flat(param, n * m), flat(rows, n), flat(columns, m))
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

/// On a GPU what counts is how many operations are launched, so each weight gets as few as there are.
#[cfg(feature = "tch")]
impl Update for burn::backend::LibTorch {
    fn adamw(
        mut param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        mut m: FloatTensor<Self>,
        mut v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if ![&param, &m, &v].into_iter().all(|x| x.can_mut()) {
            return composed::<Self>(param, grad, m, v, step);
        }
        let [b1, b2] = step.betas;
        let (length, root) = step.corrected();
        let grad = &grad.tensor * step.grad_scale;
        let _ = m.tensor.lerp_(&grad, 1.0 - b1);
        let _ = v.tensor.lerp_(&(&grad * &grad), 1.0 - b2);
        let keep = 1.0 - step.lr * step.weight_decay;
        if keep != 1.0 {
            let _ = param.tensor.g_mul_scalar_(keep);
        }
        if length != 0.0 {
            // What the first moment is divided by: −(√v / root + ε) / length.
            let mut divisor = v.tensor.sqrt();
            let _ = divisor.g_mul_scalar_(-1.0 / (root * length));
            let _ = divisor.g_add_scalar_(-step.eps / length);
            let _ = param.tensor.addcdiv_(&m.tensor, &divisor);
        }
        (param, m, v)
    }

    fn average(
        mut old: FloatTensor<Self>,
        new: FloatTensor<Self>,
        decay: f64,
    ) -> FloatTensor<Self> {
        if !old.can_mut() {
            return composed_average::<Self>(old, new, decay);
        }
        let _ = old.tensor.lerp_(&new.tensor, 1.0 - decay);
        old
    }
}

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

    fn sgd(
        mut param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        step: SgdStep,
    ) -> FloatTensor<Self> {
        use super::flex::{is_plain, parallel_chunks, values};
        let grad = values(grad);
        if !is_plain(&param) || !is_plain(&grad) {
            return composed_sgd::<Self>(param, grad, step);
        }
        let from = grad.storage::<f32>();
        let clip = if step.clip > 0.0 { step.clip as f32 } else { f32::INFINITY };
        let scalars = [step.keep as f32, step.length as f32, clip];
        parallel_chunks([param.storage_mut::<f32>()], 1, |start, [p]| {
            sgd_chunk(p, &from[start..start + p.len()], scalars);
        });
        param
    }

    fn ada_lomo(
        mut param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        mut rows: FloatTensor<Self>,
        mut columns: FloatTensor<Self>,
        step: AdaLomoStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        use super::flex::{ada_lomo, is_plain, values};
        let grad = values(grad);
        if ![&param, &grad, &rows, &columns].into_iter().all(is_plain) {
            return composed_ada_lomo::<Self>(param, grad, rows, columns, step);
        }
        ada_lomo::step(
            param.storage_mut(),
            grad.storage(),
            rows.storage_mut(),
            columns.storage_mut(),
            &step,
        );
        (param, rows, columns)
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

    fn sgd_chunk(p: &mut [f32], g: &[f32], scalars: [f32; 3]) {
        let [keep, length, clip] = scalars;
        for (p, g) in p.iter_mut().zip(g) {
            *p = *p * keep - length * g.clamp(-clip, clip);
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
