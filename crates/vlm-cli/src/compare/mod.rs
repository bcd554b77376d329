//! `vlm compare`.

mod curve;
mod runs;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use vlm_nn::ops::Precision;
use vlm_store::write_file;
use vlm_train::{Report, Series};

use crate::output::{self, Usage};
use crate::{diverged, finetune, methods};
use curve::Point;
use runs::Run;

/// Arguments of `vlm compare`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder; it stays as it is.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What to train on.
    #[arg(long, value_name = "SET")]
    data: String,
    /// What to measure the adapted models on. If given again, on that as well: what they knew before, say.
    #[arg(long, value_name = "SET", required = true)]
    test: Vec<String>,
    /// Samples of it at most, of a model that speaks; if given again, of the next --test.
    #[arg(long, value_name = "N", value_parser = output::count)]
    test_limit: Vec<usize>,
    /// The methods; `vlm methods` lists them. Settings may follow: lora,lora:r=1,qlora:four_bit.code=fp4;
    /// commas in brackets are theirs.
    #[arg(long, value_name = "NAME,…", required = true)]
    methods: Vec<String>,
    /// Runs of each method, with seeds from 1 on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = output::count)]
    seeds: usize,
    /// Steps of each run.
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: u64,
    /// Pictures of a step.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// The learning rate of an entry of --methods, such as --lr ia3=5e-3 [default: what suits it].
    #[arg(long, value_name = "NAME=RATE")]
    lr: Vec<String>,
    /// Change a setting of all runs, such as --set model.generative.pack=8; what an entry of --methods says
    /// counts more.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs at once, which share the threads. The times in the table are then those of runs beside others.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = output::count)]
    jobs: usize,
    /// The folder for all runs, the table and the page. Runs that are finished in it are not made again;
    /// they keep what they trained, and no checkpoints.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A method's runs in one line.
#[derive(Serialize)]
struct Row {
    method: String,
    runs: usize,
    /// Runs whose loss stopped being a number. All else is of the others, and not a number if there are none.
    diverged: usize,
    measure: String,
    mean: f64,
    /// Standard deviation over the seeds.
    deviation: f64,
    /// Means on what else was measured.
    also: Vec<f64>,
    also_deviation: Vec<f64>,
    trained_values: u64,
    peak_memory_bytes: u64,
    step_seconds: f64,
    /// Of a model that speaks.
    answer_seconds: Option<f64>,
    /// The training loss.
    curve: Vec<Point>,
    /// Where the runs are, by seed; those that diverged, too.
    folders: Vec<PathBuf>,
}

