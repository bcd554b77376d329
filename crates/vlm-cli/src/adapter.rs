//! Adapters of models: the `[adapter]` of a run, and `--adapter DIR`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_contrastive::{Dual, JoinedFolder};
use vlm_encoders::{Blueprint, DualFolder, Encoder, FourBitConfig, TextFolder, TextSpec};
use vlm_fusion::task::{GenerativeConfig, Part};
use vlm_fusion::{GenerativeFolder, Plan};
use vlm_nn::BlockConfig;
use vlm_peft::{
    Adapter, AnyMethod, Base, Beside, Biases, Error, Names, Shape, Sight, Targets, attach_with,
    fold, load, merge, use_ranks,
};

use crate::config::ModelConfig;
use crate::folder::{AnyFolder, Change, change_encoder};
use crate::output;

/// The name of the one adapter that a model wears here.
pub const NAME: &str = "default";

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
    /// Which biases of the model train beside the adapter.
    #[serde(default)]
    pub bias: Biases,
    /// Modules of the model that train whole beside the adapter, by the ends of their names.
    #[serde(default)]
    pub modules_to_save: Vec<String>,
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
        (plan, size): (&Plan, Option<(usize, usize)>),
        generative: &GenerativeConfig,
        seed: u64,
    ) -> Result<(M, Adapter, Base)> {
        if let AnyMethod::Memvp(memvp) = &self.method
            && memvp.tower_size > 0
            && !generative.trains(Part::Vision)
        {
            bail!(
                "adapter.tower_size needs the image tower among what trains: --set \
                 'model.generative.train=[\"vision\", \"fusion\", \"text\"]'"
            );
        }
        let learns = |path: &str| trains(generative, path) && plan.spec.uses(path);
        let names = |path: &str, rank: usize| match learns(path) {
            true => plan.in_memory(path, rank),
            false => None,
        };
        let (model, adapter) = self.for_plan(plan, size)?.hung(model, NAME, &names, seed)?;
        let base = self.base(generative.from.as_deref(), Some(&plan.spec.text), "CAUSAL_LM");
        Ok((model, adapter, base))
    }

    /// The same for a model of pictures and text; `size` are height and width of the pictures, if all have one.
    ///
    /// # Errors
    /// If the method cannot hang on such a model.
    pub fn for_plan(&self, plan: &Plan, size: Option<(usize, usize)>) -> Result<Self> {
        let mut config = self.clone();
        if let AnyMethod::Memvp(memvp) = &mut config.method {
            memvp.sight = Some(sight(plan, size)?);
        }
        Ok(config)
    }

    /// Whether pictures have no tokens among those of the text with it.
    pub fn remembers(&self) -> bool {
        matches!(self.method, AnyMethod::Memvp(_))
    }

    /// Hangs the adapter on an encoder, which lies in the model at `inside`; `text` is the part of it that
    /// reads.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn attach_encoder<M: Module, S>(
        &self,
        (model, inside): (M, &str),
        (plan, text): (&Blueprint<S>, Option<&TextSpec>),
        from: Option<&Path>,
        seed: u64,
    ) -> Result<(M, Adapter, Base)> {
        let names = |path: &str, rank: usize| plan.in_memory(path.strip_prefix(inside)?, rank);
        let (model, adapter) = self.hung(model, NAME, &names, seed)?;
        Ok((model, adapter, self.base(from, text, "FEATURE_EXTRACTION")))
    }

    /// Lets places of a text to the tokens that the adapter puts in front of it.
    ///
    /// # Errors
    /// As [`leave_places`].
    pub fn make_room(&self, text: &mut TextSpec) -> Result<()> {
        match &self.method {
            AnyMethod::Prompt(prompt) => leave_places(text, prompt.tokens),
            _ => Ok(()),
        }
    }

    /// Hangs the adapter on a model.
    ///
    /// # Errors
    /// As [`attach_with`].
    pub fn hung<M: Module>(
        &self,
        model: M,
        name: &str,
        names: &Names<'_>,
        seed: u64,
    ) -> Result<(M, Adapter), Error> {
        let beside = Beside { bias: self.bias, modules_to_save: self.modules_to_save.clone() };
        attach_with(model, name, &self.method, self.targets.as_ref(), &beside, names, seed)
    }

    /// What the adapter's file says of the model in a folder.
    pub fn base_of(&self, folder: &AnyFolder, from: &Path) -> Base {
        let of_encoder = "FEATURE_EXTRACTION";
        let (text, task) = match folder {
            AnyFolder::Generative(folder) => (Some(&folder.plan.spec.text), "CAUSAL_LM"),
            AnyFolder::Encoder(Encoder::Dual(folder)) => (Some(&folder.plan.spec.text), of_encoder),
            AnyFolder::Encoder(Encoder::Text(folder)) => (Some(&folder.plan.spec), of_encoder),
            _ => (None, of_encoder),
        };
        self.base(Some(from), text, task)
    }

    fn base(&self, from: Option<&Path>, text: Option<&TextSpec>, task: &str) -> Base {
        let text = text.map(|text| Shape {
            layers: text.blocks.len(),
            heads: text.shape.heads,
            kv_heads: text.shape.kv_heads.unwrap_or(text.shape.heads),
        });
        let rows = matches!(self.method, AnyMethod::Prefix(_) | AnyMethod::Prompt(_));
        Base {
            model: from.map(|dir| dir.display().to_string()),
            task: rows.then(|| task.to_owned()),
            text,
        }
    }
}

