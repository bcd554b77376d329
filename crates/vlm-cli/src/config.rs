//! The file that describes a run.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use vlm_contrastive::joined::JoinConfig;
use vlm_contrastive::{BatchConfig, Loss, SampleConfig};
use vlm_encoders::{FourBitConfig, Start, TextConfig, VisionConfig};
use vlm_fusion::task::GenerativeConfig;
use vlm_peft::AnyMethod;
use vlm_train::{OptimConfig, RuleKind, TrainConfig};

use crate::adapter::AdapterConfig;
use crate::output::Usage;

/// A run of training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Everything random derives from it.
    #[serde(default)]
    pub seed: u64,
    /// The loss.
    #[serde(default)]
    pub loss: Loss,
    pub data: DataConfig,
    pub model: ModelConfig,
    #[serde(default)]
    pub sample: SampleConfig,
    #[serde(default)]
    pub batch: BatchConfig,
    #[serde(default)]
    pub optim: OptimConfig,
    #[serde(default)]
    pub train: TrainConfig,
    /// What is trained in place of the model.
    pub adapter: Option<AdapterConfig>,
    /// Sets that the finished model is measured on.
    #[serde(default)]
    pub eval: Vec<EvalConfig>,
}

/// Where the data is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// `PATH[:SPLIT]` or a shipped or fetched `NAME[:SPLIT]`. `{seed}` in it stands for the seed,
    /// here and in the other sets.
    pub train: String,
    /// What decides which weights are best.
    pub val: Option<String>,
}

/// A model to go on with, or the shape of a new one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A model folder to start from; the other fields are then not allowed.
    pub from: Option<PathBuf>,
    /// Two encoders to join; of the other fields only `logit_scale` is then allowed.
    pub towers: Option<JoinConfig>,
    /// A model that speaks, and what of it is trained; no other field is then allowed.
    pub generative: Option<GenerativeConfig>,
    /// Tokens of the tokenizer that is trained on the captions.
    pub vocabulary: Option<usize>,
    /// Dimensions of the shared space.
    pub projection_dim: Option<usize>,
    /// The logit scale at the start (not its logarithm).
    pub logit_scale: Option<f64>,
    /// How a new model starts.
    #[serde(default)]
    pub start: Start,
    /// What is subtracted from each colour, on a scale of 0 to 1; CLIP's values if not given.
    pub image_mean: Option<[f64; 3]>,
    /// What it is divided by then.
    pub image_std: Option<[f64; 3]>,
    /// The image tower, with transformers' names and defaults.
    pub vision: Option<VisionConfig>,
    /// The text tower; its vocabulary is the tokenizer's.
    pub text: Option<TextConfig>,
}

/// A set to measure on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// How the metrics are named: `NAME_top1`.
    pub name: String,
    /// As in `[data]`.
    pub data: String,
    /// So many samples of conversations, spread evenly over the set; all if not given.
    #[serde(default)]
    pub limit: Option<usize>,
    /// What it shows, for the report.
    #[serde(default)]
    pub note: String,
}

