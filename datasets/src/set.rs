//! A data set, and how it is found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::{Error, files, formats, scenes};

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
    /// The classes: the lines of `SPLIT.labels.txt` or `labels.txt`, else the samples' labels,
    /// sorted.
    pub labels: Vec<String>,
}

/// The sets that this repository ships, in `datasets/NAME`.
const SHIPPED: [&str; 1] = ["emoji"];
/// The sets that `cargo xtask data NAME` makes, in `datasets/.cache/NAME`.
const FETCHED: [&str; 5] = ["easy-vqa", "fashion-mnist", "openclipart", "scenes", "tuxpaint"];

impl Dataset {
    /// Opens `PATH[:SPLIT]`, or a shipped or fetched `NAME[:SPLIT]`.
    ///
    /// A path is a `.jsonl`, `.csv` or `.tsv` file, or a folder that holds `SPLIT.jsonl` (or
    /// .csv, .tsv; `default_split` if none is named), pictures with `.txt` captions beside
    /// them, or one folder of pictures a class. Sets are looked for by name in `$VLM_DATASETS`,
    /// in `datasets/` of this folder or one above it, and where this crate was built: shipped
    /// ones there, those that `cargo xtask data` made in `.cache` there. `scenes` is made on first
    /// use.
    ///
    /// # Errors
    /// If there is no such set, or anything in it cannot be used; the message names the line.
    pub fn open(spec: &str, default_split: &str) -> Result<Self, Error> {
        let (path, split) = locate(spec)?;
        let formats::Read { root, table, samples } = formats::read(&path, split, default_split)?;
        if samples.is_empty() {
            return Err(Error::Set { path, reason: "no sample in it; add some".into() });
        }
        let labels = labels(&root, table.as_deref(), &samples)?;
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

/// The path of `PATH[:SPLIT]` or `NAME[:SPLIT]`, and the split if one is named.
pub(crate) fn locate(spec: &str) -> Result<(PathBuf, Option<&str>), Error> {
    let whole = Path::new(spec);
    let (name, split) = match spec.rsplit_once(':') {
        Some((name, split)) if !whole.exists() && !split.contains(['/', '\\']) => {
            (name, Some(split))
        }
        _ => (spec, None),
    };
    let path = if Path::new(name).exists() { PathBuf::from(name) } else { named(name, spec)? };
    Ok((path, split))
}

/// The folder of a shipped or fetched set.
fn named(name: &str, spec: &str) -> Result<PathBuf, Error> {
    let place = if SHIPPED.contains(&name) {
        PathBuf::from(name)
    } else if FETCHED.contains(&name) {
        Path::new(".cache").join(name)
    } else {
        return Err(Error::Unknown {
            spec: spec.to_owned(),
            known: [SHIPPED.as_slice(), FETCHED.as_slice()].concat().join(", "),
        });
    };
    let given = std::env::var_os("VLM_DATASETS").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    let above = here.iter().flat_map(|dir| dir.ancestors()).map(|dir| dir.join("datasets"));
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let dirs: Vec<PathBuf> = given.into_iter().chain(above).chain([built]).collect();
    let there = |dir: &PathBuf| match name {
        "scenes" => scenes::is_made(dir),
        _ => dir.join("train.jsonl").exists(),
    };
    let found = dirs.iter().map(|dir| dir.join(&place)).find(there);
    if let (None, "scenes") = (&found, name) {
        // It comes from a seed, not from anywhere else.
        let dir = dirs.iter().find(|dir| dir.is_dir());
        let dir = dir.ok_or_else(|| Error::NotFetched(name.to_owned()))?;
        return scenes::make(&dir.join(".cache"), &scenes::SPLITS);
    }
    found.ok_or_else(|| match SHIPPED.contains(&name) {
        true => Error::Gone(name.to_owned()),
        false => Error::NotFetched(name.to_owned()),
    })
}

/// The file that fixes the classes of a caption file's split: for `a-b` the first that is there of
/// `a-b.labels.txt`, `a.labels.txt` and `labels.txt`.
fn labels_file(root: &Path, table: Option<&Path>) -> Option<PathBuf> {
    let split = table.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
    let ends = split.match_indices('-').map(|(at, _)| at).chain([split.len()]);
    let mut names: Vec<String> = ends.map(|end| format!("{}.labels.txt", &split[..end])).collect();
    names.reverse();
    names.push("labels.txt".into());
    names.into_iter().map(|name| root.join(name)).find(|path| path.exists())
}

/// The classes of a set whose pictures are below `root`.
fn labels(root: &Path, table: Option<&Path>, samples: &[Sample]) -> Result<Vec<String>, Error> {
    let mut used: Vec<String> = samples.iter().filter_map(|s| s.label.clone()).collect();
    used.sort();
    used.dedup();
    let Some(path) = labels_file(root, table) else { return Ok(used) };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut listed = Vec::new();
    let mut places = HashMap::new();
    for (line, label) in files::lines(&path)? {
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
                reason: format!("label `{label}` is not in {name}; add it there"),
            });
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_labellings_have_a_file_each() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let path = dir.path().to_str().unwrap();
        let open = |split: &str| Dataset::open(&format!("{path}:{split}"), "");
        write("a.png", "");
        for (split, label) in [("train", "dog"), ("kind-train", "animal"), ("kind-b-test", "big")] {
            let line = format!("{{\"image\": \"a.png\", \"label\": \"{label}\"}}");
            write(&format!("{split}.jsonl"), &line);
        }
        write("labels.txt", "cat\ndog\n");
        assert_eq!(open("train").unwrap().labels, ["cat", "dog"]);
        let message = open("kind-train").unwrap_err().to_string();
        assert!(message.contains("`animal` is not in labels.txt"), "{message}");
        write("kind.labels.txt", "plant\nanimal\n");
        assert_eq!(open("kind-train").unwrap().truth().unwrap(), [1]);
        let message = open("kind-b-test").unwrap_err().to_string();
        assert!(message.contains("`big` is not in kind.labels.txt"), "{message}");
        write("kind-b.labels.txt", "big\n");
        assert_eq!(open("kind-b-test").unwrap().labels, ["big"]);
        let by_file = Dataset::open(&format!("{path}/kind-train.jsonl"), "").unwrap();
        assert_eq!(by_file.labels, ["plant", "animal"]);
    }

    #[test]
    fn the_shipped_pictures_have_groups() {
        for (kind, labels) in [("group", 9), ("subgroup", 97)] {
            let open = |split: &str| Dataset::open(&format!("emoji:{kind}-{split}"), "").unwrap();
            let (train, test) = (open("train"), open("test"));
            assert_eq!((train.samples.len(), test.samples.len()), (3704, 1852));
            assert_eq!(train.labels, test.labels);
            assert_eq!(train.labels.len(), labels);
            assert!(test.samples.iter().all(|sample| sample.image_ref.starts_with("twemoji/")));
            train.truth().unwrap();
            test.truth().unwrap();
        }
    }

    #[test]
    fn a_set_that_is_not_fetched_says_how_to() {
        let error = Error::NotFetched("tuxpaint".into()).to_string();
        assert_eq!(error, "data set `tuxpaint` is not fetched; run cargo xtask data tuxpaint");
        // Made or not, the name is known.
        match Dataset::open("tuxpaint:test-3", "") {
            Ok(set) => assert_eq!(set.labels.len(), 124),
            Err(error) => assert!(matches!(error, Error::NotFetched(_)), "{error}"),
        }
    }
}
