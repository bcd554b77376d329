//! The pictures below a folder.

use std::fs::{self, Metadata};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// Endings of the formats that are read.
pub const ENDINGS: [&str; 14] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff", "pnm", "ppm",
    "pgm",
];
/// Endings of pictures that are not, so that nobody looks for them in vain.
const OTHERS: [&str; 13] =
    ["heic", "heif", "avif", "jxl", "svg", "psd", "dng", "raw", "cr2", "cr3", "nef", "arw", "orf"];

/// What a file's contents are known by without reading them: its length in bytes, and the time of
/// its last change in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub u64, pub i64);

impl Stamp {
    /// Of a file.
    pub fn of(meta: &Metadata) -> Self {
        let nanos = meta.modified().ok().map(|time| match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        });
        Stamp(meta.len(), nanos.unwrap_or_default())
    }
}

/// A picture file, not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path below the folder.
    pub name: PathBuf,
    /// What its contents are known by.
    pub stamp: Stamp,
}

/// A file or folder that is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path below the folder.
    pub name: PathBuf,
    /// Why, on one line.
    pub reason: String,
}

/// What is below a folder.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Pictures in the order of their names, folder by folder.
    pub pictures: Vec<Found>,
    /// What was passed over.
    pub skipped: Vec<Skipped>,
}

/// Looks for files with the ending of a picture, at any depth.
///
/// Hidden files and folders (`.git`, `.thumbnails`) are left out. A link to a file counts as one,
/// unless it leads to a picture that is found anyway; a link to a folder is not followed, since it
/// could lead in a circle.
///
/// # Errors
/// If the folder itself cannot be read; what cannot be read below it is passed over.
pub fn walk(root: &Path) -> std::io::Result<Walk> {
    let mut walk = Walker { root, real: root.canonicalize()?, found: Walk::default() };
    walk.folder(Path::new(""))?;
    Ok(walk.found)
}

/// Whether a name ends as those of pictures do.
fn ends_with(name: &Path, endings: &[&str]) -> bool {
    let ending = name.extension().and_then(|e| e.to_str()).unwrap_or_default();
    endings.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

fn hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

struct Walker<'a> {
    root: &'a Path,
    real: PathBuf,
    found: Walk,
}

impl Walker<'_> {
    fn folder(&mut self, below: &Path) -> std::io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(below))? {
            let entry = entry?;
            if !hidden(&entry.file_name()) {
                names.push((entry.file_name(), entry.file_type()));
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in names {
            let name = below.join(name);
            let looked = kind.and_then(|kind| {
                if kind.is_dir() { self.folder(&name) } else { self.file(&name, kind.is_symlink()) }
            });
            if let Err(error) = looked {
                self.skip(name, error.to_string());
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &Path, link: bool) -> std::io::Result<()> {
        if ends_with(name, &OTHERS) {
            self.skip(name.to_owned(), "its format is not read; export it as PNG or JPEG".into());
        }
        if !ends_with(name, &ENDINGS) {
            return Ok(());
        }
        let path = self.root.join(name);
        let meta = fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound if link => {
                std::io::Error::other("is a link that leads nowhere")
            }
            _ => error,
        })?;
        if meta.is_dir() {
            return Ok(());
        }
        if !meta.is_file() {
            self.skip(name.to_owned(), "is a pipe or device, not a file".into());
        } else if !(link && self.is_found_elsewhere(&path)) {
            self.found.pictures.push(Found { name: name.to_owned(), stamp: Stamp::of(&meta) });
        }
        Ok(())
    }

    /// Whether a link leads to a file that the walk comes by.
    fn is_found_elsewhere(&self, link: &Path) -> bool {
        let Ok(target) = link.canonicalize() else { return false };
        let Ok(below) = target.strip_prefix(&self.real) else { return false };
        let shown = |part| matches!(part, Component::Normal(name) if !hidden(name));
        below.components().all(shown) && ends_with(below, &ENDINGS)
    }

    fn skip(&mut self, name: PathBuf, reason: String) {
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        self.found.skipped.push(Skipped { name, reason });
    }
}
