//! Which ids start, end and fill a row.

use std::path::Path;

use super::error::TokenizerError;
use super::settings::{Settings, content};

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
/// [`TokenizerError::UnknownSpecial`]: a file names a token that `id_of` does not know.
pub(super) fn find(
    settings: &Settings,
    dir: &Path,
    fallback: SpecialIds,
    id_of: impl Fn(&str) -> Option<i64>,
) -> Result<SpecialIds, TokenizerError> {
    let role = |names: &[&'static str], fallback: Option<i64>| {
        for &role in names {
            if let Some(token) = settings.token(role).and_then(content) {
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
