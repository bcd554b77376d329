//! Texts that begin with learned vectors.

use burn::tensor::{Device, Tensor, TensorData};
use vlm_encoders::text::Batch;
use vlm_encoders::{
    DualFolder, Pooling, TextModel, TextPool, TextSpec, TextTower, pool_places, text_mask,
};
use vlm_nn::Linear;
use vlm_nn::params;

use crate::Error;
use crate::joined::{Dual, Head, JoinedFolder};
use crate::loss::normalize;

/// A text tower that takes vectors in the place of tokens, on a device that tracks gradients.
pub trait Prompts {
    /// Where it is.
    fn device(&self) -> Device;

    /// The rows of a text's tokens, `[tokens, width]`, without start and end.
    ///
    /// # Errors
    /// If the tokenizer fails.
    fn look_up(&self, text: &str) -> Result<Tensor<2>, Error>;

    /// Features `[classes, dim]`, rows of length 1, of texts that hold a context and then the name
    /// of a class. `context: [1 or classes, tokens, width]`.
    fn encode(&self, context: Tensor<3>) -> Tensor<2>;
}

/// How a tower's states become features.
enum Reader {
    One(Option<Linear>),
    Joined(Box<(Pooling, TextModel, Head)>),
}

/// A text to its tokens.
type Tokenize = dyn Fn(&str) -> Result<Batch, vlm_encoders::Error>;

/// The prompts of a dual encoder.
pub struct DualPrompts {
    tower: TextTower,
    spec: TextSpec,
    reader: Reader,
    /// Start, name, end and padding of each class.
    names: Batch,
    tokenize: Box<Tokenize>,
}

impl DualPrompts {
    /// From a dual encoder that was opened on a device that tracks gradients. Its weights are
    /// frozen.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn new(dual: Dual, labels: &[String]) -> Result<Self, Error> {
        match dual {
            Dual::One(folder) => {
                let names = folder.tokenize(labels)?;
                let DualFolder { plan, model, tokenizer, .. } = folder;
                let (spec, model) = (plan.spec.text, params::set_trainable(model, &|_| false));
                let (kept, reader) = (spec.clone(), Reader::One(model.text_projection));
                let tokenize =
                    Box::new(move |text: &str| kept.tokenize(&tokenizer, &[text.to_owned()]));
                Ok(DualPrompts { tower: model.text, spec, reader, names, tokenize })
            }
            Dual::Joined(folder) => {
                let names = folder.text.tokenize(labels)?;
                let JoinedFolder { text, joint, .. } = folder;
                let spec = text.plan.spec.clone();
                let model = params::set_trainable(text.model.clone(), &|_| false);
                let head = params::set_trainable(joint.text_head.clone(), &|_| false);
                let tower = model.text.clone();
                let reader = Reader::Joined(Box::new((text.pooling.clone(), model, head)));
                let tokenize = Box::new(move |one: &str| text.tokenize(&[one.to_owned()]));
                Ok(DualPrompts { tower, spec, reader, names, tokenize })
            }
        }
    }

    /// How many tokens stand before a name. SigLIP's texts have no start.
    fn before(&self) -> usize {
        usize::from(self.spec.pool != TextPool::Last)
    }

    /// Longest context that leaves the longest name whole.
    pub fn room(&self) -> usize {
        let longest = self
            .names
            .mask
            .chunks(self.names.cols.max(1))
            .map(|row| row.iter().filter(|seen| **seen).count());
        self.spec.context.saturating_sub(longest.max().unwrap_or(0))
    }
}

/// A batch with room for `count` tokens after the first `at` of each text.
fn opened(batch: &Batch, at: usize, count: usize, context: usize) -> Batch {
    let cols = (batch.cols + count).min(context);
    let mut open = Batch { ids: vec![], mask: vec![], types: vec![], cols, ..batch.clone() };
    for row in 0..batch.rows {
        let old = row * batch.cols..(row + 1) * batch.cols;
        let (ids, mask, types) =
            (&batch.ids[old.clone()], &batch.mask[old.clone()], &batch.types[old]);
        fill(&mut open.ids, ids, at, count, 0, cols);
        fill(&mut open.mask, mask, at, count, true, cols);
        fill(&mut open.types, types, at, count, 0, cols);
    }
    open
}

fn fill<T: Copy>(to: &mut Vec<T>, row: &[T], at: usize, count: usize, with: T, cols: usize) {
    let end = to.len() + cols;
    to.extend(&row[..at]);
    to.extend(std::iter::repeat_n(with, count));
    to.extend(&row[at..]);
    // What falls off is padding, or more than the tower could read.
    to.truncate(end);
}

impl Prompts for DualPrompts {
    fn device(&self) -> Device {
        self.tower.tokens.val().device()
    }

    fn look_up(&self, text: &str) -> Result<Tensor<2>, Error> {
        let batch = (self.tokenize)(text)?;
        let seen = batch.mask.iter().filter(|seen| **seen).count();
        let inner = self.before()..seen.saturating_sub(1).max(self.before());
        let ids = batch.ids[inner.clone()].to_vec();
        let ids = Tensor::from_data(TensorData::new(ids, [1, inner.len()]), &self.device());
        let rows = self.tower.look_up(ids);
        let width = rows.dims()[2];
        Ok(rows.reshape([inner.len(), width]))
    }

    fn encode(&self, context: Tensor<3>) -> Tensor<2> {
        let ([_, count, width], device) = (context.dims(), self.device());
        let (at, classes) = (self.before(), self.names.rows);
        let batch = opened(&self.names, at, count, self.spec.context);
        let cols = batch.cols;
        let ids = Tensor::from_data(TensorData::new(batch.ids.clone(), [classes, cols]), &device);
        let rows = self.tower.look_up(ids);
        let mut parts = vec![context.expand([classes, count, width])];
        if at > 0 {
            parts.insert(0, rows.clone().narrow(1, 0, at));
        }
        parts.push(rows.narrow(1, at + count, cols - at - count));
        let places = pool_places(&batch, self.spec.pool);
        let places = Tensor::from_data(TensorData::new(places, [classes]), &device);
        let mask = match self.spec.pool {
            TextPool::Last => None,
            _ => text_mask(&batch, &device),
        };
        let places = (self.spec.pool != TextPool::Absent).then_some(places);
        let states = self.tower.states_of_rows(Tensor::cat(parts, 1), places, mask, false);
        normalize(match &self.reader {
            Reader::One(projection) => {
                let pooled = states.pooled.unwrap_or_else(|| unreachable!("a dual encoder pools"));
                match projection {
                    Some(projection) => projection.forward(pooled),
                    None => pooled,
                }
            }
            Reader::Joined(parts) => {
                let (pooling, model, head) = &**parts;
                head.forward(pooling.features(model, &states, &batch))
            }
        })
    }
}
