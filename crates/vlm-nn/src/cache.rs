//! Keys and values of tokens that have been seen.

use burn::tensor::Tensor;

/// Tokens by which the room of a cache grows: so that one more token copies itself and not all
/// before it.
const GROWTH: usize = 256;

/// What the self-attention of each block of a stack keeps of the tokens it has seen, so that a
/// further token costs one row and not the whole text again.
///
/// Keys are kept as they are compared, after their rotation; heads that share keys share them here
/// too. A cache begins empty and grows with each [`Pass`](crate::Pass) that it is handed to. It is
/// for inference: gradients do not flow through it from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    layers: Vec<Option<Layer>>,
    /// The position of each token of each row, padding included.
    positions: Vec<Vec<usize>>,
}

/// Of one block: `[batch, room, kv_heads · head_dim]` each, filled from the start.
#[derive(Clone, Debug)]
struct Layer {
    keys: Tensor<3>,
    values: Tensor<3>,
}

impl Cache {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Cache::default()
    }

    /// Tokens a row, padding included.
    pub fn tokens(&self) -> usize {
        self.positions.first().map_or(0, Vec::len)
    }

    /// Rows; 0 before the first pass.
    pub fn batch(&self) -> usize {
        self.positions.len()
    }

    /// Bytes of its tensors, room that is not filled yet included.
    pub fn bytes(&self) -> usize {
        let values = |x: &Tensor<3>| x.dims().iter().product::<usize>();
        let layers = self.layers.iter().flatten();
        4 * layers.map(|layer| values(&layer.keys) + values(&layer.values)).sum::<usize>()
    }

    /// Forgets all but the first `tokens` of each row.
    pub fn truncate(&mut self, tokens: usize) {
        self.positions.iter_mut().for_each(|row| row.truncate(tokens));
    }

    /// Keeps these rows, in this order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn keep(&mut self, rows: &[usize]) {
        self.positions = rows.iter().map(|row| self.positions[*row].clone()).collect();
        for layer in self.layers.iter_mut().flatten() {
            let of_rows = |x: &Tensor<3>| {
                Tensor::cat(rows.iter().map(|row| x.clone().narrow(0, *row, 1)).collect(), 0)
            };
            *layer = Layer { keys: of_rows(&layer.keys), values: of_rows(&layer.values) };
        }
    }

    /// The positions of all tokens seen.
    pub(crate) fn positions(&self) -> &[Vec<usize>] {
        &self.positions
    }

    /// Counts the tokens of a pass, whose keys follow block by block.
    pub(crate) fn extend(&mut self, positions: &[Vec<usize>]) {
        if self.positions.is_empty() {
            self.positions = vec![Vec::new(); positions.len()];
        }
        assert_eq!(self.positions.len(), positions.len(), "the cache holds another batch");
        for (row, new) in self.positions.iter_mut().zip(positions) {
            row.extend(new);
        }
    }

    /// Writes the keys and values of a block from place `start` on; returns those of all tokens.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        start: usize,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let place = &mut self.layers[layer];
        // Taken out, so that nobody else holds the buffers and they are written in place.
        let old = place.take().map_or((None, None), |l| (Some(l.keys), Some(l.values)));
        let end = start + keys.dims()[1];
        let (keys, values) = (written(old.0, start, keys), written(old.1, start, values));
        *place = Some(Layer { keys: keys.clone(), values: values.clone() });
        (keys.narrow(1, 0, end), values.narrow(1, 0, end))
    }
}

/// The buffer with these rows from `start` on, larger if it must be.
fn written(buffer: Option<Tensor<3>>, start: usize, rows: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, width] = rows.dims();
    let end = start + tokens;
    let buffer = match buffer {
        Some(buffer) if buffer.dims()[1] >= end => buffer,
        old => {
            let larger = [batch, end.next_multiple_of(GROWTH), width];
            let larger = Tensor::zeros(larger, (&rows.device(), rows.dtype()));
            match old {
                Some(old) if start > 0 => {
                    let old = old.narrow(1, 0, start);
                    larger.slice_assign([0..batch, 0..start, 0..width], old)
                }
                _ => larger,
            }
        }
    };
    buffer.slice_assign([0..batch, start..end, 0..width], rows)
}
