//! Adapters of models: the `[adapter]` of a run, and `--adapter DIR`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vlm_encoders::TextFolder;
use vlm_fusion::task::{GenerativeConfig, Part};
use vlm_fusion::{GenerativeFolder, Plan};
use vlm_peft::{Adapter, AnyMethod, Base, Error, Shape, Targets, attach, load, merge};

/// The name of the one adapter that a model wears here.
const NAME: &str = "default";

/// What is trained in place of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// The method and its settings.
    #[serde(flatten)]
    pub method: AnyMethod,
    /// Names of linear maps, or a pattern; what suits the method if not given.
    pub targets: Option<Targets>,
}

impl AdapterConfig {
    /// Looks for settings that cannot work.
    ///
    /// # Errors
    /// The first.
    pub fn check(&self, generative: Option<&GenerativeConfig>) -> Result<()> {
        self.method.get().check().map_err(|reason| anyhow::anyhow!("adapter.{reason}"))?;
        match generative.map(|generative| &generative.from) {
            Some(Some(_)) => Ok(()),
            _ => bail!("[adapter] needs model.generative.from: a model that the adapter is for"),
        }
    }

    /// Hangs the adapter on the parts of a model that are trained.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn attach<M: Module>(
        &self,
        model: M,
        plan: &Plan,
        generative: &GenerativeConfig,
        seed: u64,
    ) -> Result<(M, Adapter, Base)> {
        let parts = [("vision.", Part::Vision), ("fusion.", Part::Fusion), ("text.", Part::Text)];
        let names = |path: &str, rank: usize| {
            let part = parts.iter().find(|(start, _)| path.starts_with(start));
            let trained = part.is_none_or(|(_, part)| generative.trains(*part));
            trained.then(|| plan.in_memory(path, rank)).flatten()
        };
        let (model, adapter) =
            attach(model, NAME, &self.method, self.targets.as_ref(), &names, seed)?;
        let from = generative.from.as_ref().map(|dir| dir.display().to_string());
        let text = &plan.spec.text;
        let block = &text.shape;
        let shape = Shape {
            layers: text.blocks.len(),
            heads: block.heads,
            kv_heads: block.kv_heads.unwrap_or(block.heads),
        };
        let rows = matches!(self.method, AnyMethod::Prefix(_) | AnyMethod::Prompt(_));
        let task = rows.then(|| "CAUSAL_LM".to_owned());
        Ok((model, adapter, Base { model: from, task, text: Some(shape) }))
    }
}

/// An adapter of a model to use.
#[derive(clap::Args)]
pub struct AdapterArgs {
    /// A folder with an adapter for the model, as peft writes it.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// The model as it is with the adapter. What is a change of weights becomes one, and costs nothing.
fn worn<M: Module>(
    model: M,
    dir: &Path,
    names: &vlm_peft::Names<'_>,
    device: &Device,
) -> Result<M, Error> {
    let (model, adapter) = load(model, NAME, dir, names, device)?;
    match merge(model.clone(), &adapter) {
        Err(Error::Unmergeable { .. }) => Ok(model),
        merged => merged,
    }
}

/// Opens a model of pictures and text, with an adapter on it if there is one.
///
/// # Errors
/// If one of them cannot be read, or the adapter is for another model.
pub fn open(dir: &Path, adapter: Option<&Path>, device: &Device) -> Result<GenerativeFolder> {
    let mut folder = GenerativeFolder::open(dir, device)?;
    if let Some(adapter) = adapter {
        let plan = &folder.plan;
        let names = |path: &str, rank: usize| plan.in_memory(path, rank);
        folder.model = worn(folder.model.clone(), adapter, &names, device)?;
    }
    Ok(folder)
}

/// Puts an adapter on a language model.
///
/// # Errors
/// If the adapter cannot be read, or is for another model.
pub fn wear_text(folder: &mut TextFolder, dir: &Path, device: &Device) -> Result<()> {
    let plan = &folder.plan;
    let names = |path: &str, rank: usize| {
        let named = plan.named(path, rank);
        named.part.is_none().then_some(named.name)
    };
    folder.model = worn(folder.model.clone(), dir, &names, device)?;
    Ok(())
}
