//! `cargo xtask bench memory`: training all weights by each update rule.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::table::Reading;
use super::{Args, machine, printed};
use crate::{build, shell};

/// The rules, from the least memory to the most.
const RULES: [&str; 6] = ["infer", "mezo", "lomo", "adalomo", "sgd", "adamw"];
/// Models of the curves, by million values.
const CURVE: [&str; 6] = ["10", "30", "60", "135", "250", "500"];
/// Models of the table, each with one sample a step and with several.
const TABLE: [&str; 3] = ["clip", "135", "500"];
const BATCHES: [u64; 2] = [1, 16];

/// Where the page goes.
const PAGE: &str = "target/bench/memory.html";

/// Measures all of them, each in a process of its own, prints a table and writes a page.
///
/// # Errors
/// If a build or a measurement fails.
pub fn run(args: &Args) -> Result<()> {
    let ours = build::program("bench-rules", args.backend)?;
    let mut cases: Vec<(&str, u64)> = CURVE.iter().map(|model| (*model, 1)).collect();
    for model in TABLE {
        let more = BATCHES.iter().map(|batch| (model, *batch));
        cases.extend(more.filter(|case| !CURVE.contains(&case.0) || case.1 > 1));
    }
    let (mut lines, mut readings) = (Vec::new(), Vec::new());
    for (model, batch) in cases {
        // Making a model takes more memory than any use of it.
        printed(shell::again(&ours).args(["nothing", "--model", model]))?;
        for rule in RULES {
            let batch = batch.to_string();
            let own = [rule, "--model", model, "--batch", &batch];
            let text = printed(shell::again(&ours).args(own).args(&args.arguments))?;
            let line = text.lines().last().context("a measurement printed nothing")?;
            readings.push(Reading::parse(line)?);
            lines.push(line.to_owned());
        }
    }
    let root = shell::root();
    let file = root.join("target/bench/memory.jsonl");
    std::fs::write(&file, lines.join("\n") + "\n").with_context(|| file.display().to_string())?;
    let page = root.join(PAGE);
    shell::run(shell::again(&ours).arg("nothing").arg("--page").arg(&file).arg(&page))?;
    machine(&readings);
    print!("{}", table(&lines)?);
    println!("\nthe curves are in {PAGE}");
    Ok(())
}

/// What the table needs of a reading.
struct Row {
    /// As the system counts it.
    peak: f64,
    weights: f64,
    gradients: f64,
    state: f64,
    activations: f64,
    seconds: f64,
}

/// Peak memory by rule, and how it stands to what it should be.
fn table(lines: &[String]) -> Result<String> {
    let mut rows: BTreeMap<(String, u64, String), Row> = BTreeMap::new();
    for line in lines {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| value[key].as_f64().unwrap_or(f64::NAN);
        let seconds = value["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64);
        let row = Row {
            peak: number("peak_mib"),
            weights: number("weights_mib"),
            gradients: number("gradients_mib"),
            state: number("state_mib"),
            activations: number("activations_mib"),
            seconds: seconds.fold(f64::INFINITY, f64::min),
        };
        rows.insert((text("model"), value["batch"].as_u64().unwrap_or(0), text("task")), row);
    }
    let mut text = String::from(
        "| model, batch | inference MiB | MeZO | LOMO | AdaLomo | SGD | AdamW | \
         LOMO, of weights + activations + gradients | AdaLomo, likewise | a step of LOMO, of SGD's |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for model in CURVE.iter().chain(&TABLE[..1]) {
        for batch in BATCHES {
            let of = |rule: &str| rows.get(&((*model).to_owned(), batch, rule.to_owned()));
            let Some(base) = of("infer") else { continue };
            let times = |rule: &str| cell(of(rule).map(|row| row.peak / base.peak));
            let share = |rule: &str| {
                cell(of(rule).map(|row| {
                    row.peak / (row.weights + row.activations + row.gradients + row.state)
                }))
            };
            let pace = of("lomo").zip(of("sgd")).map(|(lomo, sgd)| lomo.seconds / sgd.seconds);
            let name = match *model {
                "clip" => "CLIP ViT-B/32".to_owned(),
                millions => format!("Llama, {millions} M"),
            };
            text += &format!(
                "| {name}, {batch} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                base.peak,
                times("mezo"),
                times("lomo"),
                times("adalomo"),
                times("sgd"),
                times("adamw"),
                share("lomo"),
                share("adalomo"),
                cell(pace),
            );
        }
    }
    Ok(text)
}

fn cell(value: Option<f64>) -> String {
    value.filter(|x| x.is_finite()).map_or_else(|| "–".into(), |x| format!("{x:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_beside_inference() {
        let line = |task: &str, peak: f64, seconds: f64| {
            format!(
                "{{\"task\":\"{task}\",\"model\":\"135\",\"batch\":16,\"peak_mib\":{peak},\"weights_mib\":100,\
                 \"activations_mib\":50,\"gradients_mib\":50,\"state_mib\":0,\"seconds\":[9,{seconds}]}}"
            )
        };
        let lines = [line("infer", 100.0, 1.0), line("lomo", 220.0, 3.0), line("sgd", 300.0, 4.0)];
        let text = table(&lines).unwrap();
        let want = "| Llama, 135 M, 16 | 100 | – | 2.20 | – | 3.00 | – | 1.10 | – | 0.75 |";
        assert!(text.contains(want), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
