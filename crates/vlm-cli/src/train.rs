//! `vlm train`.

pub mod generative;
pub mod joined;
mod solo;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use vlm_contrastive::{ContrastiveTask, Dual, DualEncoder};
use vlm_datasets::Dataset;
use vlm_encoders::image::{CLIP_MEAN, CLIP_STD, ImageProcessor};
use vlm_encoders::text::{Tokenizer, train_clip_bpe};
use vlm_encoders::{Blueprint, ClipConfig, DualFolder, DualSpec, Encoder, Start};
use vlm_nn::ops::Precision;
use vlm_peft::Adapted;
use vlm_store::write_file;
use vlm_train::{
    Ending, MetricsLog, OptimConfig, Rule, RunDir, StopFlag, Task, Trainer, describe, peak_memory,
};

use crate::adapter::{self, Worn};
use crate::config::RunConfig;
use crate::eval::Measured;
use crate::rule::AnyRule;
use crate::{diverged, eval, output, replay, report};

/// Arguments of `vlm train`.
#[derive(clap::Args)]
pub struct Args {
    /// What to train, on what and how: a TOML file, such as configs/emoji.toml.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The folder of the run; runs/NAME of the configuration if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run that is in the folder.
    #[arg(long)]
    resume: bool,
    /// Change the configuration, such as --set train.epochs=3.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Short for --set seed=N.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// What is needed to build the task and the model of a configuration.
pub struct Parts {
    pub data: Dataset,
    pub validation: Option<Dataset>,
    pub folder: Shape,
    pub start: Beginning,
}

/// What training begins with.
pub enum Beginning {
    /// A model, to go on with.
    Model(Box<DualFolder>),
    /// A shape, to be filled with start values.
    Fresh(Box<ClipConfig>),
}

/// Everything of a model folder but the weights.
pub type Shape = (Blueprint<DualSpec>, ImageProcessor, Tokenizer);

/// Opens the data and settles the shape of the model.
///
/// # Errors
/// If data or model cannot be read, or do not fit.
pub fn prepare(config: &RunConfig, device: &Device) -> Result<Parts> {
    let four_bit = config.four_bit();
    let open = |from: &PathBuf| DualFolder::open_packed(from, four_bit, device);
    parts(config, config.model.from.as_ref().map(open).transpose()?)
}

/// The same with a model that has been opened.
fn parts(config: &RunConfig, from: Option<DualFolder>) -> Result<Parts> {
    let data = Dataset::open(&config.data.train, "train")?;
    let validation = config.data.val.as_ref().map(|v| Dataset::open(v, "val")).transpose()?;
    if let Some(data) = validation.as_ref().filter(|data| !data.labels.is_empty()) {
        data.truth()?;
    }
    if let Some(mut clip) = from {
        if let Some(adapter) = &config.adapter {
            adapter.make_room(&mut clip.plan.spec.text)?;
        }
        let shape = (clip.plan.clone(), clip.images.clone(), clip.tokenizer.clone());
        return Ok(Parts { data, validation, folder: shape, start: Beginning::Model(clip.into()) });
    }
    let model = &config.model;
    let vision = model.vision.clone().unwrap_or_default();
    let mut text = model.text.clone().unwrap_or_default();
    let captions = data.samples.iter().flat_map(|s| s.captions.iter().cloned());
    let context = text.max_position_embeddings;
    if context < 3 {
        bail!(
            "model.text.max_position_embeddings is {context}; a text needs 3 places: start, token, end"
        );
    }
    if vision.num_channels != 3 {
        bail!("model.vision.num_channels is {}; pictures have 3", vision.num_channels);
    }
    let tokenizer = train_clip_bpe(captions, model.vocabulary.unwrap_or(4096), context)?;
    text.vocab_size = tokenizer.vocab_size();
    for (slot, id) in [
        (&mut text.bos_token_id, tokenizer.bos_id()),
        (&mut text.eos_token_id, tokenizer.eos_id()),
        (&mut text.pad_token_id, tokenizer.pad_id()),
    ] {
        *slot = id.unwrap_or(*slot);
    }
    let projection_dim = model.projection_dim.unwrap_or(512);
    let images = ImageProcessor::clip(
        vision.image_size,
        model.image_mean.unwrap_or(CLIP_MEAN),
        model.image_std.unwrap_or(CLIP_STD),
    );
    let mut clip = ClipConfig { text, vision, projection_dim, ..ClipConfig::default() };
    clip.text.projection_dim = projection_dim;
    clip.vision.projection_dim = projection_dim;
    if let Some(scale) = model.logit_scale {
        if !(1.0..=100.0).contains(&scale) {
            bail!("model.logit_scale is {scale}; it must lie between 1 and 100");
        }
        clip.logit_scale_init_value = scale.ln();
    }
    let plan = Blueprint::clip(&clip).map_err(|reason| anyhow::anyhow!("[model]: {reason}"))?;
    let patches = plan.spec.vision.patches();
    if model.start == Start::Located && clip.vision.hidden_size <= patches {
        bail!(
            "model.start = \"located\" needs a vision.hidden_size above the {patches} patches; use start = \"clip\""
        );
    }
    let start = Beginning::Fresh(clip.into());
    Ok(Parts { data, validation, folder: (plan, images, tokenizer), start })
}

/// Builds the task of a configuration.
///
/// # Errors
/// If the data does not fill a batch.
pub fn task(config: &RunConfig, parts: &Parts) -> Result<ContrastiveTask> {
    Ok(ContrastiveTask::new(
        parts.data.clone(),
        parts.validation.clone(),
        parts.folder.clone(),
        config.sample.clone(),
        config.batch.clone(),
        config.loss,
        config.seed,
    )?)
}

/// Trains, measures and reports.
pub fn run(
    args: Args,
    precision: Option<Precision>,
    device_name: &str,
    device: &Device,
) -> Result<ExitCode> {
    let mut settings = args.set.clone();
    settings.extend(args.seed.map(|seed| format!("seed={seed}")));
    let config = RunConfig::read(&args.config, &settings)?;
    let out = args
        .out
        .unwrap_or_else(|| Path::new("runs").join(args.config.file_stem().unwrap_or_default()));
    configured(config, (out, args.resume), precision, (device_name, device))
}

/// Trains as a configuration says; `out` is the folder of the run, and whether to go on with what is in
/// it.
pub fn configured(
    mut config: RunConfig,
    (out, resume): (PathBuf, bool),
    precision: Option<Precision>,
    (device_name, device): (&str, &Device),
) -> Result<ExitCode> {
    if let Some(precision) = precision {
        config.train.matmul_precision = precision;
    }
    // For the measurements at the end, too.
    let _precision = config.train.matmul_precision.scope();
    // Everything that can be refused is refused before the folder is touched.
    let run = Run { config, out, resume, device_name, device };
    if let Some(generative) = &run.config.model.generative {
        return generative::run(&run, generative);
    }
    if let Some(towers) = &run.config.model.towers {
        let (task, model, facts) = joined::prepare(&run.config, towers, &run.out, device)?;
        return run.go(&task, model, &run.config.optim, task.samples(), facts);
    }
    let training = device.clone().autodiff();
    let four_bit = run.config.four_bit();
    let open = |from: &PathBuf| Encoder::open_packed(from, four_bit, &training);
    let from = match run.config.model.from.as_ref().map(open).transpose()? {
        None => None,
        Some(Encoder::Dual(folder)) => Some(folder),
        Some(Encoder::Vision(folder)) => return solo::pictures(&run, folder),
        Some(Encoder::Text(folder)) => return solo::texts(&run, folder),
    };
    let parts = parts(&run.config, from)?;
    let task = task(&run.config, &parts)?;
    let facts = facts(&parts.folder.0.spec);
    let (loss, seed) = (run.config.loss, run.config.seed);
    let model = match parts.start {
        Beginning::Model(clip) => DualEncoder::of(clip.model, loss),
        Beginning::Fresh(shape) => {
            DualEncoder::init(&shape, run.config.model.start, loss, seed, &training)
        }
    };
    let samples = parts.data.samples.len();
    let mut optim = run.config.optim.clone();
    let Some(adapter) = &run.config.adapter else {
        return run.go(&task, model, &optim, samples, facts);
    };
    let from = run.config.model.from.as_deref();
    let plan = &parts.folder.0;
    let text = Some(&plan.spec.text);
    let (model, adapter, base) =
        adapter.attach_encoder((model, "clip."), (plan, text), from, seed)?;
    optim.lr_scale.extend(adapter.rates(&model));
    let task = Adapted::new(&task, adapter, base, seed);
    run.go(&task, model, &optim, samples, facts)
}

/// What the report says of a model, by name.
pub type Facts = Vec<(&'static str, String)>;

fn facts(spec: &DualSpec) -> Facts {
    let (vision, text) = (&spec.vision, &spec.text);
    vec![
        (
            "image tower",
            format!(
                "{} layers, width {}, {} heads, patch {} of {} px",
                vision.layers, vision.block.width, vision.block.heads, vision.patch, vision.image.0
            ),
        ),
        (
            "text tower",
            format!(
                "{} layers, width {}, {} heads, {} tokens known",
                text.blocks.len(),
                text.shape.width,
                text.shape.heads,
                text.vocabulary
            ),
        ),
    ]
}

/// A run and where it goes.
pub(crate) struct Run<'a> {
    config: RunConfig,
    out: PathBuf,
    resume: bool,
    device_name: &'a str,
    device: &'a Device,
}

impl Run<'_> {
    /// Trains a dual encoder on a task, measures and reports.
    fn go<T: Task>(
        &self,
        task: &T,
        model: T::Model,
        optim: &OptimConfig,
        samples: usize,
        facts: Facts,
    ) -> Result<ExitCode> {
        let Run { config, device, .. } = self;
        let evals: Vec<(String, String, Dataset)> = config
            .eval
            .iter()
            .map(|e| {
                let mut data = Dataset::open(&e.data, "test")?;
                eval::caption_labels(&mut data);
                data.truth()?;
                Ok((e.name.clone(), e.note.clone(), data))
            })
            .collect::<Result<_>>()?;
        let Some(trained) = self.train(task, model, samples, optim)? else {
            return Ok(ExitCode::from(130));
        };
        // Measured as others will use it: from the folder on disk.
        let run = &trained.run;
        let clip = match (&config.adapter, &config.model.from) {
            (Some(adapter), Some(from)) => {
                let dir = run.adapter();
                adapter::open_dual(from, Some(Worn::of(&dir)), adapter.four_bit, device)?
            }
            _ => Dual::open(&run.model(), device)?,
        };
        let mut measured = Vec::new();
        for (name, note, data) in &evals {
            let features = eval::features(&clip, data, &run.model())?;
            measured.push(Measured::new(&clip, name, note, data, features)?);
        }
        let metrics = measured
            .iter()
            .flat_map(|m| m.metrics.iter().map(|(k, v)| (format!("{}_{k}", m.name), *v)))
            .collect();
        let page = report::page(run, config, facts, &measured).context("report.html")?;
        self.finish(&trained, metrics, &page, &eval::table(&measured))
    }

