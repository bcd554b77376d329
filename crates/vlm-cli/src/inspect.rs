//! `vlm inspect`.

use std::io::Cursor;
use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use vlm_contrastive::JoinedFolder;
use vlm_encoders::image::RgbImage;
use vlm_encoders::{Blueprint, Encoder, TextSpec, VisionSpec};
use vlm_fusion::GenerativeFolder;
use vlm_store::write_file;
use vlm_train::{Card, Report, describe};

use crate::config::RunConfig;
use crate::train::Facts;
use crate::{output, train};

/// Arguments of `vlm inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// A model folder.
    #[arg(value_name = "DIR", required_unless_present = "batch")]
    dir: Option<PathBuf>,
    /// Show the first batch that this configuration trains on, after all preparation: writes
    /// an HTML page with the pictures and the tokens.
    #[arg(long, value_name = "CONFIG.toml", conflicts_with = "dir")]
    batch: Option<PathBuf>,
    /// Where to write the page.
    #[arg(long, value_name = "FILE.html", default_value = "batch.html", requires = "batch")]
    out: PathBuf,
    /// Change the configuration, such as --set batch.size=16.
    #[arg(long, value_name = "KEY=VALUE", requires = "batch")]
    set: Vec<String>,
}

/// Shows a model folder or a batch.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    match (&args.dir, &args.batch) {
        (_, Some(config)) => batch(config, args, device),
        (Some(dir), None) => model(dir, device),
        (None, None) => Ok(()),
    }
}

fn model(dir: &std::path::Path, device: &Device) -> Result<()> {
    if JoinedFolder::is_one(dir) {
        return joined(dir, device);
    }
    if GenerativeFolder::is_one(dir) {
        return generative(dir, device);
    }
    match Encoder::open(dir, device)? {
        Encoder::Vision(folder) => {
            head(dir, folder.plan.model_type(), "image encoder")?;
            image_tower(&folder.plan.spec)?;
            tensors(&folder.plan, &folder.model)
        }
        Encoder::Text(folder) => {
            head(dir, folder.plan.model_type(), "text encoder")?;
            text_tower(&folder.plan.spec)?;
            tensors(&folder.plan, &folder.model)
        }
        Encoder::Dual(folder) => {
            head(dir, folder.plan.model_type(), "dual encoder")?;
            image_tower(&folder.plan.spec.vision)?;
            text_tower(&folder.plan.spec.text)?;
            shared(folder.plan.spec.dim, folder.model.scale())?;
            tensors(&folder.plan, &folder.model)
        }
    }
}

/// Two towers with heads.
fn joined(dir: &std::path::Path, device: &Device) -> Result<()> {
    let folder = JoinedFolder::open(dir, device)?;
    head(dir, "two towers with heads", "dual encoder")?;
    image_tower(&folder.vision.plan.spec)?;
    text_tower(&folder.text.plan.spec)?;
    shared(folder.dim(), folder.scale())?;
    tensors(&folder.vision.plan, &folder.vision.model)?;
    tensors(&folder.text.plan, &folder.text.model)?;
    output::line("heads")?;
    folder.heads().into_iter().try_for_each(|(name, shape)| tensor(&name, &shape))
}

/// An image tower, a fusion and a decoder.
fn generative(dir: &std::path::Path, device: &Device) -> Result<()> {
    let folder = GenerativeFolder::open(dir, device)?;
    let (plan, spec) = (&folder.plan, &folder.plan.spec);
    head(dir, plan.model_type(), "pictures and text in, text out")?;
    image_tower(&spec.vision)?;
    let rows = folder.images.output_size().map(|size| folder.rows_of(size));
    let rows = rows.map(|rows| format!(", {rows} places a picture")).unwrap_or_default();
    output::line(&format!("fusion       {}{rows}", spec.fusion.kind()))?;
    text_tower(&spec.text)?;
    totals(&folder.model)?;
    plan.tensors(&folder.model).iter().try_for_each(|(name, shape)| tensor(name, shape))
}

fn shared(dim: usize, scale: f32) -> Result<()> {
    output::line(&format!("shared space {dim} dimensions, logit scale {scale:.2}"))
}

fn tensor(name: &str, shape: &[usize]) -> Result<()> {
    output::line(&format!("  {name:<72} {shape:?}"))
}

fn head(dir: &std::path::Path, kind: &str, what: &str) -> Result<()> {
    output::line(&format!("{kind} in {}, {what}", dir.display()))
}

