//! Training a model that speaks.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Error, Result, bail};
use burn::tensor::Device;
use serde_json::json;
use vlm_datasets::{Conversation, Conversations};
use vlm_encoders::image::RgbImage;
use vlm_fusion::GenerativeFolder;
use vlm_fusion::metrics::{Expected, Table, Task, table};
use vlm_fusion::task::{Batching, GenerativeConfig, GenerativeTask, Part};
use vlm_peft::Adapted;
use vlm_train::{Card, Series};

use super::joined::{Pace, features_of};
use super::{Facts, Run};
use crate::adapter::{self, AdapterConfig, Worn};
use crate::config::RunConfig;
use crate::eval::generated;
use crate::inspect::{Preview, Seen};
use crate::output;
use crate::report;

/// Trains on conversations, measures and reports.
pub fn run(run: &Run<'_>, generative: &GenerativeConfig) -> Result<ExitCode> {
    let Run { config, out, device, .. } = run;
    let open = |name: &str, split: &str| {
        let data = Conversations::open(name, split)?;
        data.notes.iter().for_each(|note| output::note(note));
        Ok::<_, Error>(data)
    };
    let data = open(&config.data.train, "train")?;
    let evals = config
        .eval
        .iter()
        .map(|eval| Ok((eval, open(&eval.data, "test")?)))
        .collect::<Result<Vec<_>>>()?;
    let validation = config.data.val.as_ref().map(|name| open(name, "val")).transpose()?;
    let folder = begin(config, generative, &data, device)?;
    let facts = facts(&folder, generative);
    let plan = folder.plan.clone();
    let size = folder.images.output_size();
    let rows = size.map(|size| folder.rows_of(size));
    let batching = batching(config);
    let pace = Pace::default();
    let told = |what: &str, done: usize, of: usize| pace.tell(what, done, of);
    let cache = features_of(out.parent().unwrap_or(Path::new(".")));
    let (task, model) = GenerativeTask::new(
        &data,
        validation.as_ref(),
        folder,
        (generative.clone(), batching),
        &cache,
        &told,
    )
    .map_err(Error::from_boxed)?;
    let trained = match &config.adapter {
        None => run.train(&task, model, task.samples(), &config.optim)?,
        Some(adapter) => {
            let (model, adapter, base) =
                adapter.attach_generative(model, (&plan, size), generative, config.seed)?;
            let mut optim = config.optim.clone();
            optim.lr_scale.extend(adapter.rates(&model));
            let task_of_adapter = Adapted::new(&task, adapter, base, config.seed);
            run.train(&task_of_adapter, model, task.samples(), &optim)?
        }
    };
    let Some(mut trained) = trained else { return Ok(ExitCode::from(130)) };
    trained.cost.insert("picture_rows".into(), json!(rows));
    // Measured as others will use it: from the folder on disk.
    let (model, adapter) = match (&config.adapter, &generative.from) {
        (Some(_), Some(dir)) => (dir.clone(), Some(trained.run.adapter())),
        _ => (trained.run.model(), None),
    };
    let mut measured = Vec::new();
    if !evals.is_empty() {
        let four_bit = config.four_bit();
        let worn = adapter.as_deref().map(Worn::of);
        let folder = adapter::open_generative(&model, worn, four_bit, device)?;
        for (eval, data) in &evals {
            let began = Instant::now();
            let asked = Asked::new(&folder, &model, (data, eval.limit), generative)?;
            let seconds = began.elapsed().as_secs_f64() / asked.said.len().max(1) as f64;
            if measured.is_empty() {
                trained.cost.insert("answer_seconds".into(), json!(seconds));
            }
            measured.push((eval, asked));
        }
    }
    let mut report = report::beginning(&trained.run, config, facts);
    report::curves(
        &trained.run,
        &mut report,
        &[
            ("Training loss", "nats a token", &[("train", "loss")]),
            ("Validation loss", "nats a token", &[("val", "loss")]),
            ("Answers foretold whole", "share", &[("val", "exact")]),
            ("Learning rate", "", &[("train", "lr")]),
        ],
    )?;
    if let Some(scores) = adapter.as_deref().and_then(attention_scores) {
        report.curve("What skipping an attention is worth", "attention", "score", &scores);
    }
    let (mut metrics, mut lines) = (Vec::new(), Vec::new());
    for (eval, asked) in &measured {
        for table in &asked.tables {
            metrics.extend(asked.metrics(&eval.name, table));
            lines.extend(generated::lines(&eval.data, table));
        }
        let note = "Asked, and what the model said; green is right.";
        report.gallery(&format!("Answers: {}", eval.name), note, &asked.cards()?);
    }
    run.finish(&trained, metrics, &report.render(), &lines)
}

