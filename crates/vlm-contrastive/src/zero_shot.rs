//! Zero-shot classification: captions become a classifier (Radford et al. 2021, arXiv
//! 2103.00020, section 3.1.4).

use std::cmp::Ordering;

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::error::Error;
use crate::loss::normalize;

/// The weights of a classifier from the text features of each class's captions: each feature is
/// normalised, the features of a class are averaged, and the average is normalised again.
///
/// `per_class`: for each class `[captions, dim]`, at least one caption; the number of captions
/// may differ. Returns `[classes, dim]`; the score of an image is its product with a row.
///
/// # Panics
/// If there is no class, a class has no caption, or widths differ.
pub fn class_weights(per_class: Vec<Tensor<2>>) -> Tensor<2> {
    assert!(!per_class.is_empty(), "class_weights: no classes");
    let averages: Vec<Tensor<2>> = per_class
        .into_iter()
        .enumerate()
        .map(|(class, captions)| {
            assert!(captions.dims()[0] > 0, "class_weights: class {class} has no caption");
            normalize(captions).mean_dim(0)
        })
        .collect();
    normalize(Tensor::cat(averages, 0))
}

/// Softmax over the classes: `logits: [images, classes]`, as a rule
/// `exp(log_scale) · image · weightsᵀ`, to shares of 1 a row.
///
/// They are shares among the classes on offer, so they say nothing about an image of none of
/// them; a sigmoid model gives such answers with its own sigmoid.
pub fn probabilities(logits: Tensor<2>) -> Tensor<2> {
    softmax(logits, 1)
}

/// The positions of the `k` highest scores, best first; all of them if there are fewer. Of equal
/// scores the lower position comes first, and NaN comes last.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| best_first(scores[a], scores[b])); // stable: ties keep their order
    order.truncate(k);
    order
}

fn best_first(a: f32, b: f32) -> Ordering {
    // Only a NaN is unordered, and it goes behind every number.
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The share (0 to 1) of images whose true class is among their [`top_k`] classes. A true class
/// whose score is NaN is never a hit, so that a broken model cannot look good.
///
/// `scores: [images, classes]` row by row, `truth`: the class of each image, from 0.
///
/// # Errors
/// [`Error::Table`] if the scores are not `truth.len() · classes`, [`Error::Answer`] for a class
/// out of range, [`Error::NothingToMeasure`] without images.
pub fn accuracy(scores: &[f32], classes: usize, truth: &[usize], k: usize) -> Result<f64, Error> {
    if scores.len() != truth.len() * classes {
        let (values, rows) = (scores.len(), truth.len());
        return Err(Error::Table { values, rows, columns: classes });
    }
    if truth.is_empty() {
        return Err(Error::NothingToMeasure("accuracy"));
    }
    let mut hits = 0;
    for (row, &answer) in truth.iter().enumerate() {
        if answer >= classes {
            return Err(Error::Answer { row, answer, candidates: classes });
        }
        let scores = &scores[row * classes..][..classes];
        let of_truth = scores[answer];
        let ahead = scores
            .iter()
            .enumerate()
            .filter(|&(class, &score)| score > of_truth || (score == of_truth && class < answer));
        if !of_truth.is_nan() && ahead.count() < k {
            hits += 1;
        }
    }
    Ok(f64::from(hits) / truth.len() as f64)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn matrix<const N: usize>(rows: &[[f32; N]]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), N]), &Device::flex())
    }

    fn host(x: Tensor<2>) -> Vec<f32> {
        x.into_data().try_to_vec::<f32>().unwrap()
    }

    /// Class 0 has a long and a short caption at right angles: normalising each first makes the
    /// average (½, ½), so the row is (√½, √½); without it the long one would win.
    #[test]
    fn weights_normalise_before_and_after_averaging() {
        let weights = class_weights(vec![matrix(&[[30., 0.], [0., 2.]]), matrix(&[[3., 4.]])]);
        assert_eq!(weights.dims(), [2, 2]);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        for (got, want) in host(weights).into_iter().zip([half, half, 0.6, 0.8]) {
            assert!((got - want).abs() < 1e-6, "{got} should be {want}");
        }
    }

    #[test]
    #[should_panic(expected = "class 1 has no caption")]
    fn every_class_needs_a_caption() {
        let empty = Tensor::zeros([0, 2], &Device::flex());
        class_weights(vec![matrix(&[[1., 0.]]), empty]);
    }

    #[test]
    fn probabilities_are_shares_of_a_row() {
        let got = host(probabilities(matrix(&[[0., 3f32.ln()], [1000., 0.]])));
        for (got, want) in got.into_iter().zip([0.25, 0.75, 1.0, 0.0]) {
            assert!((got - want).abs() < 1e-6, "{got} should be {want}");
        }
    }

    #[test]
    fn top_k_breaks_ties_by_position_and_puts_nan_last() {
        let scores = [f32::NAN, 1.0, 3.0, f32::NEG_INFINITY, 3.0, f32::NAN];
        assert_eq!(top_k(&scores, 3), [2, 4, 1]);
        assert_eq!(top_k(&scores, 99), [2, 4, 1, 3, 0, 5]);
        assert!(top_k(&scores, 0).is_empty());
    }

    #[test]
    fn accuracy_agrees_with_top_k() {
        let nan = f32::NAN;
        let rows = [[1., 2., 2., nan], [5., 5., 5., 5.], [nan, nan, 0., -1.]];
        for k in 0..=4 {
            for (row, answer) in (0..3).flat_map(|row| (0..4).map(move |answer| (row, answer))) {
                let scores = &rows[row];
                let hit = top_k(scores, k).contains(&answer) && !scores[answer].is_nan();
                let want = if hit { 1.0 } else { 0.0 };
                assert_eq!(accuracy(scores, 4, &[answer], k).unwrap(), want, "{row} {answer} {k}");
            }
        }
        let scores = rows.concat();
        assert_eq!(accuracy(&scores, 4, &[2, 0, 3], 1).unwrap(), 1.0 / 3.0);
        assert_eq!(accuracy(&scores, 4, &[2, 0, 3], 2).unwrap(), 1.0);
    }

    #[test]
    fn accuracy_refuses_what_does_not_fit() {
        let message = |scores: &[f32], truth: &[usize]| {
            accuracy(scores, 2, truth, 1).unwrap_err().to_string()
        };
        assert!(message(&[1., 2., 3.], &[0]).starts_with("3 scores do not make 1 rows of 2"));
        assert!(message(&[1., 2.], &[2]).starts_with("item 0: the true answer 2"));
        assert!(message(&[], &[]).starts_with("accuracy: nothing to measure"));
    }
}
