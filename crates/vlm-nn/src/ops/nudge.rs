//! Weights moved along a random direction that nobody keeps: it is drawn anew from its number.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Distribution, FloatDType, Tensor};

/// How weights are moved along a direction `z` of standard normal numbers.
///
/// `param + times·round(eps·z)`, and then `param·keep − length·z`, both to whole multiples of `grid`: the
/// first to the nearest, so that a move is taken back exactly; the second up or down by chance, so that
/// moves much smaller than the grid are not lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nudge {
    /// The number that the direction is drawn from.
    pub key: u64,
    /// A power of two. Weights are rounded to multiples of it first; with all of them below 2²⁴ times
    /// it, moved or not, nothing else is ever rounded.
    pub grid: f32,
    /// How long a move is along each coordinate: its standard deviation.
    pub eps: f64,
    /// How often it is made; below 0 it is taken back.
    pub times: i8,
    /// What is left of the weight.
    pub keep: f64,
    /// How far it then goes against the direction.
    pub length: f64,
}

/// The largest coordinate of a direction; larger ones are cut to it.
pub const LARGEST_COORDINATE: f32 = 6.0;

/// Moves a plain flat tensor; a buffer that nobody else holds is written in place.
///
/// On the CPU backend a direction depends on its number alone, not on the machine; on others on the
/// backend's own generator as well.
pub fn nudge(param: Tensor<1>, by: Nudge) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Nudges>::nudge_op(param.into_dispatch(), by))
}

/// Moves of weights; never differentiated.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))
)]
pub trait Nudges: Backend {
    /// See [`nudge`].
    fn nudge_op(param: FloatTensor<Self>, by: Nudge) -> FloatTensor<Self> {
        composed::<Self>(param, by)
    }
}

fn composed<B: Backend>(param: FloatTensor<B>, by: Nudge) -> FloatTensor<B> {
    let (device, shape) = (param.device(), param.shape());
    let kind: FloatDType = param.dtype().into();
    let mul = |x: FloatTensor<B>, by: f64| B::float_mul_scalar(x, by.into());
    let grid = f64::from(by.grid);
    // Both are drawn whatever is asked for, so that the direction is the same each time.
    B::seed(&device, by.key);
    let direction = B::float_random(shape.clone(), Distribution::Normal(0.0, 1.0), &device, kind);
    let dither = B::float_random(shape, Distribution::Uniform(0.0, 1.0), &device, kind);
    let most = f64::from(LARGEST_COORDINATE);
    let z = B::float_clamp(direction, (-most).into(), most.into());
    let mut param = mul(B::float_round(mul(param, 1.0 / grid)), grid);
    if by.times != 0 {
        let move_by = B::float_round(mul(z.clone(), by.eps / grid));
        param = B::float_add(param, mul(move_by, f64::from(by.times) * grid));
    }
    if by.keep != 1.0 || by.length != 0.0 {
        let shrink = mul(param.clone(), (by.keep - 1.0) / grid);
        let change = B::float_sub(shrink, mul(z, by.length / grid));
        let change = B::float_floor(B::float_add(change, dither));
        param = B::float_add(param, mul(change, grid));
    }
    param
}

#[cfg(feature = "tch")]
impl Nudges for burn::backend::LibTorch {}

#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
impl Nudges for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl Nudges for burn::backend::Flex {
    fn nudge_op(mut param: FloatTensor<Self>, by: Nudge) -> FloatTensor<Self> {
        if !super::flex::is_plain(&param) {
            return composed::<Self>(param, by);
        }
        super::flex::nudge(param.storage_mut::<f32>(), &by);
        param
    }
}
