use std::path::PathBuf;

/// What a task reports when it fails.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in training. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task failed: data, tokenizer, model folder.
    #[error(transparent)]
    Task(#[from] BoxError),
    /// A tensor file failed.
    #[error(transparent)]
    Store(#[from] vlm_store::Error),
    /// A file of the run failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The output folder holds a run already.
    #[error("{}: already holds a run; add --resume to go on with it, or choose another --out", .0.display())]
    Occupied(PathBuf),
    /// There is nothing to resume.
    #[error("{}: no checkpoint to resume from; run without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// The checkpoint belongs to another configuration.
    #[error("{}: {reason}; run with the configuration that it was made with, or without --resume", path.display())]
    Foreign {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The loss is not a number any more.
    #[error(
        "step {step} (epoch {epoch}): the loss is {loss}; {kept}; lower the learning rate or clip gradients (optim.clip)"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The epoch.
        epoch: u64,
        /// The loss.
        loss: f64,
        /// What is left of the run.
        kept: String,
    },
    /// The start-up check found gradients where none should be, or none where some should.
    #[error("the gradients are severed: {0}")]
    Gradients(String),
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }
}
