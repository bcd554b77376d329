//! Moving tensors between a module and a file whose names and layouts are Hugging Face's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use vlm_nn::params;
use vlm_store::{Float, TensorFiles, TensorSpec};

use crate::{Error, Mismatch};

/// How a parameter lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As here.
    Same,
    /// Linear weights: `[out, in]` there, `[in, out]` here.
    Transposed,
    /// Patch convolutions: `[width, channels, patch, patch]` there, `[channels · patch², width]` here.
    Patches {
        /// Channels of the picture.
        channels: usize,
        /// Side of a patch.
        patch: usize,
    },
    /// A single number: `[]` there, `[1]` here.
    Scalar,
}

impl Layout {
    /// The shape in the file of a parameter that has this shape here.
    pub fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Layout::Same => shape.to_vec(),
            Layout::Transposed => shape.iter().rev().copied().collect(),
            Layout::Patches { channels, patch } => vec![shape[1], channels, patch, patch],
            Layout::Scalar => vec![],
        }
    }

    fn turns(self) -> bool {
        matches!(self, Layout::Transposed | Layout::Patches { .. })
    }
}

/// A parameter's name and layout in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name there.
    pub name: String,
    /// Its layout there.
    pub layout: Layout,
}

/// Transposes `[rows, cols]` in tiles that fit the cache.
fn transpose(data: TensorData, rows: usize, cols: usize) -> TensorData {
    const TILE: usize = 32;
    // A module on a device of half precision hands out halves.
    let data = data.convert::<f32>();
    let Ok(source) = data.as_slice::<f32>() else { unreachable!("converted just above") };
    let mut target = vec![0f32; source.len()];
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for r in r0..(r0 + TILE).min(rows) {
                for c in c0..(c0 + TILE).min(cols) {
                    target[c * rows + r] = source[r * cols + c];
                }
            }
        }
    }
    TensorData::new(target, [cols, rows])
}

/// Loads every parameter of `module` from `files`; `names(path)` says where each lies.
///
/// Every tensor of the file must be wanted, except `position_ids`, which old files carry and
/// nobody needs. One tensor at a time is held besides the module itself.
///
/// # Errors
/// [`Error::Tensors`] lists all that is missing, surplus or misshapen; [`Error::Store`] if
/// the file fails.
pub fn load<M: Module>(
    module: M,
    files: &TensorFiles,
    names: &dyn Fn(&str) -> Named,
) -> Result<M, Error> {
    let mut mismatch = Mismatch::default();
    let mut wanted = BTreeSet::new();
    for param in params::list(&module) {
        let Named { name, layout } = names(&param.path);
        let shape = layout.file_shape(&param.shape);
        match files.shape(&name) {
            None => mismatch.missing.push(name.clone()),
            Some(found) if found != shape => {
                mismatch.misshapen.push((name.clone(), shape, found.to_vec()));
            }
            Some(_) => {}
        }
        wanted.insert(name);
    }
    mismatch.surplus = files
        .names()
        .filter(|name| !wanted.contains(*name) && !name.ends_with(".embeddings.position_ids"))
        .map(str::to_owned)
        .collect();
    if !mismatch.is_empty() {
        return Err(Error::Tensors { path: files.path().to_owned(), mismatch });
    }
    params::replace(module, &mut |path, shape| {
        let Named { name, layout } = names(path);
        let data = files.read(&name)?;
        let data = if layout.turns() {
            transpose(data, shape[1], shape[0])
        } else {
            TensorData::from_bytes(data.into_bytes(), shape.to_vec(), burn::tensor::DType::F32)
        };
        Ok(Some(data))
    })
}

/// Writes every parameter of `module` as one file.
///
/// # Errors
/// What the operating system reports; an earlier file then stays as it was.
pub fn save<M: Module>(
    module: &M,
    path: &Path,
    float: Float,
    names: &dyn Fn(&str) -> Named,
) -> Result<(), Error> {
    let (specs, mut values) = plan(module, names);
    Ok(vlm_store::write_tensors(path, float, &[], &specs, &mut values)?)
}

/// Writes `model.safetensors` in a folder, or shards of at most `max_bytes` with their index.
///
/// # Errors
/// What the operating system reports.
pub fn save_sharded<M: Module>(
    module: &M,
    dir: &Path,
    float: Float,
    max_bytes: usize,
    names: &dyn Fn(&str) -> Named,
) -> Result<(), Error> {
    let (specs, mut values) = plan(module, names);
    Ok(vlm_store::write_sharded(dir, "model", float, max_bytes, &specs, &mut values)?)
}

/// The tensors to write, and a source of their values that reads the module when asked.
fn plan<'a, M: Module>(
    module: &'a M,
    names: &'a dyn Fn(&str) -> Named,
) -> (Vec<TensorSpec>, impl FnMut(&str) -> TensorData + 'a) {
    let mut specs = Vec::new();
    let mut places = BTreeMap::new();
    for param in params::list(module) {
        let Named { name, layout } = names(&param.path);
        specs.push(TensorSpec { name: name.clone(), shape: layout.file_shape(&param.shape) });
        places.insert(name, (param.path, layout));
    }
    let values = move |name: &str| {
        let (path, layout) = &places[name];
        let data = params::read_one(module, path);
        let shape = data.shape().to_vec();
        if layout.turns() { transpose(data, shape[0], shape[1]) } else { data }
    };
    (specs, values)
}
