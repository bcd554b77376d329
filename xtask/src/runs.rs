//! Runs of `vlm train` that a command makes, or takes up where they are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::backend::Backend;
use crate::{build, shell};

/// Trains into a folder below the root, if it holds no finished run, and returns what the run's
/// `summary.json` says.
///
/// # Errors
/// If the build or the run fails, or the run leaves no summary.
pub fn trained(config: &Path, out: &str, arguments: &[String], backend: Backend) -> Result<Value> {
    let dir = shell::root().join(out);
    let summary = dir.join("summary.json");
    if summary.exists() {
        eprintln!("{out}: finished before, not made again; delete it to train anew");
    } else {
        let mut vlm = build::program("vlm", backend)?;
        vlm.arg("train").arg(config).args(["--out", out]);
        if dir.join("checkpoints").exists() {
            vlm.arg("--resume");
        }
        shell::run(vlm.args(arguments))?;
    }
    read(&summary)
}

/// The name of a configuration, for folders of its runs.
///
/// # Errors
/// If the path has none.
pub fn name(config: &Path) -> Result<String> {
    match config.file_stem() {
        Some(name) => Ok(name.to_string_lossy().into_owned()),
        None => bail!("{}: not the name of a configuration", config.display()),
    }
}

/// What was measured, by name.
pub fn metrics(summary: &Value) -> Vec<(String, f64)> {
    let all = summary["metrics"].as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect()
}

fn read(summary: &Path) -> Result<Value> {
    let name = summary.display();
    let text = fs::read_to_string(summary)
        .with_context(|| format!("{name}: cannot be read; the run did not finish, start again"))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{name}: not JSON"))?;
    if !value["metrics"].is_object() {
        bail!("{name}: no `metrics` in it; delete the run's folder and train anew");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_come_from_the_summary() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("summary.json");
        assert!(read(&file).unwrap_err().to_string().contains("did not finish"));
        fs::write(&file, r#"{"metrics":{"a":0.25,"note":"x","b":2}}"#).unwrap();
        assert_eq!(metrics(&read(&file).unwrap()), [("a".to_owned(), 0.25), ("b".to_owned(), 2.0)]);
        fs::write(&file, "{}").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("no `metrics`"));
    }
}
