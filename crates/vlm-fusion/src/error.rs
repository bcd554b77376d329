use std::path::PathBuf;

/// What can go wrong with generative models. Every message is one line that names the place and
/// the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of an encoder, its folder, its pictures or its texts.
    #[error(transparent)]
    Encoder(#[from] vlm_encoders::Error),
    /// A new model without a decoder, or with two.
    #[error(
        "a new model needs `language` (the folder of a language model) or `decoder` (the shape of a new one), and not both"
    )]
    Language,
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
    /// Pictures that the text has no place for, or places without a picture.
    #[error(
        "the prompt has {places} `{token}` and there are {pictures} pictures; write `{token}` once for each picture"
    )]
    Pictures {
        /// Pictures that were given.
        pictures: usize,
        /// Places in the text.
        places: usize,
        /// What marks a place.
        token: String,
    },
    /// A tokenizer that does not know the token of pictures.
    #[error(
        "{}: no token `{token}` with id {id}, by which config.json marks pictures; copy the tokenizer's files again", dir.display()
    )]
    NoImageToken {
        /// The folder.
        dir: PathBuf,
        /// The token.
        token: String,
        /// Its id in `config.json`.
        id: i64,
    },
    /// Tokens for pictures and rows of pictures that do not pair.
    #[error(
        "{tokens} picture tokens stand in the prompt, but the pictures have {features} rows; processor_config.json and config.json disagree, or the text itself holds the picture token"
    )]
    PictureTokens {
        /// In the prompt.
        tokens: usize,
        /// Of the pictures.
        features: usize,
    },
    /// A text has more of pictures than an adapter has room for.
    #[error(
        "pictures of {rows} rows for {slots} slots of the adapter; give fewer or smaller pictures"
    )]
    Slots {
        /// Of the pictures of a text.
        rows: usize,
        /// Of the adapter.
        slots: usize,
    },
    /// A conversation of several turns for a model that knows no chat.
    #[error("{turns} turns, but the model has no chat template; give one question and one answer")]
    NoTemplate {
        /// Of the conversation.
        turns: usize,
    },
    /// A chat template that writes earlier turns in another way once there are later ones.
    #[error(
        "the chat template writes turn {} in another way than it asks for it, so that it cannot be learned; give the model another template", turn + 1
    )]
    TurnsRewritten {
        /// Which turn.
        turn: usize,
    },
    /// A tokenizer without an end.
    #[error("the tokenizer has no end token, by which an answer would end; name its eos_token")]
    NoEnd,
    /// Parts that make no model together.
    #[error("{}: {reason}", path.display())]
    Assemble {
        /// The folder that does not fit.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}
