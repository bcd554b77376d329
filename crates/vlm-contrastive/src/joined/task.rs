//! Training a joined encoder as a [`Task`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use vlm_datasets::{Augment, Dataset, Error as DataError};
use vlm_encoders::image::ImageProcessor;
use vlm_encoders::{TextEncoder, batch_pixels};
use vlm_nn::params::{self, Init, blank};
use vlm_train::{BoxError, Grads, StepReport, Task, Validation};

use super::batch::{Images, JoinedBatch, Reader, Texts, rows};
use super::config::Tower;
use super::folder::{Config, JoinedFolder};
use super::model::Joint;
use super::towers::Progress;
use super::{Head, HeadKind, JoinedModel, Towers};
use crate::grad_cache::whole_loss;
use crate::gradients;
use crate::loss::{self, Loss, SIGMOID_BIAS, normalize};
use crate::sample::{Preparer, SampleConfig};
use crate::task::{BatchConfig, clamp, members, validation};
use vlm_train::Vectors;

/// Trains heads, and towers that are not locked, on pictures and captions.
pub struct JoinedTask {
    towers: Towers,
    data: Arc<Dataset>,
    groups: Arc<Vec<u32>>,
    members: Arc<Vec<Vec<usize>>>,
    validation: Option<Dataset>,
    /// Of a locked image tower: as they are, and mirrored.
    pictures: Vec<Vectors>,
    validation_pictures: Option<Vectors>,
    /// Of a locked text tower, and the row of each caption.
    texts: Vectors,
    rows: HashMap<String, usize>,
    image_mean: Vec<f32>,
    text_mean: Vec<f32>,
    widths: (usize, usize),
    reader: Arc<Reader>,
    sample: SampleConfig,
    batch: BatchConfig,
    loss: Loss,
    seed: u64,
}

impl JoinedTask {
    /// A task over a training set, and the model with its start values.
    ///
    /// # Errors
    /// If the set does not fill a batch, a picture cannot be read, or a setting needs a tower that
    /// is locked.
    pub fn new(
        data: Dataset,
        validation: Option<Dataset>,
        mut towers: Towers,
        (sample, batch, loss, seed): (SampleConfig, BatchConfig, Loss, u64),
        scale: f64,
        device: &Device,
        progress: &Progress<'_>,
    ) -> Result<(Self, JoinedModel), BoxError> {
        let count = data.samples.len();
        if batch.size == 0 || batch.size > count {
            return Err(DataError::BatchTooLarge { batch: batch.size, samples: count }.into());
        }
        let (image_locked, text_locked) =
            (towers.locked(Tower::Vision), towers.locked(Tower::Text));
        refuse(&sample, image_locked, text_locked, &towers)?;
        let paths =
            |data: &Dataset| data.samples.iter().map(|s| s.image.clone()).collect::<Vec<_>>();
        let some = |count: usize| data.samples[..count.min(data.samples.len())].to_vec();
        let captions: Vec<String> = {
            let mut seen = HashMap::new();
            let all = data.samples.iter().flat_map(|s| s.captions.iter());
            all.filter(|c| seen.insert(c.as_str(), ()).is_none()).cloned().collect()
        };
        // A trained tower's first words are enough for the statistics of its head.
        const SOME: usize = 256;
        let (mut pictures, mut image_start) = (Vec::new(), Vectors::default());
        let validation_pictures = if image_locked {
            pictures.push(towers.pictures(&paths(&data), false, progress)?);
            if towers.config.mirror {
                pictures.push(towers.pictures(&paths(&data), true, progress)?);
            }
            let of = |data: &Dataset| towers.pictures(&paths(data), false, progress);
            validation.as_ref().map(of).transpose()?
        } else {
            let few: Vec<_> = some(SOME).into_iter().map(|s| s.image).collect();
            image_start = towers.pictures(&few, false, progress)?;
            None
        };
        let texts = if text_locked {
            towers.texts(&captions, progress)?
        } else {
            let few: Vec<String> = captions.iter().take(SOME).cloned().collect();
            towers.texts(&few, progress)?
        };
        let of_images = pictures.first().unwrap_or(&image_start);
        let widths = (of_images.width, texts.width);
        let dim = towers.dim(widths.1);
        let kinds = (towers.config.image_head, towers.config.text_head);
        let image_head = Head::new(kinds.0, widths.0, dim, device).start(&of_images.values, seed);
        let text_head = Head::new(kinds.1, widths.1, dim, device).start(&texts.values, seed ^ 1);
        let number =
            |value: f32| params::initialize(blank([1], device), 0, &|_, _| Init::Constant(value));
        let read_mean = |head: &Head| head.mean.val().into_data().iter().collect::<Vec<f32>>();
        let (image_mean, text_mean) = (read_mean(&image_head), read_mean(&text_head));
        let model = JoinedModel {
            vision: (!image_locked).then(|| towers.vision.model.clone()),
            text: (!text_locked).then(|| towers.text.model.clone()),
            image_head,
            text_head,
            logit_scale: number(scale.ln() as f32),
            logit_bias: (loss == Loss::Sigmoid).then(|| number(SIGMOID_BIAS)),
        };
        let groups = data.groups();
        let members = members(&groups);
        let rows = captions.into_iter().enumerate().map(|(row, caption)| (caption, row)).collect();
        let reader = Arc::new(Reader {
            image: towers.config.image,
            pooling: towers.text.pooling.clone(),
            spec: towers.text.plan.spec.clone(),
        });
        towers.config.dim = dim;
        let task = JoinedTask {
            towers,
            data: Arc::new(data),
            groups: Arc::new(groups),
            members: Arc::new(members),
            validation,
            pictures,
            validation_pictures,
            texts,
            rows,
            image_mean,
            text_mean,
            widths,
            reader,
            sample,
            batch,
            loss,
            seed,
        };
        Ok((task, model))
    }

