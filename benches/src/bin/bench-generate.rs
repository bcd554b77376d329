//! Time and peak memory of a decoder that reads a prompt and writes an answer, one measurement a
//! process.
//!
//! Prints one line of JSON; `cargo xtask bench generate` runs it beside benches/generate.py, which
//! prints the same, and compares.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use serde_json::json;
use vlm_benches::{memory, simd, time};
use vlm_encoders::image::load;
use vlm_encoders::{TextModel, Weights};
use vlm_fusion::decode::{Decode, Prompt, Sampling, generate};
use vlm_fusion::{GenerativeFolder, Prepared};
use vlm_nn::Cache;

/// What is asked about a picture; the same in benches/generate.py.
const QUESTION: &str = "<image>\nWhat is in this picture?";

/// Measure one thing about a decoder and print it as a line of JSON
#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum)]
    task: Task,
    /// The model folder
    #[arg(long, value_name = "DIR", default_value = "datasets/.cache/smollm2")]
    model: PathBuf,
    /// A picture to ask about, where the folder holds a model of pictures and texts
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    image: Option<PathBuf>,
    /// Tokens of the prompt, where there is no picture
    #[arg(long, default_value_t = 256)]
    prompt: usize,
    /// Tokens of the answer
    #[arg(long, default_value_t = 64)]
    answer: usize,
    /// Prompts at a time
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Measured repetitions [default: prefill 7, decode 3]
    #[arg(long)]
    repeats: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Reading the prompt, up to the logits of the first token
    Prefill,
    /// Writing the answer, from its first token on
    Decode,
}

fn main() -> Result<()> {
    let args = Args::parse();
    vlm_train::keep_freed_memory();
    let base = memory("VmRSS");
    let device = Device::default();
    let told = told(&args, &device)?;
    let prompt = told.prompt()?;
    let tokens = prompt.ids[0].len();
    let (name, tokens, seconds) = match args.task {
        Task::Prefill => {
            let repeats = args.repeats.unwrap_or(7);
            // The picture is looked at each time.
            let step = || drop(told.prompt().map(|prompt| prefill(told.model(), &prompt)));
            ("prefill", tokens, time(2, repeats, &device, step))
        }
        Task::Decode => {
            let repeats = args.repeats.unwrap_or(3);
            let runs = (0..=repeats).map(|_| decode(told.model(), &prompt, args.answer));
            ("decode", args.answer - 1, runs.skip(1).collect::<Result<_>>()?)
        }
    };
    let line = json!({
        "program": "vlm",
        "task": name,
        "batch": args.batch * tokens,
        "seconds": seconds,
        "peak_mib": memory("VmHWM"),
        "base_mib": base,
        "simd": simd(),
        "threads": std::thread::available_parallelism()?.get(),
    });
    println!("{line}");
    Ok(())
}

/// A model and what it is told.
enum Told {
    Tokens(Box<TextModel>, Vec<Vec<i64>>),
    Picture(Box<GenerativeFolder>, Vec<Prepared>),
}

fn told(args: &Args, device: &Device) -> Result<Told> {
    if let Some(path) = &args.image {
        let folder = GenerativeFolder::open(&args.model, device)?;
        let prepared = folder.prepare_marked(QUESTION, &[load(path)?])?;
        return Ok(Told::Picture(Box::new(folder), vec![prepared; args.batch]));
    }
    let Weights::Text(_, model) = Weights::open(&args.model, device)? else {
        bail!("{}: no decoder; give the folder of one", args.model.display());
    };
    let vocabulary = model.text.vocabulary();
    // The same in benches/generate.py.
    let ids = (0..args.prompt).map(|i| ((i * 7919 + 13) % (vocabulary - 100) + 100) as i64);
    let ids = vec![ids.collect(); args.batch];
    Ok(Told::Tokens(Box::new(model), ids))
}

impl Told {
    fn model(&self) -> &dyn Decode {
        match self {
            Told::Tokens(model, _) => &model.text,
            Told::Picture(folder, _) => &folder.model,
        }
    }

    fn prompt(&self) -> Result<Prompt> {
        Ok(match self {
            Told::Tokens(model, ids) => Prompt::of_ids(&model.text, ids.clone())?,
            Told::Picture(folder, prepared) => folder.model.prompt(prepared)?,
        })
    }
}

fn prefill(model: &dyn Decode, prompt: &Prompt) {
    let mut cache = Cache::new();
    let places = prompt.rows.dims()[1];
    let mut pass = prompt.pass(0, places, model.context()).with_cache(&mut cache);
    let states = model.extend(prompt.rows.clone(), &mut pass);
    drop(model.logits(states.narrow(1, places - 1, 1)).into_data());
}

/// Seconds from the first token of the answer to the last.
fn decode(model: &dyn Decode, prompt: &Prompt, answer: usize) -> Result<f64> {
    let sampling = Sampling { max_tokens: answer, ..Sampling::default() };
    let mut first = None;
    generate(model, prompt, &sampling, &mut |_, _| {
        first.get_or_insert_with(Instant::now);
        ControlFlow::Continue(())
    })?;
    Ok(first.map_or(f64::NAN, |first| first.elapsed().as_secs_f64()))
}