/// How a model sees, for an adapter that keeps pictures beside the feed-forwards.
///
/// # Errors
/// If its pictures are no rows that could stand there.
fn sight(plan: &Plan, size: Option<(usize, usize)>) -> Result<Sight> {
    let spec = &plan.spec;
    let kind = spec.fusion.kind();
    if spec.fusion.reads_question() || spec.fusion.rows_beside() > 0 {
        bail!("memvp takes the place of the tokens of pictures; a model with {kind} has none");
    }
    Ok(Sight {
        width: spec.fused_width(),
        rows: spec.seen_tokens(size.unwrap_or(spec.vision.image)),
        blocks: spec.text.blocks.len(),
    })
}

/// Whether a run trains the part of a model that a parameter is of.
pub fn trains(generative: &GenerativeConfig, path: &str) -> bool {
    let parts = [("vision.", Part::Vision), ("fusion.", Part::Fusion), ("text.", Part::Text)];
    let part = parts.iter().find(|(start, _)| path.starts_with(start));
    part.is_none_or(|(_, part)| generative.trains(*part))
}

/// An adapter of a model to use.
#[derive(clap::Args)]
pub struct AdapterArgs {
    /// A folder with an adapter for the model, as peft writes it.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Let feed-forwards take up what stands in place of skipped attentions (eas without a router).
    #[arg(long, requires = "adapter")]
    pub fold: bool,
    /// Only so many ranks of the adapter: for one that DyLoRA trained.
    #[arg(long, value_name = "N", requires = "adapter", value_parser = output::count)]
    pub adapter_ranks: Option<usize>,
}

/// An adapter to put on a model.
#[derive(Clone, Copy)]
pub struct Worn<'a> {
    /// Its folder.
    pub dir: &'a Path,
    /// So many of its ranks; all if not given.
    pub ranks: Option<usize>,
    /// Whether feed-forwards take up what stands in place of attentions.
    pub fold: bool,
}

impl<'a> Worn<'a> {
    /// All of an adapter.
    pub fn of(dir: &'a Path) -> Self {
        Worn { dir, ranks: None, fold: false }
    }
}

impl AdapterArgs {
    /// What is to be put on.
    pub fn worn(&self) -> Option<Worn<'_>> {
        let dir = self.adapter.as_deref()?;
        Some(Worn { dir, ranks: self.adapter_ranks, fold: self.fold })
    }
}

/// Puts an adapter on a model. What is a change of weights becomes one, and costs nothing; but weights of
/// four bits cannot take it up.
struct Wear<'a> {
    adapter: Worn<'a>,
    device: &'a Device,
    /// The blocks of the part that reads text, if there is one.
    blocks: Option<&'a BlockConfig>,
}

impl Change for Wear<'_> {
    fn change<M: Module + ModuleDisplay>(
        &mut self,
        model: M,
        names: &Names<'_>,
    ) -> Result<M, Error> {
        let (mut model, adapter) = load(model, NAME, self.adapter.dir, names, self.device)?;
        if let Some(ranks) = self.adapter.ranks {
            model = use_ranks(model, &adapter, ranks)?;
        }
        if self.adapter.fold {
            let Some(blocks) = self.blocks else {
                let reason = "--fold is of decoders whose attentions are skipped";
                return Err(Error::Setting(reason.to_owned()));
            };
            return fold(model, &adapter, blocks);
        }
        if has_four_bits(&model) {
            return Ok(model);
        }
        match merge(model.clone(), &adapter) {
            Err(Error::Unmergeable { .. }) => Ok(model),
            merged => merged,
        }
    }
}

