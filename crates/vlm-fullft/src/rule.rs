//! The rules in a training run.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use vlm_train::{BoxError, Error, OptimConfig, Rule, Task, Turn, Turned, Unturned};

use crate::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig};

/// LOMO or AdaLomo as the update rule of a run.
#[derive(Debug)]
pub enum FusedRule {
    /// Plain descent.
    Lomo(Lomo),
    /// With moments of rows and columns, which lie on a device.
    AdaLomo(AdaLomo, Device),
}

impl FusedRule {
    /// LOMO with the settings of a run: `clip` is the longest gradient.
    pub fn lomo(optim: &OptimConfig) -> Self {
        FusedRule::Lomo(Lomo::new(LomoConfig {
            weight_decay: optim.weight_decay,
            lr_scale: optim.lr_scale.clone(),
            clip_value: 0.0,
            clip_norm: optim.clip,
        }))
    }

    /// AdaLomo, likewise; it clips each weight's step by itself and not the whole gradient. `device` is the
    /// plain device of the model.
    pub fn ada_lomo(optim: &OptimConfig, device: &Device) -> Self {
        let config = AdaLomoConfig {
            weight_decay: optim.weight_decay,
            lr_scale: optim.lr_scale.clone(),
            ..Default::default()
        };
        FusedRule::AdaLomo(AdaLomo::new(config), device.clone())
    }
}

impl Rule for FusedRule {
    fn check(&self, accumulate: usize) -> Result<(), Error> {
        if accumulate == 1 {
            return Ok(());
        }
        Err(Error::Setting(format!(
            "train.accumulate is {accumulate}, but gradients that nobody keeps cannot be added up: each \
             batch is a step of lomo and adalomo"
        )))
    }

    fn turn<T: Task>(
        &mut self,
        turn: Turn<'_, T>,
        model: T::Model,
    ) -> Result<(T::Model, Turned), Unturned> {
        if turn.task.shapes_gradients() {
            let reason =
                "lomo and adalomo do not keep the gradients that this method (lora-fa) corrects";
            return Err(Error::Setting(reason.into()).into());
        }
        let report = RefCell::new(None);
        let [batch] = &turn.batches[..] else {
            return Err(BoxError::from("a step of lomo and adalomo is of one batch").into());
        };
        let loss = |model: T::Model| {
            let (loss, said) = turn.task.loss(model, batch)?;
            report.replace(Some(said));
            Ok::<_, BoxError>(loss)
        };
        let (model, passed) = match self {
            FusedRule::Lomo(rule) => rule.step(model, &loss, turn.lr),
            FusedRule::AdaLomo(rule, _) => rule.step(model, &loss, turn.lr),
        };
        let passed = passed?;
        if !passed.loss.is_finite() {
            return Err(Unturned::NotFinite(format!("the loss is {}", passed.loss)));
        }
        if let Some(path) = passed.late {
            let reason = format!("`{path}` is used in ways that lomo and adalomo cannot follow");
            return Err(Error::Gradients(reason).into());
        }
        if turn.first.is_some() && !passed.silent.is_empty() {
            let silent = passed.silent.join(", ");
            return Err(Error::Gradients(format!("no gradient reaches {silent}")).into());
        }
        let said = report.take().unwrap_or_default();
        let (loss, samples, extra) = (passed.loss, said.samples, said.extra);
        Ok((model, Turned { loss, samples, extra, norm: None }))
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        match self {
            FusedRule::Lomo(_) => Vec::new(),
            FusedRule::AdaLomo(rule, _) => rule.state(),
        }
    }

    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String> {
        match self {
            FusedRule::AdaLomo(rule, device) => rule.restore(state, steps, device),
            FusedRule::Lomo(_) => match state.into_keys().next() {
                None => Ok(()),
                Some(name) => Err(format!("`{name}` is of another update rule")),
            },
        }
    }

    fn copies(&self) -> usize {
        0
    }
}
