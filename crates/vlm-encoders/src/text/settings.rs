//! What stands beside `tokenizer.json`: `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::Path;

use serde_json::Value;

use super::error::{TokenizerError, one_line};
use super::files::{CONFIG, Files, SPECIAL};

/// The end of a row that is padded, or of a text that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Before the text.
    Left,
    /// Behind the text.
    #[default]
    Right,
}

/// The parsed files, in the order in which they are asked.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    sources: Vec<Value>,
}

/// Class of Llama 2 and its kin.
pub(super) const LLAMA: &str = "LlamaTokenizer";
/// Class of the Gemmas.
pub(super) const GEMMA: &str = "GemmaTokenizer";

/// Roles of special tokens, as transformers names them.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Settings {
    /// # Errors
    /// [`TokenizerError::File`] if a file is no JSON.
    pub(super) fn read(files: &Files, dir: &Path) -> Result<Self, TokenizerError> {
        let mut sources = Vec::new();
        for name in [CONFIG, SPECIAL] {
            if let Some(bytes) = files.get(name) {
                let value = serde_json::from_slice(bytes).map_err(|e| TokenizerError::File {
                    file: dir.join(name),
                    detail: format!("not valid JSON ({})", one_line(e)),
                })?;
                sources.push(value);
            }
        }
        Ok(Self { sources })
    }

    /// A field of `tokenizer_config.json`, or, where that has none, of `special_tokens_map.json`.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.sources.iter().find_map(|s| s.get(field)).filter(|value| !value.is_null())
    }

    /// The token of a role, as the first file that gives it one has it.
    pub(super) fn token(&self, role: &str) -> Option<&Value> {
        self.sources.iter().filter_map(|s| s.get(role)).find(|value| content(value).is_some())
    }

    pub(super) fn flag(&self, field: &str) -> Option<bool> {
        self.get(field)?.as_bool()
    }

    /// The class in transformers, without the `Fast` at its end.
    pub(super) fn class(&self) -> &str {
        let class = self.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        class.strip_suffix("Fast").unwrap_or(class)
    }

    /// `padding_side` or `truncation_side`. Two classes pad on the left unless told otherwise.
    pub(super) fn side(&self, field: &str) -> Side {
        let left = field == "padding_side" && matches!(self.class(), LLAMA | GEMMA);
        match self.get(field).and_then(Value::as_str) {
            Some("left") => Side::Left,
            None if left => Side::Left,
            _ => Side::Right,
        }
    }

    /// The longest text of the model, in tokens; transformers writes 1e30 for "not known".
    pub(super) fn max_length(&self) -> Option<usize> {
        let length = self.get("model_max_length")?.as_u64().filter(|n| *n <= 1 << 32)?;
        usize::try_from(length).ok().filter(|n| *n > 0)
    }
}

/// A token is written as a string, or as an object with its `content`.
pub(super) fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
