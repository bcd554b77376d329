//! Contrastive training as a [`Task`].

use std::path::Path;
use std::sync::Arc;

use burn::module::Param;
use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vlm_datasets::{Dataset, Error as DataError, Loader, grouped, order, plain};
use vlm_encoders::image::ImageProcessor;
use vlm_encoders::text::Tokenizer;
use vlm_encoders::{Blueprint, DualFolder, DualSpec, Float, TextEncoder};
use vlm_train::{BoxError, Grads, StepReport, Task, Validation};

use crate::evaluate::{Classifier, classify, embed_pictures, retrieve};
use crate::grad_cache::whole_loss;
use crate::loss::{self, Loss};
use crate::sample::{Prepared, Preparer, SampleConfig};
use crate::{DualEncoder, PairBatch, Templates, gradients};

/// How batches are made; the `[batch]` section of a run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Pictures in a batch.
    pub size: usize,
    /// Further captions of the training set in each batch, as wrong answers only.
    pub extra_texts: usize,
    /// Pictures or texts in a graph at a time; 0 for all. The gradient is the same (GradCache).
    pub chunk: usize,
    /// Whether the samples of a group come in one batch.
    pub grouped: bool,
    /// Threads that prepare samples.
    pub workers: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig { size: 128, extra_texts: 0, chunk: 0, grouped: false, workers: 2 }
    }
}

impl BatchConfig {
    /// Looks for values that make no sense, to be called before any data is read.
    ///
    /// # Errors
    /// The first such value, with what is allowed.
    pub fn check(&self) -> Result<(), String> {
        // Beyond any machine, and small enough that no product of two overflows.
        for (name, value, least, most) in [
            ("size", self.size, 1, 1 << 24),
            ("extra_texts", self.extra_texts, 0, 1 << 24),
            ("workers", self.workers, 0, 256),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}; it must be from {least} to {most}"));
            }
        }
        Ok(())
    }
}

impl BatchConfig {
    /// The sample numbers of each batch of an epoch.
    pub(crate) fn plan(
        &self,
        seed: u64,
        epoch: u64,
        groups: &[u32],
    ) -> Result<Vec<Vec<usize>>, DataError> {
        let order = order(seed, epoch, groups.len());
        if self.grouped { grouped(&order, groups, self.size) } else { plain(&order, self.size) }
    }
}

/// Trains a [`DualEncoder`] on pictures and captions.
pub struct ContrastiveTask {
    data: Arc<Dataset>,
    groups: Arc<Vec<u32>>,
    members: Arc<Vec<Vec<usize>>>,
    validation: Option<Dataset>,
    shape: Blueprint<DualSpec>,
    images: ImageProcessor,
    tokenizer: Tokenizer,
    sample: SampleConfig,
    batch: BatchConfig,
    loss: Loss,
    seed: u64,
}

impl ContrastiveTask {
    /// A task over a training set and, if there is one, a validation set.
    ///
    /// # Errors
    /// If the set does not fill a batch.
    pub fn new(
        data: Dataset,
        validation: Option<Dataset>,
        (shape, images, tokenizer): (Blueprint<DualSpec>, ImageProcessor, Tokenizer),
        sample: SampleConfig,
        batch: BatchConfig,
        loss: Loss,
        seed: u64,
    ) -> Result<Self, DataError> {
        if batch.size == 0 || batch.size > data.samples.len() {
            let samples = data.samples.len();
            return Err(DataError::BatchTooLarge { batch: batch.size, samples });
        }
        let groups = data.groups();
        let members = members(&groups);
        Ok(ContrastiveTask {
            data: Arc::new(data),
            groups: Arc::new(groups),
            members: Arc::new(members),
            validation,
            shape,
            images,
            tokenizer,
            sample,
            batch,
            loss,
            seed,
        })
    }

    fn preparer(&self, epoch: u64) -> Preparer {
        let vision = &self.shape.spec.vision;
        Preparer {
            data: Arc::clone(&self.data),
            members: Arc::clone(&self.members),
            groups: Arc::clone(&self.groups),
            images: self.images.clone(),
            config: self.sample.clone(),
            patches: vision.patches(),
            seed: self.seed,
            epoch,
        }
    }

    /// The sample numbers of each batch of an epoch.
    fn plan(&self, epoch: u64) -> Result<Vec<Vec<usize>>, DataError> {
        self.batch.plan(self.seed, epoch, &self.groups)
    }