    /// How many samples it trains on.
    pub fn samples(&self) -> usize {
        self.data.samples.len()
    }

    fn plan(&self, epoch: u64) -> Result<Vec<Vec<usize>>, DataError> {
        self.batch.plan(self.seed, epoch, &self.groups)
    }

    /// A batch of an epoch, always the same for the same numbers.
    fn assemble(
        &self,
        epoch: u64,
        number: u64,
        indices: &[usize],
    ) -> Result<JoinedBatch, BoxError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ epoch << 32 ^ number << 1 ^ 1);
        let picture_groups: Vec<u32> = indices.iter().map(|i| self.groups[*i]).collect();
        let mut text_groups = picture_groups.clone();
        let (images, mut captions) = if self.pictures.is_empty() {
            let preparer = self.preparer(epoch);
            let prepared = indices
                .par_iter()
                .map(|index| preparer.prepare(*index))
                .collect::<Vec<_>>()
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
            let (pixels, captions) =
                prepared.into_iter().map(|sample| (sample.pixels, sample.caption)).unzip();
            (Images::Pixels(pixels), captions)
        } else {
            let mut vectors = Vectors { values: Vec::new(), width: self.widths.0 };
            let mut captions = Vec::new();
            for index in indices {
                let view = rng.random_range(0..self.pictures.len());
                vectors.values.extend_from_slice(self.pictures[view].row(*index));
                let said = &self.data.samples[*index].captions;
                captions.push(self.sample.captions.choose(said, &mut rng));
            }
            let dropout = self.towers.config.dropout;
            leave_out(&mut vectors, &self.image_mean, dropout, &mut rng);
            (Images::Vectors(vectors), captions)
        };
        for _ in 0..self.batch.extra_texts {
            let pick = rng.random_range(0..self.data.samples.len());
            captions.push(self.data.samples[pick].captions[0].clone());
            text_groups.push(self.groups[pick]);
        }
        let texts = if self.towers.locked(Tower::Text) {
            let mut vectors = Vectors { values: Vec::new(), width: self.widths.1 };
            for caption in &captions {
                let row = self.rows.get(caption).copied();
                let row = row.ok_or_else(|| format!("caption `{caption}` is new"))?;
                vectors.values.extend_from_slice(self.texts.row(row));
            }
            if self.towers.config.text_head != HeadKind::None {
                let dropout = self.towers.config.dropout;
                leave_out(&mut vectors, &self.text_mean, dropout, &mut rng);
            }
            Texts::Vectors(vectors)
        } else {
            Texts::Tokens(self.towers.text.tokenize(&captions)?)
        };
        let reader = Arc::clone(&self.reader);
        Ok(JoinedBatch { images, texts, picture_groups, text_groups, reader })
    }

    fn preparer(&self, epoch: u64) -> Preparer {
        Preparer {
            data: Arc::clone(&self.data),
            members: Arc::clone(&self.members),
            groups: Arc::clone(&self.groups),
            images: self.towers.vision.images.clone(),
            config: self.sample.clone(),
            patches: 1,
            seed: self.seed,
            epoch,
        }
    }

    fn joint(&self, model: &JoinedModel) -> Joint {
        Joint {
            image_head: model.image_head.clone(),
            text_head: model.text_head.clone(),
            logit_scale: model.logit_scale.clone(),
            logit_bias: model.logit_bias.clone(),
        }
    }
}

/// Settings that a locked tower cannot follow.
fn refuse(
    sample: &SampleConfig,
    image_locked: bool,
    text_locked: bool,
    towers: &Towers,
) -> Result<(), BoxError> {
    if image_locked && sample.augment != Augment::default() {
        return Err("sample.augment changes pictures, but the image tower is locked; add \"vision\" to model.towers.train, or use model.towers.mirror and dropout".into());
    }
    if text_locked && (sample.captions.parts > 0 || sample.captions.joined > 0.0) {
        return Err("sample.captions makes new texts, but the text tower is locked; add \"text\" to model.towers.train, or leave parts and joined at 0".into());
    }
    if sample.patch_keep < 1.0 {
        return Err("sample.patch_keep is not for joined towers; leave it at 1".into());
    }
    if !image_locked && towers.vision.images.patching().is_some() {
        return Err(format!(
            "{}: its pictures have grids of their own, which cannot be trained here; leave it locked",
            towers.config.vision.display()
        )
        .into());
    }
    Ok(())
}

