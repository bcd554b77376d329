//! A model that answers, and how prompts are put to it.

use std::path::Path;

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};
use vlm_encoders::image::{RgbImage, load};
use vlm_encoders::text::{Content, Message, Part, Tokenizer};
use vlm_encoders::{Encoder, TextFolder};
use vlm_fusion::decode::{Decode, Prompt};
use vlm_fusion::{GenerativeFolder, Prepared};

use crate::adapter::{Worn, open_encoder, open_generative};

/// A model folder that makes text.
pub enum Speaker {
    /// A decoder, which knows texts only.
    Text(Box<TextFolder>),
    /// A model of pictures and texts.
    Generative(Box<GenerativeFolder>),
}

/// What the image tower said of the pictures of a conversation, which only grows.
#[derive(Default)]
pub struct Looked {
    /// Pictures, each of its tiles counted.
    count: usize,
    rows: Option<Tensor<2>>,
}

impl Speaker {
    /// Opens a folder, with an adapter on the model if there is one.
    ///
    /// # Errors
    /// If it cannot be opened, or its model makes no text.
    pub fn open(dir: &Path, adapter: Option<Worn<'_>>, device: &Device) -> Result<Self> {
        if GenerativeFolder::is_one(dir) {
            return Ok(Speaker::Generative(Box::new(open_generative(dir, adapter, None, device)?)));
        }
        match open_encoder(dir, adapter, None, device)? {
            Encoder::Text(folder)
                if folder.plan.spec.head.is_some() && folder.model.text.causal() =>
            {
                Ok(Speaker::Text(Box::new(folder)))
            }
            _ => bail!(
                "{}: makes no text; give a decoder, such as a LlamaForCausalLM, or a model of pictures and text",
                dir.display()
            ),
        }
    }

    /// What turns texts into ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        match self {
            Speaker::Text(folder) => &folder.tokenizer,
            Speaker::Generative(folder) => &folder.tokenizer,
        }
    }

    /// What makes tokens.
    pub fn decoder(&self) -> &dyn Decode {
        match self {
            Speaker::Text(folder) => &folder.model.text,
            Speaker::Generative(folder) => &folder.model,
        }
    }

    /// Reads a picture to talk about.
    ///
    /// # Errors
    /// If the model sees none, or the file is none.
    pub fn picture(&self, path: &Path) -> Result<RgbImage> {
        match self {
            Speaker::Text(_) => bail!("{}: the model sees no pictures", path.display()),
            Speaker::Generative(_) => Ok(load(path).map_err(vlm_encoders::Error::from)?),
        }
    }

    /// A user's message about so many pictures.
    pub fn message(text: &str, pictures: usize) -> Message {
        if pictures == 0 {
            return Message::text("user", text);
        }
        let parts = std::iter::repeat_n(Part::Image, pictures);
        let parts = parts.chain([Part::Text { text: text.to_owned() }]).collect();
        Message { role: "user".to_owned(), content: Content::Parts(parts) }
    }

    /// One question; `raw` leaves the chat template out.
    ///
    /// # Errors
    /// If there is not one place for each picture, the prompt is too long, or the tokenizer fails.
    pub fn prompt(&self, text: &str, pictures: &[RgbImage], raw: bool) -> Result<Prompt> {
        let chat = !raw && self.tokenizer().can_chat();
        match self {
            Speaker::Text(_) if chat => {
                self.chat(&[Self::message(text, 0)], pictures, &mut Looked::default())
            }
            // Nothing is cut off: a prompt that is too long is an error.
            Speaker::Text(folder) => {
                of_text(folder, folder.tokenizer.encode(text, usize::MAX)?.ids)
            }
            Speaker::Generative(folder) => {
                let token = folder.tokenizer.id_to_token(folder.model.image_token());
                let marked = token.is_some_and(|token| text.contains(&token));
                let prepared = if raw {
                    folder.prepare_marked(text, pictures)
                } else if chat && !marked {
                    folder.prepare_chat(&[Self::message(text, pictures.len())], pictures)
                } else {
                    folder.prepare(text, pictures)
                };
                of_prepared(folder, &prepared?, &mut Looked::default())
            }
        }
    }

    /// A conversation up to the beginning of the answer. Pictures that have been looked at are not
    /// looked at again.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt), and if the template refuses the messages.
    pub fn chat(
        &self,
        messages: &[Message],
        pictures: &[RgbImage],
        looked: &mut Looked,
    ) -> Result<Prompt> {
        match self {
            Speaker::Text(folder) => {
                let text = folder.tokenizer.chat(messages, true)?;
                of_text(folder, folder.tokenizer.encode_bare(&text, usize::MAX)?.ids)
            }
            Speaker::Generative(folder) => {
                of_prepared(folder, &folder.prepare_chat(messages, pictures)?, looked)
            }
        }
    }
}

fn of_text(folder: &TextFolder, ids: Vec<i64>) -> Result<Prompt> {
    let tower = &folder.model.text;
    let (tokens, context) = (ids.len(), tower.context());
    if tokens > context {
        bail!(vlm_fusion::Error::Context { tokens, context });
    }
    Ok(Prompt::of_ids(tower, vec![ids])?)
}

fn of_prepared(
    folder: &GenerativeFolder,
    prepared: &Prepared,
    looked: &mut Looked,
) -> Result<Prompt> {
    let (model, pictures) = (&folder.model, prepared.pictures());
    if model.reads_question() {
        // Each question sees other pictures.
        return Ok(model.prompt(std::slice::from_ref(prepared))?);
    }
    let new = model.picture_rows(&pictures[looked.count.min(pictures.len())..])?;
    let rows: Vec<Tensor<2>> = looked.rows.iter().cloned().chain(new).collect();
    let rows = if rows.is_empty() { None } else { Some(Tensor::cat(rows, 0)) };
    (looked.count, looked.rows) = (pictures.len(), rows.clone());
    Ok(model.prompt_with(vec![prepared.ids().to_vec()], vec![rows])?)
}
