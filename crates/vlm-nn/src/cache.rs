//! Keys and values of tokens that have been seen.

use burn::tensor::Tensor;

use crate::pass::Sums;

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
    /// Of blocks whose attention is skipped: sums over what was seen, at some numbers of tokens.
    sums: Vec<Vec<Sum>>,
    /// The position of each token of each row, padding included.
    positions: Vec<Vec<usize>>,
}

/// Of one block: `[batch, room, kv_heads · head_dim]` each, filled from the start.
#[derive(Clone, Debug)]
struct Layer {
    keys: Tensor<3>,
    values: Tensor<3>,
}

/// Sums over what a row of a block has seen.
#[derive(Clone, Debug)]
struct Sum {
    /// After so many tokens.
    tokens: usize,
    /// Whether the pass brought one token only.
    single: bool,
    sums: Sums,
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
        let kept: usize = layers.map(|layer| values(&layer.keys) + values(&layer.values)).sum();
        let sums = self.sums.iter().flatten();
        let summed: usize = sums.map(|Sum { sums, .. }| values(&sums.0) + values(&sums.1)).sum();
        4 * (kept + summed)
    }

    /// Forgets all but the first `tokens` of each row, or some more: blocks whose attention is skipped remember
    /// only how it was at the end of each pass of several tokens. Returns how many are left.
    pub fn truncate(&mut self, tokens: usize) -> usize {
        let known = |sums: &Vec<Sum>| {
            let fits = sums.iter().map(|sum| sum.tokens).filter(|at| *at <= tokens);
            fits.max().unwrap_or(0)
        };
        let sums = self.sums.iter().filter(|sums| !sums.is_empty());
        let tokens = sums.map(known).fold(tokens, usize::min);
        self.positions.iter_mut().for_each(|row| row.truncate(tokens));
        self.sums.iter_mut().for_each(|sums| sums.retain(|sum| sum.tokens <= tokens));
        self.tokens()
    }

    /// Keeps these rows, in this order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn keep(&mut self, rows: &[usize]) {
        self.positions = rows.iter().map(|row| self.positions[*row].clone()).collect();
        let of_rows = |x: &Tensor<3>| {
            Tensor::cat(rows.iter().map(|row| x.clone().narrow(0, *row, 1)).collect(), 0)
        };
        for layer in self.layers.iter_mut().flatten() {
            *layer = Layer { keys: of_rows(&layer.keys), values: of_rows(&layer.values) };
        }
        for Sum { sums: (sum, count), .. } in self.sums.iter_mut().flatten() {
            (*sum, *count) = (of_rows(sum), of_rows(count));
        }
    }

    /// The sums of a block after so many tokens; `None` before the first.
    ///
    /// # Panics
    /// If it was cut back to where no pass had ended.
    pub(crate) fn sums(&self, layer: usize, tokens: usize) -> Option<Sums> {
        if tokens == 0 {
            return None;
        }
        let last = self.sums.get(layer).and_then(|sums| sums.last());
        let last = last.filter(|sum| sum.tokens == tokens);
        let Some(last) = last else { panic!("the sums over {tokens} tokens are forgotten") };
        Some(last.sums.clone())
    }

    /// Keeps the sums of a block after a pass that brought `rows` more, `tokens` in all.
    pub(crate) fn remember(&mut self, layer: usize, tokens: usize, rows: usize, sums: Sums) {
        if self.sums.len() <= layer {
            self.sums.resize(layer + 1, Vec::new());
        }
        let known = &mut self.sums[layer];
        // Nobody cuts an answer back to its middle.
        if rows == 1 && known.last().is_some_and(|last| last.single) {
            known.pop();
        }
        known.retain(|sum| sum.tokens < tokens);
        known.push(Sum { tokens, single: rows == 1, sums });
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
