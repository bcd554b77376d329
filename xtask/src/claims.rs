//! `cargo xtask claims`.

mod verdict;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
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
/// What that rate is multiplied by.
const FACTORS: [f64; 5] = [0.3, 1.0, 3.0, 10.0, 30.0];
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
/// What is adapted.
const MODEL: &str = "runs/emoji/model";
/// What it learns.
const TRAIN: &str = "emoji:style-train";
/// What the learning rates are chosen by.
const CHOICE: &str = "emoji:style-val";
/// What it is measured on, and what it knew before.
const TEST: [&str; 2] = ["emoji:style-test", "emoji:val"];

/// Adapt the main job's model to the style that it never saw, by every method, and hold the claims of
/// their papers against it
///
/// Searches a learning rate for each method with one seed, trains with several, and prints the methods, the
/// ranks and the claims. Runs go to runs/claims; those that are finished are not made again.
#[derive(clap::Args)]
pub struct Args {
    /// Runs of each method
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Steps of each run
    #[arg(long, value_name = "N", default_value_t = 120)]
    steps: u32,
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
    if !shell::root().join(MODEL).is_dir() {
        bail!("{MODEL}: not there; run `cargo xtask train` first");
    }
    let out = shell::root().join(&args.out);
    let search = out.join("search");
    let entries = SEARCHED.iter().flat_map(|(method, lr)| {
        FACTORS.iter().map(move |factor| format!("{method}:optim.lr={}", rate(lr * factor)))
    });
    let entries: Vec<String> = entries.collect();
    let searched = args.compared(&entries, &[], 1, &[CHOICE], &search)?;
    let mut rates = Vec::new();
    let mut spreads = Vec::new();
    for (method, lr) in SEARCHED {
        let found = FACTORS.iter().map(|factor| {
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
    let outcomes = args.compared(&entries, &chosen, args.seeds, &TEST, &last)?;
    let ranks = args.ranks(&outcomes, &last)?;

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

impl Args {
    /// Runs `vlm compare` and reads its table.
    fn compared(
        &self,
        entries: &[String],
        rates: &[String],
        seeds: u32,
        tests: &[&str],
        out: &Path,
    ) -> Result<Outcomes> {
        let mut vlm = build::program("vlm", self.backend)?;
        vlm.args(["compare", "--model", MODEL, "--data", TRAIN, "--batch", "64"]);
        vlm.arg("--methods").arg(entries.join(",")).arg("--out").arg(out);
        vlm.args(["--steps", &self.steps.to_string(), "--seeds", &seeds.to_string()]);
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
    fn ranks(&self, outcomes: &Outcomes, runs: &Path) -> Result<Vec<[f64; 3]>> {
        let vlm = build::program("vlm", self.backend)?;
        let cut = |method: &str, rank: usize| -> Result<f64> {
            let mut sum = 0.0;
            for seed in 1..=self.seeds {
                let adapter = runs.join(format!("{method}-{seed}/adapter"));
                let mut eval = Command::new(vlm.get_program());
                eval.envs(vlm.get_envs().filter_map(|(name, value)| Some((name, value?))));
                eval.args(["eval", "--task", "zero-shot", "--json", "--model", MODEL]);
                eval.args(["--data", TEST[0], "--adapter-ranks", &rank.to_string()]);
                eval.arg("--adapter").arg(&adapter).current_dir(shell::root());
                let said = shell::output(&mut eval)
                    .with_context(|| format!("{}: cannot be measured", adapter.display()))?;
                let said: Value = serde_json::from_str(&said)?;
                sum += said["metrics"]["top1"].as_f64().context("no `top1` was measured")?;
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
