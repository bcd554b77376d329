//! Gradients of a contrastive batch, whole or in chunks.
//!
//! The loss of a pair depends on every other pair, so chunks cannot simply be added up. In
//! chunks (GradCache, Gao et al. 2021, arXiv 2101.06983) features are computed without a
//! graph first; the loss of all of them gives the gradient of each feature; then each chunk
//! is computed again with a graph and driven by its features' gradients. The result is the
//! full batch's gradient, and the memory for activations that of one chunk.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_encoders::image::Pixels;
use vlm_encoders::{batch_pixels, text};
use vlm_train::{BoxError, Grads};

use crate::DualEncoder;
use crate::loss::{self, Loss};

/// Pairs as the host holds them.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// The pictures.
    pub pictures: Vec<Pixels>,
    /// Patches that are looked at, the same number for each picture; all if empty.
    pub keep: Vec<Vec<i64>>,
    /// The texts; the first of them belong to the pictures, further ones are only wrong answers.
    pub texts: text::Batch,
    /// The place of each text's end token.
    pub ends: Vec<i64>,
    /// What each picture shows: a picture and a text of one group are a pair.
    pub picture_groups: Vec<u32>,
    /// What each text names.
    pub text_groups: Vec<u32>,
}

impl PairBatch {
    fn pixels(&self, from: usize, to: usize, device: &Device) -> Tensor<4> {
        batch_pixels(&self.pictures[from..to], device)
    }

    fn kept(&self, from: usize, to: usize, device: &Device) -> Option<Tensor<2, Int>> {
        let count = self.keep.first()?.len();
        let data: Vec<i64> = self.keep[from..to].iter().flatten().copied().collect();
        Some(Tensor::from_data(TensorData::new(data, [to - from, count]), device))
    }

    fn tokens(&self, from: usize, to: usize, device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
        let cols = self.texts.cols;
        // Cut to the longest text of this chunk: what follows the ends is never looked at.
        let used = self.ends[from..to].iter().max().map_or(1, |end| *end as usize + 1).min(cols);
        let ids: Vec<i64> = self.texts.ids[from * cols..to * cols]
            .chunks(cols)
            .flat_map(|row| row[..used].iter().copied())
            .collect();
        let ends = self.ends[from..to].to_vec();
        (
            Tensor::from_data(TensorData::new(ids, [to - from, used]), device),
            Tensor::from_data(TensorData::new(ends, [to - from]), device),
        )
    }
}

/// What the losses need of a model besides features.
pub trait Scored: Module {
    /// `[1]`, the logarithm of what similarities are multiplied by.
    fn log_scale(&self) -> Tensor<1>;
    /// `[1]`, what is added to them then; of the sigmoid loss only.
    fn bias(&self) -> Option<Tensor<1>>;
}

/// Pairs of which a model makes features.
pub trait Pairs<M> {
    /// What each picture and what each text shows: those of one number are a pair.
    fn groups(&self) -> (&[u32], &[u32]);
    /// L2-normalised features of some of the pictures, `[to − from, dim]`.
    fn image_features(&self, model: &M, from: usize, to: usize, device: &Device) -> Tensor<2>;
    /// L2-normalised features of some of the texts, `[to − from, dim]`.
    fn text_features(&self, model: &M, from: usize, to: usize, device: &Device) -> Tensor<2>;
}

impl Scored for DualEncoder {
    fn log_scale(&self) -> Tensor<1> {
        self.clip.logit_scale.val()
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.logit_bias.as_ref().map(Param::val)
    }
}

impl Pairs<DualEncoder> for PairBatch {
    fn groups(&self) -> (&[u32], &[u32]) {
        (&self.picture_groups, &self.text_groups)
    }

    fn image_features(
        &self,
        model: &DualEncoder,
        from: usize,
        to: usize,
        device: &Device,
    ) -> Tensor<2> {
        let keep = self.kept(from, to, device);
        loss::normalize(model.clip.image_features(self.pixels(from, to, device), keep))
    }

    fn text_features(
        &self,
        model: &DualEncoder,
        from: usize,
        to: usize,
        device: &Device,
    ) -> Tensor<2> {
        let (ids, ends) = self.tokens(from, to, device);
        loss::normalize(model.clip.text_features(ids, ends, None))
    }
}

