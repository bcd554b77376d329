//! CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544).

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::Tensor;
use vlm_nn::Linear;
use vlm_nn::ops::cross_entropy;
use vlm_nn::params::{self, Init};

use super::choose::{Best, quality};
use super::problem::{Answer, Method, Problem, one_hot};
use super::train::{Batches, Training, rows};
use crate::Error;
use crate::loss::normalize;

/// Shares of the adapter's output that are tried; the first is the paper's for ImageNet.
const RATIOS: [f64; 4] = [0.2, 0.4, 0.6, 0.8];

/// Steps at most; a hundred classes would take hours otherwise.
const MOST: usize = 2000;

/// A bottleneck on the image feature, mixed with it and compared with the texts:
/// `normalize(r · relu(relu(f A) B) + (1 − r) · f)`, A to a quarter of the width, no biases.
///
/// It is trained with AdamW and a cosine; plain SGD, whose steps shrink with the model's scale, does
/// not move the adapter of a model whose scale is not CLIP's 100.
#[derive(Clone, Debug)]
pub struct ClipAdapter {
    /// Passes over the labelled pictures.
    pub epochs: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Pictures of a step.
    pub batch: usize,
}

impl Default for ClipAdapter {
    fn default() -> Self {
        ClipAdapter { epochs: 200, lr: 1e-3, batch: 32 }
    }
}

#[derive(Module, Debug)]
struct Adapter {
    down: Linear,
    up: Linear,
}

impl Adapter {
    fn new(dim: usize, seed: u64, device: &burn::tensor::Device) -> Self {
        let hidden = (dim / 4).max(1);
        let blank = Adapter {
            down: Linear::new(dim, hidden, false, device),
            up: Linear::new(hidden, dim, false, device),
        };
        // As PyTorch starts a linear map.
        let rule = |_: &str, shape: &[usize]| Init::Uniform((shape[0] as f64).powf(-0.5));
        params::initialize(blank, seed, &rule)
    }
}

fn relu(x: Tensor<2>) -> Tensor<2> {
    burn::tensor::activation::relu(x)
}

/// `[batch, dim]` to rows of length 1.
pub(super) fn mixed(f: Tensor<2>, down: Tensor<2>, up: Tensor<2>, ratio: f64) -> Tensor<2> {
    let adapted = relu(relu(f.clone().matmul(down)).matmul(up));
    normalize(adapted * ratio + f * (1.0 - ratio))
}

impl Method for ClipAdapter {
    fn name(&self) -> &'static str {
        "clip-adapter"
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn needs_text(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let text = problem.text(self.name())?;
        let weights = text.weights.clone().transpose() * text.scale;
        let (x, labels) = problem.labelled.with_views();
        let targets = one_hot(&labels, problem.classes, &problem.device());
        let lift = |x: Tensor<2>| Tensor::<2>::from_inner(x);
        let plain = |module: &Adapter, f: &Tensor<2>, ratio: f64| {
            let (down, up) = (module.down.weight.val().inner(), module.up.weight.val().inner());
            mixed(f.clone(), down, up, ratio).matmul(weights.clone())
        };
        let ratios = if problem.validation.is_some() { &RATIOS[..] } else { &RATIOS[..1] };
        let mut best = Best::none();
        for &ratio in ratios {
            let mut batches = Batches::new(x.dims()[0], self.batch, problem.seed);
            // An epoch is one over the pictures; the views make batches differ, not longer.
            let epoch = problem.labelled.len().div_ceil(self.batch);
            let mut loss = |module: &Adapter, _: usize| {
                let picked = batches.next();
                let (down, up) = (module.down.weight.val(), module.up.weight.val());
                let f = mixed(lift(rows(&x, &picked)), down, up, ratio);
                let logits = f.matmul(lift(weights.clone()));
                cross_entropy(logits, lift(rows(&targets, &picked))).mean()
            };
            let training = Training {
                steps: (self.epochs * epoch).min(MOST),
                lr: self.lr,
                warmup: epoch,
                optimizer: AdamWConfig::new().with_epsilon(1e-4).with_weight_decay(1e-4).init(),
                loss: &mut loss,
            };
            let device = problem.device().autodiff();
            let module = Adapter::new(x.dims()[1], problem.seed, &device);
            let judge = problem.validation.as_ref().map(|split| {
                let plain = &plain;
                move |module: &Adapter| quality(plain(module, &split.features, ratio), split)
            });
            let judge = judge.as_ref().map(|j| j as &dyn Fn(&Adapter) -> _);
            let (module, steps) = training.run(module, 10 * epoch, judge);
            let quality = judge.map_or((0.0, 0.0), |judge| judge(&module));
            best.offer(quality, || (module, ratio, steps));
        }
        let (module, ratio, steps) = best.take().ok_or(Error::NoPictures)?;
        let scores = plain(&module, &problem.queries, ratio);
        Ok(Answer { scores, chosen: vec![("ratio", ratio), ("steps", steps as f64)] })
    }
}
