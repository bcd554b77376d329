//! `cargo xtask mezo`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::compared::{Comparison, MEZO, Runner};
use crate::shell;

/// What MeZO stands beside, without clipping: a step runs once.
const LOMO: &str = "full:optim.rule=lomo:optim.clip=0";
/// Steps of the runs that find out how long one takes.
const PILOT: u32 = 12;
/// Samples that what was learned is measured on.
const LIMIT: u32 = 400;

/// Train all weights by MeZO and by LOMO for equal time, and print how the losses go
///
/// LOMO makes as many steps as it can in the time that MeZO's take. Runs go to runs/mezo, with a page that plots both curves;
/// those that are finished are not made again.
#[derive(clap::Args)]
pub struct Args {
    /// What is trained: a model of all weights, tuned to another task
    #[arg(long, value_name = "DIR", default_value = "runs/easy-vqa/model")]
    model: String,
    /// What it is trained on
    #[arg(long, value_name = "SET", default_value = "scenes:asked-train")]
    data: String,
    /// What it is measured on
    #[arg(long, value_name = "SET", default_value = "scenes:test")]
    test: String,
    /// Steps of MeZO
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Runs of each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Pictures of a step
    #[arg(long, value_name = "N", default_value_t = 2)]
    batch: u32,
    /// Questions about a picture in a row
    #[arg(long, value_name = "N", default_value_t = 4)]
    pack: u32,
    /// MeZO's learning rate
    #[arg(long, default_value = "1e-6")]
    mezo_lr: String,
    /// LOMO's learning rate
    #[arg(long, default_value = "1e-2")]
    lomo_lr: String,
    /// Where the runs go
    #[arg(long, value_name = "DIR", default_value = "runs/mezo")]
    out: PathBuf,
    #[command(flatten)]
    runner: Runner,
}

/// Trains and prints.
///
/// # Errors
/// If the model is not there, or the build or a run fails.
pub fn run(args: &Args) -> Result<()> {
    if !shell::root().join(&args.model).is_dir() {
        bail!("{}: not there; run `vlm train configs/easy-vqa.toml` first", args.model);
    }
    let vlm = args.runner.vlm()?;
    let out = shell::root().join(&args.out);
    let tests = [args.test.as_str()];
    let pack = format!("model.generative.pack={}", args.pack);
    let settings = [pack.as_str()];
    let entries = [MEZO.to_owned(), LOMO.to_owned()];
    let pilot = Comparison {
        model: &args.model,
        data: &args.data,
        tests: &tests,
        limits: &[1],
        batch: args.batch,
        steps: PILOT,
        seeds: 1,
        settings: &settings,
        entries: &entries,
        out: &out.join("pilot"),
    };
    let pace = pilot.run(&vlm)?;
    let seconds = |entry: usize| pace[entry]["step_seconds"].as_f64().context("no time of a step");
    let (mezo, lomo) = (seconds(0)?, seconds(1)?);
    let steps = ((f64::from(args.steps) * mezo / lomo).round() as u32).max(1);
    eprintln!("a step takes MeZO {mezo:.2} s and LOMO {lomo:.2} s, which so makes {steps}");
    let entries = [
        format!("{MEZO}:optim.lr={}", args.mezo_lr),
        format!("{LOMO}:train.steps={steps}:optim.lr={}", args.lomo_lr),
    ];
    let rows = Comparison {
        limits: &[LIMIT],
        steps: args.steps,
        seeds: args.seeds,
        entries: &entries,
        out: &out,
        ..pilot
    }
    .run(&vlm)?;
    print!("{}", table(&rows)?);
    Ok(())
}

/// The curves side by side, and what was measured at their ends.
fn table(rows: &Value) -> Result<String> {
    let curves = [0, 1].map(|entry| rows[entry]["curve"].as_array());
    let [Some(mezo), Some(lomo)] = curves else { bail!("no curves in compare.json") };
    let mut text =
        String::from("| time | MeZO: step | loss | LOMO: step | loss |\n|--:|--:|--:|--:|--:|\n");
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    for (slow, fast) in mezo.iter().zip(lomo) {
        let cell = |point: &Value| {
            let loss =
                format!("{:.3} ± {:.3}", number(&point["loss"]), number(&point["deviation"]));
            format!("{} | {loss}", number(&point["step"]))
        };
        text +=
            &format!("| {:.0} s | {} | {} |\n", number(&slow["seconds"]), cell(slow), cell(fast));
    }
    let right = |entry: usize| {
        let row = &rows[entry];
        format!("{:.1} ± {:.1}", 100.0 * number(&row["mean"]), 100.0 * number(&row["deviation"]))
    };
    text += &format!("\nright at the end, %: MeZO {}, LOMO {}\n", right(0), right(1));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stand_side_by_side() {
        let row = |scale: f64| {
            serde_json::json!({
                "mean": 0.5 * scale, "deviation": 0.01,
                "curve": [
                    { "step": 10.0 * scale, "seconds": 20.0, "loss": 1.5, "deviation": 0.1 },
                    { "step": 20.0 * scale, "seconds": 40.4, "loss": 1.25, "deviation": 0.1 },
                ],
            })
        };
        let text = table(&serde_json::json!([row(1.0), row(0.5)])).unwrap();
        assert!(text.contains("| 20 s | 10 | 1.500 ± 0.100 | 5 | 1.500 ± 0.100 |\n"), "{text}");
        assert!(text.contains("| 40 s | 20 | 1.250 ± 0.100 | 10 |"), "{text}");
        assert!(text.ends_with("MeZO 50.0 ± 1.0, LOMO 25.0 ± 1.0\n"), "{text}");
        assert!(table(&serde_json::json!([])).is_err());
    }
}
