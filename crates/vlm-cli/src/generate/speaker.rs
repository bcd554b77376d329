//! A model that answers, and how prompts are put to it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::tensor::Device;
use vlm_encoders::text::{Content, Message, Part, Tokenizer};
use vlm_encoders::{Encoder, TextFolder};
use vlm_fusion::decode::{Decode, Prompt};

/// A model folder that makes text.
pub enum Speaker {
    /// A decoder, which knows texts only.
    Text(Box<TextFolder>),
}

impl Speaker {
    /// Opens a folder.
    ///
    /// # Errors
    /// If it cannot be opened, or its model makes no text.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        match Encoder::open(dir, device)? {
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
        }
    }

    /// What makes tokens.
    pub fn decoder(&self) -> &dyn Decode {
        match self {
            Speaker::Text(folder) => &folder.model.text,
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

    /// Whether the model could look at a picture.
    ///
    /// # Errors
    /// If it sees none, or the file is none.
    pub fn check_picture(&self, path: &PathBuf) -> Result<()> {
        match self {
            Speaker::Text(_) => no_pictures(std::slice::from_ref(path)),
        }
    }

    /// One question; `raw` leaves the chat template out.
    ///
    /// # Errors
    /// If a picture cannot be read or there is no place for it, or the tokenizer fails.
    pub fn prompt(&self, text: &str, pictures: &[PathBuf], raw: bool) -> Result<Prompt> {
        if raw || !self.tokenizer().can_chat() {
            return match self {
                Speaker::Text(folder) => {
                    no_pictures(pictures)?;
                    // Nothing is cut off: a prompt that is too long is an error.
                    let ids = folder.tokenizer.encode(text, usize::MAX)?.ids;
                    Ok(Prompt::of_ids(&folder.model.text, vec![ids])?)
                }
            };
        }
        self.chat(&[Self::message(text, pictures.len())], pictures)
    }

    /// A conversation up to the beginning of the answer.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt), and if the template refuses the messages.
    pub fn chat(&self, messages: &[Message], pictures: &[PathBuf]) -> Result<Prompt> {
        match self {
            Speaker::Text(folder) => {
                no_pictures(pictures)?;
                let text = folder.tokenizer.chat(messages, true)?;
                let ids = folder.tokenizer.encode_bare(&text, usize::MAX)?.ids;
                Ok(Prompt::of_ids(&folder.model.text, vec![ids])?)
            }
        }
    }
}

fn no_pictures(pictures: &[PathBuf]) -> Result<()> {
    match pictures.first() {
        None => Ok(()),
        Some(path) => bail!("{}: the model sees no pictures; leave it out", path.display()),
    }
}
