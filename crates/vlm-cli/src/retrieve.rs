//! `vlm retrieve`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use vlm_contrastive::index::{ENDINGS, walk};
use vlm_contrastive::{embed_pictures, embed_texts, zero_shot::top_k};

use crate::adapter::{AdapterArgs, open_dual};
use crate::output;

/// Arguments of `vlm retrieve`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// The folder of pictures; folders in it are searched too.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// What to look for.
    #[arg(long, value_name = "TEXT")]
    query: String,
    /// How many pictures to print.
    #[arg(long, value_name = "N", default_value = "10", value_parser = output::count)]
    top_k: usize,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    query: &'a str,
    results: Vec<Hit>,
}

#[derive(Serialize)]
struct Hit {
    image: String,
    similarity: f32,
}

/// Ranks the pictures by their similarity to the query.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let found = walk(&args.images)
        .with_context(|| format!("{}: cannot read the folder", args.images.display()))?;
    let paths: Vec<PathBuf> =
        found.pictures.into_iter().map(|picture| args.images.join(picture.name)).collect();
    if paths.is_empty() {
        let (dir, endings) = (args.images.display(), ENDINGS.join(", "));
        bail!("{dir}: no pictures below it; give a folder that holds some ({endings})");
    }
    let clip = open_dual(&args.model, args.adapter.worn(), None, device)?;
    let query = embed_texts(&clip, std::slice::from_ref(&args.query))
        .map_err(output::blame(&args.model))?;
    let features = embed_pictures(&clip, &paths).map_err(output::blame(&args.model))?;
    let scores: Vec<f32> = features.matmul(query.transpose()).into_data().iter().collect();
    let results: Vec<Hit> = top_k(&scores, args.top_k)
        .into_iter()
        .map(|i| Hit { image: paths[i].display().to_string(), similarity: scores[i] })
        .collect();
    if args.json {
        return output::json(&Document { query: &args.query, results });
    }
    for hit in results {
        output::line(&format!("{:7.4}  {}", hit.similarity, hit.image))?;
    }
    Ok(())
}
