//! Training an adapter: any task, with the adapter in place of the model.

use std::path::Path;

use burn::tensor::Tensor;
use vlm_train::{BoxError, Grads, StepReport, Task, Validation};

use crate::correction::corrected;
use crate::{Adapter, AnyMethod, Base, save};
use vlm_nn::adapter::{self, Part};
use vlm_store::Float;

/// A task whose model has an adapter. What is saved is the adapter alone.
#[derive(Debug)]
pub struct Adapted<'a, T> {
    task: &'a T,
    adapter: Adapter,
    base: Base,
    seed: u64,
}

impl<'a, T: Task> Adapted<'a, T> {
    /// Trains `adapter`, which hangs on the task's model; `base` says where that is from.
    pub fn new(task: &'a T, adapter: Adapter, base: Base, seed: u64) -> Self {
        Adapted { task, adapter, base, seed }
    }
}

impl<T: Task> Task for Adapted<'_, T> {
    type Model = T::Model;
    type Batch = T::Batch;

    fn batches_per_epoch(&self) -> usize {
        self.task.batches_per_epoch()
    }

    fn batches(
        &self,
        epoch: u64,
        start: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<T::Batch, BoxError>> + '_>, BoxError> {
        self.task.batches(epoch, start)
    }

    fn gradients(
        &self,
        model: &T::Model,
        batch: T::Batch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        self.task.gradients(model, batch, weight, grads)
    }

    fn loss(&self, model: T::Model, batch: &T::Batch) -> Result<(Tensor<1>, StepReport), BoxError> {
        self.task.loss(model, batch)
    }

    fn before_step(&self, step: u64) {
        if let AnyMethod::Dylora(method) = &self.adapter.method {
            method.ranks.use_first(method.rank_at(self.seed, step));
        }
        self.task.before_step(step);
    }

    fn shapes_gradients(&self) -> bool {
        matches!(self.adapter.method, AnyMethod::LoraFa(_)) || self.task.shapes_gradients()
    }

    fn shape_gradients(&self, model: &T::Model, grads: &mut Grads) -> Result<(), BoxError> {
        self.task.shape_gradients(model, grads)?;
        if !matches!(self.adapter.method, AnyMethod::LoraFa(_)) {
            return Ok(());
        }
        let all = adapter::all(model);
        for site in &self.adapter.sites {
            let named = all[&site.path].parts.iter().find(|named| named.name == self.adapter.name);
            let Some(Part::LowRank(part)) = named.map(|named| &named.part) else { continue };
            if let Some(grad) = grads.take::<2>(part.b.id) {
                grads.put(part.b.id, corrected(part, grad));
            }
        }
        Ok(())
    }

    fn after_step(&self, model: T::Model) -> T::Model {
        self.task.after_step(model)
    }

    fn validate(&self, model: &T::Model) -> Result<Validation, BoxError> {
        // Measured as it will be used: with all ranks.
        if let AnyMethod::Dylora(method) = &self.adapter.method {
            method.ranks.use_first(usize::MAX);
        }
        self.task.validate(model)
    }

    fn saved_as(&self) -> &'static str {
        vlm_train::ADAPTER
    }

    fn save_model(&self, model: &T::Model, dir: &Path) -> Result<(), BoxError> {
        Ok(save(model, &self.adapter, &self.base, dir, Float::F32)?)
    }

    fn expected_start(&self) -> Option<f64> {
        self.task.expected_start()
    }
}
