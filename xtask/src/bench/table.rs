//! What the programs of benches/ print, and tables of it.

use anyhow::{Context, Result};
use serde_json::Value;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// `vlm`, or the version of PyTorch.
    pub program: String,
    task: String,
    batch: u64,
    chunk: u64,
    seconds: Vec<f64>,
    /// The most memory the process held; not every system says.
    peak: Option<f64>,
    /// The widest vectors.
    pub simd: String,
    /// Threads.
    pub threads: u64,
}

impl Reading {
    /// The last line of a program's output that is JSON.
    ///
    /// # Errors
    /// If there is none, or something is missing in it.
    pub fn parse(output: &str) -> Result<Reading> {
        let line = output.lines().rev().find(|line| line.starts_with('{')).context("no JSON")?;
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let seconds = value["seconds"].as_array().context("no `seconds`")?;
        Ok(Reading {
            program: text("program"),
            task: text("task"),
            batch: value["batch"].as_u64().context("no `batch`")?,
            chunk: value["chunk"].as_u64().unwrap_or(0),
            seconds: seconds.iter().filter_map(Value::as_f64).collect(),
            peak: value["peak_mib"].as_f64(),
            simd: text("simd"),
            threads: value["threads"].as_u64().unwrap_or(0),
        })
    }
}

/// The readings of one program and task taken together: all its seconds, and its largest peak.
fn joined(readings: &[Reading], task: &str, vlm: bool) -> Option<Reading> {
    let mut own = readings.iter().filter(|r| r.task == task && (r.program == "vlm") == vlm);
    let first = own.next()?.clone();
    Some(own.fold(first, |mut all, next| {
        all.seconds.extend(&next.seconds);
        all.peak = all.peak.into_iter().chain(next.peak).reduce(f64::max);
        all
    }))
}

