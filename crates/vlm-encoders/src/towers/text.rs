//! The text tower.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_nn::adapter::{self, put_in_front, seen_in_front};
use vlm_nn::params::blank;
use vlm_nn::{BlockConfig, Linear, Norm, Pass, Stack, ops};

use super::{States, rows_at};

/// The choices that make a [`TextTower`] one of the families.
#[derive(Clone, Debug, PartialEq)]
pub struct TextSpec {
    /// Token ids.
    pub vocabulary: usize,
    /// Longest text in tokens.
    pub context: usize,
    /// Whether positions are learned; otherwise they are rotary.
    pub positions: bool,
    /// Kinds of segments, each with a learned row (BERT); 0 for none.
    pub segments: usize,
    /// Norm on the embeddings (BERT).
    pub embed_norm: bool,
    /// Multiplies the token embeddings (Gemma).
    pub embed_scale: Option<f64>,
    /// The blocks from input to output.
    pub blocks: Vec<BlockConfig>,
    /// What they have in common: widths, norms, activation.
    pub shape: BlockConfig,
    /// Norm after the stack.
    pub final_norm: bool,
    /// Which state stands for the text.
    pub pool: TextPool,
    /// Width of a linear map on that state; without bias or tanh in no family.
    pub dense: Option<usize>,
    /// Whether a tanh follows (BERT).
    pub dense_tanh: bool,
    /// Whether there is a map to the vocabulary.
    pub head: Option<HeadSpec>,
}

/// The map from states to the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// Whether its weight is that of the token embeddings.
    pub tied: bool,
    /// Bends the logits to ±this with a tanh (Gemma 2).
    pub softcap: Option<f64>,
}

/// Which state stands for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// That of the end token with this id; see [`end_places`](crate::end_places).
    End(i64),
    /// The last, padding included (SigLIP).
    Last,
    /// The first (BERT).
    First,
    /// None.
    Absent,
}

/// A text transformer.
#[derive(Module, Debug)]
pub struct TextTower {
    /// `[vocabulary, width]`.
    pub tokens: Param<Tensor<2>>,
    /// `[context, width]`.
    pub positions: Option<Param<Tensor<2>>>,
    /// `[segments, width]`.
    pub segments: Option<Param<Tensor<2>>>,
    /// On the sum of these.
    pub embed_norm: Option<Norm>,
    /// The blocks.
    pub stack: Stack,
    /// After the stack.
    pub final_norm: Option<Norm>,
    /// On the pooled state.
    pub dense: Option<Linear>,
    /// To the vocabulary, where it has a weight of its own.
    pub head: Option<Linear>,
    context: usize,
    embed_scale: Option<f64>,
    dense_tanh: bool,
    causal: bool,
    softcap: Option<f64>,
    #[module(skip)]
    pool: TextPool,
}

impl TextTower {
    /// A blank tower.
    pub fn new(spec: &TextSpec, device: &Device) -> Self {
        let block = &spec.shape;
        let width = block.width;
        let norm = || Norm::new(block.norm, width, block.eps, device);
        let own_head = spec.head.is_some_and(|head| !head.tied);
        TextTower {
            tokens: blank([spec.vocabulary, width], device),
            positions: spec.positions.then(|| blank([spec.context, width], device)),
            segments: (spec.segments > 0).then(|| blank([spec.segments, width], device)),
            embed_norm: spec.embed_norm.then(norm),
            stack: Stack::of(&spec.blocks, device),
            final_norm: spec.final_norm.then(norm),
            dense: spec.dense.map(|out| Linear::new(width, out, true, device)),
            head: own_head.then(|| Linear::new(width, spec.vocabulary, false, device)),
            context: spec.context,
            embed_scale: spec.embed_scale,
            dense_tanh: spec.dense_tanh,
            causal: block.causal,
            softcap: spec.head.and_then(|head| head.softcap),
            pool: spec.pool,
        }
    }

    /// The longest text in tokens, start and end included.
    pub fn context(&self) -> usize {
        // Rows in front take up learned places.
        let ahead = if self.positions.is_some() { self.lead() } else { 0 };
        self.context.saturating_sub(ahead)
    }

    /// How many learned rows and keys stand in front of all tokens.
    fn lead(&self) -> usize {
        adapter::lead(&self.tokens) + self.stack.lead()
    }

    /// Whether a token sees only itself and those before it.
    pub fn causal(&self) -> bool {
        self.causal
    }

    /// The rows of tokens, without what depends on their places: `ids: [batch, tokens]` to
    /// `[batch, tokens, width]`.
    pub fn look_up(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        ops::lookup(self.tokens.val(), ids)
    }

    /// What enters the stack: rows of tokens to `[batch, tokens, width]`; `positions` are the
    /// learned ones of these places.
    fn embed(&self, rows: Tensor<3>, positions: Option<Tensor<3>>) -> Tensor<3> {
        let mut x = rows;
        if let Some(scale) = self.embed_scale {
            x = x * scale;
        }
        // In the reference's order: sums of floats depend on it.
        if let Some(segments) = &self.segments {
            x = x + segments.val().narrow(0, 0, 1).unsqueeze();
        }
        if let Some(positions) = positions {
            x = x + positions;
        }
        match &self.embed_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// The learned positions of texts that begin at the first, `[1, rows, width]`. Learned keys in front
    /// count as places; where they leave too few, the last one is that of several rows.
    fn first_positions(&self, rows: usize) -> Option<Tensor<3>> {
        let table = self.positions.as_ref()?.val();
        let ([places, _], first) = (table.dims(), self.stack.lead());
        if first + rows <= places {
            return Some(table.narrow(0, first, rows).unsqueeze());
        }
        assert!(rows <= places, "{rows} rows, but a text has {places} at most");
        let chosen = (first..first + rows).map(|place| place.min(places - 1) as i64);
        let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [rows]);
        Some(table.clone().select(0, Tensor::from_data(chosen, &table.device())).unsqueeze())
    }