/// Adds the gradients of the mean loss over `batch`, times `weight`, to `grads`; returns the
/// loss. At most `chunk` pictures or texts are in a graph at a time; 0 means all.
pub fn gradients<M: Scored>(
    model: &M,
    batch: &impl Pairs<M>,
    kind: Loss,
    chunk: usize,
    weight: f32,
    grads: &mut Grads,
) -> f64 {
    let device = model.log_scale().device();
    let (picture_groups, text_groups) = batch.groups();
    let (pictures, texts) = (picture_groups.len(), text_groups.len());
    if chunk == 0 || pictures.max(texts) <= chunk {
        let loss = all_at_once(model, batch, kind, &device);
        let value: f32 = loss.clone().into_scalar();
        grads.add((loss * weight).backward(), model, 1.0);
        return f64::from(value);
    }

    // Features without a graph.
    let plain = model.valid();
    let plain_device = plain.log_scale().device();
    let image: Vec<_> = spans(pictures, chunk)
        .map(|(from, to)| batch.image_features(&plain, from, to, &plain_device))
        .collect();
    let text: Vec<_> = spans(texts, chunk)
        .map(|(from, to)| batch.text_features(&plain, from, to, &plain_device))
        .collect();

    // The loss of all of them: gradients of the features, the scale and the bias.
    let leaf = |parts: Vec<Tensor<2>>| Tensor::from_inner(Tensor::cat(parts, 0)).require_grad();
    let (image, text) = (leaf(image), leaf(text));
    let loss = loss_of(model, batch, kind, image.clone(), text.clone(), &device);
    let value: f32 = loss.clone().into_scalar();
    let mut of_loss = (loss * weight).backward();
    let image_grad = image.grad_remove(&mut of_loss);
    let text_grad = text.grad_remove(&mut of_loss);
    grads.add(of_loss, model, 1.0);

    // Each chunk again, driven by its features' gradients.
    if let Some(grad) = image_grad {
        for (from, to) in spans(pictures, chunk) {
            let features = batch.image_features(model, from, to, &device);
            drive(features, grad.clone().narrow(0, from, to - from), model, grads);
        }
    }
    if let Some(grad) = text_grad {
        for (from, to) in spans(texts, chunk) {
            let features = batch.text_features(model, from, to, &device);
            drive(features, grad.clone().narrow(0, from, to - from), model, grads);
        }
    }
    f64::from(value)
}

fn spans(len: usize, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(chunk).map(move |from| (from, (from + chunk).min(len)))
}

/// Back-propagates a gradient that was computed elsewhere into the features' graph.
fn drive<M: Module>(features: Tensor<2>, grad: Tensor<2>, model: &M, grads: &mut Grads) {
    let surrogate = (features * Tensor::from_inner(grad)).sum();
    grads.add(surrogate.backward(), model, 1.0);
}

/// The mean loss over a batch, in one graph.
fn all_at_once<M: Scored>(
    model: &M,
    batch: &impl Pairs<M>,
    kind: Loss,
    device: &Device,
) -> Tensor<1> {
    let (picture_groups, text_groups) = batch.groups();
    let image = batch.image_features(model, 0, picture_groups.len(), device);
    let text = batch.text_features(model, 0, text_groups.len(), device);
    loss_of(model, batch, kind, image, text, device)
}

/// The loss of a batch with its graph, for rules that run the backward pass themselves.
pub fn loss_of_pairs<M: Scored>(model: &M, batch: &impl Pairs<M>, loss: Loss) -> Tensor<1> {
    all_at_once(model, batch, loss, &model.log_scale().device())
}

/// The same, of a task that is not to be cut in chunks.
///
/// # Errors
/// If it is.
pub(crate) fn whole_loss<M: Scored>(
    model: &M,
    batch: &impl Pairs<M>,
    kind: Loss,
    chunk: usize,
) -> Result<Tensor<1>, BoxError> {
    if chunk > 0 {
        return Err("batch.chunk needs gradients that are kept: use optim.rule = \"adamw\"".into());
    }
    Ok(loss_of_pairs(model, batch, kind))
}

fn loss_of<M: Scored>(
    model: &M,
    batch: &impl Pairs<M>,
    kind: Loss,
    image: Tensor<2>,
    text: Tensor<2>,
    device: &Device,
) -> Tensor<1> {
    let (pictures, texts) = batch.groups();
    let positives = loss::positives_from_groups(pictures, texts, device);
    match (kind, model.bias()) {
        (Loss::Sigmoid, Some(bias)) => {
            loss::sigmoid_loss(image, text, model.log_scale(), bias, Some(positives))
        }
        _ => loss::info_nce(image, text, model.log_scale(), Some(positives)),
    }
}