/// Puts a share of the values on their mean and moves the others away from it, so that the sum of
/// all stays.
fn leave_out(vectors: &mut Vectors, mean: &[f32], share: f32, rng: &mut ChaCha8Rng) {
    if share == 0.0 {
        return;
    }
    for row in vectors.values.chunks_exact_mut(mean.len()) {
        for (x, mean) in row.iter_mut().zip(mean) {
            let kept = rng.random::<f32>() >= share;
            *x = if kept { mean + (*x - mean) / (1.0 - share) } else { *mean };
        }
    }
}

/// The texts of a model in training.
struct Reading<'a>(&'a JoinedTask, &'a JoinedModel);

impl TextEncoder for Reading<'_> {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, vlm_encoders::Error> {
        let Reading(task, model) = self;
        let device = model.logit_scale.device();
        let x = match &model.text {
            None => task.towers.text.encode_texts(texts)?,
            Some(tower) => task.reader.read(tower, task.towers.text.tokenize(texts)?, &device),
        };
        Ok(normalize(model.text_head.forward(x)))
    }
}

impl Task for JoinedTask {
    type Model = JoinedModel;
    type Batch = JoinedBatch;

    fn batches_per_epoch(&self) -> usize {
        self.data.samples.len() / self.batch.size
    }

    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<JoinedBatch, BoxError>> + '_>, BoxError> {
        let plan = self.plan(epoch)?;
        Ok(Box::new(
            plan.into_iter()
                .enumerate()
                .skip(start)
                .map(move |(number, indices)| self.assemble(epoch, number as u64, &indices)),
        ))
    }

    fn gradients(
        &self,
        model: &JoinedModel,
        batch: JoinedBatch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        let samples = batch.picture_groups.len();
        let loss = gradients(model, &batch, self.loss, self.batch.chunk, weight, grads);
        let scale: f32 = model.logit_scale.val().into_scalar();
        let extra = vec![("scale", f64::from(scale.exp()))];
        Ok(StepReport { loss, samples, extra })
    }

    fn loss(
        &self,
        model: JoinedModel,
        batch: &JoinedBatch,
    ) -> Result<(Tensor<1>, StepReport), BoxError> {
        let samples = batch.picture_groups.len();
        let scale: f32 = model.logit_scale.val().into_scalar();
        let loss = whole_loss(&model, batch, self.loss, self.batch.chunk)?;
        let extra = vec![("scale", f64::from(scale.exp()))];
        Ok((loss, StepReport { samples, extra, ..Default::default() }))
    }

    fn after_step(&self, mut model: JoinedModel) -> Result<JoinedModel, BoxError> {
        model.logit_scale = clamp(model.logit_scale);
        Ok(model)
    }

    fn validate(&self, model: &JoinedModel) -> Result<Validation, BoxError> {
        let Some(data) = &self.validation else { return Ok(Validation::default()) };
        let device = model.logit_scale.device();
        let vectors = match (&self.validation_pictures, &model.vision) {
            (Some(vectors), _) => rows(vectors, 0, data.samples.len(), &device),
            (None, Some(tower)) => {
                let images: &ImageProcessor = &self.towers.vision.images;
                let mut parts = Vec::new();
                for samples in data.samples.chunks(16) {
                    let pixels = samples
                        .iter()
                        .map(|sample| images.process_path(&sample.image))
                        .collect::<Result<Vec<_>, _>>()?;
                    let pixels = batch_pixels(&pixels, &device);
                    let read = self.reader.image.of_tower(&tower.vision, pixels);
                    parts.push(read.ok_or("the image tower has no such state")?);
                }
                Tensor::cat(parts, 0)
            }
            (None, None) => return Ok(Validation::default()),
        };
        let features = normalize(model.image_head.forward(vectors));
        validation(&Reading(self, model), features, data)
    }

    fn save_model(&self, model: &JoinedModel, dir: &Path) -> Result<(), BoxError> {
        let (vision, text) = (&self.towers.vision, &self.towers.text);
        let float = vlm_encoders::Float::F32;
        let tower = model.vision.as_ref().unwrap_or(&vision.model);
        vision.plan.save(tower, &dir.join("vision"), float)?;
        vision.images.save(&dir.join("vision"))?;
        text.save_with(model.text.as_ref().unwrap_or(&text.model), &dir.join("text"), float)?;
        let joined = &self.towers.config;
        let config = Config {
            model_type: Config::kind(),
            image: joined.image,
            letterbox: joined.letterbox.is_some(),
            image_head: joined.image_head,
            text_head: joined.text_head,
            image_width: self.widths.0,
            text_width: self.widths.1,
            dim: joined.dim,
            bias: model.logit_bias.is_some(),
        };
        Ok(JoinedFolder::save_joint(&self.joint(model), &config, dir)?)
    }

    fn expected_start(&self) -> Option<f64> {
        let (pictures, texts) = (self.batch.size, self.batch.size + self.batch.extra_texts);
        Some(f64::from(loss::theoretical_start(self.loss, pictures, texts)))
    }
}
