//! From a text and pictures to what the model takes.

use vlm_encoders::image::{Pixels, RgbImage};
use vlm_encoders::text::{Content, Message, Part};

use crate::model::rows_of;
use crate::processor::Place;
use crate::{Error, GenerativeFolder};

/// A text with pictures, as the model takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    text: String,
    ids: Vec<i64>,
    pictures: Vec<Pixels>,
}

impl Prepared {
    /// The text as it was cut into tokens, with as many tokens for pictures as they have rows.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// What the image tower sees, in the order of the tokens that stand for it.
    pub fn pictures(&self) -> &[Pixels] {
        &self.pictures
    }
}

impl GenerativeFolder {
    /// A question about pictures.
    ///
    /// A text that marks where its pictures stand (`<image>`) is taken as it is. One that marks none
    /// is put into the model's chat template as the user's turn, a single picture before it; where
    /// there is no template, the picture is put where the family was trained to see it.
    ///
    /// # Errors
    /// [`Error::Pictures`] if there is not one place for each picture; [`Error::Context`] if the
    /// prompt is longer than the model takes; [`Error::PictureTokens`] if the files of the folder
    /// disagree on the rows of a picture.
    pub fn prepare(&self, text: &str, pictures: &[RgbImage]) -> Result<Prepared, Error> {
        if self.places(text) > 0 || pictures.len() > 1 {
            return self.prepare_marked(text, pictures);
        }
        if self.tokenizer.can_chat() {
            let message = match pictures.len() {
                0 => Message::text("user", text),
                _ => Message::image_and_text("user", text),
            };
            return self.prepare_chat(&[message], pictures);
        }
        match pictures.len() {
            0 => self.prepare_marked(text, pictures),
            _ => self.prepare_marked(&self.processor.place(text), pictures),
        }
    }

    /// A chat about pictures, in the order of their marks, up to the beginning of the answer.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare); if there is no chat template, or it refuses the messages.
    pub fn prepare_chat(
        &self,
        messages: &[Message],
        pictures: &[RgbImage],
    ) -> Result<Prepared, Error> {
        let text = self.chat(messages, true)?;
        // As transformers' processors do: the tokenizer's start, unless the template has it.
        self.prepare_text(&text, pictures, !self.begun(&text))
    }

    /// Whether a text begins with the tokenizer's start.
    pub(crate) fn begun(&self, text: &str) -> bool {
        let bos = self.tokenizer.bos_id().and_then(|id| self.tokenizer.id_to_token(id));
        bos.is_some_and(|bos| text.starts_with(&bos))
    }

    /// The text of a chat, with one mark for each picture.
    ///
    /// Messages in parts are for templates that know pictures; for others the marks are put into
    /// the text.
    ///
    /// # Errors
    /// If there is no chat template, or it refuses the messages.
    pub fn chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let in_its_way = |message| match self.knows_parts() {
            true => in_parts(message),
            false => self.as_text(message),
        };
        let messages: Vec<Message> = messages.iter().map(in_its_way).collect();
        let text = self.tokenizer.chat(&messages, add_generation_prompt);
        Ok(text.map_err(vlm_encoders::Error::from)?)
    }

    /// A text that marks the place of each picture, as it is.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_marked(&self, text: &str, pictures: &[RgbImage]) -> Result<Prepared, Error> {
        self.prepare_text(text, pictures, true)
    }

    fn prepare_text(
        &self,
        text: &str,
        pictures: &[RgbImage],
        around: bool,
    ) -> Result<Prepared, Error> {
        let places = self.places(text);
        if places != pictures.len() {
            let token = self.processor.token.clone();
            return Err(Error::Pictures { pictures: pictures.len(), places, token });
        }
        let tiles = pictures
            .iter()
            .map(|picture| self.images.tiles(picture))
            .collect::<Result<Vec<_>, _>>()
            .map_err(vlm_encoders::Error::from)?;
        let places: Vec<Place> = tiles
            .iter()
            .map(|tiles| Place { size: tiles.tiles[0].size(), grid: tiles.grid })
            .collect();
        let pictures: Vec<Pixels> = tiles.into_iter().flat_map(|tiles| tiles.tiles).collect();
        let spec = &self.plan.spec;
        let context = spec.text.context;
        // Before a text of any length is made of a number in a file.
        let least = self.processor.least(spec, &places);
        if least > context {
            return Err(Error::Context { tokens: least, context });
        }
        let text = self.processor.expand(text, spec, &places);
        let ids = self.tokens(&text, around && self.processor.begins())?;
        let tokens = ids.iter().filter(|id| **id == spec.image_token).count();
        let features = places.iter().map(|place| place.pieces() * rows_of(spec, place.size)).sum();
        if tokens != features {
            return Err(Error::PictureTokens { tokens, features });
        }
        if ids.len() > context {
            return Err(Error::Context { tokens: ids.len(), context });
        }
        Ok(Prepared { text, ids, pictures })
    }

    pub(crate) fn tokens(&self, text: &str, around: bool) -> Result<Vec<i64>, Error> {
        // Nothing is cut off in silence: a prompt that is too long is an error.
        const ALL: usize = usize::MAX / 2;
        let encoded = if around {
            self.tokenizer.encode(text, ALL)
        } else {
            self.tokenizer.encode_bare(text, ALL)
        };
        Ok(encoded.map_err(vlm_encoders::Error::from)?.ids)
    }

    pub(crate) fn places(&self, text: &str) -> usize {
        text.matches(&self.processor.token).count()
    }

    pub(crate) fn as_text(&self, message: &Message) -> Message {
        let Content::Parts(parts) = &message.content else { return message.clone() };
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Image => text.push_str(&format!("{}\n", self.processor.token)),
                Part::Text { text: more } => text.push_str(more),
            }
        }
        Message::text(&message.role, text)
    }
}

fn in_parts(message: &Message) -> Message {
    match &message.content {
        Content::Parts(_) => message.clone(),
        Content::Text(text) => Message {
            role: message.role.clone(),
            content: Content::Parts(vec![Part::Text { text: text.clone() }]),
        },
    }
}
