//! Linear maps. Burn's flex clears and copies the buffer of each product before it is computed,
//! and adds the bias on one thread; here the bias is what the product is added to.

use burn::backend::flex::FlexTensor;

use super::product::{View, product};
use super::rows::column_sums;
use super::{dims2, filled};

/// `[rows, in] · [in, out]`, added to the bias, if there is one.
pub fn forward(x: &FlexTensor, w: &FlexTensor, bias: Option<&[f32]>) -> Vec<f32> {
    let ((n, k), (rows, m)) = (dims2(x), dims2(w));
    assert_eq!(k, rows, "linear: the matrices do not fit");
    let Some(bias) = bias else { return matrix([n, m, k], View::of(x), View::of(w)) };
    // SAFETY: every row of the chunk is written.
    let mut y = unsafe {
        filled(n * m, m, |_, part| {
            for row in part.chunks_mut(m) {
                row.write_copy_of_slice(bias);
            }
        })
    };
    // SAFETY: `y` has n rows of m values and is ours alone.
    unsafe { product([n, m, k], (y.as_mut_ptr(), m), View::of(x), View::of(w), 1.0, true, true) };
    y
}

/// The gradient of x: `grad [rows, out] · wᵀ`.
pub fn input_gradient(w: &FlexTensor, grad: &FlexTensor) -> Vec<f32> {
    let ((n, m), (k, columns)) = (dims2(grad), dims2(w));
    assert_eq!(m, columns, "linear: the matrices do not fit");
    matrix([n, k, m], View::of(grad), View::of(w).transposed())
}

/// The gradient of w: `xᵀ · grad [rows, out]`.
pub fn weight_gradient(x: &FlexTensor, grad: &FlexTensor) -> Vec<f32> {
    let ((n, k), (rows, m)) = (dims2(x), dims2(grad));
    assert_eq!(n, rows, "linear: the matrices do not fit");
    matrix([k, m, n], View::of(x).transposed(), View::of(grad))
}

/// The gradient of the bias: the sum of each column.
pub fn bias_gradient(grad: &[f32], width: usize) -> Vec<f32> {
    column_sums(grad, width)
}

/// A fresh `[m, n]` that is a product.
fn matrix([m, n, k]: [usize; 3], lhs: View, rhs: View) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    // SAFETY: the buffer has room for the product, which writes every value of it.
    unsafe {
        product([m, n, k], (out.as_mut_ptr(), n), lhs, rhs, 1.0, false, true);
        out.set_len(m * n);
    }
    out
}
