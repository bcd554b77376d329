//! From a tower's vector to the shared space.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::params::{self, Init, blank};
use vlm_nn::{Activation, Linear, ops};

use super::HeadKind;

/// Takes a mean out, divides by a spread, and maps what is left.
///
/// Mean and spread are those of a set and are not trained: the values of a pretrained tower differ
/// in size by orders, and a map of raw ones learns the large ones first.
#[derive(Module, Debug)]
pub struct Head {
    /// `[width]`.
    pub mean: Param<Tensor<1>>,
    /// `[width]`, one over the spread.
    pub scale: Param<Tensor<1>>,
    /// `[width, dim]`, or to the hidden width.
    pub first: Option<Linear>,
    /// `[hidden, dim]`.
    pub second: Option<Linear>,
}

impl Head {
    /// A blank head, which is loaded or given start values before it is used.
    pub fn new(kind: HeadKind, width: usize, dim: usize, device: &Device) -> Self {
        let (first, second) = match kind {
            HeadKind::None => (None, None),
            HeadKind::Linear => (Some(Linear::new(width, dim, true, device)), None),
            HeadKind::Mlp(hidden) => (
                Some(Linear::new(width, hidden, true, device)),
                Some(Linear::new(hidden, dim, true, device)),
            ),
        };
        Head { mean: blank([width], device), scale: blank([width], device), first, second }
    }

    /// Start values: the statistics of `vectors`, rows of the head's width, and random maps. A
    /// head without a map keeps the proportions of the tower's space.
    pub fn start(self, vectors: &[f32], seed: u64) -> Self {
        let width = self.mean.lazy_shape()[0];
        let maps = self.first.is_some();
        let (mean, spread) = statistics(vectors, width);
        let values = |path: &str, shape: &[usize]| match path {
            "mean" => Some(mean.clone()),
            "scale" if maps => Some(spread.iter().map(|s| 1.0 / (s + 1e-3)).collect()),
            "scale" => Some(vec![1.0; shape[0]]),
            _ => None,
        };
        let head = params::initialize(self, seed, &|path, shape| match shape {
            [input, _] if path.ends_with("weight") => Init::Normal((*input as f64).powf(-0.5)),
            _ => Init::Constant(0.0),
        });
        let fill = &mut |path: &str, shape: &[usize]| {
            let values = values(path, shape);
            Ok::<_, std::convert::Infallible>(values.map(|v| TensorData::new(v, shape.to_vec())))
        };
        let Ok(head) = params::replace(head, fill);
        params::set_trainable(head, &|path| path != "mean" && path != "scale")
    }

    /// `[batch, width]` to `[batch, dim]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = (x - self.mean.val().unsqueeze()) * self.scale.val().unsqueeze();
        let Some(first) = &self.first else { return x };
        let x = first.forward(x);
        match &self.second {
            Some(second) => second.forward(ops::activate(x, Activation::Gelu)),
            None => x,
        }
    }
}

/// Mean and standard deviation of each column.
fn statistics(vectors: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = (vectors.len() / width.max(1)).max(1) as f64;
    let mut mean = vec![0f64; width];
    let mut square = vec![0f64; width];
    for row in vectors.chunks_exact(width) {
        for (i, x) in row.iter().enumerate() {
            mean[i] += f64::from(*x) / rows;
        }
    }
    for row in vectors.chunks_exact(width) {
        for (i, x) in row.iter().enumerate() {
            square[i] += (f64::from(*x) - mean[i]).powi(2) / rows;
        }
    }
    let spread = square.iter().map(|s| s.sqrt() as f32).collect();
    (mean.iter().map(|m| *m as f32).collect(), spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_evened_out() {
        // Only there does a parameter say that it is trained.
        let device = Device::flex().autodiff();
        let vectors = [1000.0f32, 0.01, 3000.0, 0.03, 2000.0, 0.05];
        let head = Head::new(HeadKind::Linear, 2, 4, &device).start(&vectors, 1);
        let mean: Vec<f32> = head.mean.val().into_data().try_to_vec().unwrap();
        assert!((mean[0] - 2000.0).abs() < 1e-2 && (mean[1] - 0.03).abs() < 1e-6);
        let x = Tensor::<2>::from_data(TensorData::new(mean, [1, 2]), &device);
        let y: Vec<f32> = head.forward(x).into_data().try_to_vec().unwrap();
        assert_eq!(y, [0.0; 4]);
        let trained: Vec<String> = params::list(&head)
            .into_iter()
            .filter(|param| param.trainable)
            .map(|param| param.path)
            .collect();
        assert_eq!(trained, ["first.weight", "first.bias"]);
    }

    #[test]
    fn without_a_map_only_the_mean_goes() {
        let device = Device::flex();
        let head = Head::new(HeadKind::None, 2, 2, &device).start(&[1.0, 2.0, 3.0, 6.0], 1);
        let x = Tensor::<2>::from_data([[5.0f32, 5.0]], &device);
        let y: Vec<f32> = head.forward(x).into_data().try_to_vec().unwrap();
        assert_eq!(y, [3.0, 1.0]);
    }
}