fn image_tower(spec: &VisionSpec) -> Result<()> {
    let (height, width) = spec.image;
    output::line(&format!(
        "image tower  {} layers, width {}, {} heads, {width}x{height} px in patches of {}",
        spec.layers, spec.block.width, spec.block.heads, spec.patch
    ))
}

fn text_tower(spec: &TextSpec) -> Result<()> {
    output::line(&format!(
        "text tower   {} layers, width {}, {} heads, {} tokens known, {} at a time",
        spec.blocks.len(),
        spec.shape.width,
        spec.shape.heads,
        spec.vocabulary,
        spec.context
    ))
}

fn tensors<S, M: Module>(plan: &Blueprint<S>, model: &M) -> Result<()> {
    totals(model)?;
    plan.tensors(model).iter().try_for_each(|(name, shape)| tensor(name, shape))
}

fn totals<M: Module>(model: &M) -> Result<()> {
    let mut parts = describe(model).into_iter();
    parts.try_for_each(|part| output::line(&format!("{:<20} {:>12} values", part.part, part.total)))
}

/// What a model sees first.
pub struct Preview {
    pub pictures: Vec<Seen>,
    pub facts: Facts,
    /// Why tokens are marked.
    pub note: &'static str,
}

/// Of models that make one vector of a text.
pub const STANDS_FOR: &str =
    "The marked token is the one that stands for the text; where none is, all do.";

/// A picture and its text after all preparation.
pub struct Seen {
    pub picture: RgbImage,
    pub caption: String,
    pub tokens: Vec<String>,
    /// The places of tokens that matter more than others.
    pub marked: Vec<usize>,
}

/// The pictures as the model sees them, and the tokens.
fn batch(path: &std::path::Path, args: &Args, device: &Device) -> Result<()> {
    let config = RunConfig::read(path, &args.set)?;
    let preview = match (&config.model.towers, &config.model.generative) {
        (_, Some(generative)) => train::generative::preview(&config, generative, device)?,
        (Some(join), None) => train::joined::preview(&config, join, device)?,
        (None, None) => one(&config, device)?,
    };
    let mut cards = Vec::new();
    for seen in preview.pictures {
        let tokens = seen.tokens.into_iter().enumerate();
        let mut png = Cursor::new(Vec::new());
        let written = seen.picture.write_to(&mut png, ::image::ImageFormat::Png);
        written.context("cannot draw a picture")?;
        cards.push(Card {
            image_png: png.into_inner(),
            caption: seen.caption,
            lines: tokens.map(|(i, token)| (token, None, seen.marked.contains(&i))).collect(),
            more: vec![],
        });
    }
    let mut report = Report::new(&format!("The first batch of {}", path.display()));
    report.facts(&preview.facts);
    report.gallery("What the model sees", preview.note, &cards);
    write_file(&args.out, &mut |w| w.write_all(report.render().as_bytes()))?;
    output::line(&args.out.display().to_string())
}

/// The first batch of a model in one folder.
fn one(config: &RunConfig, device: &Device) -> Result<Preview> {
    let parts = train::prepare(config, device)?;
    let task = train::task(config, &parts)?;
    let (indices, batch) = task.preview().map_err(anyhow::Error::from_boxed)?;
    let (_, _, tokenizer) = &parts.folder;
    let mut pictures = Vec::new();
    for (row, index) in indices.iter().enumerate() {
        let sample = &parts.data.samples[*index];
        let ids = &batch.texts.ids[row * batch.texts.cols..(row + 1) * batch.texts.cols];
        let end = batch.ends[row] as usize;
        pictures.push(Seen {
            picture: batch.pictures[row].picture(),
            caption: format!("{} ({})", sample.captions[0], sample.image_ref),
            tokens: ids[..=end].iter().map(|id| tokenizer.shown(*id)).collect(),
            marked: vec![end],
        });
    }
    let extra = batch.texts.rows - batch.pictures.len();
    let facts = vec![
        ("pictures", batch.pictures.len().to_string()),
        ("texts", format!("{} ({extra} of them only as wrong answers)", batch.texts.rows)),
        ("texts cut to the context", batch.texts.truncated.to_string()),
        (
            "patches looked at",
            match batch.keep.first() {
                Some(kept) => kept.len().to_string(),
                None => "all".into(),
            },
        ),
    ];
    Ok(Preview { pictures, facts, note: STANDS_FOR })
}
