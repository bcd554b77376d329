//! Reading tensors, from one file or from shards.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use burn::tensor::TensorData;
use half::slice::HalfFloatSliceExt;
use serde::Deserialize;

use crate::Error;
use crate::header::{self, Entry};

/// The tensors of a safetensors file or of the shards that an index names.
///
/// Only headers are held; values are read when asked for.
#[derive(Clone, Debug)]
pub struct TensorFiles {
    root: PathBuf,
    files: Vec<PathBuf>,
    entries: BTreeMap<String, (usize, Entry)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// Opens one file.
    ///
    /// # Errors
    /// If it cannot be read, or its header lies.
    pub fn open_file(path: &Path) -> Result<Self, Error> {
        let mut files =
            TensorFiles { root: path.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        files.add(path)?;
        Ok(files)
    }

    /// Opens `NAME.safetensors` of a folder, or the shards of `NAME.safetensors.index.json`.
    ///
    /// # Errors
    /// If neither is there, a shard is missing, or index and shards disagree.
    pub fn open_dir(dir: &Path, name: &str) -> Result<Self, Error> {
        let single = dir.join(format!("{name}.safetensors"));
        let index = dir.join(format!("{name}.safetensors.index.json"));
        if single.exists() || !index.exists() {
            return Self::open_file(&single);
        }
        let size = std::fs::metadata(&index).map_err(Error::io(&index))?.len();
        if size > header::MAX_HEADER {
            return Err(Error::damaged(&index, format!("an index of {size} bytes is none")));
        }
        let text = std::fs::read(&index).map_err(Error::io(&index))?;
        let map: Index = serde_json::from_slice(&text)
            .map_err(|e| Error::damaged(&index, format!("not an index of shards ({e})")))?;
        let mut shards: Vec<&String> = map.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let mut files =
            TensorFiles { root: index.clone(), files: Vec::new(), entries: BTreeMap::new() };
        for shard in shards {
            // It would spoil the messages it is in.
            if shard.len() > 255 || shard.chars().any(char::is_control) {
                return Err(Error::damaged(&index, format!("no shard can be called `{shard}`")));
            }
            let mut parts = Path::new(shard).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(Error::damaged(
                    &index,
                    format!("shard `{shard}` lies outside the folder"),
                ));
            }
            files.add(&dir.join(shard))?;
        }
        for (name, shard) in &map.weight_map {
            let found = files.entries.get(name).map(|(file, _)| &files.files[*file]);
            if found != Some(&dir.join(shard)) {
                return Err(Error::damaged(
                    &index,
                    format!("shard `{shard}` does not hold `{name}`"),
                ));
            }
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let meta = file.metadata().map_err(Error::io(path))?;
        if meta.is_dir() {
            return Err(Error::damaged(path, "it is a folder"));
        }
        let index = self.files.len();
        self.files.push(path.to_owned());
        for (name, entry) in header::read(path, &mut file, meta.len())? {
            if self.entries.contains_key(&name) {
                return Err(Error::damaged(path, format!("tensor `{name}` is in two shards")));
            }
            self.entries.insert(name, (index, entry));
        }
        Ok(())
    }

    /// The same tensors under other names; those that `name` has none for are left out.
    ///
    /// # Errors
    /// If two tensors get the same name.
    pub fn renamed(&self, name: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        for (old, entry) in &self.entries {
            let Some(new) = name(old) else { continue };
            if entries.contains_key(&new) {
                let reason = format!("`{old}` is another name of `{new}`, which is there too");
                return Err(Error::damaged(&self.root, reason));
            }
            entries.insert(new, entry.clone());
        }
        Ok(TensorFiles { root: self.root.clone(), files: self.files.clone(), entries })
    }

    /// The file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|(_, entry)| entry.shape.as_slice())
    }