    /// Trains a model on a task; `None` if it was stopped.
    fn train<T: Task>(
        &self,
        task: &T,
        model: T::Model,
        samples: usize,
        optim: &OptimConfig,
    ) -> Result<Option<Trained>> {
        let Run { config, out, device, .. } = self;
        config.train.schedule(optim.lr, task.batches_per_epoch())?;
        optim.check_paths(&model)?;
        let rule = AnyRule::new(optim, config.seed, device);
        rule.check(config.train.accumulate)?;
        if config.adapter.is_none() && adapter::has_four_bits(&model) {
            bail!("weights of four bits do not train; train an adapter on them (--method lora)");
        }
        let record = serde_json::to_value(config)?;
        let run = RunDir::open(out, self.resume)?;
        run.accepts(&record)?;
        if self.resume && run.latest().is_none() {
            let out = out.display();
            output::note(&format!("{out}: no checkpoint yet; starting from the beginning"));
        }
        write_file(&run.file("config.toml"), &mut |w| {
            let text = toml::to_string_pretty(config).map_err(std::io::Error::other)?;
            w.write_all(text.as_bytes())
        })?;
        let about = json!({
            "vlm": env!("CARGO_PKG_VERSION"), "burn": "0.22.1", "device": self.device_name,
            "seed": config.seed, "train_samples": samples,
        });
        write_file(&run.file("run.json"), &mut |w| {
            serde_json::to_writer_pretty(w, &about).map_err(std::io::Error::from)
        })?;

        let trainer = Trainer {
            run: &run,
            train: &config.train,
            optim,
            config: record,
            stop: &StopFlag::install()?,
        };
        let mut cost = Map::new();
        for part in describe(&model) {
            let count = json!({ "values": part.total, "trainable": part.trainable });
            cost.insert(part.part, count);
        }
        let start = replay::is_possible(config).then(|| replay::start(&model));
        let began = std::time::Instant::now();
        let ending = trainer.run(task, model, rule, device).inspect_err(|error| {
            if let vlm_train::Error::NotFinite { step, epoch, .. } = error {
                diverged::record(&run, *step, *epoch);
            }
        })?;
        if let Ending::Stopped(step) = ending {
            let out = out.display();
            output::note(&format!("stopped after step {step}; go on with --resume --out {out}"));
            return Ok(None);
        }
        let seconds = began.elapsed().as_secs_f64();
        if let Some(start) = start {
            replay::write(&run, config, start)?;
        }
        cost.insert("peak_memory_bytes".into(), json!(peak_memory()));
        cost.insert("step_seconds".into(), json!(median_step(&run)?));
        Ok(Some(Trained { run, seconds, cost }))
    }

