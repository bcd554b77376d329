//! `cargo xtask seeds`.

use std::path::PathBuf;

use anyhow::Result;

use crate::backend::Backend;
use crate::{runs, train};

/// Train with several seeds and print a table
///
/// One run says little: seeds differ. Trains into runs/NAME-seed-1, -2 and so on, NAME being that of
/// the configuration, and prints each metric's mean and values as a Markdown table. A run that was broken off is resumed, a
/// finished one is not made again: delete its folder for that.
#[derive(clap::Args)]
pub struct Args {
    /// How many seeds, from 1 up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// What to train
    #[arg(long, value_name = "CONFIG.toml", default_value = train::CONFIG)]
    config: PathBuf,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Further arguments for `vlm train`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The metrics of a run, by name.
type Metrics = Vec<(String, f64)>;

/// Trains and prints.
///
/// # Errors
/// If the build or a run fails, or a run leaves no metrics.
pub fn run(args: &Args) -> Result<()> {
    let mut all = Vec::new();
    let name = runs::name(&args.config)?;
    for seed in 1..=args.n {
        let mut arguments = vec!["--seed".to_owned(), seed.to_string()];
        arguments.extend_from_slice(&args.arguments);
        let out = format!("runs/{name}-seed-{seed}");
        let summary = runs::trained(&args.config, &out, &arguments, args.backend)?;
        all.push(runs::metrics(&summary));
    }
    print!("{}", table(&all));
    Ok(())
}

/// One row a metric: mean, then each seed; a dash where a run lacks it.
fn table(runs: &[Metrics]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in runs.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut text = String::from("| metric | mean |");
    for seed in 1..=runs.len() {
        text += &format!(" seed {seed} |");
    }
    text += &format!("\n|---|--:|{}\n", "--:|".repeat(runs.len()));
    for name in names {
        let values: Vec<Option<f64>> = runs
            .iter()
            .map(|run| run.iter().find(|(key, _)| key == name).map(|(_, value)| *value))
            .collect();
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        text += &format!("| {} | {mean:.4} |", name.replace('|', "\\|"));
        for value in values {
            text += &value.map_or_else(|| " – |".to_owned(), |value| format!(" {value:.4} |"));
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_means_and_every_seed() {
        let runs = [
            vec![("loss".to_owned(), 1.0), ("top".to_owned(), 0.5)],
            vec![("loss".to_owned(), 2.0)],
        ];
        assert_eq!(
            table(&runs),
            "| metric | mean | seed 1 | seed 2 |\n|---|--:|--:|--:|\n\
             | loss | 1.5000 | 1.0000 | 2.0000 |\n| top | 0.5000 | 0.5000 | – |\n"
        );
    }
}
