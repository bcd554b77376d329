//! What a locked tower says of pictures and texts, kept on disk.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use vlm_nn::ops::Precision;
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};

use crate::BoxError;

/// Vectors that are computed and kept together: what a kill can cost.
const BLOCK: usize = 256;

/// A folder of vectors, which are found again by all that they depend on; files that cannot be read
/// are made again.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    dir: PathBuf,
}

/// Rows of one width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// Row after row.
    pub values: Vec<f32>,
    /// Values of a row.
    pub width: usize,
}

impl Vectors {
    /// One of the rows.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}

/// A 128-bit hash in pieces that an f32 holds exactly.
const PIECES: usize = 8;

impl FeatureCache {
    /// In that folder, which is made when it is needed.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        FeatureCache { dir: dir.into() }
    }

    /// A vector for each of `items`, which name what it depends on besides `about`; the order is
    /// that of the items, and it does not matter in which call an item was there first. `make`
    /// computes those of a range; `progress` is told how many are there.
    ///
    /// # Errors
    /// If `make` fails, or the folder cannot be written.
    pub fn get(
        &self,
        about: &str,
        items: &[String],
        progress: &dyn Fn(usize, usize),
        make: &mut dyn FnMut(std::ops::Range<usize>) -> Result<Vectors, BoxError>,
    ) -> Result<Vectors, BoxError> {
        // What is kept is exact, however exact the run is that asks first.
        let _precision = Precision::Highest.scope();
        let dir = self.dir.join(format!("{:032x}", hash(about)));
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let keys: Vec<u128> = items.iter().map(hash).collect();
        let mut files = known(&dir);
        let there: HashSet<u128> =
            files.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let missing: Vec<usize> = (0..items.len()).filter(|i| !there.contains(&keys[*i])).collect();
        let there = items.len() - missing.len();
        for (i, block) in missing.chunks(BLOCK).enumerate() {
            progress(there + i * BLOCK, items.len());
            let mut made = Vectors::default();
            for run in block.chunk_by(|a, b| a + 1 == *b) {
                let part = make(run[0]..run[run.len() - 1] + 1)?;
                made.width = part.width;
                made.values.extend(part.values);
            }
            let keys: Vec<u128> = block.iter().map(|item| keys[*item]).collect();
            let path = dir.join(format!("{:032x}.safetensors", hash(&keys)));
            write(&path, &keys, &made)?;
            files.push((path, keys));
        }
        placed(&dir, files, &keys, items)
    }
}

/// The vectors of items, file by file: none but those that are asked for are ever in memory twice.
fn placed(
    dir: &Path,
    files: Vec<(PathBuf, Vec<u128>)>,
    keys: &[u128],
    items: &[String],
) -> Result<Vectors, BoxError> {
    let mut places: HashMap<u128, Vec<usize>> = HashMap::new();
    for (item, key) in keys.iter().enumerate() {
        places.entry(*key).or_default().push(item);
    }
    let mut all = Vectors::default();
    for (path, own) in files {
        if !own.iter().any(|key| places.contains_key(key)) {
            continue;
        }
        let Some(block) = read(&path, own.len()) else { continue };
        if all.width == 0 {
            all = Vectors { width: block.width, values: vec![0.0; items.len() * block.width] };
        } else if all.width != block.width {
            let dir = dir.display();
            return Err(format!("{dir}: vectors of different widths; delete it").into());
        }
        for (row, key) in own.iter().enumerate() {
            for item in places.remove(key).into_iter().flatten() {
                let at = item * all.width;
                all.values[at..at + all.width].copy_from_slice(block.row(row));
            }
        }
    }
    match places.into_values().flatten().min() {
        None => Ok(all),
        Some(item) => Err(format!("{}: no vector was made", items[item]).into()),
    }
}

fn hash(of: impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &of).hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(1)) << 64 | u128::from(half(2))
}

/// The files of a folder, and which vectors each holds.
fn known(dir: &Path) -> Vec<(PathBuf, Vec<u128>)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| Some((file.path(), held(&file.path())?))).collect()
}

