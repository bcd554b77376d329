//! What a model is told before it speaks.

use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_nn::adapter::Entries;
use vlm_nn::{Between, Pass};

use super::Decode;
use crate::Error;
use crate::fuse::Beside;
use crate::masks::{self, Sight};

/// A batch of prompts, shorter ones padded on the left.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What stands for each token, `[batch, places, width]`: its row, or one of a picture.
    pub rows: Tensor<3>,
    /// The tokens of each prompt without padding, those of pictures included.
    pub ids: Vec<Vec<i64>>,
    /// Places before the first token of each.
    pub padding: Vec<usize>,
    /// How many tokens, from the first of each on, see each other both ways (prefix-LM); `None`
    /// where each token sees only those before it.
    pub prefix: Option<Vec<usize>>,
    /// Pictures beside the texts, of a model that looks at them there.
    pub beside: Option<Beside>,
    /// What the feed-forwards find of pictures, of a model with an adapter that keeps them there.
    pub memory: Option<Entries>,
    /// Which stream of random numbers each answer draws from: its place in the batch, unless set.
    /// Set to the number of the question in a data set, answers do not depend on the batch.
    pub streams: Vec<u64>,
}

impl Prompt {
    /// Of texts.
    ///
    /// # Errors
    /// If a text has no tokens, or one that the model does not know.
    pub fn of_ids(model: &(impl Decode + ?Sized), ids: Vec<Vec<i64>>) -> Result<Self, Error> {
        let vocabulary = model.vocabulary();
        for (row, ids) in ids.iter().enumerate() {
            if let Some(&id) = ids.iter().find(|id| !(0..vocabulary as i64).contains(*id)) {
                return Err(Error::UnknownToken { row, id, vocabulary });
            }
        }
        let device = model.device();
        let look_up = |ids: &Vec<i64>| {
            let all = TensorData::new(ids.clone(), [1, ids.len()]);
            let rows = model.look_up(Tensor::<2, Int>::from_data(all, &device));
            let [_, tokens, width] = rows.dims();
            rows.reshape([tokens, width])
        };
        if let Some(row) = ids.iter().position(Vec::is_empty) {
            return Err(Error::EmptyPrompt { row });
        }
        let rows = ids.iter().map(look_up).collect();
        Self::of_rows(rows, ids)
    }

    /// Of rows `[tokens, width]` of each prompt and the tokens that they stand for.
    ///
    /// # Errors
    /// If a prompt has no tokens, or another number of rows.
    pub fn of_rows(rows: Vec<Tensor<2>>, ids: Vec<Vec<i64>>) -> Result<Self, Error> {
        if rows.is_empty() {
            return Err(Error::EmptyPrompt { row: 0 });
        }
        for (row, (rows, ids)) in rows.iter().zip(&ids).enumerate() {
            if ids.is_empty() {
                return Err(Error::EmptyPrompt { row });
            }
            if rows.dims()[0] != ids.len() {
                return Err(Error::PromptRows { row, ids: ids.len(), rows: rows.dims()[0] });
            }
        }
        let places = ids.iter().map(Vec::len).max().unwrap_or(0);
        let padding: Vec<usize> = ids.iter().map(|ids| places - ids.len()).collect();
        let padded = rows.into_iter().zip(&padding).map(|(rows, padding)| {
            let width = rows.dims()[1];
            let rows = match padding {
                0 => rows,
                n => Tensor::cat(vec![Tensor::zeros([*n, width], &rows.device()), rows], 0),
            };
            rows.reshape([1, places, width])
        });
        let rows = Tensor::cat(padded.collect(), 0);
        let streams = (0..ids.len() as u64).collect();
        Ok(Prompt { rows, ids, padding, prefix: None, beside: None, memory: None, streams })
    }

    /// A pass over places `from..to`, of which there may be more than the prompt has: those of the
    /// answers. All before `from` are in the pass's cache.
    pub fn pass(&self, from: usize, to: usize, context: usize) -> Pass<'_> {
        let places = |padding: &usize| {
            let position = |place: usize| place.saturating_sub(*padding);
            // Beyond the context there are only answers that have ended.
            (from..to).map(|place| position(place).min(context.saturating_sub(1))).collect()
        };
        let between = self.beside.as_ref().map(|beside| beside as &dyn Between);
        let pass = Pass::new()
            .with_positions(self.padding.iter().map(places).collect())
            .with_between(between)
            .with_memory(self.memory.as_ref());
        let device = self.rows.device();
        if self.prefix.is_some() && from < self.rows.dims()[1] {
            return pass.with_mask(self.prefix_mask(from, to, &device)).open();
        }
        pass.with_mask(self.padding_mask(to, &device))
    }

    /// Hides the padding; `[batch, 1, to]`.
    fn padding_mask(&self, to: usize, device: &Device) -> Option<Tensor<3>> {
        let seen = |row: usize, _, key| key >= self.padding[row];
        Sight::of([self.padding.len(), 1, to], seen).mask(device)
    }

    /// Hides the padding and what comes later, but for what the prefix has; `[batch, to − from, to]`.
    fn prefix_mask(&self, from: usize, to: usize, device: &Device) -> Option<Tensor<3>> {
        let prefixes = self.prefix.iter().flatten().copied().chain(std::iter::repeat(0));
        let row = |(padding, prefix): (&usize, usize)| {
            let mut tokens = masks::padding(*padding);
            tokens.extend(masks::prefix(prefix, to - padding));
            tokens
        };
        let rows: Vec<_> = self.padding.iter().zip(prefixes).map(row).collect();
        Sight::among(&rows).last(to - from).mask(device)
    }
}