    /// Writes what was measured and says where everything is.
    fn finish(
        &self,
        trained: &Trained,
        metrics: Vec<(String, f64)>,
        page: &str,
        table: &[String],
    ) -> Result<ExitCode> {
        let Trained { run, seconds, cost } = trained;
        let metrics: Map<String, Value> =
            metrics.into_iter().map(|(name, value)| (name, json!(value))).collect();
        let seed = self.config.seed;
        let summary = json!({ "metrics": metrics, "cost": cost, "seconds": seconds, "seed": seed });
        write_file(&run.file("summary.json"), &mut |w| {
            serde_json::to_writer_pretty(w, &summary).map_err(std::io::Error::from)
        })?;
        write_file(&run.file("report.html"), &mut |w| w.write_all(page.as_bytes()))?;
        for line in table {
            output::line(line)?;
        }
        match self.config.adapter {
            None => output::line(&format!("model   {}", run.model().display()))?,
            Some(_) => output::line(&format!("adapter {}", run.adapter().display()))?,
        }
        output::line(&format!("report  {}", run.file("report.html").display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A run that came to its end.
pub(crate) struct Trained {
    run: RunDir,
    seconds: f64,
    /// What it took, by name.
    cost: Map<String, Value>,
}

/// The time of a step in seconds, in the middle of all.
fn median_step(run: &RunDir) -> Result<Option<f64>> {
    let records = MetricsLog::read(&run.file("metrics.jsonl"))?;
    let steps = records.iter().filter(|record| record.kind == "train");
    let mut seconds: Vec<f64> =
        steps.filter_map(|record| record.values.get("seconds").copied()).collect();
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(seconds.len() / 2).copied())
}
