//! `cargo xtask bench slots`: what skipped attentions and remembered pictures save.

use anyhow::{Context, Result};
use serde_json::Value;

use super::table::Reading;
use super::{Args, machine, printed};
use crate::{build, shell};

/// Tokens of a prompt, for skipped attentions.
const CONTEXTS: [usize; 5] = [128, 256, 512, 1024, 2048];
/// Rows of a picture, and tokens of answers about it.
const PICTURE: usize = 256;
const ANSWERS: [usize; 4] = [1, 16, 64, 256];
/// Where the page goes.
const PAGE: &str = "target/bench/slots.html";

/// One measurement.
struct Measured {
    seconds: f64,
    cache: f64,
    peak: f64,
}

/// Measures all of them, prints two tables and writes a page.
///
/// # Errors
/// If a build or a measurement fails.
pub fn run(args: &Args) -> Result<()> {
    let ours = build::program("bench-slots", args.backend)?;
    let (mut lines, mut readings) = (Vec::new(), Vec::new());
    let mut measure = |own: &[&str]| -> Result<Measured> {
        let mut all: Option<Measured> = None;
        for _ in 0..args.rounds {
            let text = printed(shell::again(&ours).args(own).args(&args.arguments))?;
            let line = text.lines().last().context("a measurement printed nothing")?;
            readings.push(Reading::parse(line)?);
            lines.push(line.to_owned());
            let value: Value = serde_json::from_str(line)?;
            let seconds =
                value["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64);
            let seconds = seconds.fold(f64::INFINITY, f64::min);
            let cache = value["cache_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
            let peak = value["peak_mib"].as_f64().unwrap_or(f64::NAN);
            let seconds = all.as_ref().map_or(seconds, |old| old.seconds.min(seconds));
            all = Some(Measured { seconds, cache, peak });
        }
        all.context("no rounds")
    };
    let mut skipped = Vec::new();
    for context in CONTEXTS {
        let tokens = context.to_string();
        let own = ["--tokens", &tokens, "--answer", "32"];
        let with = |method: &'static str| [&[method, "answer"][..], &own].concat();
        let all = [measure(&with("lora"))?, measure(&with("parallel"))?];
        skipped.push((context, all, measure(&with("eas"))?));
    }
    let picture = PICTURE.to_string();
    let mut remembered = Vec::new();
    for (name, task, answer) in
        [("a training step of 8", "step", 8), ("reading the prompt", "prompt", 1)]
    {
        let answer = answer.to_string();
        let own = [task, "--picture", &picture, "--answer", &answer];
        let with = |method: &'static str| [&[method][..], &own].concat();
        remembered.push((name.to_owned(), measure(&with("lora"))?, measure(&with("memvp"))?));
    }
    for answer in ANSWERS {
        let tokens = answer.to_string();
        let own = ["answer", "--picture", &picture, "--answer", &tokens];
        let with = |method: &'static str| [&[method][..], &own].concat();
        let name = format!("prompt and answer of {answer}");
        remembered.push((name, measure(&with("lora"))?, measure(&with("memvp"))?));
    }
    let root = shell::root();
    let file = root.join("target/bench/slots.jsonl");
    std::fs::create_dir_all(root.join("target/bench"))?;
    std::fs::write(&file, lines.join("\n") + "\n").with_context(|| file.display().to_string())?;
    shell::run(shell::again(&ours).arg("--page").arg(&file).arg(root.join(PAGE)))?;
    machine(&readings);
    println!("SmolLM2-135M, a third of its attentions skipped (EAS), answers of 32 tokens\n");
    println!(
        "| tokens of the prompt | s, all | s, parallel adapters | s, skipped | times as fast as all | as the \
         adapters | cache MB, all | skipped |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (context, [all, adapters], some) in &skipped {
        println!(
            "| {context} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
            all.seconds,
            adapters.seconds,
            some.seconds,
            all.seconds / some.seconds,
            adapters.seconds / some.seconds,
            all.cache,
            some.cache
        );
    }
    println!(
        "\nSmolLM2-135M, a picture of {PICTURE} rows and 32 tokens of text: tokens (LoRA) and memory (MemVP)\n"
    );
    println!("| | s, tokens | s, memory | times as fast | peak MiB, tokens | memory |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (name, tokens, memory) in &remembered {
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            tokens.seconds,
            memory.seconds,
            tokens.seconds / memory.seconds,
            tokens.peak,
            memory.peak
        );
    }
    println!("\nthe curves are in {PAGE}");
    Ok(())
}
