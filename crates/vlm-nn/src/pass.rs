//! What a pass through blocks brings beside its rows.

use burn::tensor::{Device, Tensor, TensorData};

use crate::adapter::{Entries, put_in_front, seen_in_front};
use crate::ops::MASKED;
use crate::{Angles, Cache, Rotary};

/// What one pass through the blocks of a stack brings beside its rows: a mask, positions, and a
/// [`Cache`] of what was seen before. For one pass only; the next one gets its own.
///
/// Without any of them it is a pass over texts that begin at position 0.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use vlm_nn::{BlockConfig, Cache, Pass, Rotary, Stack, params};
///
/// let device = Device::flex();
/// let rotary = Some(Rotary::new(1e4));
/// let config = BlockConfig { width: 32, heads: 4, causal: true, rotary, ..Default::default() };
/// let stack = params::initialize(Stack::new(&config, 2, &device), 7, &|_, _| {
///     params::Init::Normal(0.02)
/// });
/// let mut cache = Cache::new();
/// let prompt = Tensor::<3>::ones([1, 5, 32], &device); // [batch, tokens, width]
/// stack.extend(prompt, &mut Pass::new().with_cache(&mut cache));
/// let next = Tensor::<3>::ones([1, 1, 32], &device);
/// assert_eq!(stack.extend(next, &mut Pass::new().with_cache(&mut cache)).dims(), [1, 1, 32]);
/// assert_eq!(cache.tokens(), 6);
/// ```
#[derive(Debug, Default)]
pub struct Pass<'a> {
    mask: Option<Tensor<3>>,
    positions: Option<Vec<Vec<usize>>>,
    cache: Option<&'a mut Cache>,
    open: bool,
    between: Option<&'a dyn Between>,
    memory: Option<&'a Entries>,
    /// Learned keys in front, and learned rows behind those and before the tokens.
    lead: usize,
    front: usize,
    begun: Option<Begun>,
}

/// What stands between the blocks of a stack and is no part of it, such as gated cross-attention.
pub trait Between: std::fmt::Debug {
    /// What enters the stack's block `layer`, counted from 0, in place of `x: [batch, tokens,
    /// width]`; `positions` are those of the tokens, one row if all rows are alike.
    fn before(&self, layer: usize, x: Tensor<3>, positions: &[Vec<usize>]) -> Tensor<3>;
}

/// What is known once the first block has seen the rows, shared by all blocks.
#[derive(Debug)]
struct Begun {
    /// Tokens in the cache before.
    start: usize,
    /// Learned rows among those of the pass.
    front: usize,
    /// Positions of the rows' tokens among tokens; of one row if all are alike.
    tokens: Vec<Vec<usize>>,
    /// Places of all rows of the pass, those in front and behind it counted, likewise.
    queries: Vec<Vec<usize>>,
    /// The same of all that is seen.
    keys: Vec<Vec<usize>>,
    /// For each kind of rotation among the blocks.
    angles: Vec<(Rotary, usize, Angles)>,
    /// For each width of window among the blocks.
    windows: Vec<(usize, Option<Tensor<3>>)>,
}

impl<'a> Pass<'a> {
    /// Nothing but rows.
    pub fn new() -> Self {
        Pass::default()
    }

    /// With a mask that is added to the scores of self-attention: `[batch or 1, queries or 1,
    /// keys]`, 0 where a key is seen and [`MASKED`] where not. The keys are the cached tokens and
    /// those of this pass.
    pub fn with_mask(mut self, mask: Option<Tensor<3>>) -> Self {
        self.mask = mask;
        self
    }

    /// With the position of each token of each row, which rotations and windows go by. Otherwise
    /// they are counted on from what the cache holds.
    ///
    /// Rows that are padded on the left, or hold several texts that go on from the same place, have
    /// positions of their own.
    pub fn with_positions(mut self, positions: Vec<Vec<usize>>) -> Self {
        self.positions = Some(positions);
        self
    }

