//! `vlm assemble`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use vlm_encoders::Float;
use vlm_fusion::Assembly;
use vlm_fusion::fuse::{FusionConfig, count};
use vlm_store::StagedDir;

use crate::config::set;
use crate::output::{self, Usage};

/// Arguments of `vlm assemble`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of an image encoder: DINOv2, CLIP, SigLIP, ViT.
    #[arg(long, value_name = "DIR")]
    vision: PathBuf,
    /// The folder of a language model: Llama, Qwen, Gemma.
    #[arg(long, value_name = "DIR")]
    language: PathBuf,
    /// What stands between: linear, mlp, pixel-shuffle, resampler, q-former, co-attention, merged.
    #[arg(long, value_name = "KIND", default_value = "mlp")]
    fusion: String,
    /// Change the fusion, such as --set pool=2 or --set latents=16.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Layers of the image encoder that are looked through; below 0 they count from behind.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    layer: Option<i64>,
    /// Side in pixels that pictures are stretched to; as the image encoder has it otherwise.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Blocks of the language model that are kept, from the first on: a shallower one is faster, and has to be
    /// trained along.
    #[arg(long, value_name = "N")]
    language_layers: Option<usize>,
    /// Let the tokens of a prompt see each other both ways (PaliGemma's prefix-LM).
    #[arg(long)]
    prefix_lm: bool,
    /// Leave out the language model's chat template: fewer tokens, one question at a time, nothing around it.
    #[arg(long)]
    plain: bool,
    /// Start values derive from it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The new model's folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

/// Joins two models to a new one, whose fusion has yet to be trained.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    if args.out.exists() && !args.force {
        bail!("{} exists; give --force to replace it", args.out.display());
    }
    let assembly = Assembly {
        fusion: fusion(&args.fusion, &args.set)?,
        layer: args.layer,
        image_size: args.image_size,
        language_layers: args.language_layers,
        prefix_lm: args.prefix_lm,
        plain: args.plain,
        ..Assembly::new(&args.vision, &args.language)
    };
    let folder = assembly.assemble(std::iter::empty(), args.seed, device)?;
    let staged = StagedDir::new(&args.out).with_context(|| args.out.display().to_string())?;
    folder.save(staged.path(), Float::F32)?;
    staged.commit().with_context(|| args.out.display().to_string())?;
    let model = &folder.model;
    let size = folder.images.output_size().unwrap_or_default();
    output::line(&format!("model type   {}", folder.plan.model_type()))?;
    output::line(&format!("picture      {}x{} pixels", size.0, size.1))?;
    output::line(&format!("rows each    {}", folder.rows_of(size)))?;
    for (name, values) in [
        ("vision", count(&model.vision)),
        ("fusion", count(&model.fusion)),
        ("text", count(&model.text)),
    ] {
        output::line(&format!("{name:<12} {values} values"))?;
    }
    output::line(&format!(
        "written to   {}; its fusion is untrained: see vlm train",
        args.out.display()
    ))
}

/// A kind and its choices, which are JSON or TOML values.
fn fusion(kind: &str, settings: &[String]) -> Result<FusionConfig> {
    let mut fields = toml::Table::new();
    fields.insert("kind".into(), kind.into());
    for setting in settings {
        set(&mut fields, setting).map_err(|e| Usage(format!("--set {setting}: {e}")))?;
    }
    let config: FusionConfig = fields
        .try_into()
        .map_err(|e: toml::de::Error| Usage(format!("--fusion {kind}: {}", e.message())))?;
    Ok(config)
}