impl RunConfig {
    /// Reads a file and applies `key=value` settings on top.
    ///
    /// # Errors
    /// If the file is missing, not TOML, or has an unknown key.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read the configuration", path.display()))?;
        Self::parse(&text, path, settings)
    }

    /// The same of a text; `path` is what errors call it.
    ///
    /// # Errors
    /// If it is not TOML, or has an unknown key.
    pub fn parse(text: &str, path: &Path, settings: &[String]) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text)
            .map_err(|e| anyhow!("{}{}: {}", path.display(), line_of(&e, text), one_line(&e)))?;
        for setting in settings {
            set(&mut table, setting).map_err(|e| Usage(format!("--set {setting}: {e}")))?;
        }
        let mut config: RunConfig =
            table.try_into().map_err(|e| blame(path, text, settings, &one_line(&e)))?;
        config.fill_seed();
        let new = &config.model;
        let shaped = new.vocabulary.is_some()
            || new.projection_dim.is_some()
            || new.start != Start::default()
            || new.image_mean.is_some()
            || new.image_std.is_some()
            || new.vision.is_some()
            || new.text.is_some();
        if new.from.is_some() && (shaped || new.logit_scale.is_some()) {
            bail!("{}: [model] has `from` and a shape; keep one of them", path.display());
        }
        if new.towers.is_some() && (shaped || new.from.is_some()) {
            bail!("{}: [model] has `towers` and a shape; keep one of them", path.display());
        }
        let others = shaped || new.from.is_some() || new.towers.is_some();
        if new.generative.is_some() && (others || new.logit_scale.is_some()) {
            bail!("{}: [model] has `generative` and more; keep one of them", path.display());
        }
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// The four bits that the adapter wants its model in.
    pub fn four_bit(&self) -> Option<FourBitConfig> {
        self.adapter.as_ref()?.four_bit
    }

    /// `{seed}` in the name of a set stands for the run's seed, so that each seed can have a split
    /// of its own.
    fn fill_seed(&mut self) {
        let seed = self.seed.to_string();
        let names = [&mut self.data.train].into_iter().chain(&mut self.data.val);
        for name in names.chain(self.eval.iter_mut().map(|eval| &mut eval.data)) {
            *name = name.replace("{seed}", &seed);
        }
    }

    /// What cannot be combined with slopes in place of gradients.
    fn check_mezo(&self) -> Result<()> {
        if self.train.average > 0.0 {
            bail!(
                "train.average is {}: mezo's steps are too small for an average to matter, and a run could not be replayed; leave it out",
                self.train.average
            );
        }
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let method = adapter.method.get();
        if method.drops() {
            bail!(
                "adapter.dropout leaves things out by chance, so that mezo would compare losses of two different models; set it to 0"
            );
        }
        if matches!(&adapter.method, AnyMethod::Eas(eas) if eas.searches()) {
            bail!(
                "with mezo, name the attentions that are skipped (--set layers=[...]): which of two parts a step uses must not change"
            );
        }
        if matches!(adapter.method, AnyMethod::LoraFa(_) | AnyMethod::Dylora(_)) {
            bail!(
                "{} says what of a gradient is used, and mezo has none; take lora",
                method.name()
            );
        }
        Ok(())
    }

    /// Looks for values that cannot work, before anything is read or written.
    fn check(&self) -> Result<()> {
        self.batch.check().map_err(|reason| anyhow!("batch.{reason}"))?;
        self.sample.augment.check().map_err(|reason| anyhow!("sample.augment.{reason}"))?;
        if let Some(generative) = &self.model.generative {
            generative.check().map_err(|reason| anyhow!("model.generative.{reason}"))?;
        }
        if let Some(adapter) = &self.adapter {
            adapter.check(&self.model)?;
        }
        self.optim.check()?;
        self.train.check()?;
        if self.optim.rule == RuleKind::Mezo {
            self.check_mezo()?;
        }
        let drops = self.adapter.as_ref().is_some_and(|adapter| adapter.method.get().drops());
        if self.train.recompute && drops {
            bail!(
                "train.recompute computes blocks twice, but adapter.dropout leaves other things out the second time; set one of them to 0"
            );
        }
        let SampleConfig { captions, patch_keep, .. } = &self.sample;
        for (name, value) in [
            ("sample.captions.first", captions.first),
            ("sample.captions.joined", captions.joined),
            ("sample.patch_keep", *patch_keep),
        ] {
            if !(0.0..=1.0).contains(&value) {
                bail!("{name} is {value}; it must be from 0 to 1");
            }
        }
        if let Some(std) = self.model.image_std
            && !std.iter().all(|x| x.is_finite() && *x > 0.0)
        {
            bail!("model.image_std is {std:?}; each must be above 0");
        }
        if let Some(mean) = self.model.image_mean
            && !mean.iter().all(|x| x.is_finite())
        {
            bail!("model.image_mean is {mean:?}; each must be a number");
        }
        if self.model.generative.is_none()
            && let Some(eval) = self.eval.iter().find(|eval| eval.limit.is_some())
        {
            bail!("[[eval]] {} has a limit, which only models that speak have", eval.name);
        }
        let mut names = HashSet::new();
        if let Some(eval) = self.eval.iter().find(|eval| !names.insert(eval.name.as_str())) {
            bail!("two [[eval]] have the name `{}`; rename one", eval.name);
        }
        Ok(())
    }
}

/// Says whether the file or one of the settings is wrong, and where in the file.
fn blame(path: &Path, text: &str, settings: &[String], reason: &str) -> anyhow::Error {
    for setting in settings {
        // A key that is wrong by itself is wrong in any file.
        let mut alone = toml::Table::new();
        if set(&mut alone, setting).is_ok()
            && let Err(error) = alone.try_into::<RunConfig>()
            && one_line(&error) == reason
        {
            return Usage(format!("--set {setting}: {reason}")).into();
        }
    }
    let place = match toml::from_str::<RunConfig>(text) {
        Err(error) if one_line(&error) == reason => line_of(&error, text),
        _ => String::new(),
    };
    anyhow!("{}{place}: {reason}", path.display())
}

/// `:LINE` of the place that the parser complains of.
fn line_of(error: &toml::de::Error, text: &str) -> String {
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    error.span().map(|span| format!(":{}", line(span.start))).unwrap_or_default()
}

/// The parser's message without its drawing of the place.
fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Applies `a.b.c=value`; the value is TOML, or a string if it is not.
pub fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (key, value) =
        setting.split_once('=').context("write key=value, such as train.epochs=3")?;
    let value = toml::from_str::<toml::Table>(&format!("x = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut place = table;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        place = place
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .with_context(|| format!("`{part}` is no section"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_into_sections() {
        let mut table: toml::Table = toml::from_str("seed = 1\n[train]\nepochs = 2").unwrap();
        for setting in ["seed=7", "train.epochs=3", "optim.lr=1e-4", "loss=sigmoid"] {
            set(&mut table, setting).unwrap();
        }
        assert_eq!(table["seed"].as_integer(), Some(7));
        assert_eq!(table["train"]["epochs"].as_integer(), Some(3));
        assert_eq!(table["optim"]["lr"].as_float(), Some(1e-4));
        assert_eq!(table["loss"].as_str(), Some("sigmoid"));
        assert!(set(&mut table, "seed.x=1").is_err() && set(&mut table, "seed").is_err());
    }
}
