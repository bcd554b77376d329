//! The folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::step_of;
use crate::{Checkpoint, Error};

/// The folder of a run's model.
pub(crate) const MODEL: &str = "model";
/// The folder of a run's adapter.
pub const ADAPTER: &str = "adapter";

/// How names of unfinished files and folders begin, here and in `vlm_store`.
const WRITING: &str = ".writing-";

/// Removes a checkpoint. It loses its name first, so that half of it is never taken for one.
pub(crate) fn discard(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{WRITING}{name}"));
    if fs::rename(path, &aside).is_ok() {
        remove(&aside);
    }
}

/// Removes a file or folder. Not being able to tidy up is no reason not to run.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// `OUT`: `config.toml`, `metrics.jsonl`, `checkpoints/step-N`, `model`, `summary.json`,
/// `report.html`.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Starts a run in a new or empty folder, or takes up the one that is there, also one that
    /// was killed before its first checkpoint.
    ///
    /// # Errors
    /// If the folder is a file, holds another run or anything else and `resume` is off, or
    /// holds no run and `resume` is on.
    pub fn open(root: &Path, resume: bool) -> Result<Self, Error> {
        let run = RunDir { root: root.to_owned() };
        let dir = run.checkpoints();
        if root.exists() && !root.is_dir() {
            return Err(Error::NotAFolder(root.to_owned()));
        }
        if resume {
            if !dir.is_dir() {
                return Err(Error::NothingToResume(root.to_owned()));
            }
            run.sweep();
        } else if dir.exists() {
            return Err(Error::Occupied(root.to_owned()));
        } else if fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::NotEmpty(root.to_owned()));
        }
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        Ok(run)
    }

    /// Removes what a killed process left half-written, and touches nothing else: people keep
    /// notes beside their runs.
    fn sweep(&self) {
        for dir in [self.root.clone(), self.checkpoints()] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let path = entry.path();
                let aside = name
                    .strip_suffix(".old")
                    .filter(|base| [MODEL, ADAPTER].contains(base) || step_of(base).is_some());
                match aside {
                    // Killed between moving the old aside and the new into place.
                    Some(base) if !dir.join(base).exists() => {
                        let _ = fs::rename(&path, dir.join(base));
                    }
                    None if !name.starts_with(WRITING) => {}
                    _ => remove(&path),
                }
            }
        }
    }

    /// Whether the newest checkpoint, if there is one, was made with this configuration; to be
    /// asked before anything in the folder is changed.
    ///
    /// # Errors
    /// [`Error::Foreign`] with the first difference, or a damaged checkpoint.
    pub fn accepts(&self, config: &serde_json::Value) -> Result<(), Error> {
        match self.latest() {
            Some(path) => Checkpoint::progressed(&path)?.belongs_to(&path, config),
            None => Ok(()),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Where the best model is written as a folder for others.
    pub fn model(&self) -> PathBuf {
        self.root.join(MODEL)
    }

    /// Where the best adapter is written, by a run that trains one.
    pub fn adapter(&self) -> PathBuf {
        self.root.join(ADAPTER)
    }

    /// The newest checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        Checkpoint::list(&self.checkpoints()).pop().map(|(_, path)| path)
    }

    /// Removes all but the newest `keep` checkpoints.
    pub fn prune(&self, keep: usize) {
        let all = Checkpoint::list(&self.checkpoints());
        for (_, path) in all.iter().rev().skip(keep.max(1)) {
            discard(path);
        }
    }
}
