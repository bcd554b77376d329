//! CoOp (Zhou et al. 2022, arXiv 2109.01134): the words of a prompt are learned.

use burn::module::{Module, Param};
use burn::optim::AdamWConfig;
use burn::tensor::Tensor;
use vlm_nn::ops::cross_entropy;
use vlm_nn::params::{self, Init, blank};

use super::choose::quality;
use super::problem::{Answer, Method, Problem, one_hot};
use super::prompts::Prompts;
use super::train::{Batches, Training, rows};
use crate::Error;

/// How the context starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// That many vectors, normal with a deviation of 0.02.
    Random(usize),
    /// The tokens of some words.
    Words(String),
}

/// Steps at most: each goes through the text tower with all classes, forward and back.
const MOST: usize = 150;

/// Context vectors before the class's name, trained through the text tower: AdamW with a cosine,
/// the best of ten moments on the validation split. The paper's SGD needs thousands of steps to
/// move the words of a model whose scale is not CLIP's 100.
#[derive(Clone, Debug)]
pub struct CoOp {
    /// What the context starts as.
    pub start: Start,
    /// Whether each class has a context of its own.
    pub per_class: bool,
    /// Passes over the labelled pictures; `None` as the paper has it: 50 at 1 label a class, 100
    /// up to 4, 200 beyond.
    pub epochs: Option<usize>,
    /// Highest learning rate.
    pub lr: f64,
    /// Pictures of a step.
    pub batch: usize,
}

impl Default for CoOp {
    fn default() -> Self {
        CoOp {
            start: Start::Words("a photo of a".into()),
            per_class: false,
            epochs: None,
            lr: 1e-2,
            batch: 64,
        }
    }
}

/// `[1 or classes, tokens, width]`.
#[derive(Module, Debug)]
struct Context {
    context: Param<Tensor<3>>,
}

impl CoOp {
    fn context(&self, prompts: &dyn Prompts, classes: usize, seed: u64) -> Result<Context, Error> {
        let copies = if self.per_class { classes } else { 1 };
        let start = match &self.start {
            Start::Words(words) => {
                let rows = prompts.look_up(words)?.inner();
                let [tokens, width] = rows.dims();
                rows.reshape([1, tokens, width]).repeat_dim(0, copies)
            }
            Start::Random(tokens) => {
                let width = prompts.look_up("a")?.dims()[1];
                let shape = [copies, *tokens, width];
                let drawn = Context { context: blank(shape, &prompts.device()) };
                let drawn = params::initialize(drawn, seed, &|_, _| Init::Normal(0.02));
                return Ok(drawn);
            }
        };
        Ok(Context { context: Param::from_tensor(Tensor::from_inner(start)) })
    }
}

impl Method for CoOp {
    fn name(&self) -> &'static str {
        "coop"
    }

    fn uses_views(&self) -> bool {
        true
    }

    fn needs_text(&self) -> bool {
        true
    }

    fn needs_prompts(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let scale = problem.text(self.name())?.scale;
        let prompts = problem.prompts.ok_or(Error::NoText { method: self.name() })?;
        let labelled = &problem.labelled;
        let (x, labels) = labelled.with_views();
        let targets = one_hot(&labels, problem.classes, &problem.device());
        let lift = |x: Tensor<2>| Tensor::<2>::from_inner(x);
        let shots = labelled.len() / problem.classes.max(1);
        let epochs = self.epochs.unwrap_or(match shots {
            0..=1 => 50,
            2..=4 => 100,
            _ => 200,
        });
        let mut batches = Batches::new(x.dims()[0], self.batch, problem.seed);
        let epoch = labelled.len().div_ceil(self.batch);
        let mut loss = |module: &Context, _: usize| {
            let picked = batches.next();
            let texts = prompts.encode(module.context.val());
            let logits = lift(rows(&x, &picked)).matmul(texts.transpose()) * scale;
            cross_entropy(logits, lift(rows(&targets, &picked))).mean()
        };
        let steps = (epochs * epoch).min(MOST);
        let training = Training {
            steps,
            lr: self.lr,
            warmup: steps / 10,
            optimizer: AdamWConfig::new().with_epsilon(1e-4).with_weight_decay(1e-4).init(),
            loss: &mut loss,
        };
        let weights = |module: &Context| prompts.encode(module.context.val().detach()).inner();
        let logits =
            |module: &Context, f: &Tensor<2>| f.clone().matmul(weights(module).transpose()) * scale;
        let judge = problem
            .validation
            .as_ref()
            .map(|split| move |module: &Context| quality(logits(module, &split.features), split));
        let start = self.context(prompts, problem.classes, problem.seed)?;
        let judge = judge.as_ref().map(|j| j as &dyn Fn(&Context) -> _);
        let (module, steps) = training.run(start, (steps / 10).max(1), judge);
        let scores = logits(&module, &problem.queries);
        Ok(Answer { scores, chosen: vec![("steps", steps as f64)] })
    }
}
