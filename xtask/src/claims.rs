//! `cargo xtask claims`.

mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::backend::Backend;
use crate::{build, shell};
use verdict::{Outcome, Outcomes};

/// Methods whose learning rate is searched for, with the rate that is their default.
const SEARCHED: [(&str, f64); 13] = [
    ("full", 2e-5),
    ("lora", 5e-4),
    ("dora", 5e-4),
    ("lora-plus", 2.5e-4),
    ("lora-fa", 5e-4),
    ("dylora", 5e-4),
    ("lora:targets=all-linear", 5e-4),
    ("ia3", 3e-3),
    ("prefix", 1e-2),
    ("prompt", 3e-2),
    ("series:size=16", 5e-4),
    ("pfeiffer:size=16", 5e-4),
    ("parallel:size=8", 5e-4),
];
/// Further variants, and whose learning rate they take.
const FURTHER: [(&str, &str); 13] = [
    ("lora:r=1", "lora"),
    ("lora:r=2", "lora"),
    ("lora:r=3", "lora"),
    ("lora:r=4", "lora"),
    ("lora:r=5", "lora"),
    ("lora:r=6", "lora"),
    ("lora:r=7", "lora"),
    ("lora:r=64:alpha=8", "lora"),
    ("rslora:r=64:alpha=8", "lora"),
    ("dora:r=2", "dora"),
    ("lora:r=8:targets=[\"q_proj\"]", "lora"),
    ("qlora:r=8:alpha=8", "lora:targets=all-linear"),
    ("qlora:r=8:alpha=8:four_bit.code=fp4", "lora:targets=all-linear"),
];
/// Ranks of DyLoRA and of the LoRA that is cut.
const RANKS: usize = 8;

/// What is adapted, and to what.
struct Subject {
    name: &'static str,
    model: &'static str,
    /// What makes the model.
    made_by: &'static str,
    train: &'static str,
    /// What the learning rates are chosen by.
    choice: &'static str,
    /// What is measured, and what the model knew before.
    tests: [&'static str; 2],
    /// Of models that speak, samples of them.
    limit: Option<u32>,
    task: &'static str,
    measure: &'static str,
    /// What each method's default rate is multiplied by in the search.
    factors: &'static [f64],
    batch: u32,
    steps: u32,
    settings: &'static [&'static str],
}

/// The main job's dual encoder, and the art style that it never saw.
const CLIP: Subject = Subject {
    name: "clip",
    model: "runs/emoji/model",
    made_by: "cargo xtask train",
    train: "emoji:subgroup-style-train",
    choice: "emoji:subgroup-style-val",
    tests: ["emoji:subgroup-style-test", "emoji:val"],
    limit: None,
    task: "zero-shot",
    measure: "top1",
    factors: &[0.3, 1.0, 3.0, 10.0],
    batch: 64,
    steps: 90,
    settings: &[],
};
/// A model of DINO's tower and SmolLM2 that describes scenes, and questions about other pictures.
const VLM: Subject = Subject {
    name: "vlm",
    model: "runs/captions/model",
    made_by: "cargo run --release -p vlm-cli -- train configs/captions.toml",
    train: "easy-vqa:train",
    choice: "easy-vqa:test",
    tests: ["easy-vqa:test", "scenes:captions-val"],
    limit: Some(400),
    task: "vqa",
    measure: "accuracy",
    factors: &[1.0, 3.0],
    batch: 8,
    steps: 60,
    settings: &["model.generative.pack=8", "train.matmul_precision=medium"],
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    /// The main job's dual encoder, adapted to the art style that it never saw
    Clip,
    /// The model of configs/captions.toml, adapted to questions about other pictures
    Vlm,
}

/// Adapt a model by every method and hold the claims of their papers against it
///
/// Searches a learning rate for each method with one seed, trains with several, and prints the methods, the
/// ranks and the claims. Runs go to runs/claims; those that are finished are not made again.
#[derive(clap::Args)]
pub struct Args {
    /// What is adapted
    #[arg(long, value_enum, default_value = "clip")]
    on: On,
    /// Runs of each method
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Steps of each run, in place of its own number
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Where the runs go
    #[arg(long, value_name = "DIR", default_value = "runs/claims")]
    out: PathBuf,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
}

