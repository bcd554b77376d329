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
const TOGETHER: usize = 128;
/// Questions about one picture among them.
const ABOUT_ONE: usize = 16;
/// Tokens of prompts from which on no more are put together: pictures in tiles take over a thousand.
const TOKENS: usize = 1 << 14;

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
    let mut asked: Vec<Vec<Prepared>> = Vec::new();
    let about = conversations.chunk_by(|a, b| a.pictures == b.pictures);
    let mut parts = about.flat_map(|about| about.chunks(ABOUT_ONE)).peekable();
    while let Some(about) = parts.next() {
        let paths = if telling.blind { &[][..] } else { &about[0].pictures[..] };
        let pictures = paths
            .iter()
            .map(|path| load(path))
            .collect::<Result<Vec<RgbImage>, _>>()
            .map_err(vlm_encoders::Error::from)?;
        let questions = about
            .iter()
            .map(|conversation| folder.asked(conversation, &pictures, telling))
            .collect::<Result<Vec<Prepared>, Error>>()?;
        asked.push(questions);
        let waiting: usize = asked.iter().map(Vec::len).sum();
        let tokens: usize = asked.iter().flatten().map(|prepared| prepared.ids().len()).sum();
        let fits = |next: &&[&Conversation]| waiting + next.len() <= TOGETHER && tokens < TOKENS;
        if parts.peek().is_some_and(fits) {
            continue;
        }
        for answer in folder.answers(&asked, said.len() as u64, sampling)? {
            let ids: Vec<i64> =
                answer.ids.into_iter().filter(|id| !sampling.eos.contains(id)).collect();
            let text = folder.tokenizer.decode(&ids).map_err(vlm_encoders::Error::from)?;
            said.push(text.trim().to_owned());
        }
        asked.clear();
        heard(said.len());
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

    /// Pictures whose questions are answered together where feed-forwards remember pictures: each question has rows of
    /// its own then, for every block that does not share them.
    fn remembered_together(&self) -> usize {
        const SHARED: usize = 8;
        self.model.memory().map_or(1, |memory| if memory.is_shared() { SHARED } else { 1 })
    }

    /// The answers to questions, a list for each picture (or group of pictures) that they are about.
    fn answers(
        &self,
        asked: &[Vec<Prepared>],
        stream: u64,
        sampling: &Sampling,
    ) -> Result<Vec<Generation>, Error> {
        let model = &self.model;
        let mut quiet = |_: usize, _: i64| ControlFlow::Continue(());
        let remembers = model.memory().is_some();
        let apart = model.prefix() || model.reads_question() || model.gates().is_some();
        if apart || remembers || !sampling.cached {
            let together = if apart || !remembers { 1 } else { self.remembered_together() };
            let mut said = Vec::new();
            for asked in asked.chunks(together) {
                let mut prompt = match remembers {
                    true => {
                        let (mut ids, mut pictures) = (Vec::new(), Vec::new());
                        for asked in asked {
                            let Some(first) = asked.first() else { continue };
                            // The picture of all is looked at once.
                            let seen = model.picture_rows(first.pictures())?;
                            ids.extend(asked.iter().map(|one| one.ids().to_vec()));
                            pictures.extend(vec![seen; asked.len()]);
                        }
                        model.prompt_with(ids, pictures)?
                    }
                    false => model.prompt(&asked[0])?,
                };
                let from = stream + said.len() as u64;
                prompt.streams = (from..from + prompt.ids.len() as u64).collect();
                said.extend(generate(model, &prompt, sampling, &mut quiet)?);
            }
            return Ok(said);
        }
        let all: Vec<&Prepared> = asked.iter().flatten().collect();
        // What each is about.
        let about: Vec<usize> =
            asked.iter().enumerate().flat_map(|(i, of)| vec![i; of.len()]).collect();
        let Some(first) = all.first() else { return Ok(Vec::new()) };
        // What all begin with is looked at once a picture; something has to be left to go on from.
        let alike = |other: &&Prepared| {
            let both = first.ids().iter().zip(other.ids());
            both.take_while(|(a, b)| a == b).count().min(other.ids().len() - 1)
        };
        let shared = all.iter().map(alike).min().unwrap_or(0);
        let mut rows: Vec<Tensor<2>> = Vec::with_capacity(all.len());
        let mut beginnings = Vec::new();
        for asked in asked {
            let Some(first) = asked.first() else { continue };
            let pictures = model.picture_rows(first.pictures())?;
            for (i, prepared) in asked.iter().enumerate() {
                let row = model.rows(prepared.ids(), pictures.clone())?;
                if i == 0 {
                    beginnings.push(row.clone().narrow(0, 0, shared).unsqueeze_dim::<3>(0));
                }
                rows.push(row);
            }
        }
        let width = rows[0].dims()[1];
        let mut beginning = model.new_cache();
        if shared > 0 {
            let x = Tensor::cat(beginnings, 0);
            model.extend(x, &mut Pass::new().with_cache(&mut beginning));
        }
        let mut said: Vec<Option<Generation>> = vec![None; all.len()];
        let mut lengths: Vec<usize> = all.iter().map(|prepared| prepared.ids().len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for length in lengths {
            let of: Vec<usize> = (0..all.len()).filter(|i| all[*i].ids().len() == length).collect();
            let rest = length - shared;
            let x = of
                .iter()
                .map(|i| rows[*i].clone().narrow(0, shared, rest).reshape([1, rest, width]));
            let prompt = Prompt {
                rows: Tensor::cat(x.collect(), 0),
                ids: of.iter().map(|i| all[*i].ids().to_vec()).collect(),
                padding: vec![0; of.len()],
                prefix: None,
                beside: None,
                memory: None,
                streams: of.iter().map(|i| stream + *i as u64).collect(),
            };
            let mut cache = beginning.clone();
            if shared > 0 {
                let of: Vec<usize> = of.iter().map(|i| about[*i]).collect();
                cache.keep(&of);
            }
            let answers = go_on(model, &mut cache, &prompt, sampling, &mut quiet)?;
            for (i, answer) in of.into_iter().zip(answers) {
                said[i] = Some(answer);
            }
        }
        Ok(said.into_iter().flatten().collect())
    }
}
