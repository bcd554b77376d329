//! The files that make a tokenizer, kept as they are: what is saved is what was read.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::TokenizerError;

/// The file that everything depends on.
pub(super) const MAIN: &str = "tokenizer.json";
/// Special tokens and how transformers should treat them.
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// Special tokens, older place.
pub(super) const SPECIAL: &str = "special_tokens_map.json";
/// Vocabulary, for transformers' tokenizers that do not read `tokenizer.json`.
pub(super) const VOCAB: &str = "vocab.json";
/// Merges, likewise.
pub(super) const MERGES: &str = "merges.txt";

/// All files that transformers may look for beside `tokenizer.json`.
const ALL: [&str; 10] = [
    MAIN,
    CONFIG,
    SPECIAL,
    VOCAB,
    MERGES,
    "added_tokens.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
];

/// Contents by name.
pub(super) type Files = BTreeMap<&'static str, Vec<u8>>;

/// Reads those that are there.
///
/// # Errors
/// [`TokenizerError::Missing`] without a `tokenizer.json`, [`TokenizerError::Io`].
pub(super) fn read(dir: &Path) -> Result<Files, TokenizerError> {
    let mut files = Files::new();
    for name in ALL {
        let file = dir.join(name);
        match std::fs::read(&file) {
            Ok(bytes) => {
                files.insert(name, bytes);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(TokenizerError::Io { file, source }),
        }
    }
    if files.contains_key(MAIN) {
        Ok(files)
    } else {
        Err(TokenizerError::Missing { dir: dir.to_owned() })
    }
}

/// Writes them into a folder, which is made if it is missing.
///
/// # Errors
/// [`TokenizerError::Io`].
pub(super) fn write(files: &Files, dir: &Path) -> Result<(), TokenizerError> {
    std::fs::create_dir_all(dir)
        .map_err(|source| TokenizerError::Io { file: dir.to_owned(), source })?;
    for (name, bytes) in files {
        let file = dir.join(name);
        std::fs::write(&file, bytes).map_err(|source| TokenizerError::Io { file, source })?;
    }
    Ok(())
}
