//! The folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Checkpoint, Error};

/// `OUT`: `config.toml`, `metrics.jsonl`, `checkpoints/step-N`, `model`, `summary.json`,
/// `report.html`.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Starts a run in a new or empty folder, or takes up the one that is there.
    ///
    /// # Errors
    /// If the folder holds another run and `resume` is off, holds files that are no run's,
    /// or holds nothing and `resume` is on.
    pub fn open(root: &Path, resume: bool) -> Result<Self, Error> {
        let run = RunDir { root: root.to_owned() };
        if resume {
            if run.latest().is_none() {
                return Err(Error::NothingToResume(root.to_owned()));
            }
        } else if fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Occupied(root.to_owned()));
        }
        let dir = run.checkpoints();
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        run.sweep();
        Ok(run)
    }

    /// Removes what a killed process left half-written.
    fn sweep(&self) {
        for dir in [self.root.clone(), self.checkpoints()] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let path = entry.path();
                if let Some(base) = name.strip_suffix(".old")
                    && !dir.join(base).exists()
                {
                    // Killed between moving the old aside and the new into place.
                    let _ = fs::rename(&path, dir.join(base));
                } else if name.starts_with(".writing-") || name.ends_with(".old") {
                    // Not being able to tidy up is no reason not to run.
                    let _ = if path.is_dir() {
                        fs::remove_dir_all(path)
                    } else {
                        fs::remove_file(path)
                    };
                }
            }
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
        self.root.join("model")
    }

    /// The newest checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        Checkpoint::list(&self.checkpoints()).pop().map(|(_, path)| path)
    }

    /// Removes all but the newest `keep` checkpoints.
    pub fn prune(&self, keep: usize) {
        let all = Checkpoint::list(&self.checkpoints());
        for (_, path) in all.iter().rev().skip(keep.max(1)) {
            // An old checkpoint too many is harmless.
            let _ = fs::remove_dir_all(path);
        }
    }
}
