//! Files and folders that appear whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes a file through a temporary one beside it: written, synced, then renamed. Whatever
/// happens on the way, an earlier file of that name stays as it was. What is no file but a pipe
/// or a device is written to directly.
///
/// # Errors
/// What the operating system or `fill` reports.
pub fn write_file(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    // A pipe or a device (`/dev/stdout`) is written to; a rename would put a file in its place.
    if fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        let mut attempt = || {
            let mut writer = BufWriter::new(fs::OpenOptions::new().write(true).open(path)?);
            fill(&mut writer)?;
            writer.flush()
        };
        return attempt().map_err(Error::io(path));
    }
    let dir = parent_of(path);
    let mut attempt = || {
        let temporary = tempfile::Builder::new()
            .prefix(".writing-")
            .permissions_like_a_new_file()
            .tempfile_in(dir)?;
        let mut writer = BufWriter::with_capacity(1 << 20, temporary);
        fill(&mut writer)?;
        let temporary = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        sync_dir(dir)
    };
    attempt().map_err(Error::io(path))
}

trait NewFilePermissions {
    fn permissions_like_a_new_file(&mut self) -> &mut Self;
}

impl NewFilePermissions for tempfile::Builder<'_, '_> {
    /// Temporary files are private by default; what they become is an ordinary file, which
    /// the process' umask narrows as usual.
    fn permissions_like_a_new_file(&mut self) -> &mut Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            self.permissions(fs::Permissions::from_mode(0o666));
        }
        self
    }
}

/// The folder that something lies in; a bare name lies in the one the program runs in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The first of `PATH.old`, `PATH.old2` and so on that nothing has: what stands under such a name
/// may be somebody's.
fn aside(path: &Path) -> PathBuf {
    let name = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 1 { ".old".to_owned() } else { format!(".old{number}") });
        PathBuf::from(name)
    };
    let free = (1..).map(name).find(|path| !path.exists());
    free.unwrap_or_else(|| name(1))
}

/// A folder's own entry list is data too: without this a rename may not survive a power cut.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// A folder under a temporary name that becomes visible under its own by [`commit`].
///
/// [`commit`]: StagedDir::commit
pub struct StagedDir {
    staged: tempfile::TempDir,
    target: PathBuf,
}

impl StagedDir {
    /// Starts a folder that is to become `target`, in `target`'s parent folder, which is made if it
    /// is missing.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn new(target: &Path) -> Result<Self, Error> {
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(Error::io(target))?;
        let staged = tempfile::Builder::new()
            .prefix(".writing-")
            .tempdir_in(parent)
            .map_err(Error::io(target))?;
        Ok(StagedDir { staged, target: target.to_owned() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Syncs what was written and renames the folder, replacing an earlier one.
    ///
    /// # Errors
    /// What the operating system reports; the earlier folder then stands under its name or,
    /// if the very last step failed, beside it with `.old` appended.
    pub fn commit(self) -> Result<(), Error> {
        let attempt = || {
            for entry in fs::read_dir(self.staged.path())? {
                File::open(entry?.path())?.sync_all()?;
            }
            sync_dir(self.staged.path())?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(self.staged.path(), fs::Permissions::from_mode(0o755))?;
            }
            let old = aside(&self.target);
            let replaces = self.target.exists();
            if replaces {
                fs::rename(&self.target, &old)?;
            }
            fs::rename(self.staged.path(), &self.target)?;
            sync_dir(parent_of(&self.target))?;
            if replaces {
                fs::remove_dir_all(&old)?;
            }
            Ok(())
        };
        attempt().map_err(Error::io(&self.target))?;
        // It has moved: there is nothing left to clean up under the temporary name.
        let _ = self.staged.keep();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_file(&path, &mut |w| w.write_all(b"old")).unwrap();
        let result = write_file(&path, &mut |w| {
            w.write_all(b"new")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        });
        let message = result.unwrap_err().to_string();
        assert!(message.contains("free some space") && !message.contains('\n'), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_lies_where_the_program_runs() {
        assert_eq!(parent_of(Path::new("model")), Path::new("."));
        assert_eq!(parent_of(Path::new("runs/model")), Path::new("runs"));
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("not/there/model");
        StagedDir::new(&deep).unwrap().commit().unwrap();
        assert!(deep.is_dir());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_to_and_stays_one() {
        use std::os::unix::fs::FileTypeExt;
        let link = tempfile::tempdir().unwrap();
        // Through a link, so that a mistake here cannot harm the machine.
        let path = link.path().join("full");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let message = write_file(&path, &mut |w| w.write_all(b"x")).unwrap_err().to_string();
        assert!(message.contains("free some space"), "{message}");
        assert!(fs::metadata(&path).unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        for content in ["one", "two"] {
            let staged = StagedDir::new(&target).unwrap();
            fs::write(staged.path().join("f"), content).unwrap();
            staged.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("f")).unwrap(), content);
        }
        // Somebody else's folder of the name that the old one gets for a moment.
        fs::create_dir(dir.path().join("model.old")).unwrap();
        StagedDir::new(&target).unwrap().commit().unwrap();
        fs::remove_dir(dir.path().join("model.old")).unwrap();
        drop(StagedDir::new(&target).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "leftovers");
    }
}
