//! `vlm inspect`.

use std::io::Cursor;
use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::tensor::Device;
use vlm_encoders::{ClipFolder, ClipModel};
use vlm_nn::params;
use vlm_store::write_file;
use vlm_train::{Card, Report, describe};

use crate::config::RunConfig;
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
    let clip = ClipFolder::open(dir, device)?;
    let (v, t) = (&clip.config.vision, &clip.config.text);
    output::line(&format!("CLIPModel in {}", dir.display()))?;
    output::line(&format!(
        "image tower  {} layers, width {}, {} heads, {} px in patches of {}",
        v.num_hidden_layers, v.hidden_size, v.num_attention_heads, v.image_size, v.patch_size
    ))?;
    output::line(&format!(
        "text tower   {} layers, width {}, {} heads, {} tokens known, {} at a time",
        t.num_hidden_layers,
        t.hidden_size,
        t.num_attention_heads,
        t.vocab_size,
        t.max_position_embeddings
    ))?;
    output::line(&format!(
        "shared space {} dimensions, logit scale {:.2}",
        clip.config.projection_dim,
        clip.model.scale()
    ))?;
    for part in describe(&clip.model) {
        output::line(&format!("{:<20} {:>12} values", part.part, part.total))?;
    }
    let names = ClipModel::names(&clip.config);
    for param in params::list(&clip.model) {
        let named = names(&param.path);
        let shape = named.layout.file_shape(&param.shape);
        output::line(&format!("  {:<72} {shape:?}", named.name))?;
    }
    Ok(())
}

/// The pictures as the model sees them, and the tokens, the pooled one marked.
fn batch(path: &std::path::Path, args: &Args, device: &Device) -> Result<()> {
    let config = RunConfig::read(path, &args.set)?;
    let parts = train::prepare(&config, device)?;
    let task = train::task(&config, &parts)?;
    let (indices, batch) = task.preview().map_err(anyhow::Error::from_boxed)?;
    let (_, _, tokenizer) = &parts.folder;
    let mut cards = Vec::new();
    for (row, index) in indices.iter().enumerate() {
        let sample = &parts.data.samples[*index];
        let ids = &batch.texts.ids[row * batch.texts.cols..(row + 1) * batch.texts.cols];
        let end = batch.ends[row] as usize;
        let tokens = ids[..=end]
            .iter()
            .enumerate()
            .map(|(i, id)| {
                let token = tokenizer.id_to_token(*id).unwrap_or_else(|| format!("#{id}"));
                (token, None, i == end)
            })
            .collect();
        let mut png = Cursor::new(Vec::new());
        batch.pictures[row]
            .picture()
            .write_to(&mut png, ::image::ImageFormat::Png)
            .context("cannot draw a picture")?;
        cards.push(Card {
            image_png: png.into_inner(),
            caption: format!("{} ({})", sample.captions[0], sample.image_ref),
            lines: tokens,
            more: vec![],
        });
    }
    let mut report = Report::new(&format!("The first batch of {}", path.display()));
    report.facts(&[
        ("pictures", batch.pictures.len().to_string()),
        (
            "texts",
            format!(
                "{} ({} of them only as wrong answers)",
                batch.texts.rows,
                batch.texts.rows - batch.pictures.len()
            ),
        ),
        ("texts cut to the context", batch.texts.truncated.to_string()),
        (
            "patches looked at",
            match batch.keep.first() {
                Some(kept) => kept.len().to_string(),
                None => "all".into(),
            },
        ),
    ]);
    report.gallery(
        "What the model sees",
        "The marked token is the one that stands for the text.",
        &cards,
    );
    write_file(&args.out, &mut |w| w.write_all(report.render().as_bytes()))?;
    output::line(&args.out.display().to_string())
}
