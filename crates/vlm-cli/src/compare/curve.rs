//! How the loss of a method went, over all its runs.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use vlm_train::MetricsLog;

use super::spread;

/// Parts of the steps that a curve has a point for.
const PARTS: usize = 20;

/// What a part of the steps came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The last of it.
    pub step: f64,
    /// What the steps up to it took, without validation and saving.
    pub seconds: f64,
    /// The mean over the part and the runs.
    pub loss: f64,
    /// Standard deviation over the runs.
    pub deviation: f64,
}

/// A part of one run: its last step, the time up to it, its mean loss.
type Part = (f64, f64, f64);

/// The curve of runs of one method.
///
/// # Errors
/// If what a run logged cannot be read.
pub fn mean(runs: &[&Path]) -> Result<Vec<Point>> {
    let all: Vec<Vec<Part>> = runs.iter().map(|run| parts(run)).collect::<Result<_>>()?;
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let point = |number: usize| {
        let here: Vec<Part> = all.iter().map(|run| run[number]).collect();
        let over = |of: &dyn Fn(&Part) -> f64| spread(&here.iter().map(of).collect::<Vec<f64>>());
        let (loss, deviation) = over(&|part| part.2);
        Point { step: over(&|part| part.0).0, seconds: over(&|part| part.1).0, loss, deviation }
    };
    Ok((0..shortest).map(point).collect())
}

fn parts(run: &Path) -> Result<Vec<Part>> {
    let log = MetricsLog::read(&run.join("metrics.jsonl"))?;
    let mut gone = 0.0;
    let steps = log.iter().filter(|record| record.kind == "train").filter_map(|record| {
        gone += record.values.get("seconds").copied().unwrap_or(0.0);
        Some((record.step as f64, gone, *record.values.get("loss")?))
    });
    let steps: Vec<Part> = steps.collect();
    let count = PARTS.min(steps.len());
    let part = |number: usize| {
        let steps = &steps[number * steps.len() / count..(number + 1) * steps.len() / count];
        let (step, gone, _) = *steps.last()?;
        Some((step, gone, steps.iter().map(|step| step.2).sum::<f64>() / steps.len() as f64))
    };
    Ok((0..count).filter_map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_the_mean_of_its_runs() {
        let dir = tempfile::tempdir().unwrap();
        let log = |name: &str, first: f64| {
            let run = dir.path().join(name);
            std::fs::create_dir(&run).unwrap();
            let mut log = MetricsLog::open(&run.join("metrics.jsonl"), None).unwrap();
            for step in 1..=40 {
                let loss = first + if step % 2 == 0 { 1.0 } else { 0.0 };
                log.write(step, 0, "train", &[("loss", loss), ("seconds", 0.5)]).unwrap();
            }
            log.write(40, 0, "validation", &[("loss", 99.0)]).unwrap();
            run
        };
        let runs = [log("a", 1.0), log("b", 3.0)];
        let curve = mean(&[&runs[0], &runs[1]]).unwrap();
        assert_eq!(curve.len(), 20);
        let deviation = 2f64.sqrt();
        assert_eq!(curve[0], Point { step: 2.0, seconds: 1.0, loss: 2.5, deviation });
        assert_eq!(curve[19], Point { step: 40.0, seconds: 20.0, loss: 2.5, deviation });
    }
}
