//! Writing tensors as Hugging Face reads them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::json;

use crate::{Error, write_file};

/// The type that values are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits with f32's range.
    Bf16,
}

impl Float {
    /// Its name in safetensors.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "F32",
            Float::F16 => "F16",
            Float::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> usize {
        if self == Float::F32 { 4 } else { 2 }
    }

    fn write(self, values: &[f32], w: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        for piece in values.chunks((1 << 16) / 4) {
            buffer.clear();
            for x in piece {
                match self {
                    Float::F32 => buffer.extend(x.to_le_bytes()),
                    Float::F16 => buffer.extend(half::f16::from_f32(*x).to_le_bytes()),
                    Float::Bf16 => buffer.extend(half::bf16::from_f32(*x).to_le_bytes()),
                }
            }
            w.write_all(&buffer)?;
        }
        Ok(())
    }
}

/// What a tensor is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Floats.
    Float(Float),
    /// Bytes.
    Bytes,
}

impl Stored {
    fn name(self) -> &'static str {
        match self {
            Stored::Float(float) => float.name(),
            Stored::Bytes => "U8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Stored::Float(float) => float.bytes(),
            Stored::Bytes => 1,
        }
    }

    fn write(self, data: &TensorData, w: &mut dyn Write) -> std::io::Result<()> {
        let float = match self {
            Stored::Float(float) => float,
            Stored::Bytes => {
                return match data.as_slice::<u8>() {
                    Ok(bytes) => w.write_all(bytes),
                    Err(_) => w.write_all(&data.iter::<u8>().collect::<Vec<u8>>()),
                };
            }
        };
        match data.as_slice::<f32>() {
            Ok(values) => float.write(values, w),
            Err(_) => float.write(&data.iter::<f32>().collect::<Vec<f32>>(), w),
        }
    }
}

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    fn bytes(&self, float: Float) -> usize {
        self.shape.iter().product::<usize>() * float.bytes()
    }
}

/// Writes one file; `values(name)` is asked for each tensor in turn, so only one is held.
///
/// `metadata` goes beside `format: pt`, which Hugging Face's readers insist on.
///
/// # Errors
/// What the operating system reports; an earlier file then stays as it was.
///
/// # Panics
/// If values do not have the announced number of elements.
pub fn write_tensors(
    path: &Path,
    float: Float,
    metadata: &[(&str, String)],
    specs: &[TensorSpec],
    values: &mut dyn FnMut(&str) -> TensorData,
) -> Result<(), Error> {
    write_tensors_from(path, float, metadata, specs, &mut |name| Ok(values(name)))
}

/// [`write_tensors`] of values that are still to be read, which may fail.
///
/// # Errors
/// What the operating system or `values` reports; an earlier file then stays as it was.
///
/// # Panics
/// If values do not have the announced number of elements.
pub fn write_tensors_from(
    path: &Path,
    float: Float,
    metadata: &[(&str, String)],
    specs: &[TensorSpec],
    values: &mut dyn FnMut(&str) -> std::io::Result<TensorData>,
) -> Result<(), Error> {
    write_mixed(path, &|_| Stored::Float(float), metadata, specs, values)
}

/// [`write_tensors_from`] of tensors that are stored in several ways, by their names.
///
/// # Errors
/// As [`write_tensors_from`].
///
/// # Panics
/// If values do not have the announced number of elements.
pub fn write_mixed(
    path: &Path,
    stored: &dyn Fn(&str) -> Stored,
    metadata: &[(&str, String)],
    specs: &[TensorSpec],
    values: &mut dyn FnMut(&str) -> std::io::Result<TensorData>,
) -> Result<(), Error> {
    let mut specs: Vec<&TensorSpec> = specs.iter().collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = serde_json::Map::new();
    let mut note = serde_json::Map::new();
    note.insert("format".into(), json!("pt"));
    note.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
    header.insert("__metadata__".into(), note.into());
    let mut at = 0;
    for spec in &specs {
        let stored = stored(&spec.name);
        let end = at + spec.shape.iter().product::<usize>() * stored.bytes();
        header.insert(
            spec.name.clone(),
            json!({ "dtype": stored.name(), "shape": spec.shape, "data_offsets": [at, end] }),
        );
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_file(path, &mut |w| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(&header)?;
        for spec in &specs {
            let data = values(&spec.name)?;
            assert_eq!(
                data.num_elements(),
                spec.shape.iter().product::<usize>(),
                "writing {}",
                spec.name
            );
            stored(&spec.name).write(&data, w)?;
        }
        Ok(())
    })
}

/// Writes `NAME.safetensors`, or shards of at most `max_bytes` with their index.
///
/// A tensor that is larger by itself gets a shard of its own. An earlier model of that name goes
/// once the new one is complete, since a single file would hide an index beside it.
///
/// # Errors
/// What the operating system reports.
pub fn write_sharded(
    dir: &Path,
    name: &str,
    float: Float,
    max_bytes: usize,
    specs: &[TensorSpec],
    values: &mut dyn FnMut(&str) -> TensorData,
) -> Result<(), Error> {
    let mut shards: Vec<Vec<TensorSpec>> = vec![Vec::new()];
    let (mut size, mut total) = (0, 0);
    for spec in specs {
        let bytes = spec.bytes(float);
        if size > 0 && size + bytes > max_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        total += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(spec.clone());
        }
    }
    let single = dir.join(format!("{name}.safetensors"));
    let index_file = dir.join(format!("{name}.safetensors.index.json"));
    if let [shard] = shards.as_slice() {
        write_tensors(&single, float, &[], shard, values)?;
        return remove(&index_file);
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("{name}-{:05}-of-{count:05}.safetensors", i + 1);
        write_tensors(&dir.join(&file), float, &[], shard, values)?;
        map.extend(shard.iter().map(|spec| (spec.name.clone(), file.clone())));
    }
    // Last, so that an index never names a shard that is not there.
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    write_file(&index_file, &mut |w| {
        serde_json::to_writer_pretty(w, &index).map_err(std::io::Error::from)
    })?;
    remove(&single)
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}
