//! Text: tokenizers in Hugging Face's layout, and training a small one of CLIP's form.
//!
//! [`Tokenizer`] reads any folder with a `tokenizer.json`; [`train_clip_bpe`] makes one from
//! captions that transformers opens as a `CLIPTokenizer`.

mod bpe_train;
mod clip_files;
mod error;
mod files;
mod special;
mod tokenizer;

pub use clip_files::train_clip_bpe;
pub use error::TokenizerError;
pub use special::SpecialIds;
pub use tokenizer::{Batch, Padding, TokenIds, Tokenizer};
