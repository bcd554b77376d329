/// What can go wrong with generative models. Every message is one line that names the place and
/// the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of an encoder, its folder, its pictures or its texts.
    #[error(transparent)]
    Encoder(#[from] vlm_encoders::Error),
}
