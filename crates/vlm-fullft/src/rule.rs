//! The rules in a training run.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use vlm_train::{BoxError, Error, OptimConfig, Rule, Task, Turn, Turned, Unturned};

use crate::mezo::Grid;
use crate::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig, Mezo, MezoConfig, MezoStep};

/// LOMO or AdaLomo as the update rule of a run.
#[derive(Debug)]
pub enum FusedRule {
    /// Plain descent.
    Lomo(Lomo),
    /// With moments of rows and columns, which lie on a device.
    AdaLomo(AdaLomo, Device),
}

impl FusedRule {
    /// LOMO with the settings of a run: `clip` is the longest gradient, `clip_value` its largest value.
    pub fn lomo(optim: &OptimConfig) -> Self {
        FusedRule::Lomo(Lomo::new(LomoConfig {
            weight_decay: optim.weight_decay,
            lr_scale: optim.lr_scale.clone(),
            clip_value: optim.clip_value,
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
        let silent: Vec<String> =
            passed.silent.into_iter().filter(|path| !turn.task.is_idle(path)).collect();
        if turn.first.is_some() && !silent.is_empty() {
            let silent = silent.join(", ");
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

impl Mezo {
    /// MeZO with the settings of a run and its seed.
    pub fn of_run(optim: &OptimConfig, seed: u64) -> Self {
        Mezo::new(MezoConfig {
            seed,
            eps: optim.zo_eps,
            directions: optim.zo_directions,
            weight_decay: optim.weight_decay,
            lr_scale: optim.lr_scale.clone(),
        })
    }
}

impl Rule for Mezo {
    fn turn<T: Task>(
        &mut self,
        turn: Turn<'_, T>,
        model: T::Model,
    ) -> Result<(T::Model, Turned), Unturned> {
        if turn.task.shapes_gradients() {
            let reason = "mezo knows no gradient that this method (lora-fa) could correct";
            return Err(Error::Setting(reason.into()).into());
        }
        let share = 1.0 / turn.batches.len().max(1) as f64;
        let turned = RefCell::new(Turned::default());
        let loss = |model: T::Model| {
            let mut turned = turned.borrow_mut();
            let (mut sum, mut samples) = (0.0, 0);
            for batch in &turn.batches {
                let (loss, said) = turn.task.loss(model.clone(), batch)?;
                sum += share * f64::from(loss.into_scalar::<f32>());
                samples += said.samples;
                turned.extra = said.extra;
            }
            turned.samples = samples;
            Ok::<_, BoxError>(sum)
        };
        let (model, probed) = self.step(model, &loss, turn.lr);
        let probed = probed?;
        if !probed.loss.is_finite() {
            return Err(Unturned::NotFinite(format!("the loss is {}", probed.loss)));
        }
        if probed.step.is_none() {
            return Err(Unturned::NotFinite(format!(
                "the projected gradient is {:.3e}: at this learning rate the weights would go more than a \
                 hundred times as far as they are probed (optim.zo_eps)",
                probed.slope
            )));
        }
        let mut turned = turned.into_inner();
        turned.loss = probed.loss;
        turned.extra.push(("slope", probed.slope));
        Ok((model, turned))
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        let column = |values: Vec<f32>| {
            let len = values.len();
            TensorData::new(values, [len])
        };
        let mut state = vec![
            (LR.to_owned(), column(self.steps.iter().map(|step| step.lr).collect())),
            (
                SLOPES.to_owned(),
                column(self.steps.iter().flat_map(|step| step.slopes.clone()).collect()),
            ),
        ];
        state.extend(
            self.grids
                .iter()
                .map(|(path, grid)| (format!("{GRID}{path}"), column(vec![grid.reach, grid.unit]))),
        );
        state
    }

    fn restore(&mut self, state: BTreeMap<String, TensorData>, steps: u64) -> Result<(), String> {
        let known = MezoStep::read(&state)?;
        if known.len() as u64 != steps {
            return Err(format!("there are {} slopes for {steps} steps", known.len()));
        }
        self.steps = known;
        self.grids.clear();
        for (name, data) in &state {
            let Some(path) = name.strip_prefix(GRID) else { continue };
            match data.as_slice::<f32>() {
                Ok(&[reach, unit]) => self.grids.insert(path.to_owned(), Grid { reach, unit }),
                _ => return Err(format!("`{name}` is no grid")),
            };
        }
        Ok(())
    }

    fn copies(&self) -> usize {
        0
    }

    fn follows_gradients(&self) -> bool {
        false
    }
}

const LR: &str = "lr";
const SLOPES: &str = "slopes";
const GRID: &str = "grid ";

impl MezoStep {
    /// The steps in the state of a run, which are all that is needed to make them again: `lr`, a value a
    /// step, and `slopes`, one a direction.
    ///
    /// # Errors
    /// A reason, if they are not there or do not fit each other.
    pub fn read(state: &BTreeMap<String, TensorData>) -> Result<Vec<MezoStep>, String> {
        let column = |name: &str| {
            let data = state.get(name).ok_or_else(|| format!("there is no `{name}`"))?;
            let values = data.as_slice::<f32>().map_err(|_| format!("`{name}` is not of f32"))?;
            match values.iter().all(|x| x.is_finite()) {
                true => Ok(values),
                false => Err(format!("`{name}` has a value that is no number")),
            }
        };
        let (lr, slopes) = (column(LR)?, column(SLOPES)?);
        let directions = if lr.is_empty() { 1 } else { slopes.len() / lr.len() };
        if directions == 0 || slopes.len() != lr.len() * directions {
            return Err(format!("{} slopes do not fit {} steps", slopes.len(), lr.len()));
        }
        let steps = lr.iter().zip(slopes.chunks(directions));
        Ok(steps.map(|(lr, slopes)| MezoStep { lr: *lr, slopes: slopes.to_vec() }).collect())
    }
}
