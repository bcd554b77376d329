//! `cargo xtask fusions`.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::backend::Backend;
use crate::runs;

/// The kinds, each with choices that suit the small tower and decoder of configs/fusions.toml: 16
/// rows a picture, or as near as the kind comes.
const KINDS: [(&str, &str); 8] = [
    ("linear", "pool = 2"),
    ("mlp", "pool = 2"),
    ("pixel-shuffle", "factor = 2"),
    ("resampler", "latents = 16, layers = 2"),
    ("q-former", "queries = 16, width = 384, layers = 4, heads = 6, inner = 1536"),
    ("gated", "every = 2, heads = 6, resampler = { latents = 16, layers = 2 }"),
    ("co-attention", "pool = 2, width = 384, layers = 2, heads = 6, inner = 1536"),
    ("merged", "pool = 2, width = 384, layers = 4, heads = 6, inner = 1536"),
];

/// What reads the question before it looks has one question a row, where others have eight: eight times the
/// rows of configs/fusions.toml are as many questions a step. What is given behind `--` counts in their place.
const READING: [&str; 2] = ["co-attention", "merged"];
const MORE_ROWS: [&str; 4] = ["--set", "batch.size=128", "--set", "batch.chunk=32"];

/// Train every kind of fusion on the same task with the same budget and print a table
///
/// Trains into runs/NAME-KIND, NAME being that of the configuration, which has to assemble a
/// model. A run that was broken off is resumed, a finished one is not made again: delete its folder
/// for that. Each kind sees as many questions; co-attention and merged, which read them before they look, take
/// several times as long.
#[derive(clap::Args)]
pub struct Args {
    /// What to train
    #[arg(long, value_name = "CONFIG.toml", default_value = "configs/fusions.toml")]
    config: PathBuf,
    /// Steps of each run, in place of those of the configuration
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Only these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<String>,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Further arguments for `vlm train`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Trains and prints.
///
/// # Errors
/// If the build or a run fails, or a kind is not known.
pub fn run(args: &Args) -> Result<()> {
    let name = runs::name(&args.config)?;
    if let Some(odd) = args.kinds.iter().find(|kind| !KINDS.iter().any(|(name, _)| name == kind)) {
        let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no fusion is called `{odd}`; there are {}", known.join(", "));
    }
    let mut rows = Vec::new();
    for (kind, choices) in KINDS {
        if !args.kinds.is_empty() && !args.kinds.iter().any(|name| name == kind) {
            continue;
        }
        let fusion = format!("{{ kind = \"{kind}\", {choices} }}");
        let mut arguments =
            vec!["--set".to_owned(), format!("model.generative.assemble.fusion={fusion}")];
        if let Some(steps) = args.steps {
            arguments.extend(["--set".to_owned(), format!("train.steps={steps}")]);
        }
        if READING.contains(&kind) {
            arguments.extend(MORE_ROWS.map(str::to_owned));
        }
        arguments.extend_from_slice(&args.arguments);
        let out = format!("runs/{name}-{kind}");
        let summary = runs::trained(&args.config, &out, &arguments, args.backend)?;
        rows.push((kind, summary));
    }
    print!("{}", table(&rows));
    Ok(())
}

/// A line a kind.
fn table(rows: &[(&str, Value)]) -> String {
    let measure = rows.first().and_then(|(_, summary)| runs::metrics(summary).into_iter().next());
    let measure = measure.map_or_else(|| "accuracy".to_owned(), |(name, _)| name);
    let mut text = format!(
        "| fusion | {measure} | values of the fusion | rows a picture | s a step | peak memory |\n\
         |---|--:|--:|--:|--:|--:|\n"
    );
    for (kind, summary) in rows {
        let cost = &summary["cost"];
        let number = |value: &Value, unit: f64, digits: usize| match value.as_f64() {
            Some(value) => format!("{:.digits$}", value / unit),
            None => "–".to_owned(),
        };
        text += &format!(
            "| {kind} | {} | {} M | {} | {} | {} GiB |\n",
            number(&summary["metrics"][&measure], 0.01, 1),
            number(&cost["fusion"]["values"], 1e6, 2),
            number(&cost["picture_rows"], 1.0, 0),
            number(&cost["step_seconds"], 1.0, 2),
            number(&cost["peak_memory_bytes"], f64::from(1 << 30), 2),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_a_kind() {
        let summary = serde_json::json!({
            "metrics": { "test_accuracy": 0.875 },
            "cost": {
                "fusion": { "values": 554_112, "trainable": 554_112 }, "picture_rows": 16,
                "step_seconds": 8.04, "peak_memory_bytes": 3u64 << 30,
            },
        });
        assert_eq!(
            table(&[("mlp", summary), ("gated", Value::Null)]),
            "| fusion | test_accuracy | values of the fusion | rows a picture | s a step | peak memory |\n\
             |---|--:|--:|--:|--:|--:|\n\
             | mlp | 87.5 | 0.55 M | 16 | 8.04 | 3.00 GiB |\n\
             | gated | – | – M | – | – | – GiB |\n"
        );
    }
}