/// The scores that a search for attentions found, and those that are skipped, as an adapter's file has them.
fn attention_scores(adapter: &Path) -> Option<Vec<Series>> {
    let text = std::fs::read_to_string(adapter.join("adapter_config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let scores: Vec<f64> = serde_json::from_value(config.get("scores")?.clone()).ok()?;
    let skipped: Vec<usize> = serde_json::from_value(config.get("skipped_layers")?.clone()).ok()?;
    let point = |layer: usize| Some((layer as f64, *scores.get(layer)?));
    let series = |name: &str, points| Series { name: name.to_owned(), points };
    Some(vec![
        series("all", (0..scores.len()).filter_map(point).collect()),
        series("skipped", skipped.into_iter().filter_map(point).collect()),
    ])
}

/// The model that a run begins with.
fn begin(
    config: &RunConfig,
    generative: &GenerativeConfig,
    data: &Conversations,
    device: &Device,
) -> Result<GenerativeFolder> {
    let mut folder = match (&generative.from, &generative.assemble) {
        (Some(dir), _) => GenerativeFolder::open_packed(dir, config.four_bit(), device)?,
        (None, Some(assembly)) => {
            let telling = generative.telling();
            assembly.assemble(telling.texts(data), config.seed, device)?
        }
        (None, None) => bail!("model.generative needs `from` or `assemble`"),
    };
    folder.plan.spec.memory = config.adapter.as_ref().is_some_and(AdapterConfig::remembers);
    Ok(folder)
}

fn batching(config: &RunConfig) -> Batching {
    Batching { size: config.batch.size, chunk: config.batch.chunk, seed: config.seed }
}

/// The first rows of a run: a picture, and the tokens of the conversations about it.
///
/// # Errors
/// If model or data cannot be read.
pub fn preview(
    config: &RunConfig,
    generative: &GenerativeConfig,
    device: &Device,
) -> Result<Preview> {
    let data = Conversations::open(&config.data.train, "train")?;
    let folder = begin(config, generative, &data, device)?;
    let (tokenizer, images) = (folder.tokenizer.clone(), folder.images.clone());
    let how = (generative.clone(), batching(config));
    let rows = GenerativeTask::first_rows(&data, folder, how).map_err(Error::from_boxed)?;
    let tokens = rows.iter().map(|(row, _)| row.ids.len());
    let facts = vec![
        ("rows", rows.len().to_string()),
        ("tokens of the longest row", tokens.max().unwrap_or(0).to_string()),
        (
            "tokens that are learned",
            rows.iter().map(|(row, _)| row.answers.len()).sum::<usize>().to_string(),
        ),
    ];
    let mut pictures = Vec::new();
    for (row, paths) in rows {
        let picture = match paths.first() {
            Some(path) => images.process_path(path)?.picture(),
            None => RgbImage::new(1, 1),
        };
        pictures.push(Seen {
            picture,
            caption: paths.first().map(|path| path.display().to_string()).unwrap_or_default(),
            // An answer is foretold one place before it stands.
            marked: row.answers.iter().map(|(place, _)| place + 1).collect(),
            tokens: row.ids.iter().map(|id| tokenizer.shown(*id)).collect(),
        });
    }
    let note =
        "Several conversations about a picture share its row. The marked tokens are learned.";
    Ok(Preview { pictures, facts, note })
}

/// What a model said to a set.
struct Asked<'a> {
    samples: Vec<&'a Conversation>,
    said: Vec<String>,
    tables: Vec<Table>,
}

/// Samples of an `[[eval]]` that the report shows.
const SHOWN: usize = 48;
/// Tokens of an answer at most.
const ANSWER: usize = 48;

impl<'a> Asked<'a> {
    fn new(
        folder: &GenerativeFolder,
        dir: &Path,
        (data, limit): (&'a Conversations, Option<usize>),
        generative: &GenerativeConfig,
    ) -> Result<Self> {
        let (mut all, mut texts, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        for task in [Task::Vqa, Task::Caption, Task::Boxes] {
            let chosen = generated::spread(&generated::chosen(data, task), limit);
            if chosen.is_empty() {
                continue;
            }
            let samples: Vec<&Conversation> = chosen.iter().map(|i| &data.samples[*i]).collect();
            let said = generated::answers(folder, dir, &samples, generative.telling(), ANSWER)?;
            let expected: Vec<Expected> = samples.iter().map(|s| Expected::from(*s)).collect();
            tables.push(table(task, &said, &expected));
            all.extend(samples);
            texts.extend(said);
        }
        Ok(Asked { samples: all, said: texts, tables })
    }

    /// The measures over all kinds, by name.
    fn metrics(&self, name: &str, table: &Table) -> Vec<(String, f64)> {
        let Some(row) = table.rows.first() else { return Vec::new() };
        row.measures.iter().map(|(k, v)| (format!("{name}_{k}"), *v)).collect()
    }

    fn cards(&self) -> Result<Vec<Card>> {
        let step = (self.samples.len() / SHOWN).max(1);
        let mut cards = Vec::new();
        for (sample, said) in self.samples.iter().zip(&self.said).step_by(step).take(SHOWN) {
            let Some(picture) = sample.pictures.first() else { continue };
            let right = sample.answers.iter().any(|answer| answer.eq_ignore_ascii_case(said));
            let wanted = sample.answers.first().cloned().unwrap_or_default();
            cards.push(Card {
                image_png: report::thumbnail(picture)?,
                caption: sample.question().to_owned(),
                lines: vec![(said.clone(), None, right), (format!("({wanted})"), None, false)],
                more: Vec::new(),
            });
        }
        Ok(cards)
    }
}

fn facts(folder: &GenerativeFolder, generative: &GenerativeConfig) -> Facts {
    let (vision, text) = (&folder.plan.spec.vision, &folder.plan.spec.text);
    let state = |part: Part| if generative.trains(part) { "trained" } else { "locked" };
    vec![
        (
            "image tower",
            format!(
                "{} layers, width {}, {}",
                vision.layers,
                vision.block.width,
                state(Part::Vision)
            ),
        ),
        ("fusion", format!("{}, {}", folder.plan.spec.fusion.kind(), state(Part::Fusion))),
        (
            "decoder",
            format!(
                "{} layers, width {}, {} tokens known, {}",
                text.blocks.len(),
                text.shape.width,
                text.vocabulary,
                state(Part::Text)
            ),
        ),
    ]
}
