//! `vlm generate`.

mod sampling;
mod say;
mod speaker;

use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::{Device, TensorData};
use image::ImageFormat;
use serde::Serialize;
use vlm_encoders::image::RgbImage;
use vlm_fusion::decode::{Decode, Prompt};
use vlm_fusion::spatial::{Located, find};
use vlm_nn::Cache;
use vlm_store::{Float, TensorSpec, write_file, write_tensors};

use crate::adapter::AdapterArgs;
use crate::boxes::{self, Drawn};
use crate::output;
pub use sampling::SamplingArgs;
pub use say::say;
pub use speaker::{Looked, Speaker};

/// Arguments of `vlm generate`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Pictures, in the order in which the prompt speaks of them.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    image: Vec<PathBuf>,
    /// What the model is told. A model with a chat template gets it as the user's message, after
    /// the pictures; a prompt that marks their places itself (`<image>`) is given as it is.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Give the prompt as it is, without the chat template.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print the answer word by word as it comes.
    #[arg(long, conflicts_with = "json")]
    stream: bool,
    /// Print one JSON document: text, token_ids (with the one that ended the answer),
    /// prompt_tokens, boxes (each with label and box: left, top, right, bottom from 0 to 1).
    #[arg(long)]
    json: bool,
    /// Draw the boxes of the answer on the first picture.
    #[arg(long, value_name = "FILE.png", requires = "image")]
    draw: Option<PathBuf>,
    /// Write the logits at each token of the prompt, `[1, tokens, vocabulary]` under the name
    /// `logits`, and the tokens as `input_ids`.
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
    /// Keep no keys and values: each token costs the whole text again. To compare with.
    #[arg(long)]
    no_cache: bool,
}

#[derive(Serialize)]
struct Document {
    text: String,
    token_ids: Vec<i64>,
    prompt_tokens: usize,
    boxes: Vec<Boxed>,
}

/// A box that the answer speaks of.
#[derive(Serialize)]
struct Boxed {
    label: Option<String>,
    /// Left, top, right, bottom, as shares of the picture's width and height.
    #[serde(rename = "box")]
    corners: [f64; 4],
}

/// Answers.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let mut sampling = args.sampling.read(&args.model)?;
    sampling.cached = !args.no_cache;
    let speaker = Speaker::open(&args.model, args.adapter.worn(), device)?;
    let pictures =
        args.image.iter().map(|path| speaker.picture(path)).collect::<Result<Vec<_>>>()?;
    let prompt = speaker.prompt(&args.prompt, &pictures, args.raw)?;
    if let Some(path) = &args.logits {
        write_logits(path, speaker.decoder(), &prompt)?;
    }
    let show: &mut dyn FnMut(&str) -> Result<ControlFlow<()>> =
        if args.stream { &mut output::piece } else { &mut |_| Ok(ControlFlow::Continue(())) };
    let mut cache = Cache::new();
    let said = say(&speaker, &mut cache, &prompt, &sampling, &args.sampling.stop, show)?;
    // Tokens of places may count as special, which the text leaves out.
    let tokenizer = speaker.tokenizer();
    let known = |id: &i64| tokenizer.id_to_token(*id).is_some();
    let ids: Vec<i64> = said.ids.iter().copied().filter(known).collect();
    let whole = tokenizer.decode_with_special(&ids)?;
    let found = find(&whole);
    if let (Some(path), Some(picture)) = (&args.draw, pictures.first()) {
        draw(path, picture, &found)?;
    }
    if args.json {
        return output::json(&Document {
            text: said.text,
            token_ids: said.ids,
            prompt_tokens: prompt.ids[0].len(),
            boxes: found
                .into_iter()
                .map(|located| Boxed { label: located.label, corners: located.bbox.corners() })
                .collect(),
        });
    }
    output::line(if args.stream { "" } else { &said.text })
}

/// Writes the picture with the boxes on it; without boxes it is the picture itself, which is said.
fn draw(path: &Path, picture: &RgbImage, found: &[Located]) -> Result<()> {
    let colors = boxes::COLORS.iter().cycle();
    let drawn: Vec<Drawn> = found
        .iter()
        .zip(colors)
        .map(|(located, color)| Drawn {
            bbox: located.bbox,
            label: located.label.clone().unwrap_or_default(),
            color: *color,
        })
        .collect();
    if drawn.is_empty() {
        output::note("the answer has no boxes; the picture is written without any");
    }
    let sheet = boxes::draw(picture, &drawn)?;
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).with_context(|| path.display().to_string())?;
    let png = png.into_inner();
    Ok(write_file(path, &mut |w| w.write_all(&png))?)
}

/// What the model holds likely after each token of the prompt.
fn write_logits(path: &Path, model: &dyn Decode, prompt: &Prompt) -> Result<()> {
    let [batch, tokens, _] = prompt.rows.dims();
    let mut pass = prompt.pass(0, tokens, model.context());
    let logits = model.logits(model.extend(prompt.rows.clone(), &mut pass));
    let ids: Vec<f32> = prompt.ids.iter().flatten().map(|id| *id as f32).collect();
    let spec = |name: &str, shape: Vec<usize>| TensorSpec { name: name.into(), shape };
    let specs = [spec("input_ids", vec![batch, tokens]), spec("logits", logits.dims().to_vec())];
    let mut logits = Some(logits);
    write_tensors(path, Float::F32, &[], &specs, &mut |name| match logits.take() {
        Some(logits) if name == "logits" => logits.into_data(),
        other => {
            logits = other;
            TensorData::new(ids.clone(), [batch, tokens])
        }
    })?;
    Ok(())
}
