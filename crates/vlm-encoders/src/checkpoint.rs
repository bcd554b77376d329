//! Moving tensors between a module and a file whose names and layouts are Hugging Face's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::tensor::TensorData;
use vlm_nn::adapter;
use vlm_nn::four_bit::{FourBitConfig, Packed};
use vlm_nn::params::{self, ParamInfo};
use vlm_store::{Float, Stored, TensorFiles, TensorSpec};

use crate::four_bit::{self, FourBitFiles};
use crate::{Error, Mismatch};

/// Threads that read parameters: each holds a tensor besides the module, and more of them wait for
/// the same memory.
const READERS: usize = 2;
/// Values of the parameters that are read side by side.
const AHEAD: usize = 1 << 24;

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
    /// So many dimensions of 1 there before those here.
    Lead(usize),
}

impl Layout {
    /// The shape in the file of a parameter that has this shape here.
    pub fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Layout::Same => shape.to_vec(),
            Layout::Transposed => shape.iter().rev().copied().collect(),
            Layout::Patches { channels, patch } => vec![shape[1], channels, patch, patch],
            Layout::Scalar => vec![],
            Layout::Lead(ones) => [vec![1; ones], shape.to_vec()].concat(),
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
    /// Which of how many parts of equal height it is, where the file has several in one tensor,
    /// one under the other.
    pub part: Option<(usize, usize)>,
}

impl Named {
    /// Whether the file has the same matrix or vector, perhaps the other way round.
    pub fn is_alike(&self) -> bool {
        self.part.is_none() && matches!(self.layout, Layout::Same | Layout::Transposed)
    }

    /// The shape of the tensor in the file of a parameter that has this shape here.
    pub fn file_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = self.layout.file_shape(shape);
        if let (Some((_, of)), Some(rows)) = (self.part, shape.first_mut()) {
            *rows *= of;
        }
        shape
    }
}

/// A table of names: from a parameter's path and number of dimensions.
pub type Table<'a> = dyn Fn(&str, usize) -> Named + 'a;

/// Transposes `[rows, cols]` in tiles that fit the cache.
fn transpose(source: &[f32], rows: usize, cols: usize) -> TensorData {
    const TILE: usize = 32;
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

/// Whether `files` have every parameter of `module`; `table` says where each lies. Every tensor
/// of the file must be wanted, except those that `spare` knows.
///
/// # Errors
/// [`Error::Tensors`] lists all that is missing, surplus or misshapen.
pub fn check<M: Module>(
    module: &M,
    files: &TensorFiles,
    table: &Table<'_>,
    spare: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    let mut mismatch = Mismatch::default();
    let mut wanted = BTreeSet::new();
    let four_bit = FourBitFiles::of(files)?;
    for param in params::list(module) {
        let named = table(&param.path, param.shape.len());
        let shape = named.file_shape(&param.shape);
        let name = stored(&named.name, files);
        match four_bit.shape(&name) {
            None if wanted.contains(&name) => {}
            None => mismatch.missing.push(name.clone()),
            Some(found) if found != shape && !wanted.contains(&name) => {
                mismatch.misshapen.push((name.clone(), shape, found.to_vec()));
            }
            Some(_) => {}
        }
        wanted.insert(name);
    }
    mismatch.surplus = files
        .names()
        .filter(|name| !wanted.contains(*name) && !spare(name) && !four_bit.is_beside(name))
        .map(str::to_owned)
        .collect();
    if mismatch.is_empty() {
        return Ok(());
    }
    Err(Error::Tensors { path: files.path().to_owned(), mismatch })
}

/// Which linear maps are to have weights of four bits in memory, though they have more in the file.
#[derive(Clone, Copy)]
pub struct Packing<'a> {
    /// How.
    pub config: FourBitConfig,
    /// Which, by the paths of their weights.
    pub at: &'a dyn Fn(&str) -> bool,
}

