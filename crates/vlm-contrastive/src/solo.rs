//! Training one encoder by itself: features of what belongs together come closer, those of the rest
//! move apart.
//!
//! Pictures belong together by their label, or by their group; texts by the picture that they describe, or
//! by the same. The loss is that of pairs (SupCon's outside form where a batch has several positives,
//! Khosla et al. 2020, arXiv 2004.11362) at CLIP's first temperature.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlm_datasets::{Dataset, Error as DataError, Loader};
use vlm_encoders::image::Pixels;
use vlm_encoders::{Error as EncoderError, TextFolder, TextModel, VisionFolder, VisionModel};
use vlm_store::Float;
use vlm_train::{BoxError, Grads, StepReport, Task, Validation};

use crate::loss::{INFO_NCE_LOG_SCALE, info_nce, normalize, positives_from_groups};
use crate::sample::Preparer;
use crate::task::{Failed, members};
use crate::{BatchConfig, Error, SampleConfig, embed_pictures, embed_texts};

/// Neighbours that are looked for at a time.
const ROWS: usize = 256;

/// Things in pairs that belong together, and what each pair is about.
pub struct Twins<I> {
    first: Vec<I>,
    second: Vec<I>,
    groups: Vec<u32>,
}

/// What batches are made of.
pub struct Material {
    data: Arc<Dataset>,
    groups: Arc<Vec<u32>>,
    members: Arc<Vec<Vec<usize>>>,
    sample: SampleConfig,
    batch: BatchConfig,
    seed: u64,
}

impl Material {
    fn new(
        data: Dataset,
        (sample, batch): (SampleConfig, BatchConfig),
        seed: u64,
    ) -> Result<Self, DataError> {
        if batch.size == 0 || batch.size > data.samples.len() {
            let samples = data.samples.len();
            return Err(DataError::BatchTooLarge { batch: batch.size, samples });
        }
        let groups = groups(&data);
        let members = members(&groups);
        let (data, groups, members) = (Arc::new(data), Arc::new(groups), Arc::new(members));
        Ok(Material { data, groups, members, sample, batch, seed })
    }

    /// Another sample of the same group; the same if there is none.
    fn partner(&self, sample: usize, rng: &mut ChaCha8Rng) -> usize {
        let members = &self.members[self.groups[sample] as usize];
        let own = members.iter().position(|member| *member == sample).unwrap_or_default();
        match members.len() {
            0 | 1 => sample,
            count => members[(own + rng.random_range(1..count)) % count],
        }
    }

    fn dice(&self, epoch: u64, number: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch << 32 | number as u64);
        rng
    }

    fn groups_of(&self, samples: &[usize]) -> Vec<u32> {
        samples.iter().map(|sample| self.groups[*sample]).collect()
    }
}

/// What samples belong together by: their labels if they have some, else their groups.
fn groups(data: &Dataset) -> Vec<u32> {
    let by_label = data.samples.iter().all(|sample| sample.label.is_some());
    match data.truth() {
        Ok(truth) if by_label => truth.into_iter().map(|label| label as u32).collect(),
        _ => data.groups(),
    }
}

/// Batches of twins.
type Batches<'a, I> = Box<dyn Iterator<Item = Result<Twins<I>, BoxError>> + 'a>;

/// An encoder of one kind of things.
pub trait Solo {
    /// Its weights.
    type Model: Module;
    /// What it encodes.
    type Item: Clone + Send;

    /// Features of things, `[things, dim]`, of any length.
    ///
    /// # Errors
    /// As the encoder.
    fn features(
        &self,
        model: &Self::Model,
        things: &[Self::Item],
    ) -> Result<Tensor<2>, EncoderError>;

    /// Batches of those samples.
    fn batches<'a>(
        &'a self,
        material: &'a Material,
        plan: Vec<(usize, Vec<usize>)>,
        epoch: u64,
    ) -> Batches<'a, Self::Item>;

    /// Features of all things of a set, and what each belongs to.
    ///
    /// # Errors
    /// If one cannot be read.
    fn of_set(&self, model: &Self::Model, data: &Dataset) -> Result<(Tensor<2>, Vec<u32>), Error>;

    /// Writes the folder with other weights.
    ///
    /// # Errors
    /// What the operating system reports.
    fn write(&self, model: &Self::Model, dir: &Path) -> Result<(), EncoderError>;

    /// Whether a set has things that belong together, and what it lacks if not.
    ///
    /// # Errors
    /// What it lacks.
    fn suits(&self, data: &Dataset) -> Result<(), String>;
}

