//! Gradients that are added to where they are wanted, and have no place of their own.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{IndexingUpdateOp, Int, Shape, Tensor};

/// `sum + aᵀ · b`, flat; a `[count, n]`, b `[count, m]`, on plain tensors. A buffer that nobody else holds is
/// written in place.
pub fn add_product(sum: Tensor<1>, a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    let out = <Dispatch as Accumulate>::add_product_op(
        sum.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
    );
    Tensor::from_dispatch(out)
}

/// The flat table `sum` with rows added to those of these numbers, likewise.
pub fn add_rows(sum: Tensor<1>, ids: Tensor<1, Int>, rows: Tensor<2>) -> Tensor<1> {
    let out = <Dispatch as Accumulate>::add_rows_op(
        sum.into_dispatch(),
        ids.into_dispatch(),
        rows.into_dispatch(),
    );
    Tensor::from_dispatch(out)
}

/// Sums; never differentiated.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))
)]
pub trait Accumulate: Backend {
    /// See [`add_product`].
    fn add_product_op(
        sum: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed_product::<Self>(sum, a, b)
    }
    /// See [`add_rows`].
    fn add_rows_op(
        sum: FloatTensor<Self>,
        ids: IntTensor<Self>,
        rows: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed_rows::<Self>(sum, ids, rows)
    }
}

fn composed_product<B: Backend>(
    sum: FloatTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = sum.shape();
    let product = B::float_matmul(B::float_swap_dims(a, 0, 1), b);
    B::float_add(sum, B::float_reshape(product, shape))
}

fn composed_rows<B: Backend>(
    sum: FloatTensor<B>,
    ids: IntTensor<B>,
    rows: FloatTensor<B>,
) -> FloatTensor<B> {
    let (shape, width) = (sum.shape(), rows.shape()[1]);
    let table = B::float_reshape(sum, Shape::new([shape[0] / width.max(1), width]));
    let table = B::float_select_assign(table, 0, ids, rows, IndexingUpdateOp::Add);
    B::float_reshape(table, shape)
}

#[cfg(feature = "tch")]
impl Accumulate for burn::backend::LibTorch {}

#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
impl Accumulate for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl Accumulate for burn::backend::Flex {
    fn add_product_op(
        mut sum: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        use super::flex::{add_weight_gradient, is_plain, is_single};
        if !is_plain(&sum) || !is_single(&a) || !is_single(&b) {
            return composed_product::<Self>(sum, a, b);
        }
        add_weight_gradient(sum.storage_mut::<f32>(), &a, &b);
        sum
    }

    fn add_rows_op(
        mut sum: FloatTensor<Self>,
        ids: IntTensor<Self>,
        rows: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        use super::flex::{indices, is_plain, values};
        let rows = values(rows);
        let (Some(ids), true) = (indices(&ids), is_plain(&sum) && is_plain(&rows)) else {
            return composed_rows::<Self>(sum, ids, rows);
        };
        let width = rows.shape()[1];
        let table = sum.storage_mut::<f32>();
        for (id, row) in ids.into_iter().zip(rows.storage::<f32>().chunks(width.max(1))) {
            for (sum, x) in table[id * width..(id + 1) * width].iter_mut().zip(row) {
                *sum += x;
            }
        }
        sum
    }
}
