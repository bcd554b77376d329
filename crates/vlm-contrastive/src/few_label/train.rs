//! Small trainings: a module, a loss, a schedule.

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::choose::{Best, Quality};

/// A training of a few hundred steps.
pub(super) struct Training<'a, M> {
    pub steps: usize,
    /// The highest learning rate, which falls to 0 on a cosine.
    pub lr: f64,
    /// Steps at the start with a learning rate of 1e-5.
    pub warmup: usize,
    pub optimizer: ModuleOptimizer,
    /// The loss `[1]` of a step.
    pub loss: &'a mut dyn FnMut(&M, usize) -> Tensor<1>,
}

impl<M: Module> Training<'_, M> {
    /// The module after each `every` steps is judged, and the best one kept; without a judge it is
    /// the last one. Returns it with the number of its steps.
    pub fn run(
        mut self,
        mut module: M,
        every: usize,
        judge: Option<&dyn Fn(&M) -> Quality>,
    ) -> (M, usize) {
        let mut best = Best::none();
        for step in 0..self.steps {
            let loss = (self.loss)(&module, step);
            let grads = GradientsParams::from_grads(loss.backward(), &module);
            let (warm, all) = (self.warmup.min(self.steps - 1), self.steps);
            let lr = if step < warm {
                1e-5
            } else {
                let gone = (step - warm) as f64 / (all - warm) as f64;
                self.lr * 0.5 * (1.0 + (std::f64::consts::PI * gone).cos())
            };
            module = self.optimizer.step(lr, module, grads);
            let done = step + 1;
            if let Some(judge) = judge
                && (done % every == 0 || done == self.steps)
            {
                best.offer(judge(&module), || (module.clone(), done));
            }
        }
        let steps = self.steps;
        best.take().unwrap_or((module, steps))
    }
}

/// Rows of one epoch after another, each shuffled, in batches.
pub(super) struct Batches {
    rows: usize,
    size: usize,
    rng: ChaCha8Rng,
    order: Vec<usize>,
}

impl Batches {
    pub fn new(rows: usize, size: usize, seed: u64) -> Self {
        Batches { rows, size: size.min(rows), rng: ChaCha8Rng::seed_from_u64(seed), order: vec![] }
    }

    /// How many make an epoch.
    pub fn per_epoch(&self) -> usize {
        self.rows.div_ceil(self.size.max(1))
    }

    pub fn next(&mut self) -> Vec<usize> {
        if self.order.is_empty() {
            self.order = (0..self.rows).collect();
            for i in (1..self.rows).rev() {
                self.order.swap(i, self.rng.random_range(0..=i));
            }
        }
        let left = self.order.len().saturating_sub(self.size);
        self.order.split_off(left)
    }
}

/// Rows of a matrix.
pub(super) fn rows(x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    x.clone().select(0, Tensor::from_data(index.as_slice(), &x.device()))
}
