//! `vlm import`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use vlm_import::Options;

use crate::output::{self, Stored};

/// Arguments of `vlm import`.
#[derive(clap::Args)]
pub struct Args {
    /// The file: GGUF of a Llama, Qwen 2, Qwen 3 or Gemma 1 to 3 model, or ONNX of a DINOv2
    /// encoder. What it is shows in its content, not its name.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The model folder to make.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The type to store weights in.
    #[arg(long, value_enum, value_name = "FLOAT", default_value_t = Stored::F32)]
    float: Stored,
    /// Replace a model folder that is there.
    #[arg(long)]
    force: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    folder: String,
    format: &'static str,
    architecture: String,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    files: Vec<&'static str>,
    left_out: Vec<String>,
}

/// Turns a file into a model folder.
pub fn run(args: &Args) -> Result<()> {
    let options = Options { float: args.float.into(), force: args.force };
    let began = Instant::now();
    let mut spoke = began;
    let made = vlm_import::import(&args.file, &args.dir, &options, &mut |done, total| {
        if spoke.elapsed() >= Duration::from_secs(1) && done > 0 {
            spoke = Instant::now();
            let left = began.elapsed().as_secs_f64() * (total - done) as f64 / done as f64;
            output::note(&format!(
                "{} of {}, {left:.0} s left",
                output::size(done),
                output::size(total)
            ));
        }
    })?;
    let folder = args.dir.display().to_string();
    if args.json {
        return output::json(&Document {
            folder,
            format: made.format.name(),
            architecture: made.architecture,
            tensors: made.tensors,
            parameters: made.parameters,
            bytes: made.bytes,
            files: made.files,
            left_out: made.left_out,
        });
    }
    output::line(&format!(
        "{} from {} in {folder}: {} tensors, {} parameters, {}",
        made.architecture,
        made.format.name(),
        made.tensors,
        made.parameters,
        output::size(made.bytes)
    ))?;
    if !made.left_out.is_empty() {
        output::note(&format!(
            "left out {} tensors that belong to something else, such as {}",
            made.left_out.len(),
            made.left_out[0]
        ));
    }
    Ok(())
}
