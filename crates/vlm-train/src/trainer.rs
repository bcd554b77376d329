//! The loop.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::ops::Precision;
use vlm_nn::{params, recompute};

use crate::check::not_finite;
use crate::{
    Average, BoxError, Checkpoint, Error, Kept, MetricsLog, OptimConfig, Progress, Progressed,
    Rule, RunDir, Schedule, Shape, StopFlag, Task, Turn, Turned, Unturned, Validation, describe,
    frozen, run_dir,
};

/// How long and how a model is trained; the `[train]` section of a run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: u64,
    /// Steps of the run, in place of whole passes: `epochs` then counts for nothing.
    pub steps: Option<u64>,
    /// Batches whose gradients are averaged into one step.
    pub accumulate: usize,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f64,
    /// How it falls afterwards.
    pub shape: Shape,
    /// The learning rate at the end, as a share of the peak.
    pub final_ratio: f64,
    /// Decay of the weight average; 0 turns averaging off.
    pub average: f64,
    /// Epochs between validations; 0 validates at the end only.
    pub validate_every: u64,
    /// Steps between checkpoints; 0 makes one at the end of each epoch.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// How exactly matrices are multiplied.
    pub matmul_precision: Precision,
    /// Computes blocks once more in the backward pass and keeps only what enters them: less memory, slower
    /// steps.
    pub recompute: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 10,
            steps: None,
            accumulate: 1,
            warmup: 0.1,
            shape: Shape::Cosine,
            final_ratio: 0.0,
            average: 0.0,
            validate_every: 1,
            checkpoint_every: 0,
            keep: 2,
            matmul_precision: Precision::Highest,
            recompute: false,
        }
    }
}

impl TrainConfig {
    /// Looks for values that make no sense, to be called before any data is read.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first such value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let reason = if self.epochs == 0 {
            "train.epochs is 0; train for at least 1".to_owned()
        } else if self.steps == Some(0) {
            "train.steps is 0; train for at least 1".to_owned()
        } else if self.accumulate == 0 {
            "train.accumulate is 0; a step needs at least 1 batch".to_owned()
        } else if !(0.0..1.0).contains(&self.warmup) {
            format!("train.warmup is {}; it must be from 0 up to, not including, 1", self.warmup)
        } else if !(0.0..=1.0).contains(&self.final_ratio) {
            format!("train.final_ratio is {}; it must be from 0 to 1", self.final_ratio)
        } else if !(0.0..1.0).contains(&self.average) {
            format!("train.average is {}; it must be from 0 up to, not including, 1", self.average)
        } else if self.keep == 0 {
            "train.keep is 0; a run needs at least 1 checkpoint to be resumed".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Setting(reason))
    }

    /// The learning rates of a run whose epochs have that many batches.
    ///
    /// # Errors
    /// [`Error::Setting`] if the run makes no step or more than can be counted, or a rate makes
    /// no sense.
    pub fn schedule(&self, peak: f64, batches_per_epoch: usize) -> Result<Schedule, Error> {
        self.check()?;
        let (batches, accumulate) = (batches_per_epoch as u64, self.accumulate as u64);
        // Beyond any life time, and small enough that steps are exact as numbers of a plot.
        let all = self.epochs.checked_mul(batches).filter(|all| *all < 1 << 50);
        let total_steps = match self.steps.filter(|_| batches > 0) {
            Some(steps) => steps.min(1 << 50),
            None => all.map_or(0, |all| all / accumulate),
        };
        if total_steps == 0 {
            return Err(Error::Setting(format!(
                "train.epochs {} of {batches} batches, {accumulate} a step, make no step or too many; change one of them",
                self.epochs
            )));
        }
        let warmup_steps = (self.warmup * total_steps as f64).round() as u64;
        let schedule = Schedule {
            peak,
            // A run of one or two steps must still get past its warm-up.
            warmup_steps: warmup_steps.min(total_steps - 1),
            total_steps,
            shape: self.shape,
            final_ratio: self.final_ratio,
        };
        schedule.check().map_err(|e| Error::Setting(format!("optim.lr: {e}")))?;
        Ok(schedule)
    }
}

/// How names of a task's state begin in a checkpoint.
const OF_TASK: &str = "task ";

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// Stopped by Ctrl-C after this step; a checkpoint was written.
    Stopped(u64),
}

