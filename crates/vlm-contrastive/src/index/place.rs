//! Where an index stands, what it says of itself, and who may write to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vlm_store::write_file;

use super::block::Name;
use crate::Error;

/// The file that says what an index is of.
const ABOUT: &str = "index.json";
/// The file that whoever writes has locked.
const LOCK: &str = "lock";

/// The folders of pictures and of their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the pictures.
    pub pictures: PathBuf,
    /// Of the index.
    pub index: PathBuf,
}

/// The right to write to an index, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    // The system unlocks a file that is closed, also when a process is killed.
    _file: File,
}

impl Place {
    /// Makes the index's folder if it is not there, and takes the right to write to it. `None` if
    /// another process has it.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn lock(&self) -> Result<Option<Lock>, Error> {
        let refused = |source| Error::IndexPlace { path: self.index.clone(), source };
        std::fs::create_dir_all(&self.index).map_err(refused)?;
        let mut open = OpenOptions::new();
        let path = self.index.join(LOCK);
        let file = open.create(true).append(true).open(path).map_err(refused)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks. Blocks are whole or not there also without.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(Lock { _file: file })),
        }
    }
}

/// What an index says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    /// The folder of the pictures, for whoever mistakes one index for another.
    pictures: Name,
    /// The model's files by name, length and time of change.
    pub stamps: String,
    /// The model by its contents.
    pub model: String,
}

impl About {
    pub fn new(pictures: &Path, stamps: String, model: String) -> Self {
        About { pictures: pictures.into(), stamps, model }
    }

    pub fn pictures(&self) -> PathBuf {
        (&self.pictures).into()
    }

    /// Reads it; `None` if it is not there or damaged, since it is made again then.
    pub fn read(index: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(index.join(ABOUT)).ok()?).ok()
    }

    pub fn write(&self, index: &Path) -> Result<(), Error> {
        write_file(&index.join(ABOUT), &mut |w| {
            serde_json::to_writer_pretty(w, self).map_err(std::io::Error::from)
        })
        .map_err(|error| Error::Model(vlm_encoders::Error::Store(error)))
    }
}
