//! Update rules: what turns the batches of a step into new weights.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use crate::{Error, Grads, OptimConfig, Optimizer, Task, check_gradients, moved_from_zero};

/// A step that is to be made.
#[derive(Debug)]
pub struct Turn<'a, T: Task> {
    /// What is trained on.
    pub task: &'a T,
    /// The batches of the step.
    pub batches: Vec<T::Batch>,
    /// The learning rate.
    pub lr: f64,
    /// The settings that all rules share.
    pub optim: &'a OptimConfig,
    /// The epoch, if this is the first step since the run began or went on: nothing trains with a severed
    /// gradient.
    pub first: Option<u64>,
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turned {
    /// The loss, averaged over the batches.
    pub loss: f64,
    /// Samples seen.
    pub samples: usize,
    /// Anything else worth a line, by name.
    pub extra: Vec<(&'static str, f64)>,
    /// The length of the gradient, where a rule knows it.
    pub norm: Option<f64>,
}

/// Why there was no step.
#[derive(Debug)]
pub enum Unturned {
    /// Something is no number; what, in words.
    NotFinite(String),
    /// Anything else.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Unturned {
    fn from(error: E) -> Self {
        Unturned::Failed(error.into())
    }
}

/// Turns the batches of a step into new weights.
pub trait Rule {
    /// Looks for settings that cannot work with it, to be called before any data is read; `accumulate` is
    /// the number of batches of a step.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first.
    fn check(&self, _accumulate: usize) -> Result<(), Error> {
        Ok(())
    }

    /// Makes a step. The model is lost if it fails.
    ///
    /// # Errors
    /// As the task; if loss or gradients are no numbers, or a gradient is severed at the first step.
    fn turn<T: Task>(
        &mut self,
        turn: Turn<'_, T>,
        model: T::Model,
    ) -> Result<(T::Model, Turned), Unturned>;

    /// The state, by name.
    fn state(&self) -> Vec<(String, TensorData)>;

    /// Takes up a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A reason, if the state is not this rule's.
    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String>;

    /// Copies of the weights that it keeps beside them, gradients among them, for the table at the start.
    fn copies(&self) -> usize;

    /// Whether the first step shows that every trainable parameter has a gradient.
    fn follows_gradients(&self) -> bool {
        true
    }
}

/// All gradients first, then the step.
impl<O: Optimizer> Rule for O {
    fn turn<T: Task>(
        &mut self,
        turn: Turn<'_, T>,
        model: T::Model,
    ) -> Result<(T::Model, Turned), Unturned> {
        let Turn { task, batches, lr, optim, first } = turn;
        let mut grads = Grads::default();
        let (share, mut turned) = (1.0 / batches.len().max(1) as f32, Turned::default());
        for batch in batches {
            let report = task.gradients(&model, batch, share, &mut grads)?;
            turned.loss += report.loss * f64::from(share);
            turned.samples += report.samples;
            turned.extra = report.extra;
        }
        task.shape_gradients(&model, &mut grads)?;
        let (norm, _) = grads.norms(&model);
        if !turned.loss.is_finite() {
            return Err(Unturned::NotFinite(format!("the loss is {}", turned.loss)));
        } else if !norm.is_finite() {
            return Err(Unturned::NotFinite(format!("the length of the gradient is {norm}")));
        }
        if let Some(epoch) = first {
            check_start(task, &model, &grads, epoch)?;
        }
        let shorten = match optim.clip {
            clip if clip > 0.0 && norm > clip => clip / norm,
            _ => 1.0,
        };
        turned.norm = Some(norm);
        Ok((self.step(model, &mut grads, lr, shorten), turned))
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        Optimizer::state(self)
    }

    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String> {
        Optimizer::restore(self, state, steps)
    }

    fn copies(&self) -> usize {
        Optimizer::copies(self)
    }
}

/// Nothing trains with a severed gradient.
fn check_start<T: Task>(
    task: &T,
    model: &T::Model,
    grads: &Grads,
    epoch: u64,
) -> Result<(), Error> {
    let idle = |path: &str| task.is_idle(path);
    let Err(severed) = check_gradients(model, grads, &idle) else { return Ok(()) };
    // A gate that is closed keeps gradients back without severing them.
    let Some(moved) = moved_from_zero(model) else { return Err(severed) };
    let Some(batch) = task.batches(epoch, 0)?.next() else { return Err(severed) };
    let mut grads = Grads::default();
    task.gradients(&moved, batch?, 1.0, &mut grads)?;
    check_gradients(&moved, &grads, &idle)
}
