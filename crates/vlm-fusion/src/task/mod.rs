//! Training on conversations about pictures, as a [`Task`].
//!
//! The loss is on answers only. What a locked image tower says is computed once and kept on disk;
//! several questions about one picture share it in one row ([`Row`]).

mod ask;
mod config;
mod forward;
mod lesson;
mod material;
mod pack;
mod see;

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use vlm_datasets::{Conversations, Error as DataError, order};
use vlm_encoders::Float;
use vlm_encoders::image::Pixels;
use vlm_nn::params::emptied;
use vlm_train::{BoxError, FeatureCache, Grads, StepReport, Task, Validation, fingerprint};

pub use ask::ask;
pub use config::{GenerativeConfig, Part, QUESTION};
pub use forward::{Seen, answers, losses};
pub use lesson::Telling;
pub use material::Material;
pub use pack::{Lesson, Row};

use crate::decode::Decode;
use crate::fuse::rms;
use crate::{GenerativeFolder, GenerativeModel};

/// Conversations that a validation looks at, unless the configuration says otherwise.
const VALIDATE: usize = 500;
/// Conversations in one row, likewise.
const PACK: usize = 8;
/// Batches among which rows are put in order of length: alike in a batch, they need no filling up.
const SORTED: usize = 16;

/// Tells how far a tower is: what it looks at, how many of how many.
pub type Progress<'a> = dyn Fn(&str, usize, usize) + 'a;

/// How rows come into steps.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Rows of a step.
    pub size: usize,
    /// Rows that go through the model together; 0 for all of a step.
    pub chunk: usize,
    /// Everything random derives from it.
    pub seed: u64,
}

/// Trains a generative model on conversations.
pub struct GenerativeTask {
    folder: GenerativeFolder,
    config: GenerativeConfig,
    batching: Batching,
    size: (usize, usize),
    train: Material,
    validation: Option<Material>,
}

/// Rows of one step.
pub struct GenerativeBatch {
    /// Whether they are of the validation set.
    held_out: bool,
    rows: Vec<Row>,
    /// Of each row.
    pictures: Vec<Vec<usize>>,
    /// The pieces of pictures that are still to be looked at, in order.
    pixels: Vec<Pixels>,
    conversations: usize,
}

impl GenerativeTask {
    /// A task over a training set, and the model with what is trained of it.
    ///
    /// # Errors
    /// If the set does not fill a batch, a picture cannot be read, or a conversation cannot be told
    /// to the model.
    pub fn new(
        data: &Conversations,
        validation: Option<&Conversations>,
        folder: GenerativeFolder,
        how: (GenerativeConfig, Batching),
        cache: &FeatureCache,
        progress: &Progress<'_>,
    ) -> Result<(Self, GenerativeModel), BoxError> {
        let mut task = Self::unseen(data, validation, folder, how)?;
        if task.locked() {
            // By its values, wherever it was read from: a second stage sees what the first one saw.
            let tower = fingerprint(&task.folder.model.vision, &|path| Some(path));
            let see = |material: &Material| {
                let some = !material.pictures.is_empty();
                some.then(|| task.look(tower, material, cache, progress)).transpose()
            };
            let seen = see(&task.train)?;
            let of_validation = task.validation.as_ref().map(see).transpose()?;
            task.train.seen = seen;
            if let Some(material) = &mut task.validation {
                material.seen = of_validation.flatten();
            }
        }
        task.fit();
        // The task keeps the shape alone: what trains is there once, and can be written in place.
        let shape = emptied(task.folder.model.clone(), false);
        let model = std::mem::replace(&mut task.folder.model, shape);
        let model = task.trained_parts(model.train());
        Ok((task, model))
    }

