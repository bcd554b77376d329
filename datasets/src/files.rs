//! Looking at folders and reading text files.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Extensions that are looked at in folders.
pub(crate) const PICTURES: [&str; 10] =
    ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm"];

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

/// A folder's entries in a fixed order.
pub(crate) fn listing(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        paths.push(entry.map_err(io(dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

pub(crate) fn has_extension(path: &Path, list: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    path.is_file() && list.contains(&extension.to_ascii_lowercase().as_str())
}

/// The text of a file without a byte-order mark; bad UTF-8 is reported with its line.
pub(crate) fn text(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
            Err(bad(path, line, "not UTF-8; save the file as UTF-8"))
        }
    }
}

pub(crate) fn bad(path: &Path, line: usize, reason: impl Into<String>) -> Error {
    Error::Line { origin: format!("{}:{line}", path.display()), reason: reason.into() }
}

/// The lines of a file with their numbers; an empty one is an error.
pub(crate) fn lines(path: &Path) -> Result<Vec<(usize, String)>, Error> {
    let text = text(path)?;
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            return Err(bad(path, i + 1, "the line is empty; remove it or fill it"));
        }
        lines.push((i + 1, line.trim().to_owned()));
    }
    if lines.is_empty() {
        return Err(Error::Set { path: path.to_owned(), reason: "the file is empty".into() });
    }
    Ok(lines)
}

pub(crate) fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    for path in listing(dir)? {
        if path.is_dir() && !path.is_symlink() {
            collect(&path, found)?;
        } else if has_extension(&path, &PICTURES) {
            found.push(path);
        }
    }
    Ok(())
}

/// Finds pictures below a folder and nowhere else.
pub(crate) struct Finder {
    root: PathBuf,
    canonical: PathBuf,
    /// What was found: many questions are asked about one picture.
    found: HashMap<String, PathBuf>,
}

impl Finder {
    /// For pictures below `root`.
    pub(crate) fn new(root: &Path) -> Result<Self, Error> {
        let canonical = root.canonicalize().map_err(io(root))?;
        Ok(Finder { root: root.to_owned(), canonical, found: HashMap::new() })
    }

    /// Where a picture is, or what is wrong with its name.
    pub(crate) fn find(&mut self, name: &str) -> Result<PathBuf, String> {
        if let Some(path) = self.found.get(name) {
            return Ok(path.clone());
        }
        let path = self.look(name)?;
        self.found.insert(name.to_owned(), path.clone());
        Ok(path)
    }

    fn look(&self, name: &str) -> Result<PathBuf, String> {
        if name.is_empty() {
            return Err("no picture is named; fill the field".into());
        }
        let relative = Path::new(name);
        if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(format!("picture `{name}` climbs out of the folder; use a path inside it"));
        }
        let path = self.root.join(relative);
        match path.canonicalize() {
            Err(_) => Err(format!("picture `{name}` is missing; there is no {}", path.display())),
            Ok(real) if !real.starts_with(&self.canonical) => Err(format!(
                "picture `{name}` is a link out of the folder; put the picture itself there"
            )),
            Ok(real) if real.is_dir() => Err(format!("picture `{name}` is a folder")),
            Ok(_) => Ok(path),
        }
    }
}