/// Loads every parameter of `module` from `files` that were [checked](check). A few tensors at a
/// time are held besides the module itself. Weights of linear maps that have four bits in the file keep
/// them.
///
/// # Errors
/// [`Error::Store`] if the file fails.
pub fn fill<M: Module>(
    module: M,
    files: &TensorFiles,
    table: &Table<'_>,
    packing: Option<Packing<'_>>,
) -> Result<M, Error> {
    let four_bit = FourBitFiles::of(files)?;
    let is_packed = |path: &str, named: &Named| {
        let map = path.ends_with(".weight") && named.layout == Layout::Transposed;
        let asked = packing.is_some_and(|packing| (packing.at)(path));
        map && (asked || named.part.is_none() && four_bit.has(&stored(&named.name, files)))
    };
    // The module takes parameters in the order of the list.
    let wanted: Vec<(Vec<usize>, Named)> = params::list(&module)
        .into_iter()
        .map(|param| {
            let named = table(&param.path, param.shape.len());
            (param, named)
        })
        .filter(|(param, named)| !is_packed(&param.path, named))
        .map(|(param, named)| (param.shape, named))
        .collect();
    let mut rest = wanted.as_slice();
    let mut ready = VecDeque::new();
    let module = params::replace(module, &mut |path, shape| {
        if is_packed(path, &table(path, shape.len())) {
            return Ok(None);
        }
        if ready.is_empty() {
            let (now, later) = rest.split_at(together(rest));
            ready = read_all(now, &four_bit).into();
            rest = later;
        }
        ready.pop_front().transpose()
    })?;
    let mut spare = Vec::new();
    adapter::pack(module, &mut |path, [input, output]| {
        let named = table(path, 2);
        if !is_packed(path, &named) {
            return Ok(None);
        }
        let name = stored(&named.name, files);
        if four_bit.has(&name) && named.part.is_none() {
            return Ok(Some(four_bit.read(&name)?));
        }
        read_stored(&[input, output], &named, &four_bit, &mut spare)?;
        Ok(packing.map(|packing| packing.config.quantise(&spare)))
    })
}

/// How many of the next parameters are read side by side.
fn together(wanted: &[(Vec<usize>, Named)]) -> usize {
    let mut values = 0;
    let fitting = wanted.iter().take_while(|(shape, _)| {
        values += shape.iter().product::<usize>();
        values <= AHEAD
    });
    fitting.count().max(1).min(wanted.len())
}

/// Reads parameters, in order.
fn read_all(
    wanted: &[(Vec<usize>, Named)],
    files: &FourBitFiles<'_>,
) -> Vec<Result<TensorData, Error>> {
    let readers = rayon::current_num_threads().min(READERS).min(wanted.len());
    let next = AtomicUsize::new(0);
    let read = || {
        let (mut found, mut spare) = (Vec::new(), Vec::new());
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((shape, named)) = wanted.get(place) else { return found };
            found.push((place, read_one(shape, named, files, &mut spare)));
        }
    };
    let mut found = if readers < 2 {
        read()
    } else {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..readers).map(|_| scope.spawn(read)).collect();
            let mut found = read();
            for other in others {
                found.extend(other.join().unwrap_or_else(|cause| resume_unwind(cause)));
            }
            found
        })
    };
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, data)| data).collect()
}

/// Reads a parameter of a shape; `spare` is memory for what has to be turned.
fn read_one(
    shape: &[usize],
    named: &Named,
    files: &FourBitFiles<'_>,
    spare: &mut Vec<f32>,
) -> Result<TensorData, Error> {
    if named.layout.turns() {
        read_stored(shape, named, files, spare)?;
        return Ok(transpose(spare, shape[1], shape[0]));
    }
    let mut values = Vec::new();
    read_stored(shape, named, files, &mut values)?;
    Ok(TensorData::new(values, shape.to_vec()))
}

/// Reads the values of a parameter of a shape as they lie in the file.
fn read_stored(
    shape: &[usize],
    named: &Named,
    four_bit: &FourBitFiles<'_>,
    target: &mut Vec<f32>,
) -> Result<(), Error> {
    let files = four_bit.files();
    let name = stored(&named.name, files);
    let height = named.layout.file_shape(shape).first().copied().unwrap_or(1);
    match (named.part, four_bit.has(&name)) {
        (None, false) => files.read_into(&name, target)?,
        (Some((index, _)), false) => files.read_rows_into(&name, index * height, height, target)?,
        (part, true) => {
            let (all, index) = (four_bit.read(&name)?.values(), part.map_or(0, |(index, _)| index));
            let count = shape.iter().product::<usize>();
            *target = all[index * count..(index + 1) * count].to_vec();
        }
    }
    Ok(())
}