    /// The rows of the first step, and the pictures of each, without looking at any.
    ///
    /// # Errors
    /// If the set does not fill a batch, or a conversation cannot be told to the model.
    pub fn first_rows(
        data: &Conversations,
        folder: GenerativeFolder,
        how: (GenerativeConfig, Batching),
    ) -> Result<Vec<(Row, Vec<PathBuf>)>, BoxError> {
        let task = Self::unseen(data, None, folder, how)?;
        let first = task.plan(0).into_iter().next().unwrap_or_default();
        let shown = |(row, pictures): &(Vec<usize>, &[usize])| {
            (task.train.packed(row), task.train.files(pictures))
        };
        Ok(first.iter().map(shown).collect())
    }

    /// A task that has looked at no picture yet.
    fn unseen(
        data: &Conversations,
        validation: Option<&Conversations>,
        folder: GenerativeFolder,
        (config, batching): (GenerativeConfig, Batching),
    ) -> Result<Self, BoxError> {
        let size = folder.images.output_size().ok_or(
            "the pictures of this model's processor have sizes of their own, which cannot be trained here; give image_size",
        )?;
        let telling = config.telling();
        let train = Material::new(data, &folder, size, telling)?;
        let few = validation.map(|data| some(data, config.validate.unwrap_or(VALIDATE)));
        let validation =
            few.map(|data| Material::new(&data, &folder, size, telling)).transpose()?;
        let task = GenerativeTask { folder, config, batching, size, train, validation };
        let rows = task.train.count(task.pack(), task.per_picture());
        if batching.size == 0 || batching.size > rows {
            return Err(DataError::BatchTooLarge { batch: batching.size, samples: rows }.into());
        }
        Ok(task)
    }

    /// Conversations in an epoch's set.
    pub fn samples(&self) -> usize {
        self.train.lessons.len()
    }

    fn locked(&self) -> bool {
        !self.config.trains(Part::Vision)
    }

    fn pack(&self) -> usize {
        // What sees the question before it answers cannot be shared by several.
        let model = &self.folder.model;
        match model.prefix() || model.reads_question() {
            true => 1,
            false => self.config.pack.unwrap_or(PACK),
        }
    }

    fn per_picture(&self) -> usize {
        self.config.per_picture.unwrap_or(usize::MAX)
    }

    fn trained_parts(&self, mut model: GenerativeModel) -> GenerativeModel {
        if !self.config.trains(Part::Vision) {
            model.vision = model.vision.no_grad();
        }
        // What is never looked through cannot learn.
        let spec = &self.folder.plan.spec;
        let mut tower = model.vision;
        for block in tower.stack.blocks.iter_mut().skip(spec.depth()) {
            *block = block.clone().no_grad();
        }
        if !spec.uses("vision.post_norm.") {
            tower.post_norm = tower.post_norm.no_grad();
            tower.dense = tower.dense.map(Module::no_grad);
            tower.pool = tower.pool.map(Module::no_grad);
        }
        model.vision = tower;
        if !self.config.trains(Part::Fusion) {
            model.fusion = model.fusion.no_grad();
        }
        if !self.config.trains(Part::Text) {
            model.text = model.text.no_grad();
        }
        model
    }

    /// Fits the start of a new fusion to what the locked tower says.
    fn fit(&mut self) {
        const TOKENS: usize = 4096;
        let (Some(seen), Some(_)) = (&self.train.seen, &self.config.assemble) else { return };
        let model = &mut self.folder.model;
        let tokens = self.folder.plan.spec.seen_tokens(self.size);
        let width = seen.width / tokens;
        let all = seen.values.len() / seen.width;
        let step = (all * tokens / TOKENS).max(1);
        let values: Vec<f32> =
            seen.values.chunks_exact(seen.width).step_by(step).flatten().copied().collect();
        let shape = [values.len() / seen.width, tokens, width];
        let sample = Tensor::<3>::from_data(TensorData::new(values, shape), &model.device());
        let length = rms(model.text.tokens.val());
        let grid = model.grid(self.size);
        model.fusion = model.fusion.clone().fitted(&sample, grid, length);
    }

