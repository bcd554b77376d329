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
use vlm_encoders::{TextTower, Weights};
use vlm_fusion::decode::{Decode, Prompt, Sampling, generate};
use vlm_nn::Cache;

/// Measure one thing about a decoder and print it as a line of JSON
#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum)]
    task: Task,
    /// The model folder
    #[arg(long, value_name = "DIR", default_value = "datasets/.cache/smollm2")]
    model: PathBuf,
    /// Tokens of the prompt
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
    let base = memory("VmRSS");
    let device = Device::default();
    let Weights::Text(_, model) = Weights::open(&args.model, &device)? else {
        bail!("{}: no decoder; give the folder of one", args.model.display());
    };
    let tower = model.text;
    let ids = ids(args.prompt, tower.vocabulary());
    let prompt = Prompt::of_ids(&tower, vec![ids; args.batch])?;
    let (name, tokens, seconds) = match args.task {
        Task::Prefill => {
            let repeats = args.repeats.unwrap_or(7);
            ("prefill", args.prompt, time(2, repeats, &device, || prefill(&tower, &prompt)))
        }
        Task::Decode => {
            let repeats = args.repeats.unwrap_or(3);
            let runs = (0..=repeats).map(|_| decode(&tower, &prompt, args.answer));
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

/// The same in benches/generate.py.
fn ids(count: usize, vocabulary: usize) -> Vec<i64> {
    (0..count).map(|i| ((i * 7919 + 13) % (vocabulary - 100) + 100) as i64).collect()
}

fn prefill(tower: &TextTower, prompt: &Prompt) {
    let mut cache = Cache::new();
    let places = prompt.rows.dims()[1];
    let mut pass = prompt.pass(0, places, tower.context()).with_cache(&mut cache);
    let states = Decode::extend(tower, prompt.rows.clone(), &mut pass);
    drop(tower.logits(states.narrow(1, places - 1, 1)).into_data());
}

/// Seconds from the first token of the answer to the last.
fn decode(tower: &TextTower, prompt: &Prompt, answer: usize) -> Result<f64> {
    let sampling = Sampling { max_tokens: answer, ..Sampling::default() };
    let mut first = None;
    generate(tower, prompt, &sampling, &mut |_, _| {
        first.get_or_insert_with(Instant::now);
        ControlFlow::Continue(())
    })?;
    Ok(first.map_or(f64::NAN, |first| first.elapsed().as_secs_f64()))
}
