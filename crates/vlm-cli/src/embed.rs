//! `vlm embed`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use vlm_contrastive::{JoinedFolder, embed_pictures, embed_texts};
use vlm_encoders::{Encoder, PictureEncoder, States, TextEncoder, batch_pixels};
use vlm_store::{Float, TensorSpec, write_tensors};

use crate::adapter::{AdapterArgs, open_encoder};
use crate::output;

/// Arguments of `vlm embed`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["image", "text"])))]
pub struct Args {
    /// The model folder: a dual encoder, or an image or text encoder alone.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Pictures to embed.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    image: Vec<PathBuf>,
    /// Texts to embed.
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    text: Vec<String>,
    /// Write the features, `[count, dim]` under the name `embeddings`, to a file. Those of a dual
    /// encoder have length 1; those of a single one are what it pools, or the mean of its
    /// states (a decoder: its last state), and as sentence-transformers says where it says.
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Write what the tower says, under transformers' names: last_hidden_state, pooler_output if
    /// there is one, and what it saw (pixel_values, or input_ids and attention_mask).
    #[arg(long, value_name = "FILE.safetensors")]
    hidden: Option<PathBuf>,
    /// With --hidden: also hidden_states.0 (before the first layer) to hidden_states.N.
    #[arg(long, requires = "hidden")]
    layers: bool,
    /// With --hidden: also logits over the vocabulary, of a model that has them.
    #[arg(long, requires = "hidden")]
    logits: bool,
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
    let dir = &args.model;
    if JoinedFolder::is_one(dir) && args.adapter.worn().is_none() {
        if args.hidden.is_some() {
            let dir = dir.display();
            anyhow::bail!(
                "{dir}: holds two towers; for --hidden give --model {dir}/vision or {dir}/text"
            );
        }
        return features(&JoinedFolder::open(dir, device)?, args);
    }
    let encoder = open_encoder(dir, args.adapter.worn(), None, device)?;
    if let Some(path) = &args.hidden {
        let tensors = hidden(&encoder, args, device)?;
        write(path, tensors)?;
        if args.out.is_none() && !args.json {
            return output::line(&path.display().to_string());
        }
    }
    features(&encoder, args)
}

/// Writes or prints the features.
fn features(encoder: &(impl PictureEncoder + TextEncoder), args: &Args) -> Result<()> {
    let features = if args.image.is_empty() {
        embed_texts(encoder, &args.text)
    } else {
        embed_pictures(encoder, &args.image)
    };
    let features = features.map_err(output::blame(&args.model))?;
    let [count, dim] = features.dims();
    if let Some(path) = &args.out {
        write(path, vec![("embeddings".into(), features.clone().into_data())])?;
    }
    let values: Vec<f32> = features.into_data().iter().collect();
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

type Tensors = Vec<(String, TensorData)>;

/// What the tower saw and says, by name.
fn hidden(encoder: &Encoder, args: &Args, device: &Device) -> Result<Tensors> {
    let mut tensors = Vec::new();
    let states = if args.image.is_empty() {
        let said = encoder.text_states(&args.text, args.layers).map_err(anyhow::Error::from)?;
        let shape = [said.batch.rows, said.batch.cols];
        let ids: Vec<f32> = said.batch.ids.iter().map(|id| *id as f32).collect();
        let seen: Vec<f32> = said.batch.mask.iter().map(|s| f32::from(u8::from(*s))).collect();
        tensors.push(("input_ids".into(), TensorData::new(ids, shape)));
        tensors.push(("attention_mask".into(), TensorData::new(seen, shape)));
        said.states
    } else {
        let images = match encoder {
            Encoder::Vision(folder) => &folder.images,
            Encoder::Dual(folder) => &folder.images,
            Encoder::Text(_) => {
                anyhow::bail!(vlm_encoders::Error::OneTower { has: "text", wants: "pictures" })
            }
        };
        let pictures = args
            .image
            .iter()
            .map(|path| images.process_path(path))
            .collect::<Result<Vec<_>, _>>()?;
        if pictures.iter().any(|picture| picture.size() != pictures[0].size()) {
            anyhow::bail!(
                "the pictures have different sizes after preparation; give --hidden one at a time"
            );
        }
        let states = encoder.image_states(&pictures, args.layers)?;
        tensors.push(("pixel_values".into(), batch_pixels(&pictures, device).into_data()));
        states
    };
    if args.logits {
        let Encoder::Text(folder) = encoder else {
            anyhow::bail!("{}: has no logits over a vocabulary", args.model.display());
        };
        if folder.plan.spec.head.is_none() {
            anyhow::bail!("{}: has no logits over a vocabulary", args.model.display());
        }
        let logits: Tensor<3> = folder.model.text.logits(states.last.clone());
        tensors.push(("logits".into(), logits.into_data()));
    }
    let States { last, pooled, layers } = states;
    tensors.push(("last_hidden_state".into(), last.into_data()));
    tensors.extend(pooled.map(|pooled| ("pooler_output".into(), pooled.into_data())));
    let layers = layers.into_iter().enumerate();
    tensors.extend(layers.map(|(i, state)| (format!("hidden_states.{i}"), state.into_data())));
    Ok(tensors)
}

fn write(path: &Path, tensors: Tensors) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, data)| TensorSpec { name: name.clone(), shape: data.shape().to_vec() })
        .collect();
    write_tensors(path, Float::F32, &[], &specs, &mut |name| {
        let found = tensors.iter().find(|(other, _)| other == name);
        found.map_or_else(|| TensorData::zeros::<f32, _>([0]), |(_, data)| data.clone())
    })?;
    Ok(())
}