/// The name as it stands in the file: norms of old files have TensorFlow's names.
fn stored(name: &str, files: &TensorFiles) -> String {
    if files.shape(name).is_none() {
        for (new, old) in [(".weight", ".gamma"), (".bias", ".beta")] {
            if let Some(stem) = name.strip_suffix(new) {
                let old = format!("{stem}{old}");
                if files.shape(&old).is_some() {
                    return old;
                }
            }
        }
    }
    name.to_owned()
}

/// Writes every parameter of `module` as one file, and `more` tensors with it. Weights of four bits are
/// written as bitsandbytes does; adapters are left out.
///
/// # Errors
/// What the operating system reports; an earlier file then stays as it was.
pub fn save<M: Module>(
    module: &M,
    path: &Path,
    float: Float,
    table: &Table<'_>,
    more: &[(String, TensorData)],
) -> Result<(), Error> {
    let (mut specs, mut values) = plan(module, table, more);
    let four_bit = four_bit::of_module(module, float, table);
    specs.retain(|spec| !four_bit.contains_key(&spec.name));
    specs.extend(
        four_bit
            .iter()
            .map(|(name, data)| TensorSpec { name: name.clone(), shape: data.shape().to_vec() }),
    );
    let stored = |name: &str| match four_bit.get(name) {
        Some(data) if data.as_slice::<u8>().is_ok() => Stored::Bytes,
        // What bytes are multiplied by.
        Some(_) => Stored::Float(Float::F32),
        None => Stored::Float(float),
    };
    Ok(vlm_store::write_mixed(path, &stored, &[], &specs, &mut |name| {
        Ok(four_bit.get(name).cloned().unwrap_or_else(|| values(name)))
    })?)
}

/// Writes `model.safetensors` in a folder, or shards of at most `max_bytes` with their index. Weights of
/// four bits are written whole.
///
/// # Errors
/// What the operating system reports.
pub fn save_sharded<M: Module>(
    module: &M,
    dir: &Path,
    float: Float,
    max_bytes: usize,
    table: &Table<'_>,
    more: &[(String, TensorData)],
) -> Result<(), Error> {
    let (specs, mut values) = plan(module, table, more);
    Ok(vlm_store::write_sharded(dir, "model", float, max_bytes, &specs, &mut values)?)
}

/// The tensors to write, and a source of their values that reads the module when asked.
fn plan<'a, M: Module>(
    module: &'a M,
    table: &'a Table<'a>,
    more: &'a [(String, TensorData)],
) -> (Vec<TensorSpec>, impl FnMut(&str) -> TensorData + 'a) {
    let mut specs: Vec<TensorSpec> = more
        .iter()
        .map(|(name, data)| TensorSpec { name: name.clone(), shape: data.shape().to_vec() })
        .collect();
    // The parts of a tensor, in order.
    let mut places: BTreeMap<String, Vec<(String, Named)>> = BTreeMap::new();
    let packed: BTreeMap<String, Packed> = adapter::all(module)
        .into_iter()
        .filter_map(|(path, adapters)| Some((path, adapters.packed?)))
        .collect();
    let is_own = |param: &ParamInfo| !adapter::is_inside(&param.path);
    for param in params::list(module).into_iter().filter(is_own) {
        let named = table(&param.path, param.shape.len());
        let parts = places.entry(named.name.clone()).or_default();
        if parts.is_empty() {
            specs.push(TensorSpec {
                name: named.name.clone(),
                shape: named.file_shape(&param.shape),
            });
        }
        parts.push((param.path, named));
    }
    for parts in places.values_mut() {
        parts.sort_by_key(|(_, named)| named.part);
    }
    let values = move |name: &str| {
        if let Some((_, data)) = more.iter().find(|(other, _)| other == name) {
            return data.clone();
        }
        let mut parts: Vec<TensorData> = places[name]
            .iter()
            .map(|(path, named)| {
                let data = match packed.get(path) {
                    Some(packed) => packed.values().into_data(),
                    None => params::read_one(module, path),
                };
                let shape = data.shape().to_vec();
                if !named.layout.turns() {
                    return data;
                }
                // A module on a device of half precision hands out halves.
                let data = data.convert::<f32>();
                let Ok(source) = data.as_slice::<f32>() else { unreachable!("converted above") };
                transpose(source, shape[0], shape[1])
            })
            .collect();
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let values: Vec<f32> = parts.iter().flat_map(|part| part.iter::<f32>()).collect();
        let len = values.len();
        TensorData::new(values, [len])
    };
    (specs, values)
}