/// Whether a model has weights of four bits.
pub fn has_four_bits<M: Module>(model: &M) -> bool {
    vlm_nn::adapter::all(model).values().any(|adapters| adapters.packed.is_some())
}

/// Opens a model of pictures and text, with an adapter on it if there is one, and with `four_bit` its
/// decoder in four bits.
///
/// # Errors
/// If one of them cannot be read, or the adapter is for another model.
pub fn open_generative(
    dir: &Path,
    adapter: Option<Worn<'_>>,
    four_bit: Option<FourBitConfig>,
    device: &Device,
) -> Result<GenerativeFolder> {
    let mut folder = GenerativeFolder::open_packed(dir, four_bit, device)?;
    if let Some(adapter) = adapter {
        let plan = &folder.plan;
        let names = |path: &str, rank: usize| plan.in_memory(path, rank);
        let blocks = folder.plan.spec.text.blocks.first();
        folder.model = Wear { adapter, device, blocks }.change(folder.model.clone(), &names)?;
        if let Some(memory) = folder.model.memory() {
            let (want, found) = (plan.spec.fused_width(), memory.picture_width());
            if want != found {
                let dir = adapter.dir.display();
                bail!("{dir}: is for pictures of {found} values a row; this model sees {want}");
            }
            folder.plan.spec.memory = true;
        }
    }
    Ok(folder)
}

/// Opens an encoder, likewise.
///
/// # Errors
/// As [`open_generative`].
pub fn open_encoder(
    dir: &Path,
    adapter: Option<Worn<'_>>,
    four_bit: Option<FourBitConfig>,
    device: &Device,
) -> Result<Encoder> {
    let mut encoder = Encoder::open_packed(dir, four_bit, device)?;
    if let Some(adapter) = adapter {
        let blocks = match &encoder {
            Encoder::Text(folder) => folder.plan.spec.blocks.first().cloned(),
            Encoder::Dual(folder) => folder.plan.spec.text.blocks.first().cloned(),
            Encoder::Vision(_) => None,
        };
        change_encoder(&mut encoder, &mut Wear { adapter, device, blocks: blocks.as_ref() })?;
        match &mut encoder {
            Encoder::Text(TextFolder { plan, model, .. }) => {
                leave_places(&mut plan.spec, front(&model.text.tokens))?;
            }
            Encoder::Dual(DualFolder { plan, model, .. }) => {
                leave_places(&mut plan.spec.text, front(&model.text.tokens))?;
            }
            Encoder::Vision(_) => {}
        }
    }
    Ok(encoder)
}

/// How many learned tokens stand in front of each text.
fn front(tokens: &Param<Tensor<2>>) -> usize {
    vlm_nn::adapter::front(tokens).map_or(0, |rows| rows.dims()[0])
}

/// Lets so many of a text's places to what stands in front of it, where places are learned and there are
/// no more.
///
/// # Errors
/// If none is left.
fn leave_places(text: &mut TextSpec, rows: usize) -> Result<()> {
    // Start, a token, end.
    const LEAST: usize = 3;
    if !text.positions || rows == 0 {
        return Ok(());
    }
    if rows + LEAST > text.context {
        bail!(
            "{rows} tokens in front leave no place for a text: the model has {} places",
            text.context
        );
    }
    text.context -= rows;
    Ok(())
}

/// Opens a dual encoder, likewise.
///
/// # Errors
/// As [`open_generative`]; if it is none, or there is an adapter and it is of two towers.
pub fn open_dual(
    dir: &Path,
    adapter: Option<Worn<'_>>,
    four_bit: Option<FourBitConfig>,
    device: &Device,
) -> Result<Dual> {
    let shown = dir.display();
    let Some(adapter) = adapter else { return Ok(Dual::open(dir, device)?) };
    if JoinedFolder::is_one(dir) {
        bail!("{shown}: holds two towers; an adapter is for a model of one config.json");
    }
    match open_encoder(dir, Some(adapter), four_bit, device)? {
        Encoder::Dual(folder) => Ok(Dual::One(folder)),
        _ => bail!("{shown}: holds one encoder; this needs one of pictures and texts"),
    }
}
