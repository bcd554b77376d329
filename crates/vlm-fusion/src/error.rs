use std::path::PathBuf;

/// What can go wrong with generative models. Every message is one line that names the place and
/// the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of an encoder, its folder, its pictures or its texts.
    #[error(transparent)]
    Encoder(#[from] vlm_encoders::Error),
    /// A prompt that does not fit the model.
    #[error(
        "the prompt has {tokens} tokens, and the model takes {context}; shorten it, or give fewer pictures"
    )]
    Context {
        /// Of the prompt, pictures included.
        tokens: usize,
        /// Of the model.
        context: usize,
    },
    /// A prompt that says nothing.
    #[error("prompt {}: has no tokens; give a text", row + 1)]
    EmptyPrompt {
        /// Which of the batch.
        row: usize,
    },
    /// A prompt whose rows are not those of its tokens.
    #[error("prompt {}: {ids} tokens, but {rows} rows stand for them", row + 1)]
    PromptRows {
        /// Which of the batch.
        row: usize,
        /// Tokens.
        ids: usize,
        /// Rows.
        rows: usize,
    },
    /// A token that the model has no row for.
    #[error(
        "prompt {}: token {id} is not below the model's {vocabulary}; use the tokenizer of this model", row + 1
    )]
    UnknownToken {
        /// Which of the batch.
        row: usize,
        /// The token.
        id: i64,
        /// Tokens that there are.
        vocabulary: usize,
    },
    /// A setting of how tokens are chosen.
    #[error("{name} is {value}; {remedy}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        remedy: &'static str,
    },
    /// The model's weights make no numbers.
    #[error("the model's answer is not a number after {tokens} tokens; its weights are damaged")]
    NotANumber {
        /// Tokens seen.
        tokens: usize,
    },
    /// A small file of a model folder.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The choices of a fusion strategy contradict each other.
    #[error("fusion `{kind}`: {reason}")]
    Fusion {
        /// Which strategy.
        kind: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
}
