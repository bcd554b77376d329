//! Putting a set's questions to a model.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use vlm_datasets::{Conversation, Role};
use vlm_encoders::image::{RgbImage, load};
use vlm_encoders::text::Message;
use vlm_nn::Pass;

use super::lesson::Telling;
use crate::decode::{Decode, Generation, Prompt, Sampling, generate, go_on};
use crate::{Error, GenerativeFolder, Prepared};

/// Questions that are answered together.
const TOGETHER: usize = 16;

/// What a model answers to the last question of each conversation; `heard` is told how many have
/// been answered. Conversations about one picture that stand beside each other are put to the model
/// together: it looks once.
///
/// # Errors
/// If a picture cannot be read, or a conversation cannot be put to the model.
pub fn ask(
    folder: &GenerativeFolder,
    conversations: &[&Conversation],
    telling: Telling<'_>,
    sampling: &Sampling,
    heard: &mut dyn FnMut(usize),
) -> Result<Vec<String>, Error> {
    let mut said = Vec::with_capacity(conversations.len());
    for about in conversations.chunk_by(|a, b| a.pictures == b.pictures) {
        let paths = if telling.blind { &[][..] } else { &about[0].pictures[..] };
        let pictures = paths
            .iter()
            .map(|path| load(path))
            .collect::<Result<Vec<RgbImage>, _>>()
            .map_err(vlm_encoders::Error::from)?;
        for some in about.chunks(TOGETHER) {
            let asked = some
                .iter()
                .map(|conversation| folder.asked(conversation, &pictures, telling))
                .collect::<Result<Vec<Prepared>, Error>>()?;
            for answer in folder.answers(&asked, said.len() as u64, sampling)? {
                let ids: Vec<i64> =
                    answer.ids.into_iter().filter(|id| !sampling.eos.contains(id)).collect();
                let text = folder.tokenizer.decode(&ids).map_err(vlm_encoders::Error::from)?;
                said.push(text.trim().to_owned());
            }
            heard(said.len());
        }
    }
    Ok(said)
}

impl GenerativeFolder {
    /// A conversation up to its last answer.
    fn asked(
        &self,
        conversation: &Conversation,
        pictures: &[RgbImage],
        telling: Telling<'_>,
    ) -> Result<Prepared, Error> {
        let turns = match conversation.turns.split_last() {
            Some((last, before)) if last.role == Role::Assistant => before,
            _ => &conversation.turns[..],
        };
        let messages: Vec<Message> = turns.iter().map(|turn| telling.message(turn)).collect();
        if self.tokenizer.can_chat() {
            return self.prepare_chat(&messages, pictures);
        }
        match messages.as_slice() {
            [question] => self.prepare_marked(&self.marked(question, pictures.len()), pictures),
            _ => Err(Error::NoTemplate { turns: conversation.turns.len() }),
        }
    }

    /// The answers to questions about the same pictures.
    fn answers(
        &self,
        asked: &[Prepared],
        stream: u64,
        sampling: &Sampling,
    ) -> Result<Vec<Generation>, Error> {
        let model = &self.model;
        let mut quiet = |_: usize, _: i64| ControlFlow::Continue(());
        let streams = |rows: &[usize]| rows.iter().map(|row| stream + *row as u64).collect();
        let Some(first) = asked.first() else { return Ok(Vec::new()) };
        let apart = model.prefix() || model.reads_question() || model.gates().is_some();
        if apart || asked.len() == 1 || !sampling.cached {
            let mut prompt = model.prompt(asked)?;
            prompt.streams = streams(&(0..asked.len()).collect::<Vec<_>>());
            return generate(model, &prompt, sampling, &mut quiet);
        }
        // What all begin with is looked at once; something has to be left to go on from.
        let alike = |other: &Prepared| {
            let both = first.ids().iter().zip(other.ids());
            both.take_while(|(a, b)| a == b).count().min(other.ids().len() - 1)
        };
        let shared = asked.iter().map(alike).min().unwrap_or(0);
        let pictures = model.picture_rows(first.pictures())?;
        let rows = asked
            .iter()
            .map(|prepared| model.rows(prepared.ids(), pictures.clone()))
            .collect::<Result<Vec<Tensor<2>>, Error>>()?;
        let width = rows[0].dims()[1];
        let mut beginning = model.new_cache();
        if shared > 0 {
            let x = rows[0].clone().narrow(0, 0, shared).reshape([1, shared, width]);
            model.extend(x, &mut Pass::new().with_cache(&mut beginning));
        }
        let mut said: Vec<Option<Generation>> = vec![None; asked.len()];
        let mut lengths: Vec<usize> = asked.iter().map(|prepared| prepared.ids().len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for length in lengths {
            let of: Vec<usize> =
                (0..asked.len()).filter(|i| asked[*i].ids().len() == length).collect();
            let rest = length - shared;
            let x = of
                .iter()
                .map(|i| rows[*i].clone().narrow(0, shared, rest).reshape([1, rest, width]));
            let prompt = Prompt {
                rows: Tensor::cat(x.collect(), 0),
                ids: of.iter().map(|i| asked[*i].ids().to_vec()).collect(),
                padding: vec![0; of.len()],
                prefix: None,
                beside: None,
                streams: streams(&of),
            };
            let mut cache = beginning.clone();
            if shared > 0 {
                cache.keep(&vec![0; of.len()]);
            }
            let answers = go_on(model, &mut cache, &prompt, sampling, &mut quiet)?;
            for (i, answer) in of.into_iter().zip(answers) {
                said[i] = Some(answer);
            }
        }
        Ok(said.into_iter().flatten().collect())
    }
}
