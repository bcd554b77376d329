//! Linear maps. Burn's flex clears and copies the buffer of each product before it is computed,
//! and adds the bias on one thread; here the bias is what the product is added to.

use burn::backend::flex::FlexTensor;

use super::few::{self, Matrix};
use super::product::{View, product};
use super::rows::column_sums;
use super::{dims2, filled, values};

/// `[rows, in] · [in, out]`, added to the bias, if there is one.
pub fn forward(x: &FlexTensor, w: &FlexTensor, bias: Option<&[f32]>) -> Vec<f32> {
    let ((n, k), (rows, m)) = (dims2(x), dims2(w));
    assert_eq!(k, rows, "linear: the matrices do not fit");
    if let Some(w) = few_rows(n, w) {
        return few::product(values(x.clone()).storage(), [n, m, k], w, bias);
    }
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

/// The matrix, if so few rows are to be multiplied with it that its general product is slow.
fn few_rows(rows: usize, w: &FlexTensor) -> Option<Matrix<'_>> {
    if rows > few::ROWS {
        return None;
    }
    let (data, layout) = (w.storage::<f32>(), w.layout());
    let data = data.get(layout.start_offset()..)?;
    match layout.strides() {
        [apart, 1] => Some(Matrix::Rows(data, usize::try_from(*apart).ok()?)),
        [1, apart] => Some(Matrix::Columns(data, usize::try_from(*apart).ok()?)),
        _ => None,
    }
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

/// Adds `aᵀ · b` to a matrix that lies in a buffer.
pub fn add_weight_gradient(sum: &mut [f32], a: &FlexTensor, b: &FlexTensor) {
    let ((n, k), (rows, m)) = (dims2(a), dims2(b));
    assert!(n == rows && sum.len() == k * m, "add_product: the matrices do not fit");
    let (lhs, rhs) = (View::of(a).transposed(), View::of(b));
    // SAFETY: the buffer has k rows of m values and is ours alone.
    unsafe { product([k, m, n], (sum.as_mut_ptr(), m), lhs, rhs, 1.0, true, true) };
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
