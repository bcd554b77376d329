use std::path::PathBuf;

/// What can go wrong with data sets. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a caption file cannot be used.
    #[error("{origin}: {reason}")]
    Line {
        /// File and line.
        origin: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// There is no such data set.
    #[error(
        "no data set `{spec}`: there is no such file or folder, and the sets with a name are: {known}"
    )]
    Unknown {
        /// What was asked for.
        spec: String,
        /// What there is.
        known: String,
    },
    /// A set that can be fetched is not there.
    #[error("data set `{0}` is not fetched; run cargo xtask data {0}")]
    NotFetched(String),
    /// A set that the repository ships is not there.
    #[error("the shipped data set `{0}` is not found; name its datasets/ folder in VLM_DATASETS")]
    Gone(String),
    /// The data set is not usable as a whole.
    #[error("{}: {reason}", path.display())]
    Set {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A batch that the set cannot fill.
    #[error("a batch of {batch} is larger than the set of {samples}; choose a smaller batch")]
    BatchTooLarge {
        /// Wanted.
        batch: usize,
        /// There.
        samples: usize,
    },
    /// A worker thread died.
    #[error("a worker thread died on sample {0}; this is a bug in what prepares the samples")]
    Worker(usize),
}
