//! Supervised contrastive learning (Khosla et al. 2020, arXiv 2004.11362) on features.

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::activation::{gelu, log_softmax, relu};
use burn::tensor::{Tensor, TensorData};
use vlm_nn::Linear;
use vlm_nn::params::{self, Init};

use super::choose::quality;
use super::linear::Fit;
use super::probe;
use super::problem::{Answer, Method, Pool, Problem};
use super::train::{Batches, Training, rows};
use crate::Error;
use crate::loss::normalize;

/// The base temperature, by which the loss is scaled.
const BASE: f64 = 0.07;

/// The supervised contrastive loss (the outside form): for each row, the mean over the other rows
/// of its label of the negative log-likelihood of finding them among all other rows, times
/// `temperature / 0.07`, averaged over the rows.
///
/// `z: [rows, dim]`, length 1, all views below each other; `labels`: one a row. With a label of
/// its own for each picture, whose views share it, it is the loss of SimCLR. A row without a
/// partner has no loss and is not counted.
pub fn sup_con(z: Tensor<2>, labels: &[u32], temperature: f64) -> Tensor<1> {
    let (n, device) = (labels.len(), z.device());
    let (mut hidden, mut positive) = (vec![0f32; n * n], vec![0f32; n * n]);
    let mut answered = 0usize;
    for i in 0..n {
        hidden[i * n + i] = -1e9;
        let partners: Vec<usize> = (0..n).filter(|j| *j != i && labels[*j] == labels[i]).collect();
        answered += usize::from(!partners.is_empty());
        for j in &partners {
            positive[i * n + j] = 1.0 / partners.len() as f32;
        }
    }
    let matrix = |values| Tensor::<2>::from_data(TensorData::new(values, [n, n]), &device);
    let logits = z.clone().matmul(z.transpose()) / temperature + matrix(hidden);
    let sum = (log_softmax(logits, 1) * matrix(positive)).sum();
    sum * (-temperature / BASE / answered.max(1) as f64)
}

/// A bottleneck beside the feature and a projector above it are trained with [`sup_con`] on the
/// labelled pictures and their views; the projector is thrown away, and a linear probe is fitted
/// on what lies below it. Unlabelled pictures join with the same loss, each a class of its own
/// with its views (SimCLR), as SuNCEt (Assran et al. 2020, arXiv 2006.10803) joins the two.
#[derive(Clone, Debug)]
pub struct SupCon {
    /// Steps; each quarter of them the validation split looks at what a probe makes of it.
    pub steps: usize,
    /// Highest learning rate of AdamW.
    pub lr: f64,
    /// Of the loss.
    pub temperature: f64,
    /// Width of the projection.
    pub projection: usize,
    /// Labelled pictures of a step, and as many unlabelled ones; each with its views.
    pub batch: usize,
}

impl Default for SupCon {
    fn default() -> Self {
        SupCon { steps: 200, lr: 1e-3, temperature: 0.1, projection: 128, batch: 128 }
    }
}

/// `normalize(f + up(gelu(down(f))))`, and a two-layer projector.
#[derive(Module, Debug)]
struct Encoder {
    down: Linear,
    up: Linear,
    first: Linear,
    second: Linear,
}

impl Encoder {
    fn new(dim: usize, projection: usize, seed: u64, device: &burn::tensor::Device) -> Self {
        let hidden = dim.div_ceil(4);
        let blank = Encoder {
            down: Linear::new(dim, hidden, true, device),
            up: Linear::new(hidden, dim, true, device),
            first: Linear::new(dim, hidden, true, device),
            second: Linear::new(hidden, projection, true, device),
        };
        let rule = |path: &str, shape: &[usize]| match shape {
            // It starts as the feature itself.
            _ if path.starts_with("up") => Init::Constant(0.0),
            [input, _] => Init::Normal((2.0 / *input as f64).sqrt()),
            _ => Init::Constant(0.0),
        };
        params::initialize(blank, seed, &rule)
    }

    fn below(&self, f: Tensor<2>) -> Tensor<2> {
        // Features of length 1 have tiny values; a map wants them about 1.
        let wide = f.clone() * (f.dims()[1] as f64).sqrt();
        normalize(f + self.up.forward(gelu(self.down.forward(wide))))
    }

    fn projected(&self, f: Tensor<2>) -> Tensor<2> {
        let h = self.below(f);
        let wide = h.clone() * (h.dims()[1] as f64).sqrt();
        normalize(self.second.forward(relu(self.first.forward(wide))))
    }
}

/// Some pictures with one of their views each, below each other.
fn twice(features: &Tensor<2>, views: &[Tensor<2>], picked: &[usize], step: usize) -> Tensor<2> {
    let first = rows(features, picked);
    match views.get(step % views.len().max(1)) {
        Some(view) => Tensor::cat(vec![first, rows(view, picked)], 0),
        None => first,
    }
}

impl Method for SupCon {
    fn name(&self) -> &'static str {
        "supcon"
    }

    fn uses_pool(&self) -> bool {
        true
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let labelled = &problem.labelled;
        let lift = |x: Tensor<2>| Tensor::<2>::from_inner(x);
        // Without a view a picture of the pool has no partner.
        let pool: Option<&Pool> = problem.pool.as_ref().filter(|pool| !pool.views.is_empty());
        let mut few = Batches::new(labelled.len(), self.batch, problem.seed);
        let pooled = pool.map_or(0, |pool| pool.features.dims()[0]);
        let mut many = Batches::new(pooled, self.batch, problem.seed ^ 1);
        let mut loss = |module: &Encoder, step: usize| {
            let picked = few.next();
            let z =
                module.projected(lift(twice(&labelled.features, &labelled.views, &picked, step)));
            let labels: Vec<u32> = picked.iter().map(|i| labelled.labels[*i] as u32).collect();
            let labels = labels.repeat(z.dims()[0] / labels.len());
            let loss = sup_con(z, &labels, self.temperature);
            let Some(pool) = pool else { return loss };
            let picked = many.next();
            let z = module.projected(lift(twice(&pool.features, &pool.views, &picked, step)));
            let own: Vec<u32> = (0..picked.len() as u32).collect();
            loss + sup_con(z, &own.repeat(2), self.temperature)
        };
        let device = problem.device().autodiff();
        let dim = labelled.features.dims()[1];
        let below = |module: &Encoder, f: &Tensor<2>| module.below(lift(f.clone())).inner();
        let searched = |module: &Encoder| {
            let fit = Fit {
                x: below(module, &labelled.features),
                targets: labelled.one_hot(problem.classes),
                weights: None,
                iterations: 200,
            };
            probe::search(&fit, &problem.validation, &|x| below(module, &x))
        };
        let judge = problem.validation.as_ref().map(|split| {
            let searched = &searched;
            move |module: &Encoder| {
                let module = module.clone().no_grad();
                quality(searched(&module).0.logits(below(&module, &split.features)), split)
            }
        });
        let optimizer = AdamWConfig::new().with_weight_decay(1e-4).init();
        let training =
            Training { steps: self.steps, lr: self.lr, warmup: 0, optimizer, loss: &mut loss };
        let start = Encoder::new(dim, self.projection, problem.seed, &device);
        let every = (self.steps / 4).max(1);
        let judge = judge.as_ref().map(|j| j as &dyn Fn(&Encoder) -> _);
        let (module, steps) = training.run(start, every, judge);
        let module = module.no_grad();
        let (classifier, c) = searched(&module);
        let scores = classifier.logits(below(&module, &problem.queries));
        Ok(Answer { scores, chosen: vec![("C", c), ("steps", steps as f64)] })
    }
}
