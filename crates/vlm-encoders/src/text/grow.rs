//! Tokenizers with a token more, or without what they came with.

use std::path::Path;

use serde_json::{Value, json};

use super::error::{TokenizerError, one_line};
use super::files::{CONFIG, Files, MAIN, TEMPLATE, TEMPLATE_JSON};
use super::special::SpecialIds;
use super::tokenizer::Tokenizer;

impl Tokenizer {
    /// The same tokenizer with one more special token, such as the mark of a picture, and its id:
    /// the one behind all others. One that knows the token already is left as it is.
    ///
    /// # Errors
    /// [`TokenizerError::File`] if the vocabulary cannot take it.
    pub fn with_token(&self, token: &str) -> Result<(Self, i64), TokenizerError> {
        if let Some(id) = self.token_to_id(token) {
            return Ok((self.clone(), id));
        }
        let fail = |detail: String| TokenizerError::File { file: MAIN.into(), detail };
        let mut files = self.files().clone();
        let main = files.get(MAIN).map(Vec::as_slice).unwrap_or_default();
        let mut value: Value = serde_json::from_slice(main)
            .map_err(|e| fail(format!("not valid JSON ({})", one_line(e))))?;
        let id = self.vocab_size() as i64;
        let added = value
            .get_mut("added_tokens")
            .and_then(Value::as_array_mut)
            .ok_or_else(|| fail("has no list of added tokens".into()))?;
        added.push(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
        let bytes = serde_json::to_vec_pretty(&value).map_err(|e| fail(one_line(e)))?;
        files.insert(MAIN, bytes);
        let grown = self.of_files(files)?;
        match grown.token_to_id(token) {
            Some(found) if found == id => Ok((grown, id)),
            found => Err(fail(format!("gave `{token}` the id {found:?} instead of {id}"))),
        }
    }

    /// The same tokenizer without a chat template.
    ///
    /// # Errors
    /// [`TokenizerError::File`] if its settings are no JSON.
    pub fn without_template(&self) -> Result<Self, TokenizerError> {
        let mut files = self.files().clone();
        files.retain(|name, _| ![TEMPLATE, TEMPLATE_JSON].contains(name));
        if let Some(config) = files.get_mut(CONFIG) {
            let fail = |e| TokenizerError::File { file: CONFIG.into(), detail: one_line(e) };
            let mut settings: Value = serde_json::from_slice(config).map_err(fail)?;
            if let Some(settings) = settings.as_object_mut() {
                settings.remove("chat_template");
            }
            *config = serde_json::to_vec_pretty(&settings).map_err(fail)?;
        }
        self.of_files(files)
    }

    /// The same special tokens over changed files.
    fn of_files(&self, files: Files) -> Result<Self, TokenizerError> {
        let ids = SpecialIds { bos: self.bos_id(), eos: self.eos_id(), pad: self.pad_id() };
        Self::from_files(files, Path::new(""), ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Message, train_chat_bpe, train_clip_bpe};

    #[test]
    fn a_token_more_is_behind_all_others_and_stays() {
        let captions = ["a red apple", "a green pear"].map(str::to_owned);
        let small = train_clip_bpe(captions.into_iter(), 600, 16).unwrap();
        let (grown, id) = small.with_token("<image>").unwrap();
        assert_eq!(id, small.vocab_size() as i64);
        assert_eq!(grown.vocab_size(), small.vocab_size() + 1);
        let ids = grown.encode_bare("a <image> pear", 16).unwrap().ids;
        assert_eq!(ids.iter().filter(|found| **found == id).count(), 1);
        let dir = tempfile::tempdir().unwrap();
        grown.save(dir.path()).unwrap();
        let read = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(read.encode_bare("a <image> pear", 16).unwrap().ids, ids);
        assert_eq!(read.with_token("<image>").unwrap().1, id);
        assert_eq!((read.bos_id(), read.eos_id()), (small.bos_id(), small.eos_id()));
    }

    #[test]
    fn a_template_that_was_left_out_stays_away() {
        let texts = ["a red apple", "a green pear"].map(str::to_owned);
        let chatty = train_chat_bpe(texts.into_iter(), 600, 16).unwrap();
        let dir = tempfile::tempdir().unwrap();
        chatty.without_template().unwrap().save(dir.path()).unwrap();
        let read = Tokenizer::from_dir(dir.path()).unwrap();
        assert!(chatty.can_chat() && !read.can_chat());
        assert!(read.chat(&[Message::text("user", "What?")], true).is_err());
        assert_eq!((read.bos_id(), read.eos_id()), (chatty.bos_id(), chatty.eos_id()));
        assert_eq!(
            read.encode_bare("a pear", 16).unwrap().ids,
            chatty.encode_bare("a pear", 16).unwrap().ids
        );
    }
}
