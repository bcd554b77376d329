//! What LoRA-FA makes of the gradient of the second factor.

use burn::tensor::{Tensor, TensorData};
use vlm_nn::adapter::LowRank;

/// Added to the diagonal before it is inverted, as in peft.
const RIDGE: f64 = 1e-8;

/// `(Aᵀ A + ε I)⁻¹ ∇B / s²`, by which `A B` moves as near to the gradient of the whole weight as it can.
pub fn corrected(part: &LowRank, grad: Tensor<2>) -> Tensor<2> {
    let a = part.a.val().inner();
    let [_, rank] = a.dims();
    let square: Vec<f64> =
        a.clone().transpose().matmul(a).into_data().iter::<f32>().map(f64::from).collect();
    let inverse = inverted(square, rank);
    let scale = part.scaling.factor(rank).powi(2);
    let inverse: Vec<f32> = inverse.iter().map(|x| (x / scale) as f32).collect();
    let inverse = Tensor::from_data(TensorData::new(inverse, [rank, rank]), &grad.device());
    inverse.matmul(grad)
}

/// The inverse of `m + ε I` for a symmetric `m: [n, n]` that has no negative direction.
fn inverted(mut m: Vec<f64>, n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        m[i * n + i] += RIDGE;
        inverse[i * n + i] = 1.0;
    }
    for column in 0..n {
        let largest =
            |a: &usize, b: &usize| m[a * n + column].abs().total_cmp(&m[b * n + column].abs());
        let pivot = (column..n).max_by(largest).unwrap_or(column);
        for j in 0..n {
            m.swap(column * n + j, pivot * n + j);
            inverse.swap(column * n + j, pivot * n + j);
        }
        let lead = m[column * n + column];
        for j in 0..n {
            m[column * n + j] /= lead;
            inverse[column * n + j] /= lead;
        }
        for row in (0..n).filter(|row| *row != column) {
            let by = m[row * n + column];
            for j in 0..n {
                m[row * n + j] -= by * m[column * n + j];
                inverse[row * n + j] -= by * inverse[column * n + j];
            }
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;
    use vlm_nn::adapter::Scaling;

    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_formula() {
        // methods.md 14.1, by an independent NumPy; peft stores the transposes.
        let device = Device::flex();
        let matrix = |rows: usize, values: &[f32]| {
            let shape = [rows, values.len() / rows];
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device).transpose()
        };
        let a = [-0.1875, 0.125, -0.375, -0.0625, 0.25, -0.25, 0.0625, 0.375];
        let part = LowRank {
            a: Param::from_tensor(matrix(2, &a)),
            b: Param::from_tensor(Tensor::zeros([2, 3], &device)),
            magnitude: None,
            scaling: Scaling { alpha: 4.0, rooted: false },
            ranks: None,
            dropout: 0.0,
        };
        let grad = [0.015686, -0.9085693, 0.0935364, -0.0799561, 0.3945007, -0.3630371];
        let ours: Vec<f32> =
            corrected(&part, matrix(3, &grad)).transpose().into_data().iter().collect();
        let theirs = [-0.7384503, -1.1852007, 0.1027645, -0.0265033, 0.4116302, -0.1458291];
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
        }
    }
}