    /// With what was seen before; the cache has the rows of this pass too after it.
    ///
    /// Rotations stretched by the length of a text ([`Dynamic`](crate::RopeScaling::Dynamic),
    /// [`LongRope`](crate::RopeScaling::LongRope)) go by each row's length at the time, as in
    /// transformers: when a text outgrows the length that a model was trained on, keys in the cache
    /// stay as they were turned.
    pub fn with_cache(mut self, cache: &'a mut Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Turns causality off: the mask alone says who sees whom. Windows stay.
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// With something between the blocks.
    pub fn with_between(mut self, between: Option<&'a dyn Between>) -> Self {
        self.between = between;
        self
    }

    /// With rows that the feed-forwards find beside their own.
    pub fn with_memory(mut self, memory: Option<&'a Entries>) -> Self {
        self.memory = memory;
        self
    }

    /// What the feed-forwards find beside their own rows.
    pub(crate) fn memory(&self) -> Option<&'a Entries> {
        self.memory
    }

    /// What another pass over the same rows needs, if that is all there is to this one, which has not begun.
    pub(crate) fn frame(&self) -> Option<Frame> {
        let more = self.cache.is_some() || self.between.is_some() || self.memory.is_some();
        if more || self.begun.is_some() {
            return None;
        }
        Some(Frame {
            mask: self.mask.clone().map(plain),
            positions: self.positions.clone(),
            open: self.open,
            lead: self.lead,
            front: self.front,
        })
    }

    /// Counts so many learned keys in front of everything.
    pub(crate) fn lead(&mut self, keys: usize) {
        let same = self.begun.is_none() || self.lead == keys;
        assert!(same, "blocks have different numbers of learned keys in front");
        self.lead = keys;
    }

    /// The rows of this pass `[batch, tokens, width]` with learned ones `[n, width]` in front of the
    /// first text's first token: they are part of the first pass alone, and are seen in all. Positions
    /// and masks of the pass are those of the tokens. `keys` stand in front in a stack's blocks; see
    /// [`Stack::lead`](crate::Stack::lead).
    pub fn with_front(
        &mut self,
        front: Option<Tensor<2>>,
        keys: usize,
        rows: Tensor<3>,
    ) -> Tensor<3> {
        self.lead = keys;
        let Some(front) = front else { return rows };
        self.front = front.dims()[0];
        if self.start() == 0 { put_in_front(front, rows) } else { rows }
    }

    /// How many of the rows of this pass are learned ones in front of the tokens.
    pub fn front(&self) -> usize {
        if self.begun.as_ref().map_or_else(|| self.start(), |begun| begun.start) == 0 {
            self.front
        } else {
            0
        }
    }