    /// A tensor's type under safetensors' name, such as `BF16`.
    pub fn dtype(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|(_, entry)| entry.dtype.as_str())
    }

    /// Reads a tensor's values as f32.
    ///
    /// # Errors
    /// If there is no such tensor, it is not a float of 16 or 32 bits, or the file fails.
    pub fn read(&self, name: &str) -> Result<TensorData, Error> {
        let shape = self.shape(name).unwrap_or_default().to_vec();
        let mut values = Vec::new();
        self.read_values(name, 0, usize::MAX, &mut values)?;
        Ok(TensorData::new(values, shape))
    }

    /// Reads `rows` rows of a tensor from row `first` on, as f32: what lies there along its first
    /// dimension.
    ///
    /// # Errors
    /// As [`read`](Self::read), and if there are not so many rows.
    pub fn read_rows(&self, name: &str, first: usize, rows: usize) -> Result<TensorData, Error> {
        let mut shape = self.shape(name).unwrap_or_default().to_vec();
        if let Some(all) = shape.first_mut() {
            *all = rows;
        }
        let mut values = Vec::new();
        self.read_rows_into(name, first, rows, &mut values)?;
        Ok(TensorData::new(values, shape))
    }

    /// Reads a tensor's values into memory that is there already: for whoever looks at many tensors
    /// one after the other, and would wait for the system to hand out memory for each.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_into(&self, name: &str, values: &mut Vec<f32>) -> Result<(), Error> {
        self.read_values(name, 0, usize::MAX, values)
    }

    /// [`read_rows`](Self::read_rows) into memory that is there already.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    pub fn read_rows_into(
        &self,
        name: &str,
        first: usize,
        rows: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let shape = self.shape(name).unwrap_or_default();
        let inner: usize = shape.iter().skip(1).product();
        let end = first.saturating_add(rows);
        if shape.first().is_none_or(|all| end > *all) {
            let reason = format!("`{name}` has no rows {first} to {end}");
            return Err(Error::damaged(&self.root, reason));
        }
        self.read_values(name, first * inner, rows * inner, values)
    }

    /// A tensor of bytes (`U8`) as it lies in the file.
    ///
    /// # Errors
    /// If there is no such tensor, it has another type, or the file fails.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let Some((file, entry)) = self.entries.get(name) else {
            return Err(Error::Absent { path: self.root.clone(), name: name.into() });
        };
        let path = &self.files[*file];
        if entry.dtype != "U8" {
            let reason = format!("tensor `{name}` has type {}, not U8", entry.dtype);
            return Err(Error::damaged(path, reason));
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        file.seek(SeekFrom::Start(entry.start)).map_err(Error::io(path))?;
        let mut bytes = vec![0; entry.len as usize];
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        Ok(bytes)
    }

    /// At most `count` values from value `first` on, in place of what `values` holds.
    fn read_values(
        &self,
        name: &str,
        first: usize,
        count: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let Some((file, entry)) = self.entries.get(name) else {
            return Err(Error::Absent { path: self.root.clone(), name: name.into() });
        };
        let path = &self.files[*file];
        let width = match entry.dtype.as_str() {
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => {
                return Err(Error::Type {
                    path: path.clone(),
                    name: name.into(),
                    dtype: entry.dtype.clone(),
                });
            }
        };
        let mut file = File::open(path).map_err(Error::io(path))?;
        let start = entry.start + first as u64 * width;
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        let count = count.min((entry.len / width) as usize);
        let len = count * width as usize;
        if entry.dtype == "F32" && cfg!(target_endian = "little") {
            // As they lie in the file. New memory comes as zeros from the system.
            if values.capacity() < count {
                *values = vec![0.0; count];
            }
            values.resize(count, 0.0);
            return file.read_exact(bytemuck::cast_slice_mut(values)).map_err(Error::io(path));
        }
        // In pieces, so that conversion never holds a second copy of a large tensor.
        values.clear();
        values.reserve_exact(count);
        let mut piece = vec![0u8; (1 << 18).min(len)];
        let mut left = len;
        while left > 0 {
            let take = piece.len().min(left);
            let bytes = &mut piece[..take];
            file.read_exact(bytes).map_err(Error::io(path))?;
            append(values, bytes, &entry.dtype);
            left -= take;
        }
        Ok(())
    }
}

/// Decodes little-endian values to the end of `values`.
fn append(values: &mut Vec<f32>, bytes: &[u8], dtype: &str) {
    let at = values.len();
    match dtype {
        "F32" => values
            .extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        "F16" => {
            let halves: Vec<half::f16> =
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]])).collect();
            values.resize(at + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut values[at..]);
        }
        _ => values.extend(
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        ),
    }
}