/// How often the nearest other thing, by the cosine of features `[things, dim]`, is of the same group,
/// among the things of groups of two or more; `None` if there are no such groups.
pub fn nearest(features: Tensor<2>, groups: &[u32]) -> Option<f64> {
    let features = normalize(features);
    let count = features.dims()[0];
    let mut sizes = HashMap::<u32, usize>::new();
    groups.iter().for_each(|group| *sizes.entry(*group).or_default() += 1);
    let (mut asked, mut right) = (0, 0);
    for start in (0..count).step_by(ROWS) {
        let rows = ROWS.min(count - start);
        let block = features.clone().narrow(0, start, rows);
        let scores = block.matmul(features.clone().transpose()).into_data();
        let scores: Vec<f32> = scores.iter().collect();
        for (i, row) in scores.chunks(count).enumerate() {
            let own = start + i;
            if sizes[&groups[own]] < 2 {
                continue;
            }
            let others = row.iter().enumerate().filter(|(other, _)| *other != own);
            let best = others.max_by(|(_, a), (_, b)| a.total_cmp(b));
            asked += 1;
            right += usize::from(best.is_some_and(|(other, _)| groups[other] == groups[own]));
        }
    }
    (asked > 0).then(|| right as f64 / asked as f64)
}

impl Solo for VisionFolder {
    type Model = VisionModel;
    type Item = Pixels;

    fn features(&self, model: &VisionModel, things: &[Pixels]) -> Result<Tensor<2>, EncoderError> {
        self.features_of(model, things)
    }

    fn batches<'a>(
        &'a self,
        material: &'a Material,
        plan: Vec<(usize, Vec<usize>)>,
        epoch: u64,
    ) -> Batches<'a, Pixels> {
        let preparer = |seed: u64| Preparer {
            data: Arc::clone(&material.data),
            members: Arc::clone(&material.members),
            groups: Arc::clone(&material.groups),
            images: self.images.clone(),
            config: SampleConfig { patch_keep: 1.0, ..material.sample.clone() },
            patches: 1,
            seed,
            epoch,
        };
        // The second of two is another picture, or the same one changed in another way.
        let both = [preparer(material.seed), preparer(!material.seed)];
        let count = material.data.samples.len();
        let lists = plan.iter().map(|(number, samples)| {
            let mut rng = material.dice(epoch, *number);
            let partners: Vec<usize> =
                samples.iter().map(|sample| count + material.partner(*sample, &mut rng)).collect();
            samples.iter().copied().chain(partners).collect()
        });
        let loader = Loader { workers: material.batch.workers, prefetch: 2 * material.batch.size };
        let prepared = loader.run(
            lists.collect(),
            Arc::new(move |place: usize, _: usize| {
                let prepared = both[place / count].prepare(place % count).map_err(Failed)?;
                Ok::<_, Failed>(prepared.pixels)
            }),
        );
        Box::new(prepared.zip(plan).map(move |(pixels, (_, samples))| {
            let mut first = pixels.map_err(|failed| failed.0)?;
            let second = first.split_off(samples.len());
            Ok(Twins { first, second, groups: material.groups_of(&samples) })
        }))
    }

    fn of_set(&self, model: &VisionModel, data: &Dataset) -> Result<(Tensor<2>, Vec<u32>), Error> {
        let (plan, images) = (self.plan.clone(), self.images.clone());
        let folder = VisionFolder { plan, model: model.clone(), images };
        let paths: Vec<_> = data.samples.iter().map(|sample| sample.image.clone()).collect();
        Ok((embed_pictures(&folder, &paths)?, groups(data)))
    }

    fn write(&self, model: &VisionModel, dir: &Path) -> Result<(), EncoderError> {
        self.plan.save(model, dir, Float::F32)?;
        Ok(self.images.save(dir)?)
    }

    fn suits(&self, data: &Dataset) -> Result<(), String> {
        let members = members(&groups(data));
        match members.iter().any(|members| members.len() > 1) {
            true => Ok(()),
            false => Err("no two pictures have the same label or group".to_owned()),
        }
    }
}

impl Solo for TextFolder {
    type Model = TextModel;
    type Item = String;

    fn features(&self, model: &TextModel, things: &[String]) -> Result<Tensor<2>, EncoderError> {
        self.features_of(model, things)
    }

