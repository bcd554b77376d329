//! Text: tokenizers in Hugging Face's layout, and training a small one of CLIP's form.
//!
//! [`Tokenizer`] reads any folder with a `tokenizer.json` and does what transformers' class for it
//! does; [`train_clip_bpe`] makes one from captions that transformers opens as a `CLIPTokenizer`,
//! [`train_chat_bpe`] one for a new language model.

mod bpe_train;
mod byte_bpe;
mod chat;
mod chat_bpe;
mod classes;
mod clip_files;
mod cycles;
mod error;
mod files;
mod grow;
mod guard;
mod settings;
mod special;
mod stream;
mod tokenizer;

pub use chat::{Content, Message, Part};
pub use chat_bpe::train_chat_bpe;
pub use clip_files::train_clip_bpe;
pub use error::TokenizerError;
pub use settings::Side;
pub use special::SpecialIds;
pub use stream::TextStream;
pub use tokenizer::{Batch, Padding, TokenIds, Tokenizer};
