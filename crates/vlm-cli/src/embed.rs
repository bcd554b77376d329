//! `vlm embed`.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::{Device, TensorData};
use serde::Serialize;
use vlm_contrastive::{embed_pictures, embed_texts};
use vlm_encoders::ClipFolder;
use vlm_store::{Float, TensorSpec, write_tensors};

use crate::output;

/// Arguments of `vlm embed`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["image", "text"])))]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Pictures to embed.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    image: Vec<PathBuf>,
    /// Texts to embed.
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    text: Vec<String>,
    /// Write the features, `[count, dim]` under the name `embeddings`, to a file.
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    embeddings: Vec<Embedding>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Embedding {
    Image { image: String, embedding: Vec<f32> },
    Text { text: String, embedding: Vec<f32> },
}

/// Embeds pictures or texts.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let clip = ClipFolder::open(&args.model, device)?;
    let features = if args.image.is_empty() {
        embed_texts(&clip, &args.text)
    } else {
        embed_pictures(&clip, &args.image)
    };
    let features = features.map_err(output::blame(&args.model))?;
    let [count, dim] = features.dims();
    let values: Vec<f32> = features.into_data().iter().collect();
    if let Some(path) = &args.out {
        let spec = TensorSpec { name: "embeddings".into(), shape: vec![count, dim] };
        write_tensors(path, Float::F32, &[], &[spec], &mut |_| {
            TensorData::new(values.clone(), [count, dim])
        })?;
    }
    let mut embeddings = Vec::new();
    for (i, row) in values.chunks(dim).enumerate() {
        let embedding = row.to_vec();
        embeddings.push(if args.image.is_empty() {
            Embedding::Text { text: args.text[i].clone(), embedding }
        } else {
            Embedding::Image { image: args.image[i].display().to_string(), embedding }
        });
    }
    if args.json {
        return output::json(&Document { embeddings });
    }
    if let Some(path) = &args.out {
        return output::line(&format!("{count} features of {dim} values: {}", path.display()));
    }
    for embedding in embeddings {
        let (name, row) = match embedding {
            Embedding::Image { image, embedding } => (image, embedding),
            Embedding::Text { text, embedding } => (text, embedding),
        };
        let numbers: Vec<String> = row.iter().map(|x| format!("{x:.6}")).collect();
        output::line(&format!("{name}\t{}", numbers.join(" ")))?;
    }
    Ok(())
}