/// Which vectors a file holds, if it is whole.
fn held(path: &Path) -> Option<Vec<u128>> {
    if path.file_name()?.to_str()?.starts_with('.') || path.extension()? != "safetensors" {
        return None; // What a kill left.
    }
    let files = TensorFiles::open_file(path).ok()?;
    let keys = files.read("items").ok()?;
    let (shape, wide) = (files.shape("vectors")?, keys.shape().to_vec());
    let fits = shape.len() == 2 && shape[1] > 0 && wide == [shape[0], PIECES];
    let pieces: Vec<f32> = keys.iter().collect();
    let join = |key: &[f32]| key.iter().fold(0u128, |key, piece| key << 16 | *piece as u128);
    fits.then(|| pieces.chunks_exact(PIECES).map(join).collect())
}

fn read(path: &Path, rows: usize) -> Option<Vectors> {
    let files = TensorFiles::open_file(path).ok()?;
    let width = *files.shape("vectors")?.get(1)?;
    let mut values = Vec::new();
    files.read_into("vectors", &mut values).ok()?;
    (width > 0 && values.len() == rows * width).then_some(Vectors { values, width })
}

fn write(path: &Path, keys: &[u128], block: &Vectors) -> Result<(), BoxError> {
    if block.values.len() != keys.len() * block.width || block.width == 0 {
        return Err(format!("{}: vectors do not fit their items", path.display()).into());
    }
    let shape = vec![keys.len(), block.width];
    let wide = vec![keys.len(), PIECES];
    let specs = [
        TensorSpec { name: "items".into(), shape: wide.clone() },
        TensorSpec { name: "vectors".into(), shape: shape.clone() },
    ];
    let split =
        |key: &u128| (0..PIECES).rev().map(|i| (*key >> (16 * i)) as u16).collect::<Vec<_>>();
    let pieces: Vec<f32> = keys.iter().flat_map(split).map(f32::from).collect();
    Ok(write_tensors(path, Float::F32, &[], &specs, &mut |name| match name {
        "items" => TensorData::new(pieces.clone(), wide.clone()),
        _ => TensorData::new(block.values.clone(), shape.clone()),
    })?)
}

/// What a file's contents are known by without reading them: name, length and time of change.
pub fn stamp(path: &Path) -> String {
    let meta = std::fs::metadata(path).ok();
    let changed = meta.as_ref().and_then(|m| m.modified().ok());
    let since = changed.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let nanos = since.map_or(0, |d| d.as_nanos());
    format!("{} {} {nanos}", path.display(), meta.map_or(0, |m| m.len()))
}

/// The same of all files of a model folder.
pub fn stamp_folder(dir: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files.iter().map(|path| stamp(path)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::new(dir.path().join("features"));
        let items: Vec<String> = (0..BLOCK + 3).map(|i| i.to_string()).collect();
        let mut made = Vec::new();
        let get = |about: &str, items: &[String], made: &mut Vec<usize>| {
            cache
                .get(about, items, &|_, _| {}, &mut |range| {
                    made.push(range.len());
                    let values = range.flat_map(|i| [i as f32, 0.5]).collect();
                    Ok(Vectors { values, width: 2 })
                })
                .unwrap()
        };
        let first = get("a", &items, &mut made);
        assert_eq!(first.row(BLOCK + 1), [(BLOCK + 1) as f32, 0.5]);
        assert_eq!(get("a", &items, &mut made), first);
        assert_eq!(made, [BLOCK, 3]);
        // Another tower; other pictures, in another order; damaged files.
        get("b", &items, &mut made);
        let mut others = vec!["new".to_owned()];
        others.extend(items[..BLOCK + 2].iter().rev().cloned());
        let found = get("a", &others, &mut made);
        assert_eq!(found.row(1), first.row(BLOCK + 1));
        assert_eq!(made, [BLOCK, 3, BLOCK, 3, 1]);
        for folder in std::fs::read_dir(dir.path().join("features")).unwrap().flatten() {
            for entry in std::fs::read_dir(folder.path()).unwrap().flatten() {
                std::fs::write(entry.path(), "half").unwrap();
            }
        }
        assert_eq!(get("a", &items, &mut made), first);
        assert_eq!(made.len(), 7);
    }
}
