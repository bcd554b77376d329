//! Reading packages: Debian's (ar of tar.xz), npm's (tar.gz) and Python's (zip).
//!
//! Nothing is written here. Each file is handed to a visitor under a checked name, and no archive
//! may hand out more than a fixed amount, whatever its headers say.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};

use crate::progress::{Counted, Progress};

/// Bytes that a file in a package may have; the largest here has 98 million.
const LARGEST: u64 = 200_000_000;
/// Bytes that all files of a package may have; the most here are 234 million.
const MOST: u64 = 600_000_000;

/// What stands under a name.
pub enum Item<'a> {
    /// A file.
    File(Content<'a>),
    /// A link to another name in the package.
    Link(String),
}

/// A file's content, to be read once.
pub struct Content<'a> {
    data: &'a mut dyn Read,
    size: u64,
}

impl Content<'_> {
    /// Reads it.
    ///
    /// # Errors
    /// If it is longer or shorter than the package says.
    pub fn bytes(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies it.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), or if it cannot be written.
    pub fn copy(self, to: &mut dyn std::io::Write) -> Result<()> {
        // One more than it should have: reading to the end also checks a zip's checksum.
        let copied = std::io::copy(&mut self.data.take(self.size + 1), to)?;
        if copied != self.size {
            bail!("it has not the {} bytes that the package says; damaged", self.size);
        }
        Ok(())
    }
}

/// A visitor of names and what stands under them.
pub type Visit<'a> = &'a mut dyn FnMut(&str, Item) -> Result<()>;

/// Visits the files and links of a package, in its order.
///
/// # Errors
/// If the package is damaged, a name or link leads out of it, it is too large, or the visitor fails.
pub fn each(package: &Path, visit: Visit) -> Result<()> {
    let shown = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut left = MOST;
    let mut checked = |name: &str, item: Item| {
        if let Item::File(content) = &item {
            if content.size > LARGEST.min(left) {
                bail!("`{name}` says it has {} bytes, which is too much", content.size);
            }
            left -= content.size;
        }
        visit(name, item).with_context(|| format!("`{name}`"))
    };
    let mut attempt = || -> Result<()> {
        let file = File::open(package)?;
        let size = file.metadata()?.len();
        let progress = Progress::new(format!("unpacking {shown}"), size);
        match package.extension().and_then(|ending| ending.to_str()) {
            Some("deb") => deb(Counted { inner: BufReader::new(file), progress }, &mut checked),
            Some("tgz") => {
                let counted = Counted { inner: BufReader::new(file), progress };
                tar(&mut flate2::read::GzDecoder::new(counted), &mut checked)
            }
            Some("whl") => zip(BufReader::new(file), progress, &mut checked),
            _ => bail!("not a package; .deb, .tgz and .whl are"),
        }
    };
    attempt().with_context(|| format!("cannot unpack {}", package.display()))
}

fn deb(file: impl Read, visit: Visit) -> Result<()> {
    let mut members = ar::Archive::new(file);
    while let Some(member) = members.next_entry() {
        let member = member?;
        match member.header().identifier() {
            b"data.tar.xz" => return tar(&mut lzma_rust2::XzReader::new(member, false), visit),
            other if other.starts_with(b"data.tar") => {
                bail!("{} is not read; only data.tar.xz is", String::from_utf8_lossy(other))
            }
            _ => {}
        }
    }
    bail!("it holds no data.tar.xz")
}

fn tar(data: &mut dyn Read, visit: Visit) -> Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let name = inside(&name)?;
            let size = entry.size();
            visit(&name, Item::File(Content { data: &mut entry, size }))?;
        } else if kind.is_symlink() {
            let target = entry.link_name()?.unwrap_or_default();
            let from = name.parent().unwrap_or(Path::new(""));
            let target = inside(&from.join(&target))
                .with_context(|| format!("the link `{}`", name.display()))?;
            visit(&inside(&name)?, Item::Link(target))?;
        }
    }
    Ok(())
}

fn zip(file: impl Read + Seek, mut progress: Progress, visit: Visit) -> Result<()> {
    let mut archive = zip::ZipArchive::new(file)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        progress.add(entry.compressed_size());
        if entry.is_file() {
            let name = inside(Path::new(&*entry.name()?))?;
            let size = entry.size();
            visit(&name, Item::File(Content { data: &mut entry, size }))?;
        }
    }
    Ok(())
}

/// A path without `.` and `..`, with `/` between its parts.
fn inside(path: &Path) -> Result<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                let part = part.to_str().with_context(|| format!("{path:?} is not UTF-8"))?;
                if part.contains(['\\', ':', '\0']) {
                    bail!("{path:?} has a character that names of files cannot have everywhere");
                }
                parts.push(part);
            }
            Component::CurDir => {}
            Component::ParentDir if !parts.is_empty() => {
                parts.pop();
            }
            _ => bail!("{path:?} leads out of the package"),
        }
    }
    if parts.is_empty() {
        bail!("{path:?} names nothing");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests;
