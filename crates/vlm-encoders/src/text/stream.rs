//! Ids to text while they are being generated.

use super::error::TokenizerError;
use super::tokenizer::Tokenizer;

/// Ids that may wait for the rest of a letter. A letter has at most four bytes, so more of them
/// are no letter.
const MAX_WAITING: usize = 8;

/// Turns ids into pieces of text as they come, from [`Tokenizer::stream`]. A piece never ends
/// within a letter: bytes wait for those that complete it.
///
/// Together the pieces are what [`Tokenizer::decode`] makes of all ids at once, but for what that
/// does to the finished text: tidying up spaces where `tokenizer_config.json` asks for it, and, for
/// tokenizers of CLIP's form, trimming. Bytes that never make a letter may appear as another number
/// of replacement characters.
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids of the latest piece, for whose sake the next ones know that they do not start the
    /// text, and those not given out yet.
    ids: Vec<u32>,
    /// How many of them have been given out.
    given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// The text that the next id completes, which may be none. Special tokens are passed over.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn push(&mut self, id: i64) -> Result<String, TokenizerError> {
        let id = self.tokenizer.known(id)?;
        if self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        self.next(self.ids.len() - self.given > MAX_WAITING)
    }

    /// What still waits; an unfinished letter becomes replacement characters.
    ///
    /// # Errors
    /// [`TokenizerError::Text`].
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        self.next(true)
    }

    fn next(&mut self, all: bool) -> Result<String, TokenizerError> {
        let before = self.tokenizer.raw(&self.ids[..self.given])?;
        let whole = self.tokenizer.raw(&self.ids)?;
        let piece = match whole.strip_prefix(&before) {
            Some(piece) => piece.to_owned(),
            // Invalid bytes can spoil those before them, which have been given out already.
            None => self.tokenizer.raw(&self.ids[self.given..])?,
        };
        if piece.is_empty() || (!all && piece.ends_with(char::REPLACEMENT_CHARACTER)) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(piece)
    }
}
