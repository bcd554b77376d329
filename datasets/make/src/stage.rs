//! Folders that appear whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::catalogue::Entry;

/// A folder in the making.
pub struct Stage {
    around: PathBuf,
    made: PathBuf,
    target: PathBuf,
}

impl Stage {
    /// Starts the folder that is to become `cache/name`; what a broken-off run left is removed.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn new(cache: &Path, name: &str) -> Result<Stage> {
        let around = cache.join(format!(".making-{name}"));
        if around.exists() {
            fs::remove_dir_all(&around)
                .with_context(|| format!("cannot remove {}", around.display()))?;
        }
        let made = around.join(name);
        fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        Ok(Stage { around, made, target: cache.join(name) })
    }

    /// The folder, to be written to.
    pub fn made(&self) -> &Path {
        &self.made
    }

    /// Writes a file of the folder, and the folders above it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.made.join(name);
        let attempt = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.made))?;
            fs::write(&path, content)
        };
        attempt().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the file `NOTICE`: what this is, whose it is, where it comes from, what was changed.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn notice(&self, entry: &Entry, changed: &str) -> Result<()> {
        let mut text = format!(
            "{}: {}.\nLicence: {}.\n\nMade by `cargo xtask data {}`",
            entry.name, entry.what, entry.licence, entry.name
        );
        if entry.packages.is_empty() {
            text += &format!(": {changed}\n");
            return self.write("NOTICE", text);
        }
        text += " from\n";
        for package in entry.packages {
            text += &format!("  {} (sha256 {})\n", package.file, package.sha256);
        }
        text += "The texts of the licences, where the packages hold them, are in LICENSE*.\n";
        text += &format!("Changed: {changed}\n");
        self.write("NOTICE", text)
    }

    /// Gives the folder its name, replacing an earlier one.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn commit(self) -> Result<()> {
        let attempt = || {
            // Lists, licences and weights; a picture that a power cut spoils is found on loading.
            for entry in fs::read_dir(&self.made)? {
                let path = entry?.path();
                if path.is_file() {
                    File::open(path)?.sync_all()?;
                }
            }
            if self.target.exists() {
                fs::rename(&self.target, self.around.join("old"))?;
            }
            fs::rename(&self.made, &self.target)?;
            fs::remove_dir_all(&self.around)
        };
        attempt().with_context(|| format!("cannot write {}", self.target.display()))
    }
}

/// Bytes of all files below a folder.
pub fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { size(&entry.path()) } else { metadata.len() })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let cache = tempfile::tempdir().unwrap();
        let target = cache.path().join("tuxpaint");
        let entry = catalogue::chosen("tuxpaint").unwrap()[0];

        let broken_off = Stage::new(cache.path(), "tuxpaint").unwrap();
        broken_off.write("stale", "x").unwrap();
        drop(broken_off);
        assert!(!target.exists());

        for version in ["one", "two"] {
            let stage = Stage::new(cache.path(), "tuxpaint").unwrap();
            stage.write("a/b.txt", version).unwrap();
            stage.notice(entry, "nothing.").unwrap();
            stage.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("a/b.txt")).unwrap(), version);
        }
        assert!(!target.join("stale").exists());
        let notice = fs::read_to_string(target.join("NOTICE")).unwrap();
        assert!(notice.contains("GPL-2") && notice.contains("tuxpaint-stamps-default_2022"));
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "something is left over");
        assert_eq!(size(&target), 3 + notice.len() as u64);
    }
}
