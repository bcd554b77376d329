//! Which ids start, end and fill a row.

use std::path::Path;

use serde_json::Value;

use super::error::{TokenizerError, one_line};
use super::files::{CONFIG, Files, SPECIAL};

/// Ids of the special tokens; `None` where the tokenizer has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialIds {
    /// Starts a text.
    pub bos: Option<i64>,
    /// Ends a text.
    pub eos: Option<i64>,
    /// Fills a row.
    pub pad: Option<i64>,
}

/// Finds them by name in `tokenizer_config.json`, then in `special_tokens_map.json`; what neither
/// names is taken from `fallback`. The files come first: CLIP's published `config.json` holds ids
/// that do not belong to its own vocabulary. BERT's classification and separator tokens count as
/// start and end.
///
/// # Errors
/// [`TokenizerError`]: a file is no JSON, or names a token that `id_of` does not know.
pub(super) fn find(
    files: &Files,
    dir: &Path,
    fallback: SpecialIds,
    id_of: impl Fn(&str) -> Option<i64>,
) -> Result<SpecialIds, TokenizerError> {
    let mut sources = Vec::new();
    for name in [CONFIG, SPECIAL] {
        if let Some(bytes) = files.get(name) {
            let value: Value = serde_json::from_slice(bytes).map_err(|e| TokenizerError::File {
                file: dir.join(name),
                detail: format!("not valid JSON ({})", one_line(e)),
            })?;
            sources.push(value);
        }
    }
    let role = |names: &[&'static str], fallback: Option<i64>| {
        for &role in names {
            if let Some(token) = sources.iter().find_map(|s| content(s.get(role)?)) {
                let id = id_of(token).ok_or_else(|| TokenizerError::UnknownSpecial {
                    dir: dir.to_owned(),
                    role,
                    token: token.to_owned(),
                })?;
                return Ok(Some(id));
            }
        }
        Ok(fallback)
    };
    Ok(SpecialIds {
        bos: role(&["bos_token", "cls_token"], fallback.bos)?,
        eos: role(&["eos_token", "sep_token"], fallback.eos)?,
        pad: role(&["pad_token"], fallback.pad)?,
    })
}

/// A token is written as a string, or as an object with its `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
