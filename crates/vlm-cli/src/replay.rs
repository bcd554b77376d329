//! `vlm replay`: weights that MeZO tuned, from the model it began with and the list of its steps.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, TensorData};
use serde::{Deserialize, Serialize};
use vlm_contrastive::clamp_log_scale;
use vlm_encoders::{Encoder, Float};
use vlm_fullft::{Mezo, MezoStep};
use vlm_nn::params;
use vlm_peft::{Base, Error, Names};
use vlm_store::{StagedDir, write_file};
use vlm_train::{Checkpoint, Progress, RuleKind, RunDir, fingerprint};

use crate::adapter::{self, AdapterConfig, trains};
use crate::config::RunConfig;
use crate::folder::{AnyFolder, Change};
use crate::output;

/// What the file is called in a run's folder.
const FILE: &str = "replay.json";

/// Arguments of `vlm replay`.
#[derive(clap::Args)]
pub struct Args {
    /// The list of steps: replay.json of a run with mezo.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder for the tuned model, or for the adapter if the run trained one.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model that the run began with [default: where the run found it].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Only so many steps [default: those whose weights the run kept].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

/// A run as a list of steps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// The version of the program.
    vlm: String,
    /// The configuration of the run.
    config: RunConfig,
    /// Stands for the model that the run began with.
    start: String,
    /// After how many steps the run kept the weights.
    kept: usize,
    /// Learning rates, each with the number of steps that have it one after another.
    lr: Vec<(f32, usize)>,
    /// The slope of each step along its directions, whose numbers derive from the seed and the step.
    slopes: Vec<Vec<f32>>,
}

/// Whether a run can be made again from its steps: it began with a model on disk.
pub fn is_possible(config: &RunConfig) -> bool {
    config.optim.rule == RuleKind::Mezo && start_of(config).is_some()
}

/// Where a run found the model that it began with.
fn start_of(config: &RunConfig) -> Option<&PathBuf> {
    match &config.model.generative {
        Some(generative) => generative.from.as_ref(),
        None => config.model.from.as_ref(),
    }
}

/// A number that stands for a model that a run begins with. What is beside it in a run, and in no folder, does
/// not count.
pub fn start<M: Module>(model: &M) -> String {
    let part = |path: &str| path != "logit_bias";
    format!("{:016x}", fingerprint(model, &|path| part(path).then_some(path)))
}

/// Writes the list of a run that has ended.
///
/// # Errors
/// If its last checkpoint cannot be read, or the file cannot be written.
pub fn write(run: &RunDir, config: &RunConfig, start: String) -> Result<()> {
    let Some((_, path)) = Checkpoint::list(&run.checkpoints()).pop() else { return Ok(()) };
    let blame = |reason: String| anyhow!("{}: {reason}", path.display());
    let steps = MezoStep::read(&Checkpoint::rule_state(&path)?).map_err(blame)?;
    let mut lr: Vec<(f32, usize)> = Vec::new();
    for step in &steps {
        match lr.last_mut() {
            Some((last, count)) if *last == step.lr => *count += 1,
            _ => lr.push((step.lr, 1)),
        }
    }
    let kept = Checkpoint::progressed(&path)?.best.map_or(steps.len(), |(_, step)| step as usize);
    let replay = Replay {
        vlm: env!("CARGO_PKG_VERSION").into(),
        config: config.clone(),
        start,
        kept,
        lr,
        slopes: steps.into_iter().map(|step| step.slopes).collect(),
    };
    write_file(&run.file(FILE), &mut |w| {
        serde_json::to_writer(w, &replay).map_err(std::io::Error::from)
    })?;
    Ok(())
}

/// Makes the steps again.
///
/// # Errors
/// If file or model cannot be read, do not belong together, or the folder cannot be written.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let (file, out) = (args.file.display(), args.out.display());
    if args.out.exists() && !args.force {
        bail!("{out} exists; give --force to replace it");
    }
    let text = std::fs::read_to_string(&args.file).with_context(|| file.to_string())?;
    let replay: Replay = serde_json::from_str(&text)
        .map_err(|e| anyhow!("{file}: is no list of steps that a run with mezo wrote ({e})"))?;
    let steps = replay.steps().map_err(|reason| anyhow!("{file}: {reason}"))?;
    let count = args.steps.unwrap_or(replay.kept);
    let Some(steps) = steps.get(..count) else {
        bail!("{file}: has {} steps, not {count}", steps.len());
    };
    let config = &replay.config;
    let Some(found) = start_of(config) else {
        bail!("{file}: the run did not begin with a model on disk, so it cannot be made again");
    };
    let from = args.model.as_deref().unwrap_or(found);
    let mut folder = AnyFolder::open(from, config.four_bit(), &device.clone().autodiff())?;
    let dual = matches!(folder, AnyFolder::Encoder(Encoder::Dual(_)));
    let staged = StagedDir::new(&args.out).with_context(|| out.to_string())?;
    let mut adapter = config.adapter.clone();
    if let (Some(config), AnyFolder::Generative(folder)) = (&mut adapter, &folder) {
        *config = config.for_plan(&folder.plan, folder.images.output_size())?;
    }
    let adapter =
        adapter.as_ref().map(|config| (config, config.base_of(&folder, from), staged.path()));
    let mut making = Making { replay: &replay, steps, dual, adapter, foreign: false };
    folder.change(&mut making)?;
    if making.foreign {
        bail!(
            "{}: is not the model that the run of {file} began with; give that one with --model",
            from.display()
        );
    }
    if config.adapter.is_none() {
        folder.save(staged.path(), Float::F32)?;
    }
    staged.commit().with_context(|| out.to_string())?;
    output::line(&format!("{} steps made again, written to {out}", steps.len()))
}