    fn start(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.tokens())
    }

    /// What enters block `layer` in place of `x`.
    pub(crate) fn before(&mut self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let Some(between) = self.between else { return x };
        let [batch, rows, _] = x.dims();
        let begun = self.begin(batch, rows);
        let front = begun.front;
        if front == 0 {
            return between.before(layer, x, &begun.tokens);
        }
        let tokens = between.before(layer, x.clone().narrow(1, front, rows - front), &begun.tokens);
        Tensor::cat(vec![x.narrow(1, 0, front), tokens], 1)
    }

    /// Whether causal blocks are causal in this pass.
    pub(crate) fn causal(&self) -> bool {
        !self.open
    }

    /// The places of the rows of the pass, what is in front counted; one list if all rows are alike.
    pub fn positions(&mut self, batch: usize, rows: usize) -> &[Vec<usize>] {
        &self.begin(batch, rows).queries
    }

    fn begin(&mut self, batch: usize, rows: usize) -> &mut Begun {
        if self.begun.is_none() {
            self.begun = Some(self.began(batch, rows));
        }
        self.begun.as_mut().unwrap_or_else(|| unreachable!("just made"))
    }

    fn began(&mut self, batch: usize, rows: usize) -> Begun {
        let (start, front, ahead) = (self.start(), self.front(), self.lead + self.front);
        let count = rows - front;
        let tokens = self.positions.take().unwrap_or_else(|| {
            let next = |row: &Vec<usize>| row.last().map_or(0, |last| last + 1);
            let from: Vec<usize> = match &self.cache {
                Some(cache) if start > 0 => cache.positions().iter().map(next).collect(),
                _ => vec![0; batch],
            };
            from.into_iter().map(|from| (from..from + count).collect()).collect()
        });
        assert!(
            tokens.len() == batch && tokens.iter().all(|row| row.len() == count),
            "positions do not fit rows [{batch}, {count}]"
        );
        let seen = match &mut self.cache {
            None => tokens.clone(),
            Some(cache) => {
                cache.extend(&tokens);
                cache.positions().to_vec()
            }
        };
        let (tokens, seen) = (alike(tokens), alike(seen));
        let behind = |rows: &[Vec<usize>], first: usize| -> Vec<Vec<usize>> {
            let row =
                |row: &Vec<usize>| (first..ahead).chain(row.iter().map(|p| p + ahead)).collect();
            rows.iter().map(row).collect()
        };
        self.mask = self.mask.take().map(|mask| self.mask_behind(mask, front));
        let (angles, windows) = (Vec::new(), Vec::new());
        let (queries, keys) = (behind(&tokens, ahead - front), behind(&seen, 0));
        Begun { start, front, tokens, queries, keys, angles, windows }
    }

    /// A mask of tokens, with what is in front of them: all see that, and it sees what is before it.
    fn mask_behind(&self, mask: Tensor<3>, front: usize) -> Tensor<3> {
        let mask = seen_in_front(mask, self.lead + self.front);
        let [batch, queries, keys] = mask.dims();
        if front == 0 || queries == 1 {
            return mask;
        }
        let seen = |i: usize, j: usize| if j <= self.lead + i { 0.0 } else { MASKED };
        let values: Vec<f32> =
            (0..front).flat_map(|i| (0..keys).map(move |j| seen(i, j))).collect();
        let first: Tensor<3> =
            Tensor::from_data(TensorData::new(values, [1, front, keys]), &mask.device());
        Tensor::cat(vec![first.expand([batch, front, keys]), mask], 1)
    }

    /// Adds a block's keys and values to the cache; returns all that are seen, `front` before them.
    pub(crate) fn remember(
        &mut self,
        layer: usize,
        (mut keys, mut values): (Tensor<3>, Tensor<3>),
        front: Option<(Tensor<2>, Tensor<2>)>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [batch, rows, _] = keys.dims();
        let start = self.begin(batch, rows).start;
        let ahead = self.lead + self.front;
        if let Some((front_keys, front_values)) = front.filter(|_| start == 0) {
            assert_eq!(front_keys.dims()[0], self.lead, "blocks differ in learned keys in front");
            keys = put_in_front(front_keys, keys);
            values = put_in_front(front_values, values);
        }
        let place = if start == 0 { 0 } else { ahead + start };
        match &mut self.cache {
            None => (keys, values),
            Some(cache) => cache.append(layer, place, keys, values),
        }
    }

    /// For each row of this pass the mean of `x: [batch, rows, width]` over what it sees, what the cache
    /// remembers of the block's earlier rows among it.
    pub(crate) fn mean(&mut self, layer: usize, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let [batch, rows, _] = x.dims();
        let start = self.begin(batch, rows).start;
        let (mask, causal) = (self.mask.clone(), causal && !self.open);
        let before = self.cache.as_ref().and_then(|cache| cache.sums(layer, start));
        let (mean, sums) = mean_of_seen(x, mask, causal, before);
        if let Some(cache) = &mut self.cache {
            cache.remember(layer, start + rows, rows, sums);
        }
        mean
    }

    /// The angles of a rotation at the positions of the rows `[batch, tokens]`.
    pub(crate) fn angles(
        &mut self,
        rotary: &Rotary,
        head_dim: usize,
        [batch, tokens]: [usize; 2],
        device: &Device,
    ) -> Angles {
        let begun = self.begin(batch, tokens);
        let known = begun.angles.iter().find(|(kind, head, _)| kind == rotary && *head == head_dim);
        if let Some((_, _, angles)) = known {
            return angles.clone();
        }
        let angles = rotary.angles_at(head_dim, &begun.queries, device);
        begun.angles.push((rotary.clone(), head_dim, angles.clone()));
        angles
    }

    /// The mask of blocks that see a window only, or all.
    pub(crate) fn mask(&mut self, window: Option<usize>, device: &Device) -> Option<Tensor<3>> {
        let (Some(window), Some(begun)) = (window, &mut self.begun) else {
            return self.mask.clone();
        };
        if let Some((_, mask)) = begun.windows.iter().find(|(width, _)| *width == window) {
            return mask.clone();
        }
        let near = near(&begun.queries, &begun.keys, window, device);
        let mask = match (self.mask.clone(), near) {
            // Two masks may hide the same place: their sum has to stay finite.
            (Some(mask), Some(near)) => Some((mask + near).clamp_min(MASKED)),
            (mask, near) => mask.or(near),
        };
        begun.windows.push((window, mask.clone()));
        mask
    }
}

