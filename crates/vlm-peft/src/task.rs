//! Training an adapter: any task, with the adapter in place of the model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use vlm_train::{BoxError, Grads, StepReport, Task, Validation};

use crate::correction::corrected;
use crate::{Adapter, AnyMethod, Base, Eas, save};
use vlm_nn::adapter::{self, Part};
use vlm_store::Float;

/// A task whose model has an adapter. What is saved is the adapter alone.
#[derive(Debug)]
pub struct Adapted<'a, T> {
    task: &'a T,
    adapter: Adapter,
    base: Base,
    seed: u64,
    /// The step that is made, and how many batches of it have been seen.
    at: Mutex<(u64, u64)>,
}

impl<'a, T: Task> Adapted<'a, T> {
    /// Trains `adapter`, which hangs on the task's model; `base` says where that is from.
    pub fn new(task: &'a T, adapter: Adapter, base: Base, seed: u64) -> Self {
        Adapted { task, adapter, base, seed, at: Mutex::default() }
    }
}

/// The scores of attentions in a checkpoint.
const SCORES: &str = "eas scores";

impl<T: Task> Adapted<'_, T> {
    /// The method, if it finds out which attentions to skip.
    fn searching(&self) -> Option<&Eas> {
        match &self.adapter.method {
            AnyMethod::Eas(eas) if eas.searches() => Some(eas),
            _ => None,
        }
    }

    /// Lets what is dropped by chance derive from the seed, the step and the batch of it.
    fn settle_chance(&self, model: &T::Model) {
        if !self.adapter.method.get().drops() {
            return;
        }
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let number =
            at.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at.1.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        at.1 += 1;
        if let Some(device) = model.devices().first() {
            device.seed(self.seed.rotate_left(17) ^ number);
        }
    }

    /// Compares sets of attentions on a batch that is held out, if it is time to; where none is, on one of the
    /// training set.
    fn compare(&self, eas: &Eas, model: &T::Model) -> Result<(), BoxError> {
        let step = eas.found.step();
        let warm = (eas.search as f64 * eas.search_warmup) as u64;
        if step >= eas.search || step < warm || !(step + 1).is_multiple_of(eas.search_every) {
            return Ok(());
        }
        let batch = match self.task.held_out(step)? {
            Some(batch) => batch,
            // In an order that no epoch has.
            None => match self.task.batches(u64::MAX - step, 0)?.next() {
                Some(batch) => batch?,
                None => return Ok(()),
            },
        };
        let model = model.valid();
        let mut trials = Vec::new();
        for set in eas.found.drawn(self.seed, step, eas.search_sets) {
            eas.found.try_set(&set);
            let (loss, _) = self.task.loss(model.clone(), &batch)?;
            trials.push((set, f64::from(loss.into_scalar::<f32>())));
        }
        eas.found.learn(&trials);
        Ok(())
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

    fn held_out(&self, number: u64) -> Result<Option<T::Batch>, BoxError> {
        self.task.held_out(number)
    }

    fn gradients(
        &self,
        model: &T::Model,
        batch: T::Batch,
        weight: f32,
        grads: &mut Grads,
    ) -> Result<StepReport, BoxError> {
        self.settle_chance(model);
        self.task.gradients(model, batch, weight, grads)
    }

    fn loss(&self, model: T::Model, batch: &T::Batch) -> Result<(Tensor<1>, StepReport), BoxError> {
        self.settle_chance(&model);
        self.task.loss(model, batch)
    }

    fn before_step(&self, step: u64) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (step, 0);
        if let AnyMethod::Dylora(method) = &self.adapter.method {
            method.ranks.use_first(method.rank_at(self.seed, step));
        }
        if let Some(eas) = self.searching() {
            match step < eas.search {
                true => eas.found.use_drawn(self.seed, step),
                false => {
                    eas.found.use_best();
                    eas.found.at(step);
                }
            }
        }
        self.task.before_step(step);
    }

    /// While attentions are tried out, each has two parts, of which a step uses one.
    fn is_idle(&self, path: &str) -> bool {
        let Some(eas) = self.searching() else { return self.task.is_idle(path) };
        let instead = path.contains(".Bypass.instead.");
        if !instead && !path.contains(".Bypass.front.") {
            return self.task.is_idle(path);
        }
        let of = self.adapter.sites.iter().find(|site| path.starts_with(&site.path));
        let layer = of.and_then(|site| eas.found.number(&site.path));
        layer.is_some_and(|layer| eas.found.skips().contains(layer) != instead)
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        let mut state = self.task.state();
        if let Some(eas) = self.searching() {
            let scores: Vec<f32> = eas.found.scores().iter().map(|score| *score as f32).collect();
            let shape = [scores.len()];
            state.push((SCORES.to_owned(), TensorData::new(scores, shape)));
        }
        state
    }

    fn restore(&self, state: &BTreeMap<String, TensorData>) -> Result<(), String> {
        if let (Some(eas), Some(scores)) = (self.searching(), state.get(SCORES)) {
            eas.found.restore(scores.iter::<f32>().map(f64::from).collect())?;
        }
        self.task.restore(state)
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

    fn after_step(&self, model: T::Model) -> Result<T::Model, BoxError> {
        let model = self.task.after_step(model)?;
        if let Some(eas) = self.searching() {
            self.compare(eas, &model)?;
        }
        Ok(model)
    }

    fn validate(&self, model: &T::Model) -> Result<Validation, BoxError> {
        // Measured as it will be used: with all ranks.
        if let AnyMethod::Dylora(method) = &self.adapter.method {
            method.ranks.use_first(usize::MAX);
        }
        if let Some(eas) = self.searching() {
            eas.found.use_best();
        }
        self.task.validate(model)
    }

    fn saved_as(&self) -> &'static str {
        vlm_train::ADAPTER
    }

    fn save_model(&self, model: &T::Model, dir: &Path) -> Result<(), BoxError> {
        if let Some(eas) = self.searching() {
            eas.found.use_best();
        }
        Ok(save(model, &self.adapter, &self.base, dir, Float::F32)?)
    }

    fn expected_start(&self) -> Option<f64> {
        self.task.expected_start()
    }
}
