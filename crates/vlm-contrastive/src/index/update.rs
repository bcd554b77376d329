//! Computing what an index lacks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use vlm_encoders::PictureEncoder;
use vlm_encoders::image::{self, ImageError, ImageProcessor, MAX_PIXELS, Pixels};

use super::block::{self, List};
use super::{Index, Kept, Lock, State};
use crate::Error;

/// Pictures that the encoder looks at together.
const BATCH: usize = 32;
/// Pictures that are written together at most, and after how long anyway: what a kill can cost.
const BLOCK: usize = 256;
const PAUSE: Duration = Duration::from_secs(10);
/// Smaller blocks are joined when there are more than [`MANY`] of them.
const SMALL: usize = 4096;
pub(super) const MANY: usize = 8;
/// Pictures of a joined block at most.
const LARGE: usize = 16_384;

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Pictures looked at.
    pub done: usize,
    /// Pictures to look at.
    pub of: usize,
    /// Pictures looked at since the step before.
    pub more: usize,
}

impl Index {
    /// Looks at the pictures that are new or have changed, writes their features in blocks, and
    /// drops those of pictures that are gone. `watch` is called before the first batch of pictures
    /// and after each; if it says false after one, what is done is written and the rest left for
    /// another time.
    /// Returns whether all is done.
    ///
    /// A picture that cannot be read is no error: [`Index::skipped`] names it, and it is tried again
    /// when it changes.
    ///
    /// # Errors
    /// If the index cannot be written, or the model gives no numbers.
    pub fn update(
        &mut self,
        lock: &Lock,
        encoder: &impl PictureEncoder,
        watch: &mut dyn FnMut(Step) -> bool,
    ) -> Result<bool, Error> {
        block::sweep(&self.place.index);
        self.sign()?;
        let fresh: Vec<usize> = (0..self.entries.len())
            .filter(|i| matches!(self.entries[*i].state, State::New))
            .collect();
        let (mut unwritten, mut since, mut done) = (Vec::new(), Instant::now(), 0);
        // Whoever stops now still gets a batch further: a run that is always stopped comes to its end.
        watch(Step { done, of: fresh.len(), more: 0 });
        for batch in fresh.chunks(BATCH) {
            self.look_at(batch, encoder)?;
            unwritten.extend_from_slice(batch);
            if unwritten.len() >= BLOCK || since.elapsed() > PAUSE {
                self.write(&std::mem::take(&mut unwritten))?;
                since = Instant::now();
            }
            done += batch.len();
            if !watch(Step { done, of: fresh.len(), more: batch.len() }) {
                break;
            }
        }
        self.write(&unwritten)?;
        if done < fresh.len() {
            return Ok(false);
        }
        self.tidy(lock)?;
        Ok(true)
    }

    /// Writes what the index says of itself, if that has changed.
    fn sign(&mut self) -> Result<(), Error> {
        if self.changed {
            self.about.write(&self.place.index)?;
            self.changed = false;
        }
        Ok(())
    }