    fn batches<'a>(
        &'a self,
        material: &'a Material,
        plan: Vec<(usize, Vec<usize>)>,
        epoch: u64,
    ) -> Batches<'a, String> {
        let samples = &material.data.samples;
        Box::new(plan.into_iter().map(move |(number, chosen)| {
            let mut rng = material.dice(epoch, number);
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for sample in &chosen {
                let own = &samples[*sample].captions;
                let text = rng.random_range(0..own.len());
                first.push(own[text].clone());
                second.push(match own.len() {
                    1 => {
                        let others = &samples[material.partner(*sample, &mut rng)].captions;
                        others[rng.random_range(0..others.len())].clone()
                    }
                    count => own[(text + rng.random_range(1..count)) % count].clone(),
                });
            }
            Ok(Twins { first, second, groups: material.groups_of(&chosen) })
        }))
    }

    fn of_set(&self, model: &TextModel, data: &Dataset) -> Result<(Tensor<2>, Vec<u32>), Error> {
        let (mut texts, mut of, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        for (sample, group) in data.samples.iter().zip(groups(data)) {
            for caption in &sample.captions {
                // Of pictures of one group the same text would be found again.
                if known.insert(caption) {
                    texts.push(caption.clone());
                    of.push(group);
                }
            }
        }
        let folder = TextFolder {
            plan: self.plan.clone(),
            model: model.clone(),
            tokenizer: self.tokenizer.clone(),
            pooling: self.pooling.clone(),
        };
        Ok((embed_texts(&folder, &texts)?, of))
    }

    fn write(&self, model: &TextModel, dir: &Path) -> Result<(), EncoderError> {
        self.save_with(model, dir, Float::F32)
    }

    fn suits(&self, data: &Dataset) -> Result<(), String> {
        let members = members(&groups(data));
        let pairs = members.iter().any(|members| members.len() > 1)
            || data.samples.iter().any(|sample| sample.captions.len() > 1);
        match pairs {
            true => Ok(()),
            false => Err("no two texts have the same picture, label or group".to_owned()),
        }
    }
}

/// Trains an encoder by itself.
pub struct SoloTask<S> {
    encoder: S,
    material: Material,
    validation: Option<Dataset>,
}

impl<S: Solo> SoloTask<S> {
    /// A task over a training set and, if there is one, a validation set.
    ///
    /// # Errors
    /// If the set does not fill a batch, or nothing in it belongs together.
    pub fn new(
        encoder: S,
        data: Dataset,
        validation: Option<Dataset>,
        how: (SampleConfig, BatchConfig),
        seed: u64,
    ) -> Result<Self, BoxError> {
        for data in [Some(&data), validation.as_ref()].into_iter().flatten() {
            let root = data.root.display();
            encoder.suits(data).map_err(|lacks| format!("{root}: {lacks}"))?;
        }
        Ok(SoloTask { encoder, material: Material::new(data, how, seed)?, validation })
    }

    fn loss_of(&self, model: &S::Model, batch: &Twins<S::Item>) -> Result<Tensor<1>, EncoderError> {
        let first = normalize(self.encoder.features(model, &batch.first)?);
        let second = normalize(self.encoder.features(model, &batch.second)?);
        let device = first.device();
        let positives = positives_from_groups(&batch.groups, &batch.groups, &device);
        let scale = Tensor::full([1], INFO_NCE_LOG_SCALE, &device);
        Ok(info_nce(first, second, scale, Some(positives)))
    }

    /// How many samples there are to train on.
    pub fn samples(&self) -> usize {
        self.material.data.samples.len()
    }
}

impl<S: Solo> Task for SoloTask<S> {
    type Model = S::Model;
    type Batch = Twins<S::Item>;

    fn batches_per_epoch(&self) -> usize {
        self.samples() / self.material.batch.size
    }

    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Self::Batch, BoxError>> + '_>, BoxError> {
        let Material { batch, groups, seed, .. } = &self.material;
        let plan = batch.plan(*seed, epoch, groups)?.into_iter().enumerate().skip(start);
        Ok(self.encoder.batches(&self.material, plan.collect(), epoch))
    }

    fn gradients(
        &self,
        model: &S::Model,
        batch: Self::Batch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        let loss = self.loss_of(model, &batch)?;
        let value: f32 = loss.clone().into_scalar();
        grads.add((loss * weight).backward(), model, 1.0);
        let samples = batch.first.len() + batch.second.len();
        Ok(StepReport { loss: f64::from(value), samples, extra: Vec::new() })
    }

    fn loss(
        &self,
        model: S::Model,
        batch: &Self::Batch,
    ) -> Result<(Tensor<1>, StepReport), BoxError> {
        let samples = batch.first.len() + batch.second.len();
        let loss = self.loss_of(&model, batch)?;
        Ok((loss, StepReport { samples, ..Default::default() }))
    }

    fn validate(&self, model: &S::Model) -> Result<Validation, BoxError> {
        let Some(data) = &self.validation else { return Ok(Validation::default()) };
        let (features, groups) = self.encoder.of_set(model, data)?;
        let share = nearest(features, &groups).unwrap_or_default();
        Ok(Validation { metrics: vec![("nearest".to_owned(), share)], score: share })
    }

    fn save_model(&self, model: &S::Model, dir: &Path) -> Result<(), BoxError> {
        std::fs::create_dir_all(dir)?;
        Ok(self.encoder.write(model, dir)?)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_nearest_other_is_asked_of_whoever_has_one() {
        let rows = [[1.0f32, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]];
        let features = Tensor::from_data(rows, &Device::flex());
        assert_eq!(nearest(features.clone(), &[0, 0, 1, 1, 2]), Some(1.0));
        assert_eq!(nearest(features.clone(), &[0, 1, 1, 0, 2]), Some(0.0));
        assert_eq!(nearest(features, &[0, 1, 2, 3, 4]), None);
    }
}
