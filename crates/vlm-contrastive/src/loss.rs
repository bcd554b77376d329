//! Contrastive losses over the features of a batch.
//!
//! Sources: Radford et al. 2021 (CLIP, arXiv 2103.00020), Zhai et al. 2023 (SigLIP, arXiv
//! 2303.15343), Khosla et al. 2020 (several positives, arXiv 2004.11362, the outside form).

use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::ops::cross_entropy;

/// Which contrastive loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Softmax over the batch in both directions (CLIP); `infonce` in a config.
    #[default]
    InfoNce,
    /// A yes or no for each pair (SigLIP); `sigmoid` in a config.
    Sigmoid,
}

/// Where CLIP's log scale starts: ln(1/0.07).
pub const INFO_NCE_LOG_SCALE: f32 = 2.659_26;
/// Where SigLIP's log scale starts: ln 10.
pub const SIGMOID_LOG_SCALE: f32 = std::f32::consts::LN_10;
/// Where SigLIP's bias starts, so that the many negatives begin near their target.
pub const SIGMOID_BIAS: f32 = -10.0;
/// The largest log scale, ln 100.
pub const MAX_LOG_SCALE: f32 = 2.0 * std::f32::consts::LN_10;

/// Holds a log scale in `[0, ln 100]`, as CLIP does after each optimiser step.
pub fn clamp_log_scale(value: f32) -> f32 {
    value.clamp(0.0, MAX_LOG_SCALE)
}

/// The loss in nats that a model without any knowledge (every similarity 0) has on `n` images
/// and `m` texts: `(ln n + ln m) / 2` for InfoNCE; for the sigmoid loss, with its starting bias
/// `b` and one text for each image, `softplus(−b) + (m − 1)·softplus(b)`.
pub fn theoretical_start(loss: Loss, n: usize, m: usize) -> f32 {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let bias = f64::from(SIGMOID_BIAS);
    let loss = match loss {
        Loss::InfoNce => ((n as f64).ln() + (m as f64).ln()) / 2.0,
        Loss::Sigmoid => softplus(-bias) + (m as f64 - 1.0) * softplus(bias),
    };
    loss as f32
}

/// Divides each row by its Euclidean length. A row of zeros stays zero, and so does its gradient.
///
/// `x: [rows, dim]`; the result has x's shape.
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    // The floor is under the root: its slope at 0 is infinite, and ∞ · 0 would be NaN.
    let square = (x.clone() * x.clone()).sum_dim(1).clamp_min(1e-24);
    x / square.sqrt()
}

/// The matrix of positives of images and texts that belong together by a group number, such as
/// the picture of a caption: 1 where the numbers are equal, else 0.
///
/// Returns `[rows, columns]` on `device`, which must be that of the features.
pub fn positives_from_groups(rows: &[u32], columns: &[u32], device: &Device) -> Tensor<2> {
    let equal = |row: u32| columns.iter().map(move |&column| f32::from(u8::from(row == column)));
    let values: Vec<f32> = rows.iter().flat_map(|&row| equal(row)).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), columns.len()]), device)
}

/// Symmetric cross-entropy over the similarities `exp(log_scale) · image · textᵀ`: the mean over
/// the images of the loss of finding their text, and over the texts of finding their image,
/// halved.
///
/// - `image: [n, dim]`, `text: [m, dim]`, L2-normalised (see [`normalize`])
/// - `log_scale: [1]`
/// - `positives: [n, m]` of 0 and 1: the positives of a row (for image to text) or of a column
///   (for text to image) share the target equally. A row or column without any has no loss and
///   is not counted in its mean. `None`: row i belongs to column i.
///
/// Returns the loss in nats, `[1]`. With several positives the least possible loss is not 0: it
/// is the entropy of the targets, ln k for k positives.
///
/// # Panics
/// If the widths differ, if `positives` is not `[n, m]`, or if it is `None` and n is not m.
pub fn info_nce(
    image: Tensor<2>,
    text: Tensor<2>,
    log_scale: Tensor<1>,
    positives: Option<Tensor<2>>,
) -> Tensor<1> {
    let image_to_text = logits(image, text, log_scale);
    let text_to_image = image_to_text.clone().transpose();
    check(&image_to_text, &positives);
    let both = match positives {
        None => {
            // One matrix serves both directions, and no row needs counting.
            let targets = Tensor::eye(image_to_text.dims()[0], &image_to_text.device());
            cross_entropy(image_to_text, targets.clone()).mean()
                + cross_entropy(text_to_image, targets).mean()
        }
        Some(positives) => {
            mean_over_answered(text_to_image, positives.clone().transpose())
                + mean_over_answered(image_to_text, positives)
        }
    };
    both / 2.0
}

/// Pairwise sigmoid loss: every pair is a yes or no with the logit
/// `exp(log_scale) · image · text + bias`, summed over all pairs and divided by n (not by the
/// number of pairs), as SigLIP does.
///
/// Shapes and positives as in [`info_nce`], save that a row without a positive counts, being n
/// right answers of "no"; `bias: [1]`. Returns the loss in nats, `[1]`.
///
/// # Panics
/// As [`info_nce`].
pub fn sigmoid_loss(
    image: Tensor<2>,
    text: Tensor<2>,
    log_scale: Tensor<1>,
    bias: Tensor<1>,
    positives: Option<Tensor<2>>,
) -> Tensor<1> {
    let logits = logits(image, text, log_scale) + bias.reshape([1, 1]);
    check(&logits, &positives);
    let rows = logits.dims()[0];
    let positives = positives.unwrap_or_else(|| Tensor::eye(rows, &logits.device()));
    let sign = positives * 2.0 - 1.0;
    // −log σ is the stable softplus, recorded as one operation that keeps only its input.
    log_sigmoid(logits * sign).sum() / -(rows as f64)
}

/// `[n, m]`. The scale goes on the features, not on the product: its gradient then keeps
/// `[n, dim]` for the backward pass and not another `[n, m]`.
fn logits(image: Tensor<2>, text: Tensor<2>, log_scale: Tensor<1>) -> Tensor<2> {
    (image * log_scale.exp().reshape([1, 1])).matmul(text.transpose())
}

fn check(logits: &Tensor<2>, positives: &Option<Tensor<2>>) {
    let [n, m] = logits.dims();
    match positives {
        Some(positives) => assert_eq!(
            positives.dims(),
            [n, m],
            "contrastive loss: positives must be [images, texts]"
        ),
        None => assert_eq!(n, m, "contrastive loss: {n} images and {m} texts need `positives`"),
    }
}

/// The mean cross-entropy of the rows that have a positive.
fn mean_over_answered(logits: Tensor<2>, positives: Tensor<2>) -> Tensor<1> {
    let rows = logits.dims()[0];
    let count = positives.clone().sum_dim(1);
    // At least 1: a row without a positive must not divide by 0, and is weighted 0 below.
    let targets = positives / count.clone().clamp_min(1.0);
    let answered = count.clamp_max(1.0).reshape([rows]);
    let total = (cross_entropy(logits, targets) * answered.clone()).sum();
    total / answered.sum().clamp_min(1.0)
}

#[cfg(test)]
mod tests;