    /// Rows of whole texts and their mask, with the learned rows in front, and how many these are.
    fn with_front(
        &self,
        rows: Tensor<3>,
        mask: Option<Tensor<3>>,
    ) -> (Tensor<3>, Option<Tensor<3>>, usize) {
        let Some(front) = adapter::front(&self.tokens) else { return (rows, mask, 0) };
        let n = front.dims()[0];
        (put_in_front(front, rows), mask.map(|mask| seen_in_front(mask, n)), n)
    }

    /// The learned positions of the places of a pass, `[batch or 1, tokens, width]`.
    fn positions_of(&self, pass: &mut Pass, rows: &Tensor<3>) -> Option<Tensor<3>> {
        let table = self.positions.as_ref()?.val();
        let [batch, tokens, width] = rows.dims();
        let places = pass.positions(batch, tokens);
        let shape = [places.len(), tokens, width];
        let places: Vec<i64> = places.iter().flatten().map(|place| *place as i64).collect();
        let places = TensorData::new(places, [shape[0] * tokens]);
        Some(table.select(0, Tensor::from_data(places, &rows.device())).reshape(shape))
    }

    /// What the tower says of rows `[batch, tokens, width]` that follow what the pass has in its
    /// cache: states behind the last norm, `[batch, tokens, width]`.
    ///
    /// Rows are those of [`look_up`](Self::look_up), or others in their place: what multiplies
    /// tokens' rows (Gemma) multiplies them too.
    ///
    /// # Panics
    /// If a position is not below [`context`](Self::context) in a tower with learned positions.
    pub fn extend(&self, rows: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let rows = pass.with_front(adapter::front(&self.tokens), self.stack.lead(), rows);
        let positions = self.positions_of(pass, &rows);
        let x = self.embed(rows, positions);
        let states = self.normed(self.stack.extend(x, pass));
        behind(states, pass.front())
    }

    fn normed<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.final_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn densed(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.dense {
            None => x,
            Some(dense) if self.dense_tanh => dense.forward(x).tanh(),
            Some(dense) => dense.forward(x),
        }
    }

    /// `ids: [batch, tokens]` to the pooled state `[batch, width]`, that at `places: [batch]`.
    ///
    /// `mask` as in [`padding_mask`](crate::padding_mask). A causal tower needs none: what
    /// follows the end token cannot reach it.
    ///
    /// # Panics
    /// If there are more tokens than [`context`](Self::context).
    pub fn forward(
        &self,
        ids: Tensor<2, Int>,
        places: Tensor<1, Int>,
        mask: Option<Tensor<3>>,
    ) -> Tensor<2> {
        let (rows, mask, front) = self.with_front(self.look_up(ids), mask);
        let positions = self.first_positions(rows.dims()[1]);
        let x = self.stack.forward(self.embed(rows, positions), mask);
        // One row of each text, before the norm: the other rows are not needed.
        self.densed(self.normed(rows_at(x, places + front as i64)))
    }

    /// All that the tower says of texts; `places` where its pool needs them, see
    /// [`pool_places`](crate::pool_places).
    pub fn states(
        &self,
        ids: Tensor<2, Int>,
        places: Option<Tensor<1, Int>>,
        mask: Option<Tensor<3>>,
        layers: bool,
    ) -> States {
        self.states_of_rows(self.look_up(ids), places, mask, layers)
    }

    /// As [`states`](Self::states), of rows `[batch, tokens, width]` that need not be those of
    /// tokens: learned prompts.
    pub fn states_of_rows(
        &self,
        rows: Tensor<3>,
        places: Option<Tensor<1, Int>>,
        mask: Option<Tensor<3>>,
        layers: bool,
    ) -> States {
        let (rows, mask, front) = self.with_front(rows, mask);
        let positions = self.first_positions(rows.dims()[1]);
        let x = self.embed(rows, positions);
        let mut all = Vec::new();
        let last = if layers {
            all = self.stack.forward_all(x, mask);
            all = all.into_iter().map(|x| behind(x, front)).collect();
            all[all.len() - 1].clone()
        } else {
            behind(self.stack.forward(x, mask), front)
        };
        let last = self.normed(last);
        let pooled = places.map(|places| self.densed(rows_at(last.clone(), places)));
        States { last, pooled, layers: all }
    }

    /// Which state stands for a text.
    pub fn pool(&self) -> TextPool {
        self.pool
    }

    /// Ids that there are.
    pub fn vocabulary(&self) -> usize {
        self.tokens.shape()[0]
    }

    /// Logits over the vocabulary of states `[batch, tokens, width]`. They take a lot of room: give
    /// it the states of the places that are asked for, not of all.
    pub fn logits(&self, states: Tensor<3>) -> Tensor<3> {
        let logits = match &self.head {
            Some(head) => head.forward(states),
            None => ops::scores(states, self.tokens.val()),
        };
        match self.softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }
}

/// The rows behind the first ones.
fn behind(x: Tensor<3>, front: usize) -> Tensor<3> {
    let rows = x.dims()[1];
    if front == 0 { x } else { x.narrow(1, front, rows - front) }
}
