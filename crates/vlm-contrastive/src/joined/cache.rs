//! What a locked tower says, kept on disk.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};
use vlm_train::BoxError;

/// Vectors that are computed and kept together: what a kill can cost.
const BLOCK: usize = 256;

/// A folder of vectors. Each file is named after all that its vectors depend on; files that cannot
/// be read are made again.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    dir: PathBuf,
}

/// Rows of one width.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Vectors {
    pub values: Vec<f32>,
    pub width: usize,
}

impl Vectors {
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}

impl FeatureCache {
    /// In that folder, which is made when it is needed.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        FeatureCache { dir: dir.into() }
    }

    /// A vector for each of `items`, which name what it depends on besides `about`. `make` computes
    /// those of a range; `progress` is told how many are there.
    pub(super) fn get(
        &self,
        about: &str,
        items: &[String],
        progress: &dyn Fn(usize, usize),
        make: &mut dyn FnMut(std::ops::Range<usize>) -> Result<Vectors, BoxError>,
    ) -> Result<Vectors, BoxError> {
        std::fs::create_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        let mut all = Vectors::default();
        for start in (0..items.len()).step_by(BLOCK) {
            let range = start..(start + BLOCK).min(items.len());
            let name = name(about, &items[range.clone()]);
            let path = self.dir.join(format!("{name}.safetensors"));
            let block = match read(&path, range.len()) {
                Some(block) => block,
                None => {
                    progress(start, items.len());
                    let block = make(range.clone())?;
                    write(&path, &block)?;
                    block
                }
            };
            all.width = block.width;
            all.values.extend(block.values);
        }
        Ok(all)
    }
}

/// 128 bits of a hash.
fn name(about: &str, items: &[String]) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, about, items).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(1), half(2))
}

fn read(path: &Path, rows: usize) -> Option<Vectors> {
    let data = TensorFiles::open_file(path).ok()?.read("vectors").ok()?;
    let shape = data.shape().to_vec();
    let fits = shape.len() == 2 && shape[0] == rows && shape[1] > 0;
    fits.then(|| Vectors { values: data.iter().collect(), width: shape[1] })
}

fn write(path: &Path, block: &Vectors) -> Result<(), BoxError> {
    let shape = vec![block.values.len() / block.width.max(1), block.width];
    let spec = TensorSpec { name: "vectors".into(), shape: shape.clone() };
    Ok(write_tensors(path, Float::F32, &[], &[spec], &mut |_| {
        TensorData::new(block.values.clone(), shape.clone())
    })?)
}

/// What a file's contents are known by without reading them: name, length and time of change.
pub(super) fn stamp(path: &Path) -> String {
    let meta = std::fs::metadata(path).ok();
    let changed = meta.as_ref().and_then(|m| m.modified().ok());
    let since = changed.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let nanos = since.map_or(0, |d| d.as_nanos());
    format!("{} {} {nanos}", path.display(), meta.map_or(0, |m| m.len()))
}

/// The same of all files of a model folder.
pub(super) fn stamp_folder(dir: &Path) -> String {
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
        // Another tower, other pictures, a damaged file.
        get("b", &items, &mut made);
        let fewer = &items[..BLOCK + 2];
        get("a", fewer, &mut made);
        assert_eq!(made, [BLOCK, 3, BLOCK, 3, 2]);
        for entry in std::fs::read_dir(dir.path().join("features")).unwrap() {
            std::fs::write(entry.unwrap().path(), "half").unwrap();
        }
        assert_eq!(get("a", &items, &mut made), first);
        assert_eq!(made.len(), 7);
    }
}
