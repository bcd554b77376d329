//! An index of the pictures of a folder: their features, kept on disk between searches.
//!
//! [`Index::open`] compares what is kept with what is in the folder now, by length and time of
//! change. [`Index::update`] computes what is missing and writes it in blocks, so that a kill costs
//! a block at most. [`Index::search`] is one matrix product.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use vlm_contrastive::index::{Index, Place};
//! use vlm_contrastive::{PictureSide, TextSide, embed_texts};
//!
//! let (model, device) = ("runs/emoji/model".as_ref(), Device::flex());
//! let place = Place { pictures: "photos".into(), index: "photos/.vlm-search".into() };
//! let mut index = Index::open(&place, model)?;
//! if let Some(lock) = place.lock()? {
//!     index.update(&lock, &PictureSide::open(model, &device)?, &mut |_| true)?;
//! }
//! let query = embed_texts(&TextSide::open(model, &device)?, &["a red heart".to_owned()])?;
//! for hit in index.search(query, 10)? {
//!     println!("{:.3} {}", hit.similarity, hit.name.display());
//! }
//! # Ok::<(), vlm_contrastive::Error>(())
//! ```

mod block;
mod identity;
mod place;
#[cfg(test)]
mod tests;
mod update;
mod walk;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

pub use place::{Lock, Place};
pub use update::Step;
pub use walk::{ENDINGS, Found, Skipped, Stamp, Walk, walk};

use crate::Error;
use crate::zero_shot::top_k;
use block::List;
use place::About;

/// What is known of a picture.
#[derive(Clone, Debug)]
enum State {
    /// Nothing.
    New,
    /// Its row of the features.
    Row(usize),
    /// Why it cannot be used, and whether that will stay so.
    Failed(String, bool),
}

#[derive(Clone, Debug)]
struct Entry {
    found: Found,
    state: State,
    /// The block that it stands in.
    block: Option<u64>,
}

/// A block on disk.
#[derive(Clone, Copy, Debug)]
struct Kept {
    number: u64,
    /// Pictures in its list.
    len: usize,
}

/// The features of a folder's pictures.
#[derive(Debug)]
pub struct Index {
    place: Place,
    about: About,
    /// Whether `about` differs from what is on disk.
    changed: bool,
    /// In the order of the walk.
    entries: Vec<Entry>,
    /// What the walk passed over.
    passed: Vec<Skipped>,
    /// Row by row, each of length 1.
    features: Vec<f32>,
    /// 0 without features.
    dim: usize,
    blocks: Vec<Kept>,
    /// Blocks of another model, or damaged; they go when all is computed.
    foreign: Vec<u64>,
    damaged: Vec<u64>,
}

/// How an index compares with the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Pictures whose features are there.
    pub ready: usize,
    /// Pictures that have to be looked at.
    pub fresh: usize,
    /// Pictures in the index that are not in the folder any more, or have changed.
    pub gone: usize,
    /// Whether there are features of another model.
    pub foreign: bool,
    /// Blocks that are damaged.
    pub damaged: usize,
}

/// A picture that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its path below the folder.
    pub name: PathBuf,
    /// Cosine of the angle to the query, -1 to 1.
    pub similarity: f32,
}