    /// The batches of an epoch as conversations and pictures of rows.
    fn plan(&self, epoch: u64) -> Vec<Vec<(Vec<usize>, &[usize])>> {
        let seed = self.batching.seed;
        let mut rows = self.train.rows((seed, epoch), self.pack(), self.per_picture());
        let length = |row: &(Vec<usize>, &[usize])| -> usize {
            row.0.iter().map(|lesson| self.train.lessons[*lesson].ids.len()).sum()
        };
        for near in rows.chunks_mut(SORTED * self.batching.size) {
            near.sort_by_key(length);
        }
        let batches: Vec<_> = rows.chunks_exact(self.batching.size).map(<[_]>::to_vec).collect();
        order(seed ^ 7, epoch, batches.len()).into_iter().map(|i| batches[i].clone()).collect()
    }

    /// What a batch is about.
    fn material(&self, held_out: bool) -> &Material {
        match &self.validation {
            Some(validation) if held_out => validation,
            _ => &self.train,
        }
    }

    fn batch(
        &self,
        held_out: bool,
        rows: &[(Vec<usize>, &[usize])],
    ) -> Result<GenerativeBatch, BoxError> {
        let material = self.material(held_out);
        let pictures: Vec<Vec<usize>> = rows.iter().map(|(_, of)| of.to_vec()).collect();
        let pixels = match material.seen {
            Some(_) => Vec::new(),
            None => self.read(&material.files(&pictures.concat()))?.concat(),
        };
        Ok(GenerativeBatch {
            held_out,
            rows: rows.iter().map(|(row, _)| material.packed(row)).collect(),
            pictures,
            pixels,
            conversations: rows.iter().map(|(row, _)| row.len()).sum(),
        })
    }

    /// The logits of the answers in some rows; `looked` counts the pieces of pictures before them.
    fn foretold(
        &self,
        model: &GenerativeModel,
        batch: &GenerativeBatch,
        range: Range<usize>,
        looked: &mut usize,
    ) -> Result<Tensor<2>, BoxError> {
        let material = self.material(batch.held_out);
        let rows = &batch.rows[range.clone()];
        let of_rows: Vec<usize> =
            batch.pictures[range.clone()].iter().map(|of| material.pieces(of)).collect();
        let pictures = batch.pictures[range].concat();
        let pieces: usize = of_rows.iter().sum();
        let pixels = match batch.pixels.is_empty() {
            true => &[][..],
            false => &batch.pixels[*looked..*looked + pieces],
        };
        *looked += pieces;
        let seen = self.seen(model, material, (&pictures, of_rows), pixels);
        let prefix = self.prefixes(model, rows);
        Ok(model.foretell(rows, seen, prefix.as_deref())?)
    }

    /// The sum of the losses of the answers in some rows.
    fn summed(
        &self,
        model: &GenerativeModel,
        batch: &GenerativeBatch,
        range: Range<usize>,
        looked: &mut usize,
    ) -> Result<Tensor<1>, BoxError> {
        let logits = self.foretold(model, batch, range.clone(), looked)?;
        Ok(losses(logits, &answers(&batch.rows[range]), &model.device()).sum())
    }

    /// How many tokens of each row see each other both ways.
    fn prefixes(&self, model: &GenerativeModel, rows: &[Row]) -> Option<Vec<usize>> {
        let asked = |row: &Row| row.answers.first().map_or(0, |(place, _)| place + 1);
        model.prefix().then(|| rows.iter().map(asked).collect())
    }
}

/// So many conversations, spread evenly over the set.
fn some(data: &Conversations, count: usize) -> Conversations {
    let all = data.samples.len();
    let count = count.min(all);
    let samples = (0..count).map(|i| data.samples[i * all / count].clone()).collect();
    Conversations { samples, ..data.clone() }
}

