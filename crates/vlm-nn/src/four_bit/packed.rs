//! A weight of four bits on a device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{Code, FourBit, FourBitConfig, Largest, NESTED_BLOCK};
use crate::ops::{self, PackedShape};

/// A weight `[in, out]` of which only the four bits are kept. It is unpacked piece by piece where it is
/// multiplied with, and once more for the gradient of what it was multiplied with; it has none itself.
#[derive(Clone, Debug)]
pub struct Packed {
    codes: Tensor<1, Int>,
    table: Tensor<1>,
    scales: Tensor<1>,
    nested: Tensor<1, Int>,
    map: Tensor<1>,
    code: Code,
    shape: PackedShape,
}

impl Packed {
    /// Of values that lie as PyTorch has them: `[out, in]`.
    ///
    /// # Panics
    /// If they are not `input · output`.
    pub fn new(weight: &FourBit, [input, output]: [usize; 2], device: &Device) -> Self {
        assert_eq!(weight.len, input * output, "not as many values as the map has");
        let ints = |bytes: &[u8], count: usize| {
            let mut words = vec![0i32; count.div_ceil(4).max(1)];
            for (i, byte) in bytes.iter().enumerate() {
                words[i / 4] |= i32::from(*byte) << (8 * (i % 4));
            }
            let count = words.len();
            Tensor::from_data(TensorData::new(words, [count]), (device, DType::I32))
        };
        let floats = |values: &[f32]| {
            Tensor::from_data(
                TensorData::new(values.to_vec(), [values.len()]),
                (device, DType::F32),
            )
        };
        // Whole blocks, so that they can be told apart by their places.
        let blocks = weight.len.div_ceil(weight.block);
        let codes = ints(&weight.packed, (blocks * weight.block).div_ceil(2));
        let (scales, nested, map, offset) = match &weight.largest {
            Largest::Plain(values) => (floats(values), ints(&[], 4), floats(&[0.0]), None),
            Largest::Nested { codes, scales, map, offset } => {
                let whole = scales.len() * NESTED_BLOCK;
                (floats(scales), ints(codes, whole), floats(map), Some(*offset))
            }
        };
        let shape = PackedShape { input, output, block: weight.block, offset };
        let table = floats(&weight.code.values());
        Packed { codes, table, scales, nested, map, code: weight.code, shape }
    }

    /// `[in, out]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.shape.input, self.shape.output]
    }

    /// How it was quantised.
    pub fn config(&self) -> FourBitConfig {
        FourBitConfig { code: self.code, nested: self.shape.offset.is_some() }
    }

    /// `x W (+ b)`: `[..., in]` to `[..., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        let tensors = [&self.table, &self.scales, &self.map];
        ops::packed_linear(x, [&self.codes, &self.nested], tensors, self.shape, bias)
    }

    /// The whole weight, `[in, out]`.
    pub fn values(&self) -> Tensor<2> {
        let tensors = [&self.table, &self.scales, &self.map];
        ops::unpacked([&self.codes, &self.nested], tensors, self.shape).transpose()
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        let count = |dims: [usize; 1]| 4 * dims[0];
        let nested = if self.shape.offset.is_some() {
            count(self.nested.dims()) + count(self.map.dims())
        } else {
            0
        };
        count(self.codes.dims()) + count(self.scales.dims()) + nested
    }

    /// The four bits on the host, as they are stored.
    pub fn to_host(&self) -> FourBit {
        let bytes = |x: &Tensor<1, Int>, count: usize| -> Vec<u8> {
            let words = x.clone().into_data();
            let bytes = words.iter::<i32>().flat_map(i32::to_le_bytes);
            bytes.take(count).collect()
        };
        let floats = |x: &Tensor<1>| -> Vec<f32> { x.clone().into_data().iter().collect() };
        let PackedShape { input, output, block, offset } = self.shape;
        let len = input * output;
        let largest = match offset {
            None => Largest::Plain(floats(&self.scales)),
            Some(offset) => Largest::Nested {
                codes: bytes(&self.nested, len.div_ceil(block)),
                scales: floats(&self.scales),
                map: floats(&self.map),
                offset,
            },
        };
        FourBit {
            code: self.code,
            block,
            len,
            packed: bytes(&self.codes, len.div_ceil(2)),
            largest,
        }
    }
}