/// Trains with every method under one budget, and tabulates. Runs that diverge are counted; what else fails ends
/// it.
///
/// # Errors
/// If a method is not known or a run fails.
pub fn run(args: &Args, precision: Option<Precision>, device: &str) -> Result<ExitCode> {
    let methods: Vec<&str> = args.methods.iter().flat_map(|list| entries(list)).collect();
    for method in &methods {
        methods::find(parts(method).0)?;
    }
    let mut rates = Vec::new();
    for setting in &args.lr {
        let rate = setting
            .rsplit_once('=')
            .filter(|(name, rate)| methods.contains(name) && rate.parse::<f64>().is_ok());
        match rate {
            Some(both) => rates.push(both),
            None => {
                let reason = format!("--lr {setting}: write one of --methods and a number");
                return Err(Usage(reason).into());
            }
        }
    }
    let runs: Vec<Vec<Run>> = methods
        .iter()
        .map(|method| {
            let rate = rates.iter().find(|(name, _)| name == method).map(|(_, rate)| *rate);
            (1..=args.seeds).map(|seed| args.one(method, seed, rate, precision, device)).collect()
        })
        .collect::<Result<_>>()?;
    let all: Vec<&Run> = runs.iter().flatten().collect();
    if !runs::make(&all, args.jobs)? {
        return Ok(ExitCode::from(130));
    }
    let rows = methods.iter().zip(&runs).map(|(method, runs)| {
        let dirs: Vec<&Path> = runs.iter().map(|run| run.dir.as_path()).collect();
        row(method, &dirs, args.test.len())
    });
    let rows: Vec<Row> = rows.collect::<Result<_>>()?;
    let table = table(&rows);
    write(&args.out.join("compare.md"), &table)?;
    write(&args.out.join("compare.json"), &serde_json::to_string_pretty(&rows)?)?;
    write(&args.out.join("compare.html"), &page(args, &rows))?;
    if args.json {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    table.lines().try_for_each(output::line)?;
    output::line(&format!("page {}", args.out.join("compare.html").display()))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// A run of a method.
    fn one(
        &self,
        method: &str,
        seed: usize,
        rate: Option<&str>,
        precision: Option<Precision>,
        device: &str,
    ) -> Result<Run> {
        let (name, settings) = parts(method);
        let plain = |c: char| if c.is_alphanumeric() || ".-".contains(c) { c } else { '_' };
        let folder: String = method.chars().map(plain).collect();
        let dir = self.out.join(format!("{folder}-{seed}"));
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: &dyn AsRef<OsStr>| {
            arguments.extend([name.into(), value.as_ref().to_owned()]);
        };
        add("--model", &self.model);
        add("--method", &name);
        add("--data", &self.data);
        self.test.iter().for_each(|test| add("--test", test));
        add("--steps", &self.steps.to_string());
        add("--batch", &self.batch.to_string());
        add("--seed", &seed.to_string());
        add("--out", &dir);
        self.test_limit.iter().for_each(|limit| add("--test-limit", &limit.to_string()));
        rate.iter().for_each(|rate| add("--lr", rate));
        // What comes last counts: what an entry says of itself.
        self.set.iter().for_each(|setting| add("--set", setting));
        settings.iter().for_each(|setting| add("--set", setting));
        if let Some(precision) = precision {
            add("--set", &format!("train.matmul_precision={}", serde_json::to_value(precision)?));
        }
        let name = format!("{method}, seed {seed}");
        let config = finetune::configuration(&arguments).with_context(|| name.clone())?;
        arguments.splice(0..0, ["--device", device, "finetune"].map(OsString::from));
        Ok(Run { name, dir, arguments, config })
    }
}

/// The entries of a list, which commas part; not those in brackets, which belong to a setting.
fn entries(list: &str) -> Vec<&str> {
    let mut open = 0i32;
    let parts = list.split(move |c| {
        open += i32::from("[{".contains(c)) - i32::from("]}".contains(c));
        c == ',' && open == 0
    });
    parts.filter(|entry| !entry.is_empty()).collect()
}

/// An entry of `--methods`: a method, and settings of it.
fn parts(entry: &str) -> (&str, Vec<&str>) {
    let mut parts = entry.split(':');
    (parts.next().unwrap_or_default(), parts.collect())
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(write_file(path, &mut |w| w.write_all(text.as_bytes()))?)
}

/// What the runs of a method came to, which were measured on so many sets.
fn row(method: &str, runs: &[&Path], tests: usize) -> Result<Row> {
    let (all, folders) = (runs.len(), runs.iter().map(|run| run.to_path_buf()).collect());
    let runs: Vec<&Path> = runs.iter().copied().filter(|run| !diverged::is(run)).collect();
    let mut measure = String::new();
    let mut values = vec![Vec::new(); tests.max(1)];
    let (mut trained, mut memory, mut seconds, mut answers) = (0, 0, Vec::new(), Vec::new());
    for run in &runs {
        let path = run.join("summary.json");
        let wrong = || format!("{}: is no summary of a run; delete its folder", path.display());
        let text = std::fs::read_to_string(&path).with_context(wrong)?;
        let summary: Value = serde_json::from_str(&text).with_context(wrong)?;
        let metrics = summary["metrics"].as_object().with_context(wrong)?;
        for (number, values) in values.iter_mut().enumerate() {
            let start = if number == 0 { "test_".into() } else { format!("test-{}_", number + 1) };
            let found = metrics.iter().find_map(|(name, value)| {
                Some((name.strip_prefix(&start)?.to_owned(), value.as_f64()?))
            });
            let (name, value) = found.with_context(wrong)?;
            values.push(value);
            if number == 0 {
                measure = name;
            }
        }
        let cost = summary["cost"].as_object().with_context(wrong)?;
        trained = cost.values().filter_map(|part| part["trainable"].as_u64()).sum();
        memory = memory.max(cost.get("peak_memory_bytes").and_then(Value::as_u64).unwrap_or(0));
        seconds.extend(cost.get("step_seconds").and_then(Value::as_f64));
        answers.extend(cost.get("answer_seconds").and_then(Value::as_f64));
    }
    let (mean, deviation) = spread(&values[0]);
    let (also, also_deviation) = values[1..].iter().map(|values| spread(values)).unzip();
    Ok(Row {
        method: method.to_owned(),
        runs: runs.len(),
        diverged: all - runs.len(),
        measure,
        mean,
        deviation,
        also,
        also_deviation,
        trained_values: trained,
        peak_memory_bytes: memory,
        step_seconds: spread(&seconds).0,
        answer_seconds: (!answers.is_empty()).then(|| spread(&answers).0),
        curve: curve::mean(&runs)?,
        folders,
    })
}

/// The mean of what runs came to, and the standard deviation; no numbers if there are none.
fn spread(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (mean, (square / (values.len().max(2) - 1) as f64).sqrt())
}

fn cells(row: &Row) -> Vec<String> {
    let number = |value: f64, digits: usize| match value.is_nan() {
        true => "–".to_owned(),
        false => format!("{value:.digits$}"),
    };
    let percent = |share: f64| number(100.0 * share, 2);
    let mut cells = vec![row.method.clone(), percent(row.mean), percent(row.deviation)];
    cells.extend(row.also.iter().map(|mean| percent(*mean)));
    cells.extend([
        format!("{:.3} M", row.trained_values as f64 / 1e6),
        output::size(row.peak_memory_bytes),
        number(row.step_seconds, 3),
        number(row.answer_seconds.unwrap_or(f64::NAN), 3),
        match row.diverged {
            0 => row.runs.to_string(),
            diverged => format!("{}, {diverged} diverged", row.runs),
        },
    ]);
    cells
}

fn head(rows: &[Row]) -> Vec<String> {
    let measure = rows.first().map_or("measure", |row| &row.measure);
    let mut head = vec!["method".to_owned(), measure.to_owned(), "±".to_owned()];
    let also = rows.first().map_or(0, |row| row.also.len());
    head.extend((0..also).map(|number| format!("on set {}", number + 2)));
    head.extend(["trained", "peak memory", "s a step", "s an answer", "runs"].map(str::to_owned));
    head
}

/// As Markdown.
fn table(rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = head(rows);
    let mut text = format!("|---|{}\n", "--:|".repeat(head.len() - 1));
    text.insert_str(0, &line(head));
    rows.iter().for_each(|row| text += &line(cells(row)));
    text
}

fn page(args: &Args, rows: &[Row]) -> String {
    let mut report = Report::new(&format!("Methods compared on {}", args.model.display()));
    report.facts(&[
        ("data", args.data.clone()),
        ("test", args.test.join(", ")),
        ("steps", args.steps.to_string()),
        ("pictures of a step", args.batch.to_string()),
        ("seeds", args.seeds.to_string()),
    ]);
    let all: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let note = "Means over the seeds, in per cent where the measure is a share; ± is their \
                standard deviation.";
    report.table("Methods", &head(rows), &all, note);
    let against = |x: &dyn Fn(&Row) -> f64| -> Vec<Series> {
        let point = |row: &Row| Series {
            name: row.method.clone(),
            points: vec![(x(row), 100.0 * row.mean)],
        };
        rows.iter().map(point).collect()
    };
    let measure = rows.first().map_or("measure", |row| &row.measure).to_owned();
    for (title, label, x) in [
        (
            "Trained values",
            "millions",
            &(|r: &Row| r.trained_values as f64 / 1e6) as &dyn Fn(&Row) -> f64,
        ),
        ("Peak memory", "GB", &|r: &Row| r.peak_memory_bytes as f64 / 1e9),
        ("Time of a step", "seconds", &|r: &Row| r.step_seconds),
    ] {
        report.curve(&format!("{title} and what they bring"), label, &measure, &against(x));
    }
    let losses = |x: &dyn Fn(&Point) -> f64| -> Vec<Series> {
        let line = |row: &Row| Series {
            name: row.method.clone(),
            points: row.curve.iter().map(|point| (x(point), point.loss)).collect(),
        };
        rows.iter().map(line).collect()
    };
    let title = "Training loss, mean over the seeds and a twentieth of the steps";
    report.curve(title, "step", "loss", &losses(&|point| point.step));
    report.curve("The same against time", "seconds", "loss", &losses(&|point| point.seconds));
    report.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_brackets_part_nothing() {
        assert_eq!(
            entries("lora,eas:layers=[4,5]:size=4,ia3"),
            ["lora", "eas:layers=[4,5]:size=4", "ia3"]
        );
        assert_eq!(entries("full"), ["full"]);
    }

    #[test]
    fn runs_become_a_row() {
        let dir = tempfile::tempdir().unwrap();
        let runs: Vec<PathBuf> = [0.5, 0.7]
            .iter()
            .enumerate()
            .map(|(i, value)| {
                let run = dir.path().join(i.to_string());
                std::fs::create_dir(&run).unwrap();
                let summary = serde_json::json!({
                    "metrics": { "test_accuracy": value },
                    "cost": {
                        "text": { "trainable": 1_500_000, "values": 9 },
                        "peak_memory_bytes": 2_000_000_000u64, "step_seconds": 0.25,
                        "answer_seconds": value * 2.0,
                    },
                });
                std::fs::write(run.join("summary.json"), summary.to_string()).unwrap();
                std::fs::write(run.join("metrics.jsonl"), "").unwrap();
                run
            })
            .collect();
        let dirs: Vec<&Path> = runs.iter().map(PathBuf::as_path).collect();
        let rows = [row("lora", &dirs, 1).unwrap()];
        assert_eq!(
            table(&rows),
            "| method | accuracy | ± | trained | peak memory | s a step | s an answer | runs |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|\n\
             | lora | 60.00 | 14.14 | 1.500 M | 2.00 GB | 0.250 | 1.200 | 2 |\n"
        );
        std::fs::write(runs[0].join("summary.json"), "{}").unwrap();
        assert!(row("lora", &dirs, 1).is_err());
    }
}