impl Replay {
    fn steps(&self) -> Result<Vec<MezoStep>, String> {
        let directions = self.config.optim.zo_directions;
        if let Some(step) = self.slopes.iter().position(|slopes| slopes.len() != directions) {
            return Err(format!("step {} has not {directions} slopes", step + 1));
        }
        let finite = |slopes: &Vec<f32>| slopes.iter().all(|slope| slope.is_finite());
        if let Some(step) = self.slopes.iter().position(|slopes| !finite(slopes)) {
            return Err(format!("the slope of step {} is no number", step + 1));
        }
        let rates = self.lr.iter().flat_map(|(lr, count)| {
            // No more than there are steps, whatever the file says.
            std::iter::repeat_n(*lr, (*count).min(self.slopes.len()))
        });
        let rates: Vec<f32> = rates.take(self.slopes.len() + 1).collect();
        if let Some(rate) = rates.iter().find(|rate| !rate.is_finite()) {
            return Err(format!("a learning rate is {rate}"));
        }
        if rates.len() != self.slopes.len() {
            return Err(format!(
                "learning rates for {} of {} steps",
                rates.len(),
                self.slopes.len()
            ));
        }
        let steps = rates.into_iter().zip(&self.slopes);
        Ok(steps.map(|(lr, slopes)| MezoStep { lr, slopes: slopes.clone() }).collect())
    }
}

/// Makes the steps again on whatever model it is.
struct Making<'a> {
    replay: &'a Replay,
    steps: &'a [MezoStep],
    /// Whether it is of pictures and texts.
    dual: bool,
    /// What was trained in place of the model, what its file says of the model, and where it goes.
    adapter: Option<(&'a AdapterConfig, Base, &'a Path)>,
    /// Whether it turns out to be another model.
    foreign: bool,
}

/// A model where contrastive training has it: directions derive from paths.
#[derive(Module, Debug)]
struct Inside<M: Module> {
    clip: M,
}

impl Change for Making<'_> {
    fn change<M: Module + ModuleDisplay>(
        &mut self,
        model: M,
        names: &Names<'_>,
    ) -> Result<M, Error> {
        if !self.dual {
            return self.made(model, names);
        }
        let names = |path: &str, rank: usize| names(path.strip_prefix("clip.")?, rank);
        Ok(self.made(Inside { clip: model }, &names)?.clip)
    }
}

impl Making<'_> {
    fn made<M: Module>(&mut self, model: M, names: &Names<'_>) -> Result<M, Error> {
        let config = &self.replay.config;
        let trains = |path: &str| match &config.model.generative {
            Some(generative) => trains(generative, path),
            None => true,
        };
        let list = params::list(&model).into_iter().filter(|param| param.trainable);
        let chosen: HashSet<String> =
            list.map(|param| param.path).filter(|path| trains(path)).collect();
        let mut model = params::set_trainable(model, &|path| chosen.contains(path));
        let mut optim = config.optim.clone();
        let mut hung = None;
        if let Some((adapter, ..)) = &self.adapter {
            let names = |path: &str, rank: usize| match trains(path) {
                true => names(path, rank),
                false => None,
            };
            let (with, adapter) = adapter.hung(model, adapter::NAME, &names, config.seed)?;
            optim.lr_scale.extend(adapter.rates(&with));
            (model, hung) = (with, Some(adapter));
        }
        if start(&model) != self.replay.start {
            self.foreign = true;
            return Ok(model);
        }
        let mut rule = Mezo::of_run(&optim, config.seed);
        let scaled = params::list(&model).into_iter().any(|p| p.path == SCALE && p.trainable);
        let mut progress = Progress::new(self.steps.len() as u64, 0, "replay");
        for (number, step) in self.steps.iter().enumerate() {
            model = rule.replay(model, step);
            if scaled {
                model = with_bounded_scale(model);
            }
            progress.tick(number as u64 + 1, 0, &[]);
        }
        progress.finish();
        if let (Some((_, base, dir)), Some(adapter)) = (&self.adapter, hung) {
            vlm_peft::save(&model, &adapter, base, dir, Float::F32)?;
        }
        Ok(model)
    }
}

/// The parameter that contrastive training keeps within bounds after each step.
const SCALE: &str = "clip.logit_scale";

fn with_bounded_scale<M: Module>(model: M) -> M {
    let value: f32 = params::read_one(&model, SCALE).iter().next().unwrap_or_default();
    let bounded = clamp_log_scale(value);
    if bounded == value {
        return model;
    }
    let new = &mut |path: &str, shape: &[usize]| {
        let data = || TensorData::full(shape.to_vec(), bounded);
        Ok::<_, std::convert::Infallible>((path == SCALE).then(data))
    };
    let Ok(model) = params::replace(model, new);
    model
}
