//! The update rule that a configuration names.

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use vlm_fullft::{FusedRule, Mezo};
use vlm_train::{AdamW, Error, OptimConfig, Rule, RuleKind, Sgd, Task, Turn, Turned, Unturned};

/// One of the rules.
pub enum AnyRule {
    AdamW(AdamW),
    Sgd(Sgd),
    Fused(FusedRule),
    Mezo(Mezo),
}

impl AnyRule {
    /// The rule of these settings and a seed; `device` is the plain device of the model.
    pub fn new(optim: &OptimConfig, seed: u64, device: &Device) -> Self {
        match optim.rule {
            RuleKind::AdamW => AnyRule::AdamW(AdamW::new(optim.clone(), device)),
            RuleKind::Sgd => AnyRule::Sgd(Sgd::new(optim.clone())),
            RuleKind::Lomo => AnyRule::Fused(FusedRule::lomo(optim)),
            RuleKind::AdaLomo => AnyRule::Fused(FusedRule::ada_lomo(optim, device)),
            RuleKind::Mezo => AnyRule::Mezo(Mezo::of_run(optim, seed)),
        }
    }
}

/// The same of whichever rule it is.
macro_rules! of {
    ($any:expr, $rule:ident => $body:expr) => {
        match $any {
            AnyRule::AdamW($rule) => $body,
            AnyRule::Sgd($rule) => $body,
            AnyRule::Fused($rule) => $body,
            AnyRule::Mezo($rule) => $body,
        }
    };
}

impl Rule for AnyRule {
    fn check(&self, accumulate: usize) -> Result<(), Error> {
        of!(self, rule => Rule::check(rule, accumulate))
    }

    fn turn<T: Task>(
        &mut self,
        turn: Turn<'_, T>,
        model: T::Model,
    ) -> Result<(T::Model, Turned), Unturned> {
        of!(self, rule => Rule::turn(rule, turn, model))
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        of!(self, rule => Rule::state(rule))
    }

    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String> {
        of!(self, rule => Rule::restore(rule, state, steps))
    }

    fn copies(&self) -> usize {
        of!(self, rule => Rule::copies(rule))
    }

    fn follows_gradients(&self) -> bool {
        of!(self, rule => Rule::follows_gradients(rule))
    }
}
