//! What a run needs to go on exactly where it stood.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vlm_store::{Float, StagedDir, TensorFiles, TensorSpec, write_file, write_tensors};

use crate::Error;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progressed {
    /// Steps done.
    pub step: u64,
    /// The epoch of the next batch.
    pub epoch: u64,
    /// The next batch of that epoch.
    pub batch: usize,
    /// Samples seen.
    pub samples: u64,
    /// The best validation score so far, and the step it was reached at.
    pub best: Option<(f64, u64)>,
    /// The configuration, to refuse another one.
    pub config: serde_json::Value,
    /// Stands for the weights that are not trained, which a checkpoint does not hold.
    pub frozen: u64,
}

/// A checkpoint: trained weights, optimiser state, average, and where the run stands.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stands.
    pub progressed: Progressed,
    /// Trained weights by path.
    pub weights: BTreeMap<String, TensorData>,
    /// The update rule's state.
    pub optimizer: BTreeMap<String, TensorData>,
    /// Averaged weights by path; empty without averaging.
    pub average: BTreeMap<String, TensorData>,
}

/// A tensor that is to be written, read when its turn comes: no more than one is in memory twice.
pub struct Kept<'a> {
    name: String,
    shape: Vec<usize>,
    read: Box<dyn Fn() -> TensorData + 'a>,
}

impl<'a> Kept<'a> {
    /// A tensor of that name and shape.
    pub fn new(name: String, shape: Vec<usize>, read: impl Fn() -> TensorData + 'a) -> Self {
        Kept { name, shape, read: Box::new(read) }
    }
}

impl From<(String, TensorData)> for Kept<'_> {
    fn from((name, data): (String, TensorData)) -> Self {
        let shape = data.shape().to_vec();
        Kept::new(name, shape, move || data.clone())
    }
}

impl Progressed {
    /// Whether the run has this configuration; `path` is the checkpoint, for the message.
    ///
    /// # Errors
    /// [`Error::Foreign`] with the first difference.
    pub fn belongs_to(&self, path: &Path, config: &serde_json::Value) -> Result<(), Error> {
        match difference(&self.config, config) {
            None => Ok(()),
            Some(what) => Err(Error::Foreign {
                path: path.to_owned(),
                reason: format!("the configuration differs: {what}"),
            }),
        }
    }
}

/// The first place where a configuration differs from what it was, for people.
pub fn difference(was: &serde_json::Value, is: &serde_json::Value) -> Option<String> {
    difference_at("", was, is)
}

fn difference_at(place: &str, a: &serde_json::Value, b: &serde_json::Value) -> Option<String> {
    use serde_json::Value::Object;
    if let (Object(a), Object(b)) = (a, b) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let null = serde_json::Value::Null;
        return keys.into_iter().find_map(|key| {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            difference_at(&place, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
        });
    }
    (a != b).then(|| format!("{place} was {a} and is {b}"))
}

/// The step in a checkpoint's name.
pub(crate) fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

const STATE: &str = "state.json";
const PARTS: [&str; 3] = ["weights", "optimizer", "average"];

/// The tensors of one of the parts.
fn part(dir: &Path, name: &str) -> Result<BTreeMap<String, TensorData>, Error> {
    let files = TensorFiles::open_file(&dir.join(format!("{name}.safetensors")))?;
    files.names().map(|name| Ok((name.to_owned(), files.read(name)?))).collect()
}

impl Checkpoint {
    /// Writes the folder `DIR/step-N`; it appears whole or not at all.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn write(
        dir: &Path,
        progressed: &Progressed,
        parts: [Vec<Kept<'_>>; 3],
    ) -> Result<PathBuf, Error> {
        let target = dir.join(format!("step-{:08}", progressed.step));
        let staged = StagedDir::new(&target)?;
        for (name, part) in PARTS.iter().zip(parts) {
            let part: BTreeMap<String, Kept<'_>> =
                part.into_iter().map(|kept| (kept.name.clone(), kept)).collect();
            let spec =
                |kept: &Kept<'_>| TensorSpec { name: kept.name.clone(), shape: kept.shape.clone() };
            let specs: Vec<TensorSpec> = part.values().map(spec).collect();
            let path = staged.path().join(format!("{name}.safetensors"));
            let empty = || TensorData::new(Vec::<f32>::new(), [0]);
            write_tensors(&path, Float::F32, &[], &specs, &mut |name| {
                part.get(name).map_or_else(empty, |kept| (kept.read)())
            })?;
        }
        write_file(&staged.path().join(STATE), &mut |w| {
            serde_json::to_writer_pretty(w, progressed).map_err(std::io::Error::from)
        })?;
        staged.commit()?;
        Ok(target)
    }

    /// Reads a folder that [`write`](Self::write) made.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let progressed = Self::progressed(dir)?;
        let mut parts = PARTS.iter().map(|name| part(dir, name));
        let mut next = || parts.next().unwrap_or_else(|| Ok(BTreeMap::new()));
        Ok(Checkpoint { progressed, weights: next()?, optimizer: next()?, average: next()? })
    }

    /// Reads only the update rule's state.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn rule_state(dir: &Path) -> Result<BTreeMap<String, TensorData>, Error> {
        part(dir, PARTS[1])
    }

    /// Reads only where the run stands.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn progressed(dir: &Path) -> Result<Progressed, Error> {
        let path = dir.join(STATE);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|e| {
            let reason = format!("not a checkpoint's state ({e})");
            Error::Foreign { path, reason }
        })
    }

    /// The checkpoints of a folder with their steps, oldest first.
    pub fn list(dir: &Path) -> Vec<(u64, PathBuf)> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let step = step_of(entry.file_name().to_str()?)?;
                Some((step, entry.path()))
            })
            .collect();
        found.sort();
        found
    }
}
