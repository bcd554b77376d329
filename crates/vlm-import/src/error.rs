use std::path::{Path, PathBuf};

/// What can go wrong with an import. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// The file contradicts itself or its format.
    #[error("{}: {reason}; the file is damaged: fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is sound, as far as was looked, but nothing that can be imported.
    #[error("{}: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        reason: String,
    },
    /// There is something where the folder is to be made.
    #[error("{}: {reason}", dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
        /// What is there, and what to do.
        reason: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Store(#[from] vlm_store::Error),
}

/// What is wrong, before it is known where.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(std::io::Error),
    Damaged(String),
    Unsupported(String),
}

impl Fault {
    /// The fault of a file.
    pub(crate) fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Fault::Io(source) => Error::Io { path, source },
            Fault::Damaged(reason) => Error::Damaged { path, reason: line(&reason) },
            Fault::Unsupported(reason) => Error::Unsupported { path, reason: line(&reason) },
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(source: std::io::Error) -> Self {
        Fault::Io(source)
    }
}

/// The reason may quote the file, which may hold anything: it is put on one short line.
fn line(reason: &str) -> String {
    let mut line: String =
        reason.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < reason.len() {
        line.push('…');
    }
    line
}

/// A name out of a file, for a message.
pub(crate) fn quoted(name: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    if shown.len() < name.len() { format!("`{shown}…`") } else { format!("`{shown}`") }
}

pub(crate) fn damaged<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(reason.into()))
}

pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported(reason.into()))
}
