//! Linear maps whose weight has four bits. Of the unpacked weight there is never more than a panel of
//! outputs.

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::{View, product};
use super::simd::sum_map;
use super::{dims2, few, filled};
use crate::four_bit::NESTED_BLOCK;
use crate::ops::PackedWeight;

/// Values of a panel: large enough for the product to be fast, small enough for the cache.
const PANEL: usize = 1 << 18;
/// Outputs that a task unpacks at a time where few rows are multiplied.
const OUTPUTS: usize = 16;

/// A weight `[output, input]` to be unpacked.
struct Weight<'a> {
    words: &'a [i32],
    /// What the two halves of each byte stand for.
    pairs: Vec<[f32; 2]>,
    largest: Vec<f32>,
    block: usize,
    input: usize,
    output: usize,
}

impl<'a> Weight<'a> {
    fn of(w: &'a PackedWeight<Flex>) -> Self {
        let shape = w.shape;
        let table = w.table.storage::<f32>();
        let pairs = (0..256).map(|byte| [table[byte >> 4], table[byte & 15]]).collect();
        let scales = w.scales.storage::<f32>();
        let blocks = (shape.input * shape.output).div_ceil(shape.block);
        let largest = match shape.offset {
            None => scales.to_vec(),
            Some(offset) => {
                let (codes, map) = (w.nested.storage::<i32>(), w.map.storage::<f32>());
                let byte = |i: usize| codes[i / 4].to_le_bytes()[i % 4];
                let value = |i: usize| map[byte(i) as usize] * scales[i / NESTED_BLOCK] + offset;
                (0..blocks).map(value).collect()
            }
        };
        Weight {
            words: w.codes.storage::<i32>(),
            pairs,
            largest,
            block: shape.block,
            input: shape.input,
            output: shape.output,
        }
    }

    fn byte(&self, i: usize) -> u8 {
        self.words[i / 4].to_le_bytes()[i % 4]
    }

    /// The values from place `from` on, as many as `out` holds.
    fn unpack(&self, from: usize, out: &mut [MaybeUninit<f32>]) {
        let (mut at, mut out) = (from, out);
        while !out.is_empty() {
            let end = (at / self.block + 1) * self.block;
            let (part, rest) = out.split_at_mut((end - at).min(out.len()));
            self.of_block(at, self.largest[at / self.block], part);
            (at, out) = (end, rest);
        }
    }

    /// The same of values of one block.
    fn of_block(&self, from: usize, by: f32, out: &mut [MaybeUninit<f32>]) {
        // Whole words in the middle; what is before and after them value by value.
        let one = |i: usize| self.pairs[self.byte(i / 2) as usize][i % 2] * by;
        let head = (from.next_multiple_of(8) - from).min(out.len());
        let (head, rest) = out.split_at_mut(head);
        for (i, value) in head.iter_mut().enumerate() {
            value.write(one(from + i));
        }
        let at = from + head.len();
        let (words, tail) = rest.split_at_mut(rest.len() / 8 * 8);
        for (word, values) in self.words[at / 8..].iter().zip(words.chunks_exact_mut(8)) {
            for (byte, two) in word.to_le_bytes().iter().zip(values.chunks_exact_mut(2)) {
                let pair = self.pairs[*byte as usize];
                two[0].write(pair[0] * by);
                two[1].write(pair[1] * by);
            }
        }
        let at = at + words.len();
        for (i, value) in tail.iter_mut().enumerate() {
            value.write(one(at + i));
        }
    }

    /// The outputs of the range, `[outputs, input]`, in parallel.
    fn panel(&self, outputs: Range<usize>, room: &mut Vec<f32>) -> View {
        let len = outputs.len() * self.input;
        room.clear();
        room.reserve(len);
        let step = (len / (4 * rayon::current_num_threads())).max(1 << 12);
        let parts = room.spare_capacity_mut()[..len].par_chunks_mut(step).enumerate();
        parts.for_each(|(i, part)| self.unpack(outputs.start * self.input + i * step, part));
        // SAFETY: every value has been written.
        unsafe { room.set_len(len) };
        View { data: room.as_ptr(), rs: self.input as isize, cs: 1 }
    }

