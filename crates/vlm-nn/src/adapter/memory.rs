//! Rows that a feed-forward finds beside its own.

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use super::{Map, Part};
use crate::ops::{self, Activation};

/// Pictures as further keys and values of the feed-forwards of a stack, in place of tokens among those of the
/// text (memory-space visual prompting, Jie et al. 2024, arXiv 2405.05615). It hangs on the table of tokens.
///
/// With `v = λ · proj(picture)`, padded to the number of slots, the keys are `v + p_k` and the values `v + p_v`.
#[derive(Module, Debug)]
pub struct Memory {
    /// From a picture's features to the inner width.
    pub first: Map,
    /// From there to the width of the stack.
    pub second: Map,
    /// p_k: `[1, slots, width]` for all blocks, or `[blocks, slots, width]`.
    pub keys: Param<Tensor<3>>,
    /// p_v, likewise.
    pub values: Param<Tensor<3>>,
    /// λ.
    #[module(skip)]
    pub lambda: f64,
    /// Factor on what the rows add.
    #[module(skip)]
    pub scale: f64,
    /// Share of the rows' activations that is dropped in training.
    #[module(skip)]
    pub dropout: f64,
}

impl Memory {
    /// Rows for a picture at most.
    pub fn slots(&self) -> usize {
        self.keys.lazy_shape()[1]
    }

    /// Whether all blocks have the same rows.
    pub fn is_shared(&self) -> bool {
        self.keys.lazy_shape()[0] == 1
    }

    /// Width of the features of pictures.
    pub fn picture_width(&self) -> usize {
        self.first.weight.lazy_shape()[0]
    }

    /// What texts find beside the feed-forwards: for each the features of its picture, `[rows, picture width]`,
    /// if it has one.
    ///
    /// # Panics
    /// If a picture has more rows than there are slots.
    pub fn entries(&self, pictures: &[Option<Tensor<2>>], device: &Device) -> Entries {
        let (slots, width) = (self.slots(), self.keys.lazy_shape()[2]);
        let there: Vec<Tensor<2>> = pictures.iter().flatten().cloned().collect();
        let mut made = match there.is_empty() {
            true => None,
            false => {
                let all = Tensor::cat(there, 0).unsqueeze::<3>();
                let made = self.second.forward(silu(self.first.forward(all))) * self.lambda;
                let [_, rows, _] = made.dims();
                Some((made.reshape([rows, width]), 0))
            }
        };
        let of_text = |picture: &Option<Tensor<2>>| {
            let rows = picture.as_ref().map_or(0, |picture| picture.dims()[0]);
            assert!(rows <= slots, "a picture has {rows} rows for {slots} slots");
            let mut parts = Vec::new();
            if let (Some((made, at)), true) = (&mut made, rows > 0) {
                parts.push(made.clone().narrow(0, *at, rows));
                *at += rows;
            }
            if rows < slots {
                parts.push(Tensor::zeros([slots - rows, width], device));
            }
            Tensor::cat(parts, 0).unsqueeze::<3>()
        };
        let rows = Tensor::cat(pictures.iter().map(of_text).collect(), 0);
        let blocks = self.keys.lazy_shape()[0];
        let with =
            |own: &Param<Tensor<3>>, block: usize| rows.clone() + own.val().narrow(0, block, 1);
        let keys = (0..blocks).map(|block| with(&self.keys, block)).collect();
        let values = (0..blocks).map(|block| with(&self.values, block)).collect();
        Entries { keys, values, scale: self.scale, dropout: self.dropout }
    }
}

/// Keys and values beside those of feed-forwards, `[batch, slots, width]`: of all blocks, or of each.
#[derive(Clone, Debug)]
pub struct Entries {
    keys: Vec<Tensor<3>>,
    values: Vec<Tensor<3>>,
    scale: f64,
    dropout: f64,
}

impl Entries {
    /// What they add to a block's feed-forward of `x: [batch, tokens, width]`: `s · drop(act(x keysᵀ)) values`.
    pub fn said(&self, block: usize, x: Tensor<3>, activation: Activation) -> Tensor<3> {
        let own = |all: &[Tensor<3>]| all[block.min(all.len() - 1)].clone();
        let found = ops::activate(x.matmul(own(&self.keys).transpose()), activation);
        super::dropped(found, self.dropout).matmul(own(&self.values)) * self.scale
    }
}

/// The memory that hangs on a table of tokens.
pub fn memory(table: &Param<Tensor<2>>) -> Option<&Memory> {
    let parts = super::active(table).filter_map(|part| match part {
        Part::Memory(part) => Some(part),
        _ => None,
    });
    parts.last()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    /// The generator of methods.md, section 14.
    fn numbers(rows: usize, [a, m, o]: [usize; 3]) -> Tensor<3> {
        let value = |i: usize| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0;
        let values: Vec<f32> = (0..rows * 4).map(value).collect();
        Tensor::from_data(TensorData::new(values, [1, rows, 4]), &Device::flex())
    }

    #[test]
    fn the_term_has_its_published_value() {
        let v = numbers(3, [7, 23, 5]) * 0.01;
        let entries = Entries {
            keys: vec![v.clone() + numbers(3, [5, 13, 3])],
            values: vec![v + numbers(3, [3, 7, 1])],
            scale: 0.1,
            dropout: 0.0,
        };
        let said = entries.said(5, numbers(2, [11, 29, 4]), Activation::Silu);
        let want = [
            -0.001_870_8,
            0.001_556_7,
            -0.000_294_2,
            0.000_210_1,
            0.005_998,
            -0.000_893_6,
            0.004_844_9,
            -0.005_092_7,
        ];
        for (got, want) in said.into_data().iter::<f32>().zip(want) {
            assert!((got - want).abs() < 2e-7, "{got} and {want}");
        }
    }
}
