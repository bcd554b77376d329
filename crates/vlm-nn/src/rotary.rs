//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), half-split.

use burn::tensor::{Tensor, TensorData};

/// Turns the pairs `(i, i + d/2)` of each head by an angle that grows with the position, the
/// layout of Hugging Face's Llama, Qwen and Gemma files (Meta's own pairs neighbours).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Base of the wavelengths.
    pub theta: f64,
}

impl Rotary {
    /// Turns `x: [batch, tokens, heads · head_dim]` whose first token stands at `start`.
    pub fn apply(&self, x: Tensor<3>, heads: usize, start: usize) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let half = width / heads / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in start..start + tokens {
            for i in 0..half {
                let angle = position as f64 * self.theta.powf(-(i as f64) / half as f64);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let device = x.device();
        let table = |values: Vec<f32>| {
            Tensor::<4>::from_data(TensorData::new(values, [1, tokens, 1, half]), &device)
        };
        let (cos, sin) = (table(cos), table(sin));
        let x = x.reshape([batch, tokens, heads, 2 * half]);
        let a = x.clone().narrow(3, 0, half);
        let b = x.narrow(3, half, half);
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos + a * sin;
        Tensor::cat(vec![first, second], 3).reshape([batch, tokens, width])
    }
}