/// Adapts, measures and prints.
///
/// # Errors
/// If the main job has not been run, or the build or a run fails.
pub fn run(args: &Args) -> Result<()> {
    let subject = match args.on {
        On::Clip => &CLIP,
        On::Vlm => &VLM,
    };
    if !shell::root().join(subject.model).is_dir() {
        bail!("{}: not there; run `{}` first", subject.model, subject.made_by);
    }
    let out = shell::root().join(&args.out).join(subject.name);
    let search = out.join("search");
    let entries = SEARCHED.iter().flat_map(|(method, lr)| {
        subject.factors.iter().map(move |factor| format!("{method}:optim.lr={}", rate(lr * factor)))
    });
    let entries: Vec<String> = entries.collect();
    let searched = args.compared(subject, &entries, &[], 1, &[subject.choice], &search)?;
    let mut rates = Vec::new();
    let mut spreads = Vec::new();
    for (method, lr) in SEARCHED {
        let found = subject.factors.iter().map(|factor| {
            let lr = rate(lr * factor);
            Ok((lr.clone(), searched.get(&format!("{method}:optim.lr={lr}"))?.mean))
        });
        let found: Vec<(String, f64)> = found.collect::<Result<_>>()?;
        let by = |(_, a): &&(String, f64), (_, b): &&(String, f64)| a.total_cmp(b);
        let best = found.iter().max_by(by).context("no rate was tried")?;
        let worst = found.iter().min_by(by).context("no rate was tried")?;
        spreads.push((method, worst.1, best.1, best.0.clone()));
        rates.push((method, best.0.clone()));
    }
    let rate_of = |method: &str| rates.iter().find(|(name, _)| *name == method).map(|r| &r.1);
    let mut entries: Vec<String> = rates.iter().map(|(method, _)| (*method).to_owned()).collect();
    let mut chosen: Vec<String> =
        rates.iter().map(|(method, lr)| format!("{method}={lr}")).collect();
    for (method, of) in FURTHER {
        let lr = rate_of(of).with_context(|| format!("no rate for {method}"))?;
        entries.push(method.to_owned());
        chosen.push(format!("{method}={lr}"));
    }
    let last = out.join("final");
    let outcomes = args.compared(subject, &entries, &chosen, args.seeds, &subject.tests, &last)?;
    let ranks = args.ranks(subject, &outcomes, &last)?;

    println!("{}", std::fs::read_to_string(last.join("compare.md"))?);
    println!("The last column but four is what the model knew before.\n");
    println!("{}", verdict::rates(&spreads));
    println!("{}", verdict::ranks(&ranks));
    print!("{}", verdict::claims(&outcomes, &ranks, &last)?);
    Ok(())
}

/// A number as it is written on a command line, always the same way.
fn rate(lr: f64) -> String {
    format!("{:.2e}", lr)
}

/// The measure of that name, over all kinds of samples.
fn found(said: &Value, name: &str) -> Option<f64> {
    let all = said.get("metrics").or_else(|| said["rows"][0].get("measures"))?;
    all.get(name)?.as_f64()
}

impl Args {
    /// Runs `vlm compare` and reads its table.
    fn compared(
        &self,
        subject: &Subject,
        entries: &[String],
        rates: &[String],
        seeds: u32,
        tests: &[&str],
        out: &Path,
    ) -> Result<Outcomes> {
        let mut vlm = build::program("vlm", self.backend)?;
        let (batch, steps) = (subject.batch, self.steps.unwrap_or(subject.steps));
        vlm.args(["compare", "--model", subject.model, "--data", subject.train]);
        vlm.args(["--batch", &batch.to_string()]);
        if let Some(limit) = subject.limit {
            vlm.args(["--test-limit", &limit.to_string()]);
        }
        subject.settings.iter().for_each(|setting| {
            vlm.args(["--set", setting]);
        });
        vlm.arg("--methods").arg(entries.join(",")).arg("--out").arg(out);
        vlm.args(["--steps", &steps.to_string(), "--seeds", &seeds.to_string()]);
        rates.iter().for_each(|rate| {
            vlm.args(["--lr", rate]);
        });
        tests.iter().for_each(|test| {
            vlm.args(["--test", test]);
        });
        shell::run(&mut vlm)?;
        let path = out.join("compare.json");
        let text = std::fs::read_to_string(&path)?;
        let rows: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Outcomes::read(&rows, seeds as usize).with_context(|| path.display().to_string())
    }

    /// For each rank: DyLoRA cut to it, LoRA of it, and LoRA of the highest cut to it.
    fn ranks(&self, subject: &Subject, outcomes: &Outcomes, runs: &Path) -> Result<Vec<[f64; 3]>> {
        let vlm = build::program("vlm", self.backend)?;
        let cut = |method: &str, rank: usize| -> Result<f64> {
            let mut sum = 0.0;
            for seed in 1..=self.seeds {
                let adapter = runs.join(format!("{method}-{seed}/adapter"));
                let mut eval = shell::again(&vlm);
                eval.args(["eval", "--json", "--task", subject.task, "--model", subject.model]);
                eval.args(["--data", subject.tests[0], "--adapter-ranks", &rank.to_string()]);
                if let Some(limit) = subject.limit {
                    eval.args(["--limit", &limit.to_string()]);
                }
                eval.arg("--adapter").arg(&adapter);
                let said = shell::output(&mut eval)
                    .with_context(|| format!("{}: cannot be measured", adapter.display()))?;
                let said: Value = serde_json::from_str(&said)?;
                let found = found(&said, subject.measure);
                sum += found.with_context(|| format!("no {} was measured", subject.measure))?;
            }
            Ok(sum / f64::from(self.seeds))
        };
        (1..=RANKS)
            .map(|rank| {
                let own = if rank == RANKS { "lora".to_owned() } else { format!("lora:r={rank}") };
                let Outcome { mean, .. } = outcomes.get(&own)?;
                Ok([cut("dylora", rank)?, mean, cut("lora", rank)?])
            })
            .collect()
    }
}
