use std::path::{Path, PathBuf};

/// What can go wrong with files of tensors. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}{}", path.display(), advice(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// The file is not what its name says.
    #[error("{}: {reason}; the file is damaged or not safetensors: fetch or save it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of a type that is not read.
    #[error("{}: tensor `{name}` has type {dtype}; supported are F32, F16 and BF16", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// No such tensor.
    #[error("{}: no tensor `{name}`", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    /// A file that is not what its name says. The reason may quote the file, which may hold anything: it
    /// is put on one short line.
    pub fn damaged(path: &Path, reason: impl Into<String>) -> Error {
        let reason: String = reason.into();
        let mut line: String =
            reason.chars().take(400).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.len() < reason.len() {
            line.push('…');
        }
        Error::Damaged { path: path.to_owned(), reason: line }
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "; free some space and run again",
        std::io::ErrorKind::PermissionDenied => "; check who may read and write there",
        _ => "",
    }
}
