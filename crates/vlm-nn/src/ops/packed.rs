//! Weights of four bits as a backend holds them.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType};
use burn::tensor::{IntDType, Shape, Slice};

use super::composed;
use crate::four_bit::NESTED_BLOCK;

/// A weight of four bits: see [`Packed`](crate::four_bit::Packed). Bytes stand four to an integer of 32
/// bits, which every backend knows.
#[derive(ExtensionType, Clone)]
pub struct PackedWeight<B: Backend> {
    /// Two codes a byte, the first in the upper half; whole blocks, output after output.
    pub codes: IntTensor<B>,
    /// The 16 values of the code.
    pub table: FloatTensor<B>,
    /// The largest value of each block; if these are nested, the scale of each 256 of them.
    pub scales: FloatTensor<B>,
    /// Nested: a byte for each block.
    pub nested: IntTensor<B>,
    /// Nested: what a byte stands for.
    pub map: FloatTensor<B>,
    /// What is no tensor.
    pub shape: PackedShape,
}

/// The numbers of a [`PackedWeight`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedShape {
    /// Values that come in.
    pub input: usize,
    /// Values that come out.
    pub output: usize,
    /// Values of a block.
    pub block: usize,
    /// Whether the largest values of the blocks are nested, and what is added to them then.
    pub offset: Option<f32>,
}

/// The nibbles of an integer in the order of the values.
const NIBBLES: [usize; 8] = [4, 0, 12, 8, 20, 16, 28, 24];
/// Its bytes.
const BYTES: [usize; 4] = [0, 8, 16, 24];

/// The product with the whole weight.
pub(crate) fn forward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    b: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    composed::linear_forward::<B>(x, B::float_swap_dims(w, 0, 1), b)
}

/// The gradients of x, and of the bias if asked for.
pub(crate) fn backward<B: Backend>(
    w: FloatTensor<B>,
    grad: FloatTensor<B>,
    bias: bool,
) -> [Option<FloatTensor<B>>; 2] {
    let w = B::float_swap_dims(w, 0, 1);
    let [x, _, b] = composed::linear_backward::<B>(None, Some(w), grad, bias);
    [x, b]
}

/// The weight `[output, input]`.
pub(crate) fn unpacked<B: Backend>(w: PackedWeight<B>) -> FloatTensor<B> {
    let PackedShape { input, output, block, offset } = w.shape;
    let blocks = (input * output).div_ceil(block);
    let largest = match offset {
        None => w.scales,
        Some(offset) => {
            let groups = blocks.div_ceil(NESTED_BLOCK);
            let values = looked_up::<B>(w.nested, w.map, &BYTES, 255);
            let values = B::float_reshape(values, Shape::new([groups, NESTED_BLOCK]));
            let scales = B::float_reshape(w.scales, Shape::new([groups, 1]));
            let values =
                B::float_add_scalar(B::float_mul(values, scales), f64::from(offset).into());
            first::<B>(B::float_reshape(values, Shape::new([groups * NESTED_BLOCK])), blocks)
        }
    };
    let values = looked_up::<B>(w.codes, w.table, &NIBBLES, 15);
    let values = first::<B>(values, blocks * block);
    let values = B::float_reshape(values, Shape::new([blocks, block]));
    let values = B::float_mul(values, B::float_reshape(largest, Shape::new([blocks, 1])));
    let values = B::float_reshape(values, Shape::new([blocks * block]));
    B::float_reshape(first::<B>(values, output * input), Shape::new([output, input]))
}

fn first<B: Backend>(x: FloatTensor<B>, count: usize) -> FloatTensor<B> {
    B::float_slice(x, &[Slice::from(0..count)])
}

/// What the parts of integers stand for, part after part of each.
fn looked_up<B: Backend>(
    words: IntTensor<B>,
    table: FloatTensor<B>,
    shifts: &[usize],
    mask: i64,
) -> FloatTensor<B> {
    use burn::backend::TensorMetadata;
    let count = words.shape().num_elements();
    let words = B::int_reshape(words, Shape::new([count, 1]));
    let parts = shifts.iter().map(|by| {
        let shifted = B::bitwise_right_shift_scalar(words.clone(), (*by as i64).into());
        B::bitwise_and_scalar(shifted, mask.into())
    });
    let parts = B::int_cat(parts.collect(), 1);
    let parts = B::int_reshape(parts, Shape::new([count * shifts.len()]));
    B::float_select(table, 0, B::int_cast(parts, IntDType::I32))
}