    /// Ranges of outputs, each a panel.
    fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (output, step) =
            (self.output, (PANEL / self.input.max(1)).next_multiple_of(16).max(16));
        (0..output).step_by(step).map(move |from| from..(from + step).min(output))
    }
}

/// The whole weight, `[output, input]`.
pub fn unpacked(w: &PackedWeight<Flex>) -> Vec<f32> {
    let weight = Weight::of(w);
    // SAFETY: `unpack` writes every value.
    unsafe { filled(weight.input * weight.output, 1, |from, part| weight.unpack(from, part)) }
}

/// `x: [rows, in]` times the weight, added to the bias, if there is one.
pub fn forward(x: &FlexTensor, w: &PackedWeight<Flex>, bias: Option<&[f32]>) -> Vec<f32> {
    let weight = Weight::of(w);
    let ((n, k), m) = (dims2(x), weight.output);
    assert_eq!(k, weight.input, "packed linear: the input is not as wide as the weight");
    let mut y = match bias {
        Some(bias) => bias.repeat(n),
        None => vec![0f32; n * m],
    };
    if n <= few::ROWS {
        let x = super::values(x.clone());
        of_few(x.storage(), n, &weight, &mut y);
        return y;
    }
    let mut room = Vec::new();
    for outputs in weight.panels() {
        let panel = weight.panel(outputs.clone(), &mut room).transposed();
        // SAFETY: the panel's columns of `y`, which is ours alone.
        unsafe {
            let to = y.as_mut_ptr().add(outputs.start);
            product([n, outputs.len(), k], (to, m), View::of(x), panel, 1.0, true, true);
        }
    }
    y
}

/// Adds the product of a few rows: each value is unpacked once and used at once.
fn of_few(x: &[f32], rows: usize, weight: &Weight<'_>, y: &mut [f32]) {
    let k = weight.input;
    let sums: Vec<Vec<f32>> = (0..weight.output.div_ceil(OUTPUTS))
        .into_par_iter()
        .map(|task| {
            let mut room: Vec<f32> = Vec::with_capacity(k);
            let outputs = task * OUTPUTS..((task + 1) * OUTPUTS).min(weight.output);
            let mut sums = Vec::with_capacity(OUTPUTS * rows);
            for output in outputs {
                room.clear();
                weight.unpack(output * k, &mut room.spare_capacity_mut()[..k]);
                // SAFETY: every value has been written.
                unsafe { room.set_len(k) };
                sums.extend(x.chunks_exact(k).map(|x| dot(x, &room)));
            }
            sums
        })
        .collect();
    for (i, sum) in sums.iter().flatten().enumerate() {
        let (output, row) = (i / rows, i % rows);
        y[row * weight.output + output] += sum;
    }
}

super::simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum_map(a.len().min(b.len()), |i| a[i] * b[i])
    }
}

/// The gradient of x: `grad [rows, out] · Wᵀ`.
pub fn input_gradient(w: &PackedWeight<Flex>, grad: &[f32], rows: usize) -> Vec<f32> {
    let weight = Weight::of(w);
    let (k, m) = (weight.input, weight.output);
    let mut dx = vec![0f32; rows * k];
    let mut room = Vec::new();
    for outputs in weight.panels() {
        let panel = weight.panel(outputs.clone(), &mut room);
        // SAFETY: the panel's columns of the gradient are read, and `dx` is ours alone.
        unsafe {
            let part = View { data: grad.as_ptr().add(outputs.start), rs: m as isize, cs: 1 };
            let to = (dx.as_mut_ptr(), k);
            product([rows, k, outputs.len()], to, part, panel, 1.0, true, true);
        }
    }
    dx
}