    /// Puts prepared samples together with their texts and the extra ones.
    fn collate(
        &self,
        indices: &[usize],
        prepared: Vec<Prepared>,
        seed: u64,
    ) -> Result<PairBatch, BoxError> {
        let picture_groups: Vec<u32> = indices.iter().map(|i| self.groups[*i]).collect();
        let mut text_groups = picture_groups.clone();
        let (mut pictures, mut keep, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for sample in prepared {
            pictures.push(sample.pixels);
            texts.push(sample.caption);
            if !sample.keep.is_empty() {
                keep.push(sample.keep);
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..self.batch.extra_texts {
            let pick = rng.random_range(0..self.data.samples.len());
            texts.push(self.data.samples[pick].captions[0].clone());
            text_groups.push(self.groups[pick]);
        }
        let texts = self.shape.spec.text.tokenize(&self.tokenizer, &texts)?;
        let ends = vlm_encoders::pool_places(&texts, self.shape.spec.text.pool);
        Ok(PairBatch { pictures, keep, texts, ends, picture_groups, text_groups })
    }

    /// The model as a folder has it.
    fn folder(&self, model: &DualEncoder) -> DualFolder {
        DualFolder {
            plan: self.shape.clone(),
            model: model.model(&self.shape.spec),
            images: self.images.clone(),
            tokenizer: self.tokenizer.clone(),
        }
    }

    /// The first batch, as the model will see it, with the sample numbers.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn preview(&self) -> Result<(Vec<usize>, PairBatch), BoxError> {
        let plan = self.plan(0)?;
        let batch = self.batches(0, 0)?.next();
        match (plan.into_iter().next(), batch) {
            (Some(indices), Some(batch)) => Ok((indices, batch?)),
            _ => Err("the data has no batch; use a smaller batch size".into()),
        }
    }
}

impl Task for ContrastiveTask {
    type Model = DualEncoder;
    type Batch = PairBatch;

    fn batches_per_epoch(&self) -> usize {
        self.data.samples.len() / self.batch.size
    }

    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<PairBatch, BoxError>> + '_>, BoxError> {
        let plan: Vec<Vec<usize>> = self.plan(epoch)?.into_iter().skip(start).collect();
        let preparer = self.preparer(epoch);
        let loader = Loader { workers: self.batch.workers, prefetch: self.batch.size };
        let prepared = loader.run(
            plan.clone(),
            Arc::new(move |sample: usize, _: usize| preparer.prepare(sample).map_err(Failed)),
        );
        let batches = prepared.zip(plan).enumerate().map(move |(i, (prepared, indices))| {
            let number = (start + i) as u64;
            self.collate(
                &indices,
                prepared.map_err(|e| e.0)?,
                self.seed ^ epoch << 32 ^ number << 1 ^ 1,
            )
        });
        Ok(Box::new(batches))
    }

    fn gradients(
        &self,
        model: &DualEncoder,
        batch: PairBatch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        let loss = gradients(model, &batch, self.loss, self.batch.chunk, weight, grads);
        let scale = f64::from(model.clip.scale());
        Ok(StepReport { loss, samples: batch.pictures.len(), extra: vec![("scale", scale)] })
    }

    fn loss(
        &self,
        model: DualEncoder,
        batch: &PairBatch,
    ) -> Result<(Tensor<1>, StepReport), BoxError> {
        let samples = batch.pictures.len();
        let extra = vec![("scale", f64::from(model.clip.scale()))];
        let loss = whole_loss(&model, batch, self.loss, self.batch.chunk)?;
        Ok((loss, StepReport { samples, extra, ..Default::default() }))
    }

    fn after_step(&self, mut model: DualEncoder) -> Result<DualEncoder, BoxError> {
        // CLIP holds the scale below 100 after each step, not in the loss.
        model.clip.logit_scale = clamp(model.clip.logit_scale);
        Ok(model)
    }

    fn validate(&self, model: &DualEncoder) -> Result<Validation, BoxError> {
        let Some(data) = &self.validation else { return Ok(Validation::default()) };
        let clip = self.folder(model);
        let paths: Vec<_> = data.samples.iter().map(|s| s.image.clone()).collect();
        let features = embed_pictures(&clip, &paths)?;
        validation(&clip, features, data)
    }

    fn save_model(&self, model: &DualEncoder, dir: &Path) -> Result<(), BoxError> {
        Ok(self.folder(model).save(dir, Float::F32)?)
    }

    fn expected_start(&self) -> Option<f64> {
        let (pictures, texts) = (self.batch.size, self.batch.size + self.batch.extra_texts);
        Some(f64::from(loss::theoretical_start(self.loss, pictures, texts)))
    }
}

/// The sample numbers of each group.
pub(crate) fn members(groups: &[u32]) -> Vec<Vec<usize>> {
    let count = groups.iter().max().map_or(0, |last| *last as usize + 1);
    let mut members = vec![Vec::new(); count];
    for (i, group) in groups.iter().enumerate() {
        members[*group as usize].push(i);
    }
    members
}

/// How well pictures of those features are named, of a set with labels, or find their captions.
pub(crate) fn validation(
    texts: &impl TextEncoder,
    features: Tensor<2>,
    data: &Dataset,
) -> Result<Validation, BoxError> {
    if data.labels.is_empty() {
        let captions: Vec<_> = data.samples.iter().map(|s| s.captions.clone()).collect();
        let metrics = retrieval_metrics(&retrieve(texts, features, &captions)?);
        let score = metrics.iter().map(|(_, share)| share).sum();
        return Ok(Validation { metrics, score });
    }
    let classifier = Classifier::new(texts, &data.labels, &Templates::none())?;
    let accuracy = classify(&classifier, features, &data.truth()?)?;
    let metrics = vec![("top1".to_owned(), accuracy.top1), ("top5".to_owned(), accuracy.top5)];
    Ok(Validation { metrics, score: accuracy.top1 + accuracy.top5 })
}

/// R@1, 5, 10 both ways under the names of the field.
pub fn retrieval_metrics(found: &crate::retrieval::Retrieval) -> Vec<(String, f64)> {
    [("i2t", &found.image_to_text), ("t2i", &found.text_to_image)]
        .iter()
        .flat_map(|(way, direction)| {
            direction.recalls.iter().map(move |r| (format!("{way}_r{}", r.k), r.share))
        })
        .collect()
}

pub(crate) fn clamp(scale: Param<Tensor<1>>) -> Param<Tensor<1>> {
    let value: f32 = scale.val().into_scalar();
    let bounded = loss::clamp_log_scale(value);
    if bounded == value {
        return scale;
    }
    scale.map(|old| {
        let tracked = old.is_require_grad();
        let new = old.inner().zeros_like() + bounded;
        Tensor::from_inner(new).set_require_grad(tracked)
    })
}

/// What went wrong with a sample, in the form that the loader hands on.
pub(crate) struct Failed(pub(crate) BoxError);

impl From<DataError> for Failed {
    fn from(error: DataError) -> Self {
        Failed(error.into())
    }
}
