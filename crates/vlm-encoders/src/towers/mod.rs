//! The image tower and the text tower: configurations of the one stack.

mod grid;
mod text;
mod vision;

pub use text::{HeadSpec, TextPool, TextSpec, TextTower};
pub use vision::{Patches, Places, PostNorm, VisionPool, VisionSpec, VisionTower};

use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_nn::ops::MASKED;

/// What a tower says of a batch, as transformers names it.
#[derive(Clone, Debug)]
pub struct States {
    /// `last_hidden_state`, `[batch, tokens, width]`.
    pub last: Tensor<3>,
    /// `pooler_output`, `[batch, width]`; `None` where the family has none.
    pub pooled: Option<Tensor<2>>,
    /// `hidden_states`: before the first block and after each; empty if not asked for.
    pub layers: Vec<Tensor<3>>,
}

/// What is added to the scores of hidden keys: `[rows, cols]` to `[rows, 1, cols]`, or nothing
/// if all are seen.
pub fn padding_mask(seen: &[bool], rows: usize, cols: usize, device: &Device) -> Option<Tensor<3>> {
    if seen.iter().all(|seen| *seen) {
        return None;
    }
    let values: Vec<f32> = seen.iter().map(|seen| if *seen { 0.0 } else { MASKED }).collect();
    Some(Tensor::from_data(TensorData::new(values, [rows, 1, cols]), device))
}

/// One row of each sample: `x: [batch, tokens, width]` at `places: [batch]`.
pub(crate) fn rows_at(x: Tensor<3>, places: Tensor<1, Int>) -> Tensor<2> {
    let [b, t, width] = x.dims();
    let rows = Tensor::arange(0..b as i64, &places.device()) * t as i64 + places;
    x.reshape([b * t, width]).select(0, rows)
}
