//! CIDEr (Vedantam et al. 2015): how alike captions are in the words that are rare in the corpus.

use std::collections::{BTreeMap, BTreeSet};

use super::grams;

/// The longest runs of words that are compared.
const LONGEST: usize = 4;

/// CIDEr-D of each caption, as pycocoevalcap computes it under the name CIDEr: clipped counts, a
/// penalty for another length (sigma 6), times 10. A corpus has the mean.
///
/// Which words are rare is told by the references of all captions, so a single caption, whose
/// words are in every document, scores 0. Takes lists of words, such as
/// [`words`](super::words()) makes.
pub fn cider_d(predicted: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Vec<f64> {
    scores(predicted, references, true)
}

/// CIDEr of each caption as first defined, times 10: no clipping and no penalty for length, and
/// without the stemming of words, as captions are compared since.
pub fn cider(predicted: &[Vec<String>], references: &[Vec<Vec<String>>]) -> Vec<f64> {
    scores(predicted, references, false)
}

/// A caption's weights for each length of runs, with their norm.
struct Weighed<'a> {
    grams: [BTreeMap<&'a [String], f64>; LONGEST],
    norms: [f64; LONGEST],
    /// Pairs of words, which the reference takes for the length.
    length: f64,
}

/// In how many documents each run of words is.
struct Documents<'a> {
    count: f64,
    with: BTreeMap<&'a [String], f64>,
}

impl<'a> Documents<'a> {
    fn new(references: &'a [Vec<Vec<String>>]) -> Self {
        let mut with: BTreeMap<&[String], f64> = BTreeMap::new();
        for document in references {
            let seen: BTreeSet<&[String]> = document
                .iter()
                .flat_map(|caption| (1..=LONGEST).flat_map(|size| caption.windows(size)))
                .collect();
            for gram in seen {
                *with.entry(gram).or_default() += 1.0;
            }
        }
        Documents { count: references.len() as f64, with }
    }

    fn weigh<'b>(&self, caption: &'b [String]) -> Weighed<'b> {
        let grams: [_; LONGEST] = std::array::from_fn(|i| {
            let counts = grams(caption, i + 1).into_iter();
            counts
                .map(|(gram, count)| {
                    let with = self.with.get(gram).copied().unwrap_or(0.0).max(1.0);
                    (gram, count as f64 * (self.count.ln() - with.ln()))
                })
                .collect::<BTreeMap<_, _>>()
        });
        let norms = std::array::from_fn(|i| {
            grams[i].values().map(|weight| weight * weight).sum::<f64>().sqrt()
        });
        Weighed { grams, norms, length: caption.len().saturating_sub(1) as f64 }
    }
}

fn scores(
    predicted: &[Vec<String>],
    references: &[Vec<Vec<String>>],
    with_penalty: bool,
) -> Vec<f64> {
    let documents = Documents::new(references);
    predicted
        .iter()
        .zip(references)
        .map(|(caption, references)| {
            let caption = documents.weigh(caption);
            let one = |reference: &Vec<String>| {
                alike(&caption, &documents.weigh(reference), with_penalty)
            };
            let sum: f64 = references.iter().map(one).sum();
            10.0 * sum / references.len().max(1) as f64
        })
        .collect()
}

/// The mean over the lengths of runs of how alike two captions are.
fn alike(predicted: &Weighed, reference: &Weighed, with_penalty: bool) -> f64 {
    const SIGMA: f64 = 6.0;
    let mut sum = 0.0;
    for i in 0..LONGEST {
        let mut product = 0.0;
        for (gram, weight) in &predicted.grams[i] {
            if let Some(other) = reference.grams[i].get(gram) {
                product += if with_penalty { weight.min(*other) } else { *weight } * other;
            }
        }
        let norm = predicted.norms[i] * reference.norms[i];
        sum += if norm > 0.0 { product / norm } else { 0.0 };
    }
    let apart = predicted.length - reference.length;
    let penalty = if with_penalty { (-apart * apart / (2.0 * SIGMA * SIGMA)).exp() } else { 1.0 };
    sum / LONGEST as f64 * penalty
}
