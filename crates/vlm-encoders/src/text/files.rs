//! The files that make a tokenizer, kept as they are: what is saved is what was read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
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

/// The chat template.
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// The chat template, older place.
pub(super) const TEMPLATE_JSON: &str = "chat_template.json";

/// All files that transformers may look for beside `tokenizer.json`.
const ALL: [&str; 11] = [
    MAIN,
    CONFIG,
    SPECIAL,
    VOCAB,
    MERGES,
    "added_tokens.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    TEMPLATE,
    TEMPLATE_JSON,
];

/// MiB that the vocabulary files may have; Gemma 3's `tokenizer.json`, of 262,144 tokens, has 32.
const MAX_VOCABULARY: u64 = 256;
/// MiB that the other files may have; they name every added token twice at most.
const MAX_SETTINGS: u64 = 16;

/// Contents by name.
pub(super) type Files = BTreeMap<&'static str, Vec<u8>>;

/// Reads those that are there.
///
/// # Errors
/// [`TokenizerError::Missing`] without a `tokenizer.json`, [`TokenizerError::Io`],
/// [`TokenizerError::TooLarge`].
pub(super) fn read(dir: &Path) -> Result<Files, TokenizerError> {
    let mut files = Files::new();
    for name in ALL {
        if let Some(bytes) = read_one(&dir.join(name), limit_mib(name))? {
            files.insert(name, bytes);
        }
    }
    if files.contains_key(MAIN) {
        Ok(files)
    } else {
        Err(TokenizerError::Missing { dir: dir.to_owned() })
    }
}

fn limit_mib(name: &str) -> u64 {
    match name {
        CONFIG | SPECIAL | TEMPLATE | TEMPLATE_JSON | "added_tokens.json" => MAX_SETTINGS,
        _ => MAX_VOCABULARY,
    }
}

/// `None` if there is no such file.
fn read_one(file: &Path, limit_mib: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    let io = |source| TokenizerError::Io { file: file.to_owned(), source };
    match std::fs::metadata(file) {
        // Opening a pipe without a writer would wait for ever.
        Ok(about) if !about.is_file() => {
            let detail = "is not a file".into();
            return Err(TokenizerError::File { file: file.to_owned(), detail });
        }
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    }
    let mut bytes = Vec::new();
    let limit = limit_mib << 20;
    File::open(file).map_err(io)?.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(TokenizerError::TooLarge { file: file.to_owned(), limit_mib });
    }
    Ok(Some(bytes))
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
