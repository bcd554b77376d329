//! Choosing on the validation split.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use super::problem::{Labelled, host};
use crate::zero_shot::top_k;

/// How well scores fit labels: the share that is right, and the mean log-likelihood, which decides
/// among equals: a split of a dozen pictures has many.
pub(super) type Quality = (f64, f64);

/// The quality of logits `[pictures, classes]`.
pub(super) fn quality(logits: Tensor<2>, split: &Labelled) -> Quality {
    let classes = logits.dims()[1];
    let logs = host(log_softmax(logits, 1));
    let (mut right, mut sum) = (0.0, 0.0);
    for (row, label) in logs.chunks_exact(classes).zip(&split.labels) {
        right += f64::from(u8::from(top_k(row, 1)[0] == *label));
        // One picture that is certain to be another class must not outweigh all others.
        sum += f64::from(row[*label].max(-30.0));
    }
    let count = split.len().max(1) as f64;
    (right / count, sum / count)
}

/// The best of candidates; the first of equals.
#[derive(Clone, Debug)]
pub(super) struct Best<T> {
    kept: Option<(Quality, T)>,
}

impl<T> Best<T> {
    pub fn none() -> Self {
        Best { kept: None }
    }

    /// Whether a quality would be kept.
    pub fn beaten_by(&self, quality: Quality) -> bool {
        self.kept.as_ref().is_none_or(|(best, _)| quality > *best)
    }

    pub fn offer(&mut self, quality: Quality, value: impl FnOnce() -> T) {
        if self.beaten_by(quality) {
            self.kept = Some((quality, value()));
        }
    }

    pub fn quality(&self) -> Option<Quality> {
        self.kept.as_ref().map(|(quality, _)| *quality)
    }

    pub fn take(self) -> Option<T> {
        self.kept.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn accuracy_first_then_likelihood() {
        let device = Device::flex();
        let split = Labelled {
            features: Tensor::zeros([2, 1], &device),
            labels: vec![0, 1],
            views: vec![],
        };
        let of = |logits: [[f32; 2]; 2]| quality(Tensor::from_data(logits, &device), &split);
        let (sure, unsure) = (of([[3., 0.], [0., 3.]]), of([[1., 0.], [0., 1.]]));
        let half = of([[9., 0.], [9., 0.]]);
        assert_eq!((sure.0, unsure.0, half.0), (1.0, 1.0, 0.5));
        assert!(sure > unsure && unsure > half);
        assert!((unsure.1 + (1.0 + (-1f64).exp()).ln()).abs() < 1e-6);
        let mut best = Best::none();
        for (name, quality) in [("half", half), ("first", unsure), ("second", unsure)] {
            best.offer(quality, || name);
        }
        assert_eq!(best.take(), Some("first"));
    }
}