    /// Encodes pictures, or finds out why not.
    fn look_at(&mut self, batch: &[usize], encoder: &impl PictureEncoder) -> Result<(), Error> {
        let paths: Vec<PathBuf> = batch
            .iter()
            .map(|entry| self.place.pictures.join(&self.entries[*entry].found.name))
            .collect();
        let (mut entries, mut pixels) = (Vec::new(), Vec::new());
        for (entry, prepared) in batch.iter().zip(prepare(&paths, encoder.processor()?)) {
            match prepared {
                Ok(picture) => {
                    entries.push(*entry);
                    pixels.push(picture);
                }
                Err(error) => {
                    // What the system refused it may grant another time.
                    let lasting =
                        !matches!(error, ImageError::Io { .. } | ImageError::NotAFile { .. });
                    let name = self.place.pictures.join(&self.entries[*entry].found.name);
                    self.entries[*entry].state =
                        State::Failed(reason(&error, &name.display().to_string()), lasting);
                }
            }
        }
        if pixels.is_empty() {
            return Ok(());
        }
        match encoder.encode_pictures(&pixels) {
            Ok(features) => self.keep(&entries, features),
            Err(vlm_encoders::Error::PictureSize { .. }) => {
                for (entry, picture) in entries.iter().zip(&pixels) {
                    match encoder.encode_pictures(std::slice::from_ref(picture)) {
                        Ok(features) => self.keep(&[*entry], features)?,
                        Err(error @ vlm_encoders::Error::PictureSize { .. }) => {
                            self.entries[*entry].state = State::Failed(error.to_string(), true);
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes features `[entries, dim]` in.
    fn keep(&mut self, entries: &[usize], features: Tensor<2>) -> Result<(), Error> {
        let [_, dim] = features.dims();
        if self.dim != 0 && self.dim != dim {
            return Err(Error::Width { index: self.dim, query: dim });
        }
        let values: Vec<f32> = features.into_data().iter().collect();
        let mut usable = false;
        for (entry, row) in entries.iter().zip(values.chunks(dim.max(1))) {
            self.entries[*entry].state = if let Some(row) = directed(row) {
                usable = true;
                let place = self.features.len() / dim;
                self.features.extend(row);
                State::Row(place)
            } else {
                State::Failed("the model's features of it are no numbers".into(), true)
            };
        }
        self.dim = if usable { dim } else { self.dim };
        // A picture may be to blame for its own features, but not for all.
        if !usable && self.dim == 0 && entries.len() > 1 {
            return Err(Error::Features("pictures"));
        }
        Ok(())
    }

    /// Writes entries as a block.
    fn write(&mut self, entries: &[usize]) -> Result<(), Error> {
        let number = block::numbers(&self.place.index).last().map_or(0, |last| last + 1);
        let mut list = List::new(&self.about.model, self.dim);
        let mut values = Vec::new();
        let mut written = Vec::new();
        for entry in entries {
            let super::Entry { found, state, .. } = &self.entries[*entry];
            let name = found.name.as_path().into();
            match state {
                State::Row(row) => {
                    list.pictures.push((name, found.stamp));
                    values.extend_from_slice(self.row(*row));
                }
                State::Failed(reason, true) => {
                    list.skipped.push((name, found.stamp, reason.clone()));
                }
                State::New | State::Failed(_, false) => continue,
            }
            written.push(*entry);
        }
        if written.is_empty() {
            return Ok(());
        }
        block::write(&self.place.index, number, &list, values)?;
        self.blocks.push(Kept { number, len: list.len() });
        for entry in written {
            self.entries[entry].block = Some(number);
        }
        Ok(())
    }

    /// Writes blocks again that hold pictures which are gone, joins small ones, and removes those
    /// of another model. [`Index::update`] ends with it.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub fn tidy(&mut self, _lock: &Lock) -> Result<(), Error> {
        self.sign()?;
        let live = |block: &Kept| {
            self.entries.iter().filter(|entry| entry.block == Some(block.number)).count()
        };
        let counts: Vec<usize> = self.blocks.iter().map(live).collect();
        let small = self.blocks.iter().filter(|block| block.len < SMALL).count();
        let old: Vec<u64> = self
            .blocks
            .iter()
            .zip(counts)
            .filter(|(block, live)| *live < block.len || small > MANY && block.len < SMALL)
            .map(|(block, _)| block.number)
            .collect();
        let moved: Vec<usize> = (0..self.entries.len())
            .filter(|i| self.entries[*i].block.is_some_and(|block| old.contains(&block)))
            .collect();
        for entries in moved.chunks(LARGE) {
            self.write(entries)?;
        }
        self.blocks.retain(|block| !old.contains(&block.number));
        let foreign = std::mem::take(&mut self.foreign);
        let damaged = std::mem::take(&mut self.damaged);
        for number in old.into_iter().chain(foreign).chain(damaged) {
            block::remove(&self.place.index, number);
        }
        Ok(())
    }
}

/// A row of length 1, if it has a direction. Dual encoders give such, and their numbers stay as
/// they are.
fn directed(row: &[f32]) -> Option<Vec<f32>> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    let length = if (length - 1.0).abs() < 1e-4 { 1.0 } else { length };
    Some(row.iter().map(|x| x / length).collect())
}

/// The same of a query `[1, dim]`.
pub(super) fn unit(query: Tensor<2>) -> Result<Tensor<2>, Error> {
    let (shape, device) = (query.dims(), query.device());
    let row: Vec<f32> = query.into_data().iter().collect();
    let row = directed(&row).ok_or(Error::Features("query"))?;
    Ok(Tensor::from_data(TensorData::new(row, shape), &device))
}

/// Reads and prepares pictures, several at a time, but not more than are [`MAX_PIXELS`] together:
/// whoever has many cores need not have the memory for a large picture on each.
fn prepare(paths: &[PathBuf], processor: &ImageProcessor) -> Vec<Result<Pixels, ImageError>> {
    let mut prepared = Vec::with_capacity(paths.len());
    // What is wrong with a file is found and said when it is read.
    let area = |path| image::size(path).map_or(0, |(w, h)| u64::from(w) * u64::from(h));
    let areas: Vec<u64> = paths.par_iter().map(|path| area(path)).collect();
    let mut rest = paths;
    while !rest.is_empty() {
        let (mut together, mut pixels) = (0, 0);
        for area in &areas[prepared.len()..] {
            pixels += area;
            if together > 0 && pixels > MAX_PIXELS {
                break;
            }
            together += 1;
        }
        let (now, later) = rest.split_at(together);
        prepared.par_extend(now.par_iter().map(|path| processor.process_path(path)));
        rest = later;
    }
    prepared
}

/// Why the system does not let a file be read.
pub(super) fn refusal(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        return "has vanished since the folder was read".into();
    }
    error.to_string()
}

/// What is wrong, without the name of the file, on one line.
fn reason(error: &ImageError, name: &str) -> String {
    if let ImageError::Io { source, .. } = error {
        return refusal(source);
    }
    let text = error.to_string();
    let text = text.strip_prefix(name).and_then(|t| t.strip_prefix(": ")).unwrap_or(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
