//! `vlm retrieve`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use vlm_contrastive::{Dual, embed_pictures, embed_texts, zero_shot::top_k};

use crate::output;

/// Arguments of `vlm retrieve`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
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

const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm"];

/// The pictures below a folder, in a fixed order.
fn pictures(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("{}: cannot read the folder", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| dir.display().to_string())?.path());
    }
    paths.sort();
    for path in paths {
        // A link to a folder could lead in a circle.
        if path.is_dir() && !path.is_symlink() {
            pictures(&path, found)?;
        } else {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()) {
                found.push(path);
            }
        }
    }
    Ok(())
}

/// Ranks the pictures by their similarity to the query.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let mut paths = Vec::new();
    pictures(&args.images, &mut paths)?;
    if paths.is_empty() {
        let (dir, endings) = (args.images.display(), EXTENSIONS.join(", "));
        bail!("{dir}: no pictures below it; give a folder that holds some ({endings})");
    }
    let clip = Dual::open(&args.model, device)?;
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
