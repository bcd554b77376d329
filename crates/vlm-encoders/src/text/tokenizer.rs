//! Texts to token ids and back.
//!
//! The `tokenizers` library does the work; here it gets one folder, one way to truncate, and
//! answers that say what was cut.

use std::path::Path;

use tokenizers::{EncodeInput, ModelWrapper, PostProcessor, TruncationDirection};

use super::error::{TokenizerError, one_line};
use super::files::{self, Files, MAIN};
use super::special::{self, SpecialIds};

/// A tokenizer in Hugging Face's layout.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    files: Files,
}

/// One text as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// With start and end tokens, at most as many as the context.
    pub ids: Vec<i64>,
    /// Whether some of the text was cut off to fit.
    pub truncated: bool,
}

/// How long the rows of a batch become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As the longest of them.
    Longest,
    /// This many tokens; longer texts are truncated to it.
    Fixed(usize),
}

/// Several texts as ids, filled up with the pad token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[rows, cols]`.
    pub ids: Vec<i64>,
    /// `[rows, cols]`: true where there is a token of the text, its start and end included.
    pub mask: Vec<bool>,
    /// Texts.
    pub rows: usize,
    /// Tokens of each.
    pub cols: usize,
    /// Texts of which something was cut off.
    pub truncated: usize,
}

impl Tokenizer {
    /// Reads a folder with a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`]: the file is missing or not understood.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        Self::from_dir_with_ids(dir, SpecialIds::default())
    }

    /// [`Tokenizer::from_dir`], with ids (say, of a model's `config.json`) for the special tokens
    /// that the tokenizer's own files do not name.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn from_dir_with_ids(dir: &Path, fallback: SpecialIds) -> Result<Self, TokenizerError> {
        Self::from_files(files::read(dir)?, dir, fallback)
    }

    /// From the contents of files; `dir` stands in messages.
    pub(super) fn from_files(
        files: Files,
        dir: &Path,
        fallback: SpecialIds,
    ) -> Result<Self, TokenizerError> {
        let main =
            files.get(MAIN).ok_or_else(|| TokenizerError::Missing { dir: dir.to_owned() })?;
        let fail = |detail| TokenizerError::File { file: dir.join(MAIN), detail };
        let mut inner = tokenizers::Tokenizer::from_bytes(main)
            .map_err(|e| fail(format!("not a tokenizer that can be read ({})", one_line(e))))?;
        // Both are done here; a file may carry what somebody once set.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fail(one_line(e)))?;
        let id_of = |token: &str| inner.token_to_id(token).map(i64::from);
        let special = special::find(&files, dir, fallback, id_of)?;
        Ok(Self { inner, special, files })
    }

    /// Writes the tokenizer's files into a folder: those it was read from, unchanged, or those of a
    /// newly trained one.
    ///
    /// # Errors
    /// [`TokenizerError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        files::write(&self.files, dir)
    }

    /// One text as ids, with what the tokenizer puts before and after (CLIP: start and end). A text
    /// too long for `context_length` tokens loses its tail; the end token stays last.
    ///
    /// # Errors
    /// [`TokenizerError::ShortContext`], [`TokenizerError::Text`].
    pub fn encode(&self, text: &str, context_length: usize) -> Result<TokenIds, TokenizerError> {
        let fail = |e| TokenizerError::Text { text: beginning(text), detail: one_line(e) };
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if context_length == 0 || context_length < special {
            return Err(TokenizerError::ShortContext { context_length, special });
        }
        let input: EncodeInput = text.into();
        let mut encoding = self.inner.encode(input, false).map_err(fail)?;
        let room = context_length - special;
        let truncated = encoding.len() > room;
        encoding.truncate(room, 0, TruncationDirection::Right);
        // What was cut off would be given start and end tokens of its own.
        encoding.take_overflowing();
        let encoding = self.inner.post_process(encoding, None, true).map_err(fail)?;
        Ok(TokenIds {
            ids: encoding.get_ids().iter().map(|&id| i64::from(id)).collect(),
            truncated,
        })
    }

    /// Several texts, each as [`Tokenizer::encode`], padded at the end.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; [`TokenizerError::NoPad`] if there is something to fill and
    /// nothing to fill it with.
    pub fn encode_batch<S: AsRef<str>>(
        &self,
        texts: &[S],
        context_length: usize,
        padding: Padding,
    ) -> Result<Batch, TokenizerError> {
        let context_length = match padding {
            Padding::Longest => context_length,
            Padding::Fixed(length) => length.min(context_length),
        };
        let encoded = texts
            .iter()
            .map(|text| self.encode(text.as_ref(), context_length))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = encoded.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let cols = match padding {
            Padding::Longest => longest,
            Padding::Fixed(length) => length,
        };
        let mut ids = Vec::with_capacity(cols * encoded.len());
        let mut mask = Vec::with_capacity(cols * encoded.len());
        for row in &encoded {
            let missing = cols - row.ids.len();
            ids.extend_from_slice(&row.ids);
            mask.extend(std::iter::repeat_n(true, row.ids.len()));
            if missing > 0 {
                let pad = self.special.pad.ok_or(TokenizerError::NoPad)?;
                ids.extend(std::iter::repeat_n(pad, missing));
                mask.extend(std::iter::repeat_n(false, missing));
            }
        }
        let truncated = encoded.iter().filter(|row| row.truncated).count();
        Ok(Batch { ids, mask, rows: encoded.len(), cols, truncated })
    }

    /// Ids as text, without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        let unknown = |id| TokenizerError::UnknownId { id, vocab_size: self.vocab_size() };
        let known = |id: i64| {
            u32::try_from(id)
                .ok()
                .filter(|n| self.inner.id_to_token(*n).is_some())
                .ok_or(unknown(id))
        };
        let ids = ids.iter().map(|&id| known(id)).collect::<Result<Vec<_>, _>>()?;
        let text = self.inner.decode(&ids, true).map_err(|e| TokenizerError::Text {
            text: format!("of ids {:?}", &ids[..ids.len().min(8)]),
            detail: one_line(e),
        })?;
        // CLIP's decoder leaves the end-of-word marks in; transformers replaces them afterwards.
        Ok(match self.inner.get_model() {
            ModelWrapper::BPE(bpe) => match bpe.end_of_word_suffix.as_deref() {
                Some(mark) if !mark.is_empty() => text.replace(mark, " ").trim().to_owned(),
                _ => text,
            },
            _ => text,
        })
    }

    /// The token of an id, as it stands in the vocabulary.
    pub fn id_to_token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// The id of a token, as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// Tokens of the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id that starts a text.
    pub fn bos_id(&self) -> Option<i64> {
        self.special.bos
    }

    /// Id that ends a text.
    pub fn eos_id(&self) -> Option<i64> {
        self.special.eos
    }

    /// Id that fills a row.
    pub fn pad_id(&self) -> Option<i64> {
        self.special.pad
    }
}

fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}