/// A pass that can be made again, with or without gradients.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// On the plain device.
    mask: Option<Tensor<3>>,
    positions: Option<Vec<Vec<usize>>>,
    open: bool,
    lead: usize,
    front: usize,
}

impl Frame {
    /// The pass for rows on their device.
    pub(crate) fn pass(&self, x: &Tensor<3>) -> Pass<'static> {
        Pass {
            mask: self.mask.clone().map(|mask| on_device_of(x, mask)),
            positions: self.positions.clone(),
            open: self.open,
            lead: self.lead,
            front: self.front,
            ..Pass::default()
        }
    }
}

/// A mask on the plain device.
pub(crate) fn plain(mask: Tensor<3>) -> Tensor<3> {
    if mask.is_autodiff() { mask.inner() } else { mask }
}

/// A plain mask, with gradients if `x` has them.
pub(crate) fn on_device_of(x: &Tensor<3>, mask: Tensor<3>) -> Tensor<3> {
    if x.is_autodiff() { Tensor::from_inner(mask) } else { mask }
}

/// For each row of `x: [batch, rows, width]` the mean over those that it sees, by a mask that is added to scores
/// and by causality, and `before`, a sum and the number of what came before, `[batch, 1, width]` and `[batch, 1, 1]`.
/// Beside it sum and number of what the last row sees.
pub(crate) fn mean_of_seen(
    x: Tensor<3>,
    mask: Option<Tensor<3>>,
    causal: bool,
    before: Option<Sums>,
) -> (Tensor<3>, Sums) {
    let ([batch, rows, _], device) = (x.dims(), x.device());
    let mut sees: Tensor<3> = Tensor::ones([1, rows, rows], &device);
    if causal {
        sees = sees.tril(0);
    }
    if let Some(mask) = mask {
        // The last keys are the rows themselves.
        let keys = mask.dims()[2];
        let own = mask.narrow(2, keys - rows, rows);
        sees = sees * own.greater_equal_elem(MASKED / 2.0).float();
    }
    let [some, queries, _] = sees.dims();
    let mut count = sees.clone().sum_dim(2);
    let mut sum = sees.expand([batch, queries, rows]).matmul(x);
    if let Some((old_sum, old_count)) = before {
        sum = sum + old_sum;
        count = count.expand([batch.max(some), queries, 1]) + old_count;
    }
    let last = |x: Tensor<3>| {
        let [_, rows, width] = x.dims();
        x.narrow(1, rows - 1, 1).expand([batch, 1, width])
    };
    let sums = (last(sum.clone()), last(count.clone()));
    let mean = sum / count.clamp_min(1.0);
    let width = mean.dims()[2];
    (mean.expand([batch, rows, width]), sums)
}

/// A sum over tokens, and how many they are.
pub(crate) type Sums = (Tensor<3>, Tensor<3>);

/// One row, if all are equal.
fn alike(mut rows: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    if rows.windows(2).all(|pair| pair[0] == pair[1]) {
        rows.truncate(1);
    }
    rows
}

/// Hides the keys that lie `window` positions before a query, or more; `None` if there are none.
fn near(
    queries: &[Vec<usize>],
    keys: &[Vec<usize>],
    window: usize,
    device: &Device,
) -> Option<Tensor<3>> {
    let (t, s) = (queries.first()?.len(), keys.first()?.len());
    let rows = queries.len().max(keys.len());
    let mut values = vec![0f32; rows * t * s];
    let mut hidden = false;
    for (row, values) in values.chunks_mut((t * s).max(1)).enumerate() {
        // Rows that are alike are kept once.
        let (queries, keys) = (&queries[row % queries.len()], &keys[row % keys.len()]);
        for (query, values) in queries.iter().zip(values.chunks_mut(s.max(1))) {
            for (key, value) in keys.iter().zip(values) {
                if key + window <= *query {
                    (*value, hidden) = (MASKED, true);
                }
            }
        }
    }
    hidden.then(|| Tensor::from_data(TensorData::new(values, [rows, t, s]), device))
}
