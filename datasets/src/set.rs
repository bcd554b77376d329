//! A data set, and how it is found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::{Error, formats};

/// A picture and what is said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Where the picture is.
    pub image: PathBuf,
    /// The picture as the data set names it.
    pub image_ref: String,
    /// What it shows; the first is the plainest.
    pub captions: Vec<String>,
    /// Its class.
    pub label: Option<String>,
    /// Samples of one group show the same thing and are no negatives of each other.
    pub group: Option<String>,
    /// File and line that it comes from.
    pub origin: String,
}

/// A list of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The folder that pictures are relative to.
    pub root: PathBuf,
    /// The samples, in the order of the files.
    pub samples: Vec<Sample>,
    /// The classes: the lines of `labels.txt`, else the samples' labels, sorted.
    pub labels: Vec<String>,
}

/// The sets that this repository ships.
const SHIPPED: &str = "emoji";

impl Dataset {
    /// Opens `PATH[:SPLIT]` or a shipped `NAME[:SPLIT]`.
    ///
    /// A path is a `.jsonl`, `.csv` or `.tsv` file, or a folder that holds `SPLIT.jsonl` (or
    /// .csv, .tsv; `default_split` if none is named), pictures with `.txt` captions beside
    /// them, or one folder of pictures a class. Shipped sets are looked for in
    /// `$VLM_DATASETS`, in `datasets/` of this folder or one above it, and where this crate was
    /// built.
    ///
    /// # Errors
    /// If there is no such set, or anything in it cannot be used; the message names the line.
    pub fn open(spec: &str, default_split: &str) -> Result<Self, Error> {
        let whole = Path::new(spec);
        let (name, split) = match spec.rsplit_once(':') {
            Some((name, split)) if !whole.exists() && !split.contains(['/', '\\']) => {
                (name, Some(split))
            }
            _ => (spec, None),
        };
        let path = if Path::new(name).exists() {
            PathBuf::from(name)
        } else {
            shipped(name).ok_or_else(|| Error::Unknown {
                spec: spec.to_owned(),
                known: SHIPPED.to_owned(),
            })?
        };
        let (root, samples) = formats::read(&path, split, default_split)?;
        if samples.is_empty() {
            return Err(Error::Set { path, reason: "no sample in it; add some".into() });
        }
        let labels = labels(&root, &samples)?;
        Ok(Dataset { root, samples, labels })
    }

    /// The number of each sample's label in [`labels`](Self::labels).
    ///
    /// # Errors
    /// If a sample has no label.
    pub fn truth(&self) -> Result<Vec<usize>, Error> {
        let places: HashMap<&str, usize> =
            self.labels.iter().enumerate().map(|(i, label)| (label.as_str(), i)).collect();
        self.samples
            .iter()
            .map(|sample| {
                let place = sample.label.as_deref().and_then(|label| places.get(label));
                place.copied().ok_or_else(|| Error::Line {
                    origin: sample.origin.clone(),
                    reason: "the sample has no label; add one".into(),
                })
            })
            .collect()
    }

    /// A number for each sample's group; samples without one are groups of their own.
    pub fn groups(&self) -> Vec<u32> {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut next = 0;
        let mut fresh = || {
            next += 1;
            next - 1
        };
        self.samples
            .iter()
            .map(|sample| match sample.group.as_deref() {
                Some(group) => *numbers.entry(group).or_insert_with(&mut fresh),
                None => fresh(),
            })
            .collect()
    }
}

fn shipped(name: &str) -> Option<PathBuf> {
    if !SHIPPED.split(", ").any(|known| known == name) {
        return None;
    }
    let given = std::env::var_os("VLM_DATASETS").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    let above = here.iter().flat_map(|dir| dir.ancestors()).map(|dir| dir.join("datasets"));
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    given
        .into_iter()
        .chain(above)
        .chain([built])
        .map(|dir| dir.join(name))
        .find(|dir| dir.join("labels.txt").exists())
}

/// The classes of a set whose pictures are below `root`.
fn labels(root: &Path, samples: &[Sample]) -> Result<Vec<String>, Error> {
    let mut used: Vec<String> = samples.iter().filter_map(|s| s.label.clone()).collect();
    used.sort();
    used.dedup();
    let path = root.join("labels.txt");
    if !path.exists() {
        return Ok(used);
    }
    let mut listed = Vec::new();
    let mut places = HashMap::new();
    for (line, label) in formats::lines(&path)? {
        if let Some(first) = places.insert(label.clone(), line) {
            return Err(Error::Line {
                origin: format!("{}:{line}", path.display()),
                reason: format!("label `{label}` stands in line {first} already; remove one"),
            });
        }
        listed.push(label);
    }
    for sample in samples {
        if let Some(label) = &sample.label
            && !places.contains_key(label)
        {
            return Err(Error::Line {
                origin: sample.origin.clone(),
                reason: format!("label `{label}` is not in labels.txt; add it there"),
            });
        }
    }
    Ok(listed)
}
