//! The loop.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use vlm_nn::Cache;

use super::{Chooser, Decode, Prompt, Sampling};
use crate::Error;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its tokens; the one that ended it too.
    pub ids: Vec<i64>,
    /// Why it ends.
    pub reason: Reason,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model said so.
    End,
    /// It has as many tokens as were asked for.
    Length,
    /// The model takes no longer text.
    Context,
    /// Whoever listened had heard enough: a stop string.
    Stopped,
}

/// The answers to a batch of prompts, in their order.
///
/// `on_token` is told each token with the number of its prompt, and may break off that answer. A
/// batch gives the answers that each prompt gives alone, as far as rounding allows: another number
/// of rows is multiplied in another order.
///
/// # Errors
/// If a setting makes no sense, a prompt does not fit the model, or the model's weights make no
/// numbers.
pub fn generate(
    model: &(impl Decode + ?Sized),
    prompt: &Prompt,
    sampling: &Sampling,
    on_token: &mut dyn FnMut(usize, i64) -> ControlFlow<()>,
) -> Result<Vec<Generation>, Error> {
    go_on(model, &mut model.new_cache(), prompt, sampling, on_token)
}

/// The same, going on from what a cache holds: the prompt's rows are those after it, while its ids
/// are all tokens, from the first on. The cache then holds the answer too, but for its last token.
///
/// # Errors
/// As [`generate`].
///
/// # Panics
/// If the cache holds other rows than the prompt, or the prompt has padding or a prefix and the
/// cache is not empty.
pub fn go_on(
    model: &(impl Decode + ?Sized),
    cache: &mut Cache,
    prompt: &Prompt,
    sampling: &Sampling,
    on_token: &mut dyn FnMut(usize, i64) -> ControlFlow<()>,
) -> Result<Vec<Generation>, Error> {
    sampling.validate()?;
    let (context, start) = (model.context(), cache.tokens());
    let plain = prompt.padding.iter().all(|padding| *padding == 0) && prompt.prefix.is_none();
    assert!(start == 0 || plain, "only plain prompts go on from a cache");
    if let Some(ids) = prompt.ids.iter().find(|ids| ids.len() > context) {
        return Err(Error::Context { tokens: ids.len(), context });
    }
    let mut answers: Vec<Answer> = (prompt.ids.iter().zip(&prompt.streams))
        .map(|(ids, stream)| Answer {
            chooser: Chooser::new(sampling, ids, *stream),
            room: context - ids.len(),
            said: Generation { ids: Vec::new(), reason: Reason::Length },
            ended: false,
        })
        .collect();
    // Places that have been seen, and the rows that have not.
    let (mut seen, mut rows) = (start, prompt.rows.clone());
    loop {
        let to = seen + rows.dims()[1];
        let mut pass = prompt.pass(seen, to, context);
        if sampling.cached {
            pass = pass.with_cache(cache);
        }
        let states = model.extend(rows.clone(), &mut pass);
        let [batch, tokens, width] = states.dims();
        let last = states.narrow(1, tokens - 1, 1).reshape([batch, 1, width]);
        let logits: Vec<f32> = model.logits(last).into_data().iter().collect();
        let vocabulary = logits.len() / batch;
        let mut next = Vec::with_capacity(batch);
        for (row, (answer, logits)) in answers.iter_mut().zip(logits.chunks(vocabulary)).enumerate()
        {
            let id = answer.hear(row, logits, sampling, on_token);
            next.push(id.ok_or(Error::NotANumber { tokens: to })?);
        }
        if answers.iter().all(|answer| answer.ended) {
            return Ok(answers.into_iter().map(|answer| answer.said).collect());
        }
        let next: Tensor<2, Int> =
            Tensor::from_data(TensorData::new(next, [batch, 1]), &model.device());
        let next = model.look_up(next);
        if sampling.cached {
            (seen, rows) = (to, next);
        } else {
            rows = Tensor::cat(vec![rows, next], 1);
        }
    }
}

/// One answer in the making.
struct Answer<'a> {
    chooser: Chooser<'a>,
    /// Tokens that the context has left.
    room: usize,
    said: Generation,
    ended: bool,
}

impl Answer<'_> {
    /// Chooses the next token; any, once it has ended. `None` if the logits are not numbers.
    fn hear(
        &mut self,
        row: usize,
        logits: &[f32],
        sampling: &Sampling,
        on_token: &mut dyn FnMut(usize, i64) -> ControlFlow<()>,
    ) -> Option<i64> {
        if self.ended {
            return Some(self.said.ids.last().copied().unwrap_or(0));
        }
        let id = self.chooser.next(logits.to_vec())?;
        self.said.ids.push(id);
        let stopped = on_token(row, id).is_break();
        let reason = if sampling.eos.contains(&id) {
            Some(Reason::End)
        } else if stopped {
            Some(Reason::Stopped)
        } else if self.said.ids.len() >= sampling.max_tokens {
            Some(Reason::Length)
        } else if self.said.ids.len() > self.room {
            Some(Reason::Context)
        } else {
            None
        };
        if let Some(reason) = reason {
            (self.said.reason, self.ended) = (reason, true);
        }
        Some(id)
    }
}