impl Index {
    /// Looks at the folder and at what is kept of it. Nothing is written.
    ///
    /// # Errors
    /// If the folder or the model's files cannot be read, or the index is of other pictures.
    pub fn open(place: &Place, model: &Path) -> Result<Self, Error> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Model(vlm_encoders::Error::Io { path, source })
        };
        let Walk { pictures, skipped } = walk(&place.pictures).map_err(io(&place.pictures))?;
        let real = place.pictures.canonicalize().map_err(io(&place.pictures))?;
        let kept = About::read(&place.index);
        if let Some(other) = kept.as_ref().map(About::pictures)
            && other != real
            && other.is_dir()
        {
            let index = place.index.clone();
            return Err(Error::OtherPictures { index, pictures: other });
        }
        let stamps = identity::stamps(model);
        let known = kept.as_ref().filter(|about| about.stamps == stamps);
        let contents = match known {
            Some(about) => about.model.clone(),
            None => identity::contents(model).map_err(io(model))?,
        };
        let about = About::new(&real, stamps, contents);
        let entry = |found| Entry { found, state: State::New, block: None };
        let mut index = Index {
            changed: kept.as_ref() != Some(&about),
            place: place.clone(),
            about,
            entries: pictures.into_iter().map(entry).collect(),
            passed: skipped,
            features: Vec::new(),
            dim: 0,
            blocks: Vec::new(),
            foreign: Vec::new(),
            damaged: Vec::new(),
        };
        index.read();
        index.find_unreadable();
        Ok(index)
    }

    /// Reads the blocks, the newest first: of two with the same picture it counts.
    fn read(&mut self) {
        let mut places: HashMap<PathBuf, usize> = HashMap::with_capacity(self.entries.len());
        places.extend(self.entries.iter().enumerate().map(|(i, e)| (e.found.name.clone(), i)));
        let dir = self.place.index.clone();
        for number in block::numbers(&dir).into_iter().rev() {
            let Some(list) = block::list(&dir, number) else {
                self.damaged.push(number);
                continue;
            };
            if list.model != self.about.model {
                self.foreign.push(number);
                continue;
            }
            let fits = list.dim > 0 && (self.dim == 0 || self.dim == list.dim);
            match block::features(&dir, number, &list) {
                Some(values) if fits || list.pictures.is_empty() => {
                    self.take(number, &list, &values, &places);
                }
                _ => self.damaged.push(number),
            }
        }
    }

    fn take(&mut self, number: u64, list: &List, values: &[f32], places: &HashMap<PathBuf, usize>) {
        self.blocks.push(Kept { number, len: list.len() });
        let new = |name: &block::Name, stamp: Stamp| {
            let entry = *places.get(&PathBuf::from(name))?;
            let wanted = self.entries[entry].found.stamp == stamp
                && matches!(self.entries[entry].state, State::New);
            wanted.then_some(entry)
        };
        let mut taken = Vec::new();
        for (row, (name, stamp)) in list.pictures.iter().enumerate() {
            taken.extend(new(name, *stamp).map(|entry| (entry, row)));
        }
        let mut failed = Vec::new();
        if list.program == env!("CARGO_PKG_VERSION") {
            for (name, stamp, reason) in &list.skipped {
                failed.extend(new(name, *stamp).map(|entry| (entry, reason.clone())));
            }
        }
        for (entry, row) in taken {
            self.dim = list.dim;
            let place = self.features.len() / list.dim;
            self.features.extend_from_slice(&values[row * list.dim..(row + 1) * list.dim]);
            self.entries[entry].state = State::Row(place);
            self.entries[entry].block = Some(number);
        }
        for (entry, reason) in failed {
            self.entries[entry].state = State::Failed(reason, true);
            self.entries[entry].block = Some(number);
        }
    }

    /// Passes over new pictures that may not be read: whoever only asks a question should not wait
    /// for a model to be opened for them.
    fn find_unreadable(&mut self) {
        for Entry { found, state, .. } in &mut self.entries {
            if let State::New = state
                && let Err(error) = std::fs::File::open(self.place.pictures.join(&found.name))
            {
                *state = State::Failed(update::refusal(&error), false);
            }
        }
    }

    /// How what is kept compares with what is in the folder.
    pub fn compared(&self) -> Compared {
        let count = |wanted: fn(&State) -> bool| {
            self.entries.iter().filter(|entry| wanted(&entry.state)).count()
        };
        let kept: usize = self.blocks.iter().map(|block| block.len).sum();
        let live = self.entries.iter().filter(|entry| entry.block.is_some()).count();
        Compared {
            ready: count(|state| matches!(state, State::Row(_))),
            fresh: count(|state| matches!(state, State::New)),
            gone: kept - live,
            foreign: !self.foreign.is_empty(),
            damaged: self.damaged.len(),
        }
    }

    /// Whether [`Index::update`] has something to do.
    pub fn is_outdated(&self) -> bool {
        let Compared { ready: _, fresh, gone, foreign, damaged } = self.compared();
        fresh > 0 || gone > 0 || foreign || damaged > 0 || self.changed
    }

    /// What cannot be found by searching, and why.
    pub fn skipped(&self) -> Vec<Skipped> {
        let failed = self.entries.iter().filter_map(|entry| match &entry.state {
            State::Failed(reason, _) => {
                Some(Skipped { name: entry.found.name.clone(), reason: reason.clone() })
            }
            _ => None,
        });
        let mut skipped: Vec<Skipped> = self.passed.iter().cloned().chain(failed).collect();
        skipped.sort_by(|a, b| a.name.cmp(&b.name));
        skipped
    }

    /// The features `[dim]` of a picture, if they are there; `name` is its path below the folder.
    pub fn features_of(&self, name: &Path) -> Option<&[f32]> {
        let entry = self.entries.iter().find(|entry| entry.found.name == name)?;
        match entry.state {
            State::Row(row) => Some(self.row(row)),
            _ => None,
        }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.features[row * self.dim..(row + 1) * self.dim]
    }

    /// The `top` pictures most like a query `[1, dim]`, best first; of equal ones that whose name
    /// comes first.
    ///
    /// # Errors
    /// If the query is not of the index's width, or the scores cannot be read from the device.
    pub fn search(&self, query: Tensor<2>, top: usize) -> Result<Vec<Hit>, Error> {
        let rows: Vec<(usize, &Entry)> = self
            .entries
            .iter()
            .filter_map(|entry| match entry.state {
                State::Row(row) => Some((row, entry)),
                _ => None,
            })
            .collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if query.dims() != [1, self.dim] {
            return Err(Error::Width { index: self.dim, query: query.dims()[1] });
        }
        let shape = [self.features.len() / self.dim, self.dim];
        let features = TensorData::new(self.features.clone(), shape);
        let features = Tensor::<2>::from_data(features, &query.device());
        let query = update::unit(query)?;
        let products = features.matmul(query.transpose()).into_data();
        let products =
            products.try_into_vec::<f32>().map_err(|e| Error::Device(format!("{e:?}")))?;
        let scores: Vec<f32> = rows.iter().map(|(row, _)| products[*row]).collect();
        let best = top_k(&scores, top).into_iter();
        let hit = |i: usize| Hit { name: rows[i].1.found.name.clone(), similarity: scores[i] };
        Ok(best.map(hit).collect())
    }
}
