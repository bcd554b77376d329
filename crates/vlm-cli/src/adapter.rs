//! Adapters of models: the `[adapter]` of a run, and `--adapter DIR`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vlm_contrastive::Dual;
use vlm_encoders::{Blueprint, DualFolder, DualSpec, FourBitConfig, TextFolder, TextSpec};
use vlm_fusion::task::{GenerativeConfig, Part};
use vlm_fusion::{GenerativeFolder, Plan};
use vlm_peft::{Adapter, AnyMethod, Base, Error, Shape, Targets, attach, load, merge};

use crate::config::ModelConfig;

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
    /// Keeps four bits of each weight of the decoder's linear maps (QLoRA, Dettmers et al. 2023, arXiv
    /// 2305.14314).
    pub four_bit: Option<FourBitConfig>,
}

impl AdapterConfig {
    /// Looks for settings that cannot work.
    ///
    /// # Errors
    /// The first.
    pub fn check(&self, model: &ModelConfig) -> Result<()> {
        self.method.get().check().map_err(|reason| anyhow::anyhow!("adapter.{reason}"))?;
        let from = match &model.generative {
            Some(generative) => &generative.from,
            None => &model.from,
        };
        if from.is_none() {
            bail!(
                "[adapter] needs model.from or model.generative.from: a model that the adapter is for"
            );
        }
        Ok(())
    }

    /// Hangs the adapter on the parts of a model that are trained.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn attach_generative<M: Module>(
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
        let base = self.base(generative.from.as_deref(), &plan.spec.text, "CAUSAL_LM");
        Ok((model, adapter, base))
    }

    /// Hangs the adapter on a dual encoder, which lies in the model at `inside`.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn attach_dual<M: Module>(
        &self,
        model: M,
        inside: &str,
        plan: &Blueprint<DualSpec>,
        from: Option<&Path>,
        seed: u64,
    ) -> Result<(M, Adapter, Base)> {
        let names = |path: &str, rank: usize| plan.in_memory(path.strip_prefix(inside)?, rank);
        let (model, adapter) =
            attach(model, NAME, &self.method, self.targets.as_ref(), &names, seed)?;
        Ok((model, adapter, self.base(from, &plan.spec.text, "FEATURE_EXTRACTION")))
    }

    /// What the adapter's file says of the model.
    fn base(&self, from: Option<&Path>, text: &TextSpec, task: &str) -> Base {
        let block = &text.shape;
        let shape = Shape {
            layers: text.blocks.len(),
            heads: block.heads,
            kv_heads: block.kv_heads.unwrap_or(block.heads),
        };
        let rows = matches!(self.method, AnyMethod::Prefix(_) | AnyMethod::Prompt(_));
        Base {
            model: from.map(|dir| dir.display().to_string()),
            task: rows.then(|| task.to_owned()),
            text: Some(shape),
        }
    }
}

/// An adapter of a model to use.
#[derive(clap::Args)]
pub struct AdapterArgs {
    /// A folder with an adapter for the model, as peft writes it.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// The model as it is with the adapter. What is a change of weights becomes one, and costs nothing; but
/// weights of four bits cannot take it up.
fn worn<M: Module>(
    model: M,
    dir: &Path,
    names: &vlm_peft::Names<'_>,
    device: &Device,
) -> Result<M, Error> {
    let (model, adapter) = load(model, NAME, dir, names, device)?;
    if vlm_nn::adapter::all(&model).values().any(|adapters| adapters.packed.is_some()) {
        return Ok(model);
    }
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
    open_packed(dir, adapter, None, device)
}

/// The same with the decoder in four bits.
///
/// # Errors
/// As [`open`].
pub fn open_packed(
    dir: &Path,
    adapter: Option<&Path>,
    four_bit: Option<FourBitConfig>,
    device: &Device,
) -> Result<GenerativeFolder> {
    let mut folder = GenerativeFolder::open_packed(dir, four_bit, device)?;
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
    let names = |path: &str, rank: usize| plan.in_memory(path, rank);
    folder.model = worn(folder.model.clone(), dir, &names, device)?;
    Ok(())
}

/// Opens a dual encoder with an adapter on it.
///
/// # Errors
/// If one of them cannot be read, or the adapter is for another model.
pub fn open_dual(dir: &Path, adapter: &Path, device: &Device) -> Result<Dual> {
    let mut folder = DualFolder::open(dir, device)?;
    let plan = &folder.plan;
    let names = |path: &str, rank: usize| plan.in_memory(path, rank);
    folder.model = worn(folder.model.clone(), adapter, &names, device)?;
    Ok(Dual::One(folder))
}
