//! What can go wrong with tokenizers.

use std::path::PathBuf;

/// A failure of reading, using, training or saving a tokenizer. Each message is one line that
/// names the file, as far as there is one, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The folder has no `tokenizer.json`.
    #[error("{}: no tokenizer.json; copy it from the model's repository, or in Python write it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)", .dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}; check the path and its permissions", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of more bytes than a tokenizer has use for.
    #[error("{}: has more than {limit_mib} MiB; copy the tokenizer's files again", .file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit.
        limit_mib: u64,
    },
    /// A `tokenizer.json` that could crash or stall whoever uses it, or grow texts without bound.
    #[error("{}: {field} {detail}; use the tokenizer of a source that you trust", .file.display())]
    Unsafe {
        /// The file.
        file: PathBuf,
        /// The part of the file.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A file that is not understood.
    #[error("{}: {detail}; copy the tokenizer's files again", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A special token that is named, but not in the vocabulary.
    #[error("{}: {role} {token:?} is not in the vocabulary of tokenizer.json; copy the tokenizer's files again", .dir.display())]
    UnknownSpecial {
        /// The folder.
        dir: PathBuf,
        /// `bos_token` and the like.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// A context too short for the special tokens.
    #[error(
        "a context of {context_length} tokens has no room for the {special} special tokens; use a longer one"
    )]
    ShortContext {
        /// The context asked for.
        context_length: usize,
        /// Tokens that the post-processor adds.
        special: usize,
    },
    /// Rows of different lengths and nothing to fill them with.
    #[error(
        "the tokenizer has no pad token and the rows differ in length; name a `pad_token` in tokenizer_config.json"
    )]
    NoPad,
    /// A text that the tokenizer refuses.
    #[error("text {text:?} cannot be tokenized ({detail}); remove it from the data")]
    Text {
        /// The beginning of the text.
        text: String,
        /// What the library said.
        detail: String,
    },
    /// A vocabulary too small for the alphabet of bytes, or larger than 32-bit ids allow.
    #[error(
        "a vocabulary of {vocab_size} is out of range; ask for at least {least} (all bytes and the special tokens) and at most 2147483647"
    )]
    VocabSize {
        /// What was asked for.
        vocab_size: usize,
        /// The smallest possible.
        least: usize,
    },
    /// Training found no words.
    #[error("no text to train a tokenizer on; give captions with at least one word")]
    NoText,
    /// Chat with a tokenizer that has no template for it.
    #[error(
        "the tokenizer has no chat template; copy chat_template.jinja or tokenizer_config.json from the repository of a model that was trained to chat"
    )]
    NoTemplate,
    /// A chat template that is not valid, refuses the messages, or takes too long.
    #[error("{}: the chat template fails ({detail}); change the messages or copy the file again", .file.display())]
    Template {
        /// The file that holds the template.
        file: PathBuf,
        /// What the template or the engine said.
        detail: String,
    },
    /// An id that the vocabulary does not have.
    #[error(
        "token id {id} is not in the vocabulary of {vocab_size}; the ids belong to another tokenizer"
    )]
    UnknownId {
        /// The id.
        id: i64,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
}

/// A message of another library as one line.
pub(super) fn one_line(message: impl std::fmt::Display) -> String {
    message.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
