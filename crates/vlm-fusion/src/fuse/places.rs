//! Places of tokens, for fusion layers that read a question.

use burn::tensor::{Tensor, TensorData};

/// Longest wave of the sines.
const LONGEST: f64 = 10_000.0;

/// Adds sines of each token's place (Vaswani et al. 2017, arXiv 1706.03762) to
/// `rows: [texts, tokens, width]`: what a decoder looks up knows no order.
///
/// `padding: [texts or 1, 1, tokens]` is 0 for tokens; others are not counted, so that a text gets
/// the same wherever its padding stands.
pub(super) fn with_places(rows: Tensor<3>, padding: Option<Tensor<3>>) -> Tensor<3> {
    let [_, tokens, width] = rows.dims();
    let device = rows.device();
    let places = match padding {
        None => Tensor::<1, burn::tensor::Int>::arange(0..tokens as i64, &device)
            .float()
            .reshape([1, tokens, 1]),
        Some(padding) => {
            let counted = padding.equal_elem(0.0).float().cumsum(2) - 1.0;
            counted.clamp_min(0.0).swap_dims(1, 2)
        }
    };
    let half = width / 2;
    let waves: Vec<f32> =
        (0..half).map(|i| LONGEST.powf(-(i as f64) / half.max(1) as f64) as f32).collect();
    let waves = Tensor::<3>::from_data(TensorData::new(waves, [1, 1, half]), &device);
    let angles = places * waves;
    let mut parts = vec![angles.clone().sin(), angles.cos()];
    if !width.is_multiple_of(2) {
        let texts = parts[0].dims()[0];
        parts.push(Tensor::zeros([texts, tokens, 1], &device));
    }
    rows + Tensor::cat(parts, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use vlm_nn::ops::MASKED;

    #[test]
    fn places_are_counted_over_tokens_only() {
        let device = Device::flex();
        let rows = |tokens| Tensor::<3>::zeros([1, tokens, 5], &device);
        let plain = with_places(rows(3), None);
        let padding = Tensor::from_data([[[MASKED, 0.0, 0.0, 0.0, MASKED]]], &device);
        let padded = with_places(rows(5), Some(padding)).narrow(1, 1, 3);
        assert_eq!(plain.clone().into_data(), padded.into_data());
        let values: Vec<f32> = plain.into_data().iter::<f32>().collect();
        assert_eq!(values[..5], [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert!((values[5] - 1f32.sin()).abs() < 1e-6 && (values[6] - 0.01f32.sin()).abs() < 1e-6);
    }
}
