//! Tip-Adapter (Zhang et al. 2022, arXiv 2207.09519): the labelled pictures are a cache that is
//! asked beside the text.

use burn::module::{Module, Param};
use burn::optim::AdamWConfig;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use vlm_nn::ops::cross_entropy;

use super::choose::{Best, quality};
use super::problem::{Answer, Labelled, Method, Problem, Text, host, one_hot};
use super::train::{Batches, Training, rows};
use crate::Error;
use crate::loss::normalize;

/// α and β for ImageNet.
const DEFAULT: (f32, f32) = (1.17, 1.0);

/// `scale · f Wᵀ + α · exp(−β (1 − f Kᵀ)) V`, `[pictures, classes]`.
///
/// - `similarity: [pictures, keys]`, `f Kᵀ`
/// - `values: [keys, classes]`, one-hot
/// - `text: [pictures, classes]`, `scale · f Wᵀ`; without it the cache alone answers
pub fn tip_logits(
    similarity: Tensor<2>,
    values: Tensor<2>,
    text: Option<Tensor<2>>,
    (alpha, beta): (f32, f32),
) -> Tensor<2> {
    let cache = ((similarity - 1.0) * beta).exp().matmul(values) * alpha;
    match text {
        Some(text) => text + cache,
        None => cache,
    }
}

fn text_logits(text: &Text, features: &Tensor<2>) -> Tensor<2> {
    features.clone().matmul(text.weights.clone().transpose()) * text.scale
}

/// The keys: the mean over each picture's views, of length 1.
fn keys(labelled: &Labelled) -> Tensor<2> {
    labelled.views.iter().fold(labelled.features.clone(), |sum, view| sum + view.clone())
}

/// So many values from one to the other, by equal factors.
fn spread(from: f32, to: f32, count: usize) -> Vec<f32> {
    (0..count).map(|i| from * (to / from).powf(i as f32 / (count - 1) as f32)).collect()
}

/// α and β that fit the validation split best: 20 by 200 values, as the reference searches them,
/// but over a wider range: its own is for CLIP's scale and for cosines as far apart as CLIP's.
fn search(problem: &Problem<'_>, keys: &Tensor<2>, start: (f32, f32)) -> (f32, f32) {
    let Some(split) = &problem.validation else { return start };
    let classes = problem.classes;
    let similarity = host(split.features.clone().matmul(keys.clone().transpose()));
    let text = problem.text.as_ref().map(|text| host(text_logits(text, &split.features)));
    let labels = &problem.labelled.labels;
    let device = problem.device();
    let tensor = |values: Vec<f32>| -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, [split.len(), classes]), &device)
    };
    let betas: Vec<f32> = spread(0.1, 200.0, 200);
    // Without text α only stretches the scores, and one value is as good as any.
    let alphas = if text.is_some() { spread(0.1, 30.0, 20) } else { vec![DEFAULT.0] };
    let asked: Vec<Vec<f32>> = betas
        .par_iter()
        .map(|beta| {
            let mut sums = vec![0f32; split.len() * classes];
            for (row, sums) in sums.chunks_exact_mut(classes).enumerate() {
                let similarity = &similarity[row * labels.len()..][..labels.len()];
                for (cos, label) in similarity.iter().zip(labels) {
                    sums[*label] += ((cos - 1.0) * beta).exp();
                }
            }
            sums
        })
        .collect();
    let mut best = Best::none();
    for (beta, sums) in betas.iter().zip(asked) {
        for alpha in &alphas {
            let logits = match &text {
                Some(text) => text.iter().zip(&sums).map(|(t, s)| t + alpha * s).collect(),
                None => sums.iter().map(|s| alpha * s).collect(),
            };
            best.offer(quality(tensor(logits), split), || (*alpha, *beta));
        }
    }
    best.take().unwrap_or(start)
}

/// The cache as it is. Without a text tower the cache answers alone.
#[derive(Clone, Copy, Debug)]
pub struct TipAdapter;

impl Method for TipAdapter {
    fn name(&self) -> &'static str {
        "tip-adapter"
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let keys = normalize(keys(&problem.labelled));
        let (alpha, beta) = search(problem, &keys, DEFAULT);
        let similarity = problem.queries.clone().matmul(keys.transpose());
        let text = problem.text.as_ref().map(|text| text_logits(text, &problem.queries));
        let values = problem.labelled.one_hot(problem.classes);
        let scores = tip_logits(similarity, values, text, (alpha, beta));
        let mut chosen = vec![("beta", f64::from(beta))];
        if problem.text.is_some() {
            chosen.push(("alpha", f64::from(alpha)));
        }
        Ok(Answer { scores, chosen })
    }
}

/// The cache whose keys are trained: AdamW with a cosine, 20 epochs, the best of them on the
/// validation split.
#[derive(Clone, Debug)]
pub struct TipAdapterF {
    /// Passes over the labelled pictures.
    pub epochs: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Pictures of a step.
    pub batch: usize,
}

impl Default for TipAdapterF {
    fn default() -> Self {
        TipAdapterF { epochs: 20, lr: 1e-3, batch: 256 }
    }
}

/// `[keys, dim]`.
#[derive(Module, Debug)]
struct Keys {
    keys: Param<Tensor<2>>,
}

impl Method for TipAdapterF {
    fn name(&self) -> &'static str {
        "tip-adapter-f"
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn needs_text(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let text = problem.text(self.name())?;
        let labelled = &problem.labelled;
        let keys = normalize(keys(labelled));
        let start = search(problem, &keys, DEFAULT);
        let values = labelled.one_hot(problem.classes);
        let (x, labels) = labelled.with_views();
        let targets = one_hot(&labels, problem.classes, &problem.device());
        let said = text_logits(text, &x);
        let lift = |x: Tensor<2>| Tensor::<2>::from_inner(x);
        let mut batches = Batches::new(x.dims()[0], self.batch, problem.seed);
        let steps = self.epochs * batches.per_epoch();
        let mut loss = |module: &Keys, _: usize| {
            let picked = batches.next();
            let similarity = lift(rows(&x, &picked)).matmul(module.keys.val().transpose());
            let said = lift(rows(&said, &picked));
            let logits = tip_logits(similarity, lift(values.clone()), Some(said), start);
            cross_entropy(logits, lift(rows(&targets, &picked))).mean()
        };
        let training = Training {
            steps,
            lr: self.lr,
            warmup: 0,
            optimizer: AdamWConfig::new().with_epsilon(1e-4).with_weight_decay(0.01).init(),
            loss: &mut loss,
        };
        let judge = problem.validation.as_ref().map(|split| {
            let said = text_logits(text, &split.features);
            let values = values.clone();
            move |module: &Keys| {
                let keys = module.keys.val().inner();
                let similarity = split.features.clone().matmul(keys.transpose());
                let logits = tip_logits(similarity, values.clone(), Some(said.clone()), start);
                quality(logits, split)
            }
        });
        let module = Keys { keys: Param::from_tensor(lift(keys)) };
        let every = (steps / self.epochs.max(1)).max(1);
        let (module, steps) =
            training.run(module, every, judge.as_ref().map(|j| j as &dyn Fn(&Keys) -> _));
        let keys = module.keys.val().inner();
        let (alpha, beta) = search(problem, &keys, start);
        let similarity = problem.queries.clone().matmul(keys.transpose());
        let said = text_logits(text, &problem.queries);
        let scores = tip_logits(similarity, values, Some(said), (alpha, beta));
        let chosen =
            vec![("alpha", f64::from(alpha)), ("beta", f64::from(beta)), ("steps", steps as f64)];
        Ok(Answer { scores, chosen })
    }
}