/// Of whatever a batch is made of.
fn per_second(reading: &Reading) -> f64 {
    let mut seconds = reading.seconds.clone();
    seconds.sort_by(f64::total_cmp);
    let (low, high) = (seconds.len().saturating_sub(1) / 2, seconds.len() / 2);
    let both = seconds.get(low).zip(seconds.get(high));
    both.map_or(f64::NAN, |(a, b)| 2.0 * reading.batch as f64 / (a + b))
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

/// Images per second and peak memory of both programs, and ours to theirs.
pub fn speed(backend: &str, readings: &[Reading]) -> String {
    let tasks = [("train", "training step, batch"), ("embed", "image embedding, batch")];
    both(backend, readings, tasks, "images/s")
}

/// The same of a decoder's tokens.
pub fn tokens(backend: &str, readings: &[Reading]) -> String {
    let tasks = [("prefill", "reading a prompt, tokens"), ("decode", "writing an answer, tokens")];
    both(backend, readings, tasks, "tokens/s")
}

/// The tasks of bench-adapt.
pub const METHODS: [(&str, &str); 14] = [
    ("full", "all weights, AdamW"),
    ("lora", "LoRA, queries and values"),
    ("lora-all", "LoRA, all maps"),
    ("lora-fa", "LoRA-FA, all maps"),
    ("dora", "DoRA, queries and values"),
    ("qlora", "QLoRA, all maps"),
    ("ia3", "(IA)³"),
    ("series", "series adapters"),
    ("pfeiffer", "adapters as Pfeiffer's"),
    ("parallel", "parallel adapters"),
    ("prefix", "prefix"),
    ("prompt", "prompt"),
    ("infer", "no training"),
    ("merged", "no training, LoRA merged"),
];
/// Those that the Python program has not.
pub const OURS_ALONE: [&str; 4] = ["lora-fa", "series", "pfeiffer", "parallel"];
/// Those that are measured with bfloat16, too.
pub const IN_BF16: [&str; 4] = ["full", "lora", "lora-all", "qlora"];
/// Those that a CLIP model takes, too: peft has no rows in front of its texts.
pub const OF_CLIP: [&str; 8] =
    ["full", "lora", "lora-all", "lora-fa", "dora", "qlora", "ia3", "parallel"];

/// Seconds a step and peak memory by method.
pub fn methods(backend: &str, readings: &[Reading]) -> String {
    let theirs = readings.iter().find(|r| r.program != "vlm").map_or("peft", |r| &r.program);
    let mut text = format!(
        "| | s a step: vlm, {backend} | {theirs} | times as fast | peak MiB: vlm | {theirs} |\n\
         |---|--:|--:|--:|--:|--:|\n"
    );
    for (task, name) in METHODS {
        let (ours, theirs) = (joined(readings, task, true), joined(readings, task, false));
        if ours.is_none() && theirs.is_none() {
            continue;
        }
        let seconds = |r: &Option<Reading>| r.as_ref().map(|r| r.batch as f64 / per_second(r));
        let peak = |r: &Option<Reading>| r.as_ref().and_then(|r| r.peak);
        let (a, b) = (seconds(&ours), seconds(&theirs));
        let ratio = a.zip(b).map(|(ours, theirs)| theirs / ours);
        text += &format!(
            "| {name} | {} | {} | {} | {} | {} |\n",
            cell(a, 2),
            cell(b, 2),
            cell(ratio, 2),
            cell(peak(&ours), 0),
            cell(peak(&theirs), 0)
        );
    }
    text
}

fn both(backend: &str, readings: &[Reading], tasks: [(&str, &str); 2], speed: &str) -> String {
    let theirs = readings.iter().find(|r| r.program != "vlm").map_or("PyTorch", |r| &r.program);
    let mut text = format!("| | vlm, {backend} | {theirs} | ratio |\n|---|--:|--:|--:|\n");
    for (task, name) in tasks {
        let (ours, theirs) = (joined(readings, task, true), joined(readings, task, false));
        let batch = ours.as_ref().map_or(0, |ours| ours.batch);
        let mut row = |what: &str, digits, of: &dyn Fn(&Reading) -> Option<f64>| {
            let (ours, theirs) = (ours.as_ref().and_then(of), theirs.as_ref().and_then(of));
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
            let (a, b, r) = (cell(ours, digits), cell(theirs, digits), cell(ratio, 2));
            text += &format!("| {name} {batch}: {what} | {a} | {b} | {r} |\n");
        };
        row(speed, 2, &|reading| Some(per_second(reading)));
        row("peak MiB", 0, &|reading| reading.peak);
    }
    text
}

/// Peak memory by batch, in chunks and whole.
pub fn memory(readings: &[Reading]) -> String {
    let chunk = readings.iter().map(|r| r.chunk).max().unwrap_or(0);
    let mut text = format!("| batch | chunks of {chunk}: peak MiB | whole: peak MiB |\n");
    text += "|--:|--:|--:|\n";
    let mut batches: Vec<u64> = readings.iter().map(|r| r.batch).collect();
    batches.dedup();
    for batch in batches {
        let peak = |chunked: bool| {
            let mut own = readings.iter().filter(|r| r.batch == batch && (r.chunk > 0) == chunked);
            cell(own.next().and_then(|r| r.peak), 0)
        };
        text += &format!("| {batch} | {} | {} |\n", peak(true), peak(false));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(program: &str, task: &str, chunk: u64, seconds: &[f64], peak: f64) -> Reading {
        let (program, task) = (program.to_owned(), task.to_owned());
        let (seconds, peak) = (seconds.to_vec(), Some(peak));
        let simd = "AVX2".to_owned();
        Reading { program, task, batch: 32, chunk, seconds, peak, simd, threads: 2 }
    }

    #[test]
    fn readings_are_found_in_what_is_printed() {
        let line = r#"{"program":"vlm","task":"train","batch":32,"seconds":[2.0,4.0],
            "peak_mib":1.5,"simd":"AVX2","threads":2}"#;
        let parsed = Reading::parse(&format!("a warning\n{}\n", line.replace('\n', ""))).unwrap();
        assert_eq!(parsed, reading("vlm", "train", 0, &[2.0, 4.0], 1.5));
        assert!(Reading::parse("nothing").is_err());
        assert!(Reading::parse("{\"batch\":1}").unwrap_err().to_string().contains("seconds"));
    }

    #[test]
    fn rounds_are_taken_together() {
        let readings = [
            reading("vlm", "train", 0, &[8.0, 4.0], 100.0),
            reading("PyTorch 2", "train", 0, &[16.0], 300.0),
            reading("vlm", "train", 0, &[2.0], 150.0),
        ];
        let text = speed("flex", &readings);
        assert!(text.starts_with("| | vlm, flex | PyTorch 2 | ratio |\n"), "{text}");
        assert!(text.contains("step, batch 32: images/s | 8.00 | 2.00 | 4.00 |"), "{text}");
        assert!(text.contains("step, batch 32: peak MiB | 150 | 300 | 0.50 |"), "{text}");
        assert!(text.contains("embedding, batch 0: images/s | – | – | – |"), "{text}");
    }

    #[test]
    fn tokens_have_a_table_of_their_own() {
        let readings = [
            reading("vlm", "decode", 0, &[2.0], 100.0),
            reading("transformers", "decode", 0, &[4.0], 400.0),
        ];
        let text = tokens("flex", &readings);
        assert!(text.contains("an answer, tokens 32: tokens/s | 16.00 | 8.00 | 2.00 |"), "{text}");
        assert!(text.contains("an answer, tokens 32: peak MiB | 100 | 400 | 0.25 |"), "{text}");
    }

    #[test]
    fn methods_have_a_line_each() {
        let readings = [
            reading("vlm", "lora", 0, &[2.0], 100.0),
            reading("peft", "lora", 0, &[3.0], 250.0),
            reading("vlm", "lora-fa", 0, &[1.0], 90.0),
        ];
        let text = methods("flex", &readings);
        assert!(
            text.contains("| LoRA, queries and values | 2.00 | 3.00 | 1.50 | 100 | 250 |"),
            "{text}"
        );
        assert!(text.contains("| LoRA-FA, all maps | 1.00 | – | – | 90 | – |"), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn memory_stands_by_batch() {
        let readings = [
            reading("vlm", "gradients", 8, &[1.0], 100.0),
            reading("vlm", "gradients", 0, &[1.0], 300.0),
        ];
        assert!(memory(&readings).ends_with("| 32 | 100 | 300 |\n"), "{}", memory(&readings));
    }
}
