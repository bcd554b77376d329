//! Whole sets: embedding, zero-shot classification, retrieval.

use std::path::PathBuf;

use burn::tensor::Tensor;
use rayon::prelude::*;
use vlm_encoders::{PictureEncoder, TextEncoder};

use crate::retrieval::{Retrieval, recall_of_features};
use crate::{Error, Templates, templates, zero_shot};

/// Pictures that are decoded and embedded together.
const BATCH: usize = 64;
/// Texts that are embedded together.
const TEXTS: usize = 256;

/// Features of pictures, `[pictures, dim]`; those of a dual encoder have length 1. At most 64 are
/// decoded at a time.
///
/// # Errors
/// The first picture that cannot be read, in order; a model that gives no numbers.
pub fn embed_pictures(
    encoder: &impl PictureEncoder,
    paths: &[PathBuf],
) -> Result<Tensor<2>, Error> {
    let processor = encoder.processor()?;
    let mut parts = Vec::new();
    for paths in paths.chunks(BATCH) {
        let pixels = paths
            .par_iter()
            .map(|path| processor.process_path(path))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(vlm_encoders::Error::from)?;
        parts.push(encoder.encode_pictures(&pixels)?);
    }
    if parts.is_empty() {
        return Err(Error::NoPictures);
    }
    finite(Tensor::cat(parts, 0), "pictures")
}

/// Refuses features that have no direction and so no similarity.
fn finite(features: Tensor<2>, what: &'static str) -> Result<Tensor<2>, Error> {
    let sum: f32 = features.clone().abs().sum().into_scalar();
    if sum.is_finite() { Ok(features) } else { Err(Error::Features(what)) }
}

/// Features of texts, `[texts, dim]`; those of a dual encoder have length 1.
///
/// # Errors
/// If there is none, the tokenizer fails, or the model gives no numbers.
pub fn embed_texts(encoder: &impl TextEncoder, texts: &[String]) -> Result<Tensor<2>, Error> {
    let parts = texts
        .chunks(TEXTS)
        .map(|texts| encoder.encode_texts(texts))
        .collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() {
        return Err(Error::NoTexts);
    }
    finite(Tensor::cat(parts, 0), "texts")
}

/// A zero-shot classifier: one direction a label.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// What it chooses among.
    pub labels: Vec<String>,
    /// `[labels, dim]`, L2-normalised.
    pub weights: Tensor<2>,
}

impl Classifier {
    /// Turns labels into captions and captions into directions (CLIP §3.1.4): each template's
    /// feature is normalised, they are averaged, and the average is normalised again.
    ///
    /// # Errors
    /// If there are no labels.
    pub fn new(
        encoder: &impl TextEncoder,
        labels: &[String],
        templates: &Templates,
    ) -> Result<Self, Error> {
        if labels.is_empty() {
            return Err(Error::NoLabels);
        }
        let mut sum: Option<Tensor<2>> = None;
        for template in templates.as_slice() {
            let filled: Vec<String> =
                labels.iter().map(|label| templates::fill(template, label)).collect();
            let features = embed_texts(encoder, &filled)?;
            sum = Some(match sum {
                Some(sum) => sum + features,
                None => features,
            });
        }
        let sum = sum.ok_or(Error::NoLabels)?;
        Ok(Classifier { labels: labels.to_vec(), weights: crate::loss::normalize(sum) })
    }

    /// Similarities `[pictures, labels]`, on the host row by row.
    pub fn scores(&self, features: Tensor<2>) -> Vec<f32> {
        let scores = features.matmul(self.weights.clone().transpose());
        scores.into_data().iter::<f32>().collect()
    }
}

/// Accuracy of a zero-shot classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Share whose best label is right.
    pub top1: f64,
    /// Share whose best five hold the right one.
    pub top5: f64,
}

/// Classifies features `[pictures, dim]` whose true labels are `truth`.
///
/// # Errors
/// If there is nothing to classify, or a truth is no label.
pub fn classify(
    classifier: &Classifier,
    features: Tensor<2>,
    truth: &[usize],
) -> Result<Accuracy, Error> {
    let scores = classifier.scores(features);
    let classes = classifier.labels.len();
    Ok(Accuracy {
        top1: zero_shot::accuracy(&scores, classes, truth, 1)?,
        top5: zero_shot::accuracy(&scores, classes, truth, 5)?,
    })
}

/// Retrieval both ways: `captions[i]` are those of picture `i`.
///
/// # Errors
/// If there is no caption, or the tokenizer fails.
pub fn retrieve(
    encoder: &impl TextEncoder,
    features: Tensor<2>,
    captions: &[Vec<String>],
) -> Result<Retrieval, Error> {
    let mut truth = Vec::with_capacity(captions.len());
    let mut texts = Vec::new();
    for captions in captions {
        truth.push((texts.len()..texts.len() + captions.len()).collect::<Vec<_>>());
        texts.extend(captions.iter().cloned());
    }
    let text_features = embed_texts(encoder, &texts)?;
    recall_of_features(features, text_features, &truth, &[1, 5, 10], 256)
}
