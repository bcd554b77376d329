/// What can go wrong with generative models. Every message is one line that names the place and
/// the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of an encoder, its folder, its pictures or its texts.
    #[error(transparent)]
    Encoder(#[from] vlm_encoders::Error),
    /// The choices of a fusion strategy contradict each other.
    #[error("fusion `{kind}`: {reason}")]
    Fusion {
        /// Which strategy.
        kind: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
}