impl Task for GenerativeTask {
    type Model = GenerativeModel;
    type Batch = GenerativeBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.count(self.pack(), self.per_picture()) / self.batching.size
    }

    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<GenerativeBatch, BoxError>> + '_>, BoxError> {
        let plan = self.plan(epoch);
        Ok(Box::new(plan.into_iter().skip(start).map(move |rows| self.batch(false, &rows))))
    }

    /// As many rows of the validation set as a step takes, drawn for the number.
    fn held_out(&self, number: u64) -> Result<Option<GenerativeBatch>, BoxError> {
        let Some(material) = &self.validation else { return Ok(None) };
        let mut rows = material.rows((self.batching.seed, number), self.pack(), self.per_picture());
        rows.truncate(self.batching.size);
        self.batch(true, &rows).map(Some)
    }

    fn gradients(
        &self,
        model: &GenerativeModel,
        batch: GenerativeBatch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        let all = answers(&batch.rows).len().max(1);
        let chunk = match self.batching.chunk {
            0 => batch.rows.len(),
            chunk => chunk,
        };
        let (mut loss, mut looked) = (0.0, 0);
        for start in (0..batch.rows.len()).step_by(chunk.max(1)) {
            let rows = start..(start + chunk).min(batch.rows.len());
            let part = self.summed(model, &batch, rows, &mut looked)? / all as f64;
            loss += f64::from(part.clone().into_scalar::<f32>());
            grads.add(part.backward(), model, weight);
        }
        let extra = vec![("answer_tokens", all as f64)];
        Ok(StepReport { loss, samples: batch.conversations, extra })
    }

    fn loss(
        &self,
        model: GenerativeModel,
        batch: &GenerativeBatch,
    ) -> Result<(Tensor<1>, StepReport), BoxError> {
        let all = answers(&batch.rows).len().max(1);
        let loss = self.summed(&model, batch, 0..batch.rows.len(), &mut 0)? / all as f64;
        let extra = vec![("answer_tokens", all as f64)];
        Ok((loss, StepReport { samples: batch.conversations, extra, ..Default::default() }))
    }

    /// The loss of answers, and the share of answers that are foretold whole: each token the
    /// likeliest after those before it, which is what greedy decoding would say.
    fn validate(&self, model: &GenerativeModel) -> Result<Validation, BoxError> {
        let Some(material) = &self.validation else { return Ok(Validation::default()) };
        let (mut loss, mut tokens, mut right, mut answered) = (0.0, 0usize, 0usize, 0usize);
        let rows = material.rows((0, 0), self.pack(), usize::MAX);
        for some in rows.chunks(self.batching.chunk.max(8)) {
            let batch = self.batch(true, some)?;
            let logits = self.foretold(model, &batch, 0..some.len(), &mut 0)?;
            let wanted = answers(&batch.rows);
            let said: Vec<i64> = logits.clone().argmax(1).into_data().iter().collect();
            let sum: f32 = losses(logits, &wanted, &model.device()).sum().into_scalar();
            loss += f64::from(sum);
            tokens += wanted.len();
            let mut next = 0;
            for row in &batch.rows {
                let parts: Vec<u32> = row.answers.iter().map(|(p, _)| row.part[*p]).collect();
                let ok = |i: usize| said[next + i] == wanted[next + i];
                for part in parts.chunk_by(|a, b| a == b).scan(0, |from, part| {
                    *from += part.len();
                    Some(*from - part.len()..*from)
                }) {
                    answered += 1;
                    right += usize::from(part.into_iter().all(ok));
                }
                next += parts.len();
            }
        }
        let (loss, exact) = (loss / tokens.max(1) as f64, right as f64 / answered.max(1) as f64);
        let metrics = vec![("loss".to_owned(), loss), ("exact".to_owned(), exact)];
        Ok(Validation { metrics, score: -loss })
    }

    fn save_model(&self, model: &GenerativeModel, dir: &Path) -> Result<(), BoxError> {
        Ok(self.folder.save_with(model, dir, Float::F32)?)
    }
}