/// Runs a [`Task`] to its end.
#[derive(Debug)]
pub struct Trainer<'a> {
    /// The folder of the run.
    pub run: &'a RunDir,
    /// How to train.
    pub train: &'a TrainConfig,
    /// The update rule's settings.
    pub optim: &'a OptimConfig,
    /// The whole configuration, which a checkpoint must match to be resumed.
    pub config: serde_json::Value,
    /// Set by Ctrl-C.
    pub stop: &'a StopFlag,
}

/// What changes from step to step.
struct State<M, R> {
    model: M,
    rule: R,
    average: Option<Average>,
    at: Progressed,
    log: MetricsLog,
}

impl Trainer<'_> {
    /// Trains `model`, from its checkpoint if there is one; ends with `OUT/model` holding the
    /// weights that validated best.
    ///
    /// # Errors
    /// If data, model or disk fail, or the loss stops being a number.
    pub fn run<T: Task, R: Rule>(
        &self,
        task: &T,
        model: T::Model,
        rule: R,
        device: &Device,
    ) -> Result<Ending, Error> {
        let _precision = self.train.matmul_precision.scope();
        let _recompute = recompute(self.train.recompute);
        let per_epoch = task.batches_per_epoch() as u64;
        let accumulate = self.train.accumulate as u64;
        let schedule = self.train.schedule(self.optim.lr, task.batches_per_epoch())?;
        let total = schedule.total_steps;
        rule.check(self.train.accumulate)?;
        let mut state = self.start(task, model, rule, device)?;
        self.print_parts(&state);
        let mut progress = Progress::new(total, state.at.step, "train");
        let mut batches = task.batches(state.at.epoch, state.at.batch)?;
        let mut first = true;
        // A checkpoint is known to be good when the step after it has been; until then those
        // before it stay.
        let mut unproven = true;
        let mut began = Instant::now();
        while state.at.step < total {
            task.before_step(state.at.step);
            let mut turn = Vec::new();
            for _ in 0..accumulate {
                turn.push(match batches.next() {
                    Some(batch) => batch,
                    None => {
                        state.at.epoch += 1;
                        state.at.batch = 0;
                        batches = task.batches(state.at.epoch, 0)?;
                        batches.next().unwrap_or_else(|| {
                            Err(BoxError::from("the data has no batch; use a smaller batch size"))
                        })
                    }
                }?);
                state.at.batch += 1;
            }
            let lr = schedule.at(state.at.step);
            let first_epoch = first.then_some(state.at.epoch);
            let turn = Turn { task, batches: turn, lr, optim: self.optim, first: first_epoch };
            let Turned { loss, samples, extra, norm } = match state.rule.turn(turn, state.model) {
                Ok((model, turned)) => {
                    state.model = task.after_step(model)?;
                    turned
                }
                Err(Unturned::NotFinite(what)) => return Err(self.not_finite(&state.at, what)),
                Err(Unturned::Failed(error)) => return Err(error),
            };
            if std::mem::take(&mut unproven) {
                self.run.prune(self.train.keep);
            }
            if std::mem::take(&mut first) {
                let checked = state.rule.follows_gradients();
                self.print_start(task, &state.at, (loss, checked), &mut progress);
            }
            state.at.step += 1;
            state.at.samples += samples as u64;
            if let Some(average) = &mut state.average {
                average.update(&state.model, state.at.step);
            }
            let mut fields = vec![("loss", loss), ("lr", lr)];
            fields.extend(norm.map(|norm| ("grad", norm)));
            fields.extend(extra);
            progress.tick(state.at.step, samples, &fields);
            fields.push(("seconds", began.elapsed().as_secs_f64()));
            began = Instant::now();
            write(&mut state.log, &state.at, "train", &fields)?;

            let end = state.at.step == total;
            let epoch_ends = state.at.batch as u64 >= per_epoch;
            let every = self.train.validate_every;
            if end || epoch_ends && every > 0 && (state.at.epoch + 1).is_multiple_of(every) {
                self.validate(task, &mut state, &mut progress)?;
                began = Instant::now();
            }
            let due = match self.train.checkpoint_every {
                0 => epoch_ends,
                steps => state.at.step.is_multiple_of(steps),
            };
            let stopping = self.stop.is_set();
            if end || due || stopping {
                self.save(task, &state)?;
                unproven = true;
            }
            if stopping && !end {
                progress.finish();
                return Ok(Ending::Stopped(state.at.step));
            }
        }
        self.run.prune(self.train.keep);
        progress.finish();
        Ok(Ending::Finished)
    }

    /// A fresh state, or the one of the newest checkpoint.
    fn start<T: Task, R: Rule>(
        &self,
        task: &T,
        model: T::Model,
        rule: R,
        device: &Device,
    ) -> Result<State<T::Model, R>, Error> {
        let found = match self.run.latest() {
            Some(path) => {
                let checkpoint = Checkpoint::read(&path)?;
                checkpoint.progressed.belongs_to(&path, &self.config)?;
                Some((path, checkpoint))
            }
            None => None,
        };
        let step = found.as_ref().map_or(0, |(_, checkpoint)| checkpoint.progressed.step);
        let mut state = State {
            rule,
            average: (self.train.average > 0.0).then(|| Average::new(self.train.average, device)),
            at: Progressed {
                step: 0,
                epoch: 0,
                batch: 0,
                samples: 0,
                best: None,
                config: self.config.clone(),
                frozen: frozen::fingerprint_of_frozen(&model),
            },
            // Steps behind the checkpoint will be made again; without one, all of them.
            log: MetricsLog::open(&self.run.file("metrics.jsonl"), Some(step))
                .map_err(|e| Error::Task(e.into()))?,
            model,
        };
        let Some((path, checkpoint)) = found else { return Ok(state) };
        let foreign = |reason: String| Error::Foreign { path: path.clone(), reason };
        if checkpoint.progressed.frozen != state.at.frozen {
            let reason = "the weights that are not trained are no longer those the run began with";
            return Err(foreign(format!("{reason}; bring back the model, or start a new run")));
        }
        let (mut weights, trained) = (checkpoint.weights, frozen::trained(&state.model));
        state.model = params::replace(state.model, &mut |path, shape| {
            if !trained.contains(path) {
                return Ok(None);
            }
            let data =
                weights.remove(path).ok_or_else(|| foreign(format!("no weights for `{path}`")))?;
            if data.shape().to_vec() != shape {
                return Err(foreign(format!("the weights of `{path}` have another shape")));
            }
            Ok(Some(data))
        })?;
        state.at = checkpoint.progressed;
        let (own, of_rule): (BTreeMap<_, _>, BTreeMap<_, _>) =
            checkpoint.optimizer.into_iter().partition(|(name, _)| name.starts_with(OF_TASK));
        let own = own.into_iter().map(|(name, data)| (name[OF_TASK.len()..].to_owned(), data));
        task.restore(&own.collect()).map_err(&foreign)?;
        state.rule.restore(of_rule, state.at.step).map_err(&foreign)?;
        if let Some(average) = &mut state.average {
            average.restore(checkpoint.average);
        }
        say(&format!("resuming from {} (step {})", path.display(), state.at.step));
        Ok(state)
    }

    fn validate<T: Task, R: Rule>(
        &self,
        task: &T,
        state: &mut State<T::Model, R>,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let mut model = state.model.valid();
        if let Some(average) = &state.average {
            model = average.apply(model);
        }
        if let Some(path) = not_finite(&model) {
            return Err(self.bad_weights(&state.at, &path));
        }
        let Validation { metrics, score } = task
            .validate(&model)
            .map_err(|e| BoxError::from(format!("validation after step {}: {e}", state.at.step)))?;
        if metrics.is_empty() {
            // Nothing to choose by: the newest weights are the ones to use.
            return self.save_model(task, &model);
        }
        let fields: Vec<(&str, f64)> = metrics.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        write(&mut state.log, &state.at, "val", &fields)?;
        let words: Vec<String> =
            metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let better = state.at.best.is_none_or(|(best, _)| score > best);
        let mark = if better { "  (best so far)" } else { "" };
        progress.message(&format!(
            "epoch {} step {}: {}{mark}",
            state.at.epoch + 1,
            state.at.step,
            words.join("  ")
        ));
        if better {
            state.at.best = Some((score, state.at.step));
            self.save_model(task, &model)?;
        }
        Ok(())
    }

    fn save_model<T: Task>(&self, task: &T, model: &T::Model) -> Result<(), Error> {
        let staged = vlm_store::StagedDir::new(&self.run.file(task.saved_as()))?;
        task.save_model(model, staged.path())?;
        Ok(staged.commit()?)
    }

    fn save<T: Task, R: Rule>(&self, task: &T, state: &State<T::Model, R>) -> Result<(), Error> {
        if let Some(path) = not_finite(&state.model) {
            return Err(self.bad_weights(&state.at, &path));
        }
        let model = &state.model;
        let weights = params::list(model).into_iter().filter(|param| param.trainable);
        let weights = weights.map(|param| {
            let path = param.path.clone();
            Kept::new(param.path, param.shape, move || params::read_one(model, &path))
        });
        let weights: Vec<Kept<'_>> = weights.collect();
        let average = state.average.as_ref().map(Average::state).unwrap_or_default();
        let mut changing = state.rule.state();
        changing.extend(
            task.state().into_iter().map(|(name, data)| (format!("{OF_TASK}{name}"), data)),
        );
        let kept = |all: Vec<(String, TensorData)>| all.into_iter().map(Kept::from).collect();
        let parts = [weights, kept(changing), kept(average)];
        Checkpoint::write(&self.run.checkpoints(), &state.at, parts)?;
        Ok(())
    }

    /// The step after `at` failed.
    fn not_finite(&self, at: &Progressed, what: String) -> Error {
        let mut list = Checkpoint::list(&self.run.checkpoints());
        // What fails at its first step is no good checkpoint; the one before stands in.
        if let Some((_, bad)) = list.pop_if(|(step, _)| *step == at.step)
            && !list.is_empty()
        {
            run_dir::discard(&bad);
        }
        let kept = kept(list.pop());
        Error::NotFinite { step: at.step + 1, epoch: at.epoch + 1, what, kept }
    }

    /// The step that led to `at` spoiled the weights.
    fn bad_weights(&self, at: &Progressed, path: &str) -> Error {
        let kept = kept(Checkpoint::list(&self.run.checkpoints()).pop());
        let what = format!("`{path}` has a value that is no number");
        Error::NotFinite { step: at.step, epoch: at.epoch + 1, what, kept }
    }

    /// The table of parts, and what the state takes in memory.
    fn print_parts<M: Module, R: Rule>(&self, state: &State<M, R>) {
        let parts = describe(&state.model);
        let (mut trainable, mut total) = (0, 0);
        say(&format!("{:<20} {:>12} {:>12}  state", "part", "values", "trainable"));
        for part in &parts {
            say(&format!(
                "{:<20} {:>12} {:>12}  {}",
                part.part,
                part.total,
                part.trainable,
                part.word()
            ));
            trainable += part.trainable;
            total += part.total;
        }
        let share = 100.0 * trainable as f64 / total.max(1) as f64;
        let averaged = self.train.average > 0.0;
        let copies = state.rule.copies() + usize::from(averaged);
        // Weights, and for what trains: gradient, moments, and the average.
        let bytes = 4 * (total + copies * trainable);
        say(&format!(
            "{total} values, {share:.1} % trainable; {:.0} MiB for weights, gradients, optimiser{} (activations come on top)",
            bytes as f64 / f64::from(1 << 20),
            if averaged { " and average" } else { "" }
        ));
    }

    fn print_start<T: Task>(
        &self,
        task: &T,
        at: &Progressed,
        (loss, checked): (f64, bool),
        progress: &mut Progress,
    ) {
        let expected = match task.expected_start() {
            Some(expected) if at.step == 0 => {
                format!("; an untrained model is expected at {expected:.3}")
            }
            _ => String::new(),
        };
        let gradients = match checked {
            true => "every trainable parameter gets a gradient, no frozen one does; ",
            false => "",
        };
        progress.message(&format!("{gradients}loss {loss:.3} at step {}{expected}", at.step));
    }
}

/// A line on stderr. Whoever read it may be gone (`2>&1 | head`), which is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What is left of a failed run, in words.
fn kept(checkpoint: Option<(u64, PathBuf)>) -> String {
    match checkpoint {
        None => "there is no good checkpoint".to_owned(),
        Some((_, path)) => format!("the last good checkpoint is {}", path.display()),
    }
}

fn write(
    log: &mut MetricsLog,
    at: &Progressed,
    kind: &str,
    fields: &[(&str, f64)],
) -> Result<(), Error> {
    log.write(at.step, at.epoch, kind, fields).map_err(|e| Error::Task(e.into()))
}
