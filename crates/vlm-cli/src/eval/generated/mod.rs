//! `vlm eval --task vqa|caption|boxes`: texts that were generated against the truth.

mod predictions;
mod sheet;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use vlm_datasets::{Conversation, Conversations};
use vlm_fusion::GenerativeFolder;
use vlm_fusion::decode::{GenerationConfig, Sampling};
use vlm_fusion::metrics::{Expected, Row, Table, Task, table};
use vlm_fusion::spatial::Codec;
use vlm_fusion::task::{QUESTION, Telling, ask};

use crate::adapter::open_generative;
use crate::output::{self, Usage};
use crate::train::joined::Pace;

/// Arguments of these tasks only.
#[derive(clap::Args)]
#[command(next_help_heading = "Of --task vqa, caption and boxes")]
pub struct Args {
    /// What a model said, a line of JSON for each sample: {"row": 1,
    /// "text": "red"}, where rows count from 1 as in the set, or "id" in the place of "row".
    #[arg(long, value_name = "FILE.jsonl")]
    predictions: Option<PathBuf>,
    /// With --model: keeps what the model said, in the form of --predictions.
    #[arg(long, value_name = "FILE.jsonl")]
    save: Option<PathBuf>,
    /// With --model: so many samples, spread evenly over the set; all if not given.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// With --model: tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = 48)]
    max_tokens: usize,
    /// With --model: leaves the pictures out: what the questions alone give away.
    #[arg(long)]
    blind: bool,
    /// With --model, of captions: what is asked of each picture.
    #[arg(long, value_name = "TEXT", default_value = QUESTION)]
    question: String,
    /// Draws pictures of the set with what was said of them and the truth.
    #[arg(long, value_name = "FILE.png")]
    draw: Option<PathBuf>,
}

