//! What a model is trained on.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use crate::{BoxError, Grads};

/// Numbers of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The loss, averaged over the samples.
    pub loss: f64,
    /// Samples seen.
    pub samples: usize,
    /// Anything else worth a line, by name.
    pub extra: Vec<(&'static str, f64)>,
}

/// Numbers of a validation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Validation {
    /// By name, in the order they are shown.
    pub metrics: Vec<(String, f64)>,
    /// The one that decides which weights are best; larger is better.
    pub score: f64,
}

/// Turns batches into gradients of a model.
pub trait Task {
    /// The model.
    type Model: Module;
    /// What one step sees.
    type Batch: Send;

    /// Batches in an epoch.
    fn batches_per_epoch(&self) -> usize;

    /// The batches of an epoch from `start` on, the same for the same arguments.
    ///
    /// # Errors
    /// If the data cannot be opened; each item fails by itself if its data does.
    #[allow(clippy::type_complexity)]
    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Self::Batch, BoxError>> + '_>, BoxError>;

    /// A batch that no step is made with, the same for the same number; none if all there is is trained on.
    ///
    /// # Errors
    /// If its data cannot be read.
    fn held_out(&self, _number: u64) -> Result<Option<Self::Batch>, BoxError> {
        Ok(None)
    }

    /// Adds the gradients of the mean loss over a batch, times `weight`, to `grads`.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn gradients(
        &self,
        model: &Self::Model,
        batch: Self::Batch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError>;

    /// The mean loss over a batch, for rules that run the backward pass themselves. The model is the task's
    /// to drop: when this returns, nothing but the graph of the loss holds it.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the task cannot be trained so.
    fn loss(
        &self,
        model: Self::Model,
        batch: &Self::Batch,
    ) -> Result<(Tensor<1>, StepReport), BoxError> {
        let _ = (model, batch);
        Err("this task has no loss by itself; train it with optim.rule = \"adamw\"".into())
    }

    /// Prepares the step of that number, from 0 on.
    fn before_step(&self, _step: u64) {}

    /// Whether the trainable parameter at a path has no part in the step that is being made.
    fn is_idle(&self, _path: &str) -> bool {
        false
    }

    /// What of the task changes from step to step, by name.
    fn state(&self) -> Vec<(String, TensorData)> {
        Vec::new()
    }

    /// Takes up a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A reason, if it is not this task's.
    fn restore(&self, _state: &BTreeMap<String, TensorData>) -> Result<(), String> {
        Ok(())
    }

    /// Whether [`shape_gradients`](Self::shape_gradients) does something, which needs all gradients at once.
    fn shapes_gradients(&self) -> bool {
        false
    }

    /// Changes the gradient of a step, once all of its batches are in.
    ///
    /// # Errors
    /// If it cannot be changed as it should.
    fn shape_gradients(&self, _model: &Self::Model, _grads: &mut Grads) -> Result<(), BoxError> {
        Ok(())
    }

    /// Keeps the model inside its bounds after a step.
    ///
    /// # Errors
    /// If what is looked at then fails.
    fn after_step(&self, model: Self::Model) -> Result<Self::Model, BoxError> {
        Ok(model)
    }

    /// Measures a model that does not track gradients. No metrics: there is nothing to measure
    /// it on, and the last weights are the ones that are kept.
    ///
    /// # Errors
    /// If validation data cannot be read.
    fn validate(&self, model: &Self::Model) -> Result<Validation, BoxError>;

    /// What the folder is called in the run's folder that [`save_model`](Self::save_model) writes.
    fn saved_as(&self) -> &'static str {
        crate::run_dir::MODEL
    }

    /// Writes a folder that others can use.
    ///
    /// # Errors
    /// What the operating system reports.
    fn save_model(&self, model: &Self::Model, dir: &Path) -> Result<(), BoxError>;

    /// The loss that an untrained model is expected to have, if theory gives one.
    fn expected_start(&self) -> Option<f64> {
        None
    }
}
