//! `vlm zero-shot`.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;
use vlm_contrastive::{Classifier, embed_pictures, zero_shot};

use crate::adapter::{AdapterArgs, open_dual};
use crate::labels::{Labels, TemplateChoice};
use crate::output;

/// Arguments of `vlm zero-shot`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// The pictures.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    image: Vec<PathBuf>,
    #[command(flatten)]
    labels: Labels,
    #[command(flatten)]
    templates: TemplateChoice,
    /// How many labels to print for each picture.
    #[arg(long, value_name = "N", default_value = "5", value_parser = output::count)]
    top_k: usize,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    image: String,
    labels: Vec<Guess>,
}

#[derive(Serialize)]
struct Guess {
    label: String,
    probability: f32,
}

/// Classifies the pictures.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let labels = args.labels.read()?;
    let templates = args.templates.read()?;
    let clip = open_dual(&args.model, args.adapter.worn(), None, device)?;
    let features = embed_pictures(&clip, &args.image).map_err(output::blame(&args.model))?;
    let classifier =
        Classifier::new(&clip, &labels, &templates).map_err(output::blame(&args.model))?;
    let similarities = features.matmul(classifier.weights.clone().transpose());
    let probabilities: Vec<f32> = clip.probabilities(similarities).into_data().iter().collect();
    let predictions: Vec<Prediction> = args
        .image
        .iter()
        .zip(probabilities.chunks(labels.len()))
        .map(|(image, row)| Prediction {
            image: image.display().to_string(),
            labels: zero_shot::top_k(row, args.top_k)
                .into_iter()
                .map(|i| Guess { label: labels[i].clone(), probability: row[i] })
                .collect(),
        })
        .collect();
    if args.json {
        return output::json(&Document { predictions });
    }
    for prediction in predictions {
        output::line(&prediction.image)?;
        for guess in prediction.labels {
            output::line(&format!("  {:6.2} %  {}", 100.0 * guess.probability, guess.label))?;
        }
    }
    Ok(())
}