impl Args {
    /// Refuses arguments that another task would pass over in silence.
    ///
    /// # Errors
    /// If one is given.
    pub fn refuse(&self) -> Result<()> {
        let given = [
            ("--predictions", self.predictions.is_some()),
            ("--save", self.save.is_some()),
            ("--limit", self.limit.is_some()),
            ("--blind", self.blind),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Usage(format!("{name} is only of --task vqa, caption, boxes")).into());
        }
        match self.draw {
            Some(_) => Err(Usage("--draw is only of --task vqa, caption, boxes".into()).into()),
            None => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    data: &'a str,
    samples: usize,
    #[serde(flatten)]
    table: &'a Table,
}

/// Measures a model, or a file of what one said.
///
/// # Errors
/// If the set has nothing of the task, or the predictions do not fit it.
pub fn run(all: &super::Args, task: Task, device: &Device) -> Result<()> {
    let args = &all.generated;
    match (&args.predictions, &all.model) {
        (Some(_), None) | (None, Some(_)) => {}
        _ => {
            let reason = format!("--task {} needs --model or --predictions", task.name());
            return Err(Usage(reason).into());
        }
    }
    let data = Conversations::open(&all.data, "test")?;
    data.notes.iter().for_each(|note| output::note(note));
    let mut chosen = chosen(&data, task);
    if chosen.is_empty() {
        let what = match task {
            Task::Vqa => "questions with an answer",
            Task::Caption => "captions",
            Task::Boxes => "boxes",
        };
        bail!("{}: no {what} in it; choose another set or task", all.data);
    }
    if all.model.is_some() {
        chosen = spread(&chosen, args.limit);
    }
    let samples: Vec<&Conversation> = chosen.iter().map(|i| &data.samples[*i]).collect();
    let said = match (&args.predictions, &all.model) {
        (Some(predictions), _) => predictions::read(predictions, &data, &chosen)?,
        (None, model) => {
            let model = model.as_deref().unwrap_or(Path::new("."));
            let folder = open_generative(model, all.adapter.worn(), None, device)?;
            let telling =
                Telling { question: &args.question, blind: args.blind, boxes: Codec::Numbers };
            let said = answers(&folder, model, &samples, telling, args.max_tokens)?;
            if let Some(path) = &args.save {
                predictions::write(path, &chosen, &said)?;
            }
            said
        }
    };
    let expected: Vec<Expected> = samples.iter().map(|sample| Expected::from(*sample)).collect();
    let table = table(task, &said, &expected);
    if let Some(path) = &args.draw {
        sheet::write(path, task, &samples, &said)?;
    }
    if all.json {
        let samples = samples.len();
        return output::json(&Document { data: &all.data, samples, table: &table });
    }
    for line in lines(&all.data, &table) {
        output::line(&line)?;
    }
    Ok(())
}

/// At most so many, spread evenly over the set.
pub fn spread(chosen: &[usize], limit: Option<usize>) -> Vec<usize> {
    let of = chosen.len();
    let count = limit.map_or(of, |limit| limit.clamp(1, of.max(1)).min(of));
    (0..count).map(|i| chosen[i * of / count]).collect()
}

/// What a model says to each sample, with the progress on stderr.
///
/// # Errors
/// If a picture cannot be read, or a sample cannot be put to the model.
pub fn answers(
    folder: &GenerativeFolder,
    dir: &Path,
    samples: &[&Conversation],
    telling: Telling<'_>,
    max_tokens: usize,
) -> Result<Vec<String>> {
    let eos = GenerationConfig::read(dir)?.eos;
    let sampling = Sampling { eos, max_tokens, ..Sampling::default() };
    let pace = Pace::default();
    let all = samples.len();
    Ok(ask(folder, samples, telling, &sampling, &mut |heard| pace.tell("answers", heard, all))?)
}

/// The samples that a task is about: captions are answers to no question, boxes answers without
/// words.
pub fn chosen(data: &Conversations, task: Task) -> Vec<usize> {
    let fits = |sample: &Conversation| match task {
        Task::Vqa => !sample.question().is_empty() && !sample.answers.is_empty(),
        Task::Caption => sample.question().is_empty() && !sample.answers.is_empty(),
        Task::Boxes => !sample.boxes.is_empty() && sample.answers.is_empty(),
    };
    (0..data.samples.len()).filter(|i| fits(&data.samples[*i])).collect()
}

/// The columns of a task: a measure, its heading, and whether it is a share.
fn columns(task: Task) -> &'static [(&'static str, &'static str, bool)] {
    match task {
        Task::Vqa => &[("accuracy", "accuracy", true), ("exact", "exact", true)],
        Task::Caption => &[
            ("bleu-1", "BLEU-1", true),
            ("bleu-4", "BLEU-4", true),
            ("rouge-l", "ROUGE-L", true),
            ("cider", "CIDEr", false),
            ("cider-d", "CIDEr-D", false),
        ],
        Task::Boxes => &[
            ("mean-iou", "mean IoU", false),
            ("iou-0.5", "IoU>0.5", true),
            ("pointing", "pointing", true),
            ("surplus", "surplus", false),
        ],
    }
}

/// The table as lines of text.
pub fn lines(data: &str, table: &Table) -> Vec<String> {
    let columns = columns(table.task);
    let number = |value: f64, share: bool| match share {
        true => format!("{:.1} %", 100.0 * value),
        false => format!("{value:.3}"),
    };
    let (first, _, share) = columns[match table.task {
        Task::Caption => 4,
        _ => 0,
    }];
    let width = table.rows.iter().map(|row| row.kind.chars().count()).max().unwrap_or(0).max(4);
    let mut head = format!("{:<width$} {:>8}", "kind", "samples");
    for (_, heading, _) in columns {
        head += &format!(" {heading:>9}");
    }
    let name = table.task.name();
    let mut lines = vec![format!("{name} on {data}"), format!("{head}   constant answer")];
    for row in &table.rows {
        let Row { kind, samples, .. } = row;
        let mut line = format!("{kind:<width$} {samples:>8}");
        for (measure, _, share) in columns {
            line += &format!(" {:>9}", number(row.measures[measure], *share));
        }
        let constant: String = row.constant.chars().take(40).collect();
        lines.push(format!("{line}   {} ({constant})", number(row.baseline[first], share)));
    }
    lines
}
