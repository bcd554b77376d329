//! `cargo xtask bench`.

mod rules;
mod slots;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::backend::Backend;
use crate::python::{TORCH, Venv};
use crate::{build, shell};
use table::Reading;

/// What the Python programs of benches/ import.
const PACKAGES: [&str; 6] =
    [TORCH, "transformers==4.57.6", "numpy", "peft==0.21.2", "bitsandbytes==0.50.2", "accelerate"];

/// Where the CLIP model lies that is adapted.
const CLIP: &str = "target/bench/clip";

/// Measure speed and memory, and the same in PyTorch
///
/// Builds benches/ and runs each measurement in a process of its own, ours and PyTorch's in
/// turns, so that a busy moment meets both. Close other programs: a busy machine measures itself.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// What computes on our side
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// How often each program is run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Leave PyTorch out
    #[arg(long)]
    rust_only: bool,
    /// Put PyTorch and transformers into .venv first where they are missing: some 8 GB
    #[arg(long)]
    install: bool,
    /// A Python that has PyTorch and transformers, instead of .venv
    #[arg(long, conflicts_with = "install")]
    python: Option<PathBuf>,
    /// Arguments for the programs, such as --repeats 3
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// A CLIP model of ViT-B/32 size: training steps and embedding, beside PyTorch
    Clip,
    /// SmolLM2-135M reading a prompt and writing an answer, beside transformers
    Generate,
    /// A training step of SmolLM2-135M and of a CLIP model of ViT-B/32 size by several methods of adapting
    /// them, beside peft
    Adapt,
    /// Memory of training all weights by each update rule, from 10 to 500 million of them, and a page with
    /// the curves
    Memory,
    /// Answers of SmolLM2-135M with a third of its attentions skipped, and its steps and answers with pictures
    /// in memory in place of tokens
    Slots,
    /// Peak memory of CLIP's gradients as the batch grows, in chunks and whole
    Chunks,
    /// The operations with a backward of their own, beside plain Burn
    Ops,
}

/// Measures.
///
/// # Errors
/// If a build fails, one of the programs does, or PyTorch is wanted and not there.
pub fn run(args: &Args) -> Result<()> {
    match args.name {
        Name::Clip => beside(args, "clip", &[], &["train", "embed"], table::speed),
        Name::Generate => {
            smollm2(args)?;
            beside(args, "generate", &[], &["prefill", "decode"], table::tokens)
        }
        Name::Adapt => {
            smollm2(args)?;
            println!("SmolLM2-135M\n");
            beside(args, "adapt", &[], &table::METHODS.map(|(task, _)| task), table::methods)?;
            // Four bits are computed with in bfloat16 as a rule.
            println!("\nSmolLM2-135M, bfloat16 (here: products of it, summed in f32)\n");
            beside(args, "adapt", &["--precision", "medium"], &table::IN_BF16, table::methods)?;
            println!("\nCLIP ViT-B/32\n");
            // Both programs take the same random weights.
            beside(args, "adapt", &["--clip", CLIP], &table::OF_CLIP, table::methods)
        }
        Name::Memory => rules::run(args),
        Name::Chunks => chunks(args),
        Name::Slots => {
            smollm2(args)?;
            slots::run(args)
        }
        Name::Ops => {
            shell::run(build::program("bench-ops", args.backend)?.args(&args.arguments))?;
            Ok(())
        }
    }
}

/// Whether the decoder is there that is measured if no other is named.
fn smollm2(args: &Args) -> Result<()> {
    let model = shell::root().join("datasets/.cache/smollm2");
    if !model.is_dir() && !args.arguments.iter().any(|a| a.starts_with("--model")) {
        bail!("{}: not there; run `cargo xtask data smollm2`", model.display());
    }
    Ok(())
}

/// Tasks of ours and of the program of the same name in Python, with `own` arguments before those that were
/// given, and a table of both.
fn beside(
    args: &Args,
    name: &str,
    own: &[&str],
    tasks: &[&str],
    table: fn(&str, &[Reading]) -> String,
) -> Result<()> {
    // Before anything is measured: an installation would disturb it.
    let python = if args.rust_only { None } else { Some(python(args)?) };
    let ours = build::program(&format!("bench-{name}"), args.backend)?;
    let mut readings = Vec::new();
    for &task in tasks {
        for _ in 0..args.rounds {
            readings.push(measure(shell::again(&ours).arg(task).args(own).args(&args.arguments))?);
            if let Some(python) = python.as_ref().filter(|_| !table::OURS_ALONE.contains(&task)) {
                // Without it OpenMP's threads wander between cores, and now and then PyTorch
                // takes twice as long: that comparison would flatter us.
                let mut theirs = shell::command(python);
                theirs.arg(format!("benches/{name}.py")).arg(task).args(own).args(&args.arguments);
                readings.push(measure(theirs.env("OMP_PROC_BIND", "true"))?);
            }
        }
    }
    machine(&readings);
    print!("{}", table(args.backend.name(), &readings));
    Ok(())
}

/// In chunks, memory does not grow with the batch.
fn chunks(args: &Args) -> Result<()> {
    let ours = build::program("bench-clip", args.backend)?;
    let mut readings = Vec::new();
    for batch in [8, 32, 128] {
        // Smaller than the smallest batch, which would not be cut otherwise.
        for chunk in [4, 0] {
            let (batch, chunk) = (batch.to_string(), chunk.to_string());
            let sizes = ["gradients", "--batch", &batch, "--chunk", &chunk];
            readings.push(measure(shell::again(&ours).args(sizes).args(&args.arguments))?);
        }
    }
    machine(&readings);
    print!("{}", table::memory(&readings));
    Ok(())
}

/// A Python with PyTorch and transformers.
fn python(args: &Args) -> Result<OsString> {
    let venv = match &args.python {
        Some(_) => None,
        None if args.install => Some(Venv::with(&PACKAGES)?),
        None => Venv::existing(),
    };
    let python = match (&args.python, venv) {
        // The programs run in the root of the workspace, wherever this was typed.
        (Some(path), _) => Some(std::path::absolute(path)?.into()),
        (None, Some(venv)) => Some(venv.python().get_program().to_owned()),
        // Whatever the user has may do.
        (None, None) => Some(OsString::from("python3")),
    };
    let has_them = |python: &OsString| {
        let mut import = shell::command(python);
        shell::output(import.args(["-c", "import torch, transformers"])).is_some()
    };
    match python.filter(has_them) {
        Some(python) => Ok(python),
        None => bail!(
            "no PyTorch to compare with; add --install (into .venv, some 8 GB), --python PATH for \
             one that has torch and transformers, or --rust-only to do without"
        ),
    }
}

/// Runs a program that prints its reading as a line of JSON.
fn measure(command: &mut Command) -> Result<Reading> {
    let text = printed(command)?;
    Reading::parse(&text).with_context(|| format!("`{}` printed no reading", shell::show(command)))
}

/// What a program prints.
fn printed(command: &mut Command) -> Result<String> {
    let name = shell::show(command);
    eprintln!("$ {name}");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{name}` cannot be run"))?;
    if !output.status.success() {
        bail!("`{name}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Says what was measured on, and how busy it was.
fn machine(readings: &[Reading]) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processor unknown", |(_, name)| name);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown");
    if let Some(first) = readings.first() {
        let (simd, threads) = (&first.simd, first.threads);
        println!("{model}, {simd}, {threads} threads; load average at the end {load}\n");
    }
}
