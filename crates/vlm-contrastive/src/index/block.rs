//! A block of an index on disk: features as safetensors, and beside them a list in JSON of what
//! they are of.
//!
//! The list is written last, so a block with a list is whole.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vlm_store::{Float, TensorFiles, TensorSpec, write_file, write_tensors};

use super::walk::Stamp;
use crate::Error;

/// Changes when files of before cannot be understood any more.
const FORMAT: u32 = 1;
/// More than a million names.
const MAX_LIST: u64 = 1 << 28;

/// A path in JSON, which holds text only: as bytes where it is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for Name {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Name::Text(text.to_owned()),
            None => Name::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        }
    }
}

impl From<&Name> for PathBuf {
    fn from(name: &Name) -> Self {
        match name {
            Name::Text(text) => PathBuf::from(text),
            Name::Bytes(bytes) => PathBuf::from(os_string(bytes)),
        }
    }
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// A name that is not found again is made anew.
#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// The list of a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    format: u32,
    /// The model, by its contents.
    pub model: String,
    /// The version of this program, which may read tomorrow what it can't read today.
    pub program: String,
    /// The name of the tensor `[pictures, dim]`. No other block has it, so that a list is never
    /// taken for that of features which another process wrote.
    tensor: String,
    /// Width of the features.
    pub dim: usize,
    /// Pictures, row by row.
    pub pictures: Vec<(Name, Stamp)>,
    /// Pictures that cannot be used, and why.
    pub skipped: Vec<(Name, Stamp, String)>,
}

impl List {
    /// An empty list.
    pub fn new(model: &str, dim: usize) -> Self {
        List {
            format: FORMAT,
            model: model.to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            tensor: format!("features.{:016x}", RandomState::new().build_hasher().finish()),
            dim,
            pictures: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Pictures of either sort.
    pub fn len(&self) -> usize {
        self.pictures.len() + self.skipped.len()
    }
}

/// Numbers of the blocks in a folder, ascending.
pub fn numbers(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("block-")?.strip_suffix(".json")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

fn path(dir: &Path, number: u64, ending: &str) -> PathBuf {
    dir.join(format!("block-{number:06}.{ending}"))
}

/// Reads a list; `None` if it is damaged or of another format.
pub fn list(dir: &Path, number: u64) -> Option<List> {
    let path = path(dir, number, "json");
    if std::fs::metadata(&path).ok()?.len() > MAX_LIST {
        return None;
    }
    let list: List = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (list.format == FORMAT).then_some(list)
}

/// Reads the features that a list is of; `None` if they are damaged.
pub fn features(dir: &Path, number: u64, list: &List) -> Option<Vec<f32>> {
    if list.pictures.is_empty() {
        return Some(Vec::new());
    }
    let files = TensorFiles::open_file(&path(dir, number, "safetensors")).ok()?;
    if files.shape(&list.tensor) != Some(&[list.pictures.len(), list.dim]) {
        return None;
    }
    let values = files.read(&list.tensor).ok()?.try_into_vec::<f32>().ok()?;
    values.iter().all(|x| x.is_finite()).then_some(values)
}

/// Writes a block.
///
/// # Errors
/// What the operating system reports.
pub fn write(dir: &Path, number: u64, list: &List, values: Vec<f32>) -> Result<(), Error> {
    let failed = |error| Error::Model(vlm_encoders::Error::Store(error));
    if !list.pictures.is_empty() {
        let shape = vec![list.pictures.len(), list.dim];
        let spec = TensorSpec { name: list.tensor.clone(), shape: shape.clone() };
        let path = path(dir, number, "safetensors");
        let mut data = Some(TensorData::new(values, shape));
        write_tensors(&path, Float::F32, &[], &[spec], &mut |_| {
            data.take().unwrap_or_else(|| unreachable!("one tensor is asked for once"))
        })
        .map_err(failed)?;
    }
    write_file(&path(dir, number, "json"), &mut |w| {
        serde_json::to_writer(w, list).map_err(std::io::Error::from)
    })
    .map_err(failed)
}

/// Removes a block, its list first. What cannot be removed is no harm.
pub fn remove(dir: &Path, number: u64) {
    for ending in ["json", "safetensors"] {
        let _ = std::fs::remove_file(path(dir, number, ending));
    }
}

/// Removes what a kill has left: features without a list, and files half written.
pub fn sweep(dir: &Path) {
    let known = numbers(dir);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = name.strip_prefix("block-").and_then(|n| n.strip_suffix(".safetensors"));
        let lost = number.is_some_and(|n| n.parse().is_ok_and(|n| !known.contains(&n)));
        if lost || name.starts_with(".writing-") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
