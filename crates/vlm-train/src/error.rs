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
    /// The output folder holds something else.
    #[error("{}: is not empty and holds no run; choose another --out", .0.display())]
    NotEmpty(PathBuf),
    /// The output folder is a file.
    #[error("{}: is a file, and a run needs a folder; choose another --out", .0.display())]
    NotAFolder(PathBuf),
    /// There is nothing to resume.
    #[error("{}: holds no run to resume; run without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// The checkpoint belongs to another configuration.
    #[error("{}: {reason}; run with the configuration that it was made with, or without --resume", path.display())]
    Foreign {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// Loss, gradient or weights are no numbers any more.
    #[error(
        "step {step} (epoch {epoch}): {what}; {kept}; lower the learning rate (optim.lr) or clip gradients (optim.clip)"
    )]
    NotFinite {
        /// The step, counted from 1 as in the metrics.
        step: u64,
        /// The epoch, counted from 1 as in the progress line.
        epoch: u64,
        /// What is not finite.
        what: String,
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
