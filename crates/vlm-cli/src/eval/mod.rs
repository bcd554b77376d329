//! `vlm eval`.

mod few_label;
mod few_table;
pub mod generated;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use clap::ValueEnum;
use serde::Serialize;
use vlm_contrastive::{
    Classifier, Dual, Templates, classify, embed_pictures, retrieval_metrics, retrieve,
};
use vlm_datasets::Dataset;
use vlm_fusion::metrics;

use crate::adapter::{AdapterArgs, open_dual};
use crate::labels::TemplateChoice;
use crate::output::{self, Usage};

/// Arguments of `vlm eval`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder; vqa, caption and boxes can score --predictions in its place.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// A shipped set (emoji), a caption file or a folder; NAME:SPLIT picks a split, otherwise it is
    /// `test`, and of few-label, which learns from the set, `train`.
    #[arg(long, value_name = "NAME|DIR")]
    data: String,
    /// What to measure.
    #[arg(long)]
    task: Task,
    #[command(flatten)]
    templates: TemplateChoice,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    few: few_label::Args,
    #[command(flatten)]
    generated: generated::Args,
}

impl Args {
    /// The model folder, where the task needs one.
    fn model(&self) -> Result<&Path> {
        match &self.model {
            Some(model) => Ok(model),
            None => Err(Usage("this task needs --model, the model folder".into()).into()),
        }
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Task {
    /// Accuracy of choosing among all labels of the set.
    ZeroShot,
    /// Finding captions for pictures and pictures for captions.
    Retrieval,
    /// Accuracy after learning from a few labelled pictures a class, by several methods.
    FewLabel,
    /// Answers to questions: VQA accuracy and exact matches, for each kind of question.
    Vqa,
    /// Captions: BLEU, ROUGE-L and CIDEr.
    Caption,
    /// Boxes around what is asked for: intersection over union and the pointing game.
    Boxes,
}

#[derive(Serialize)]
struct Document<'a> {
    task: &'a str,
    samples: usize,
    metrics: BTreeMap<String, f64>,
}

/// The features of all pictures of a set.
pub fn features(clip: &Dual, data: &Dataset, model: &Path) -> Result<Tensor<2>> {
    let paths: Vec<PathBuf> = data.samples.iter().map(|s| s.image.clone()).collect();
    embed_pictures(clip, &paths).map_err(output::blame(model))
}

/// Measures a model.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let generated = match args.task {
        Task::Vqa => Some(metrics::Task::Vqa),
        Task::Caption => Some(metrics::Task::Caption),
        Task::Boxes => Some(metrics::Task::Boxes),
        _ => None,
    };
    if let Some(task) = generated {
        args.few.refuse()?;
        if args.templates.is_given() {
            return Err(Usage("--templates is not of this task".into()).into());
        }
        return generated::run(args, task, device);
    }
    args.generated.refuse()?;
    let templates = args.templates.read()?;
    if args.task == Task::FewLabel {
        if args.adapter.worn().is_some() {
            let reason =
                "--adapter is not of --task few-label; `vlm merge` makes one model of both";
            return Err(Usage(reason.into()).into());
        }
        return few_label::run(args, &templates, device);
    }
    args.few.refuse()?;
    let model = args.model()?;
    let mut data = Dataset::open(&args.data, "test")?;
    let clip = open_dual(model, args.adapter.worn(), None, device)?;
    let features = features(&clip, &data, model)?;
    let (task, metrics) = if args.task == Task::ZeroShot {
        caption_labels(&mut data);
        let classifier = Classifier::new(&clip, &data.labels, &templates)?;
        let accuracy = classify(&classifier, features, &data.truth()?)?;
        ("zero-shot", vec![("top1".into(), accuracy.top1), ("top5".into(), accuracy.top5)])
    } else {
        let captions: Vec<_> = data.samples.iter().map(|s| s.captions.clone()).collect();
        ("retrieval", retrieval_metrics(&retrieve(&clip, features, &captions)?))
    };
    let samples = data.samples.len();
    if args.json {
        return output::json(&Document { task, samples, metrics: metrics.into_iter().collect() });
    }
    output::line(&format!("{task} on {} ({samples} pictures)", args.data))?;
    for (name, value) in metrics {
        output::line(&format!("  {name:<8} {:6.2} %", 100.0 * value))?;
    }
    Ok(())
}

/// A set without labels is classified by its captions: the first of each picture.
pub fn caption_labels(data: &mut Dataset) {
    if !data.labels.is_empty() {
        return;
    }
    for sample in &mut data.samples {
        sample.label = sample.captions.first().cloned();
    }
    data.labels = data.samples.iter().filter_map(|s| s.label.clone()).collect();
    data.labels.sort();
    data.labels.dedup();
}

/// A zero-shot measurement that the report shows.
pub struct Measured {
    pub name: String,
    pub note: String,
    pub samples: usize,
    pub labels: usize,
    pub metrics: Vec<(String, f64)>,
    /// Similarities `[pictures, labels]`.
    pub scores: Vec<f32>,
    pub truth: Vec<usize>,
    pub data: Dataset,
    pub features: Tensor<2>,
}

impl Measured {
    /// Measures a set whose features are known.
    ///
    /// # Errors
    /// If it has no labels.
    pub fn new(
        clip: &Dual,
        name: &str,
        note: &str,
        data: &Dataset,
        features: Tensor<2>,
    ) -> Result<Self> {
        let truth = data.truth()?;
        let classifier = Classifier::new(clip, &data.labels, &Templates::none())?;
        let accuracy = classify(&classifier, features.clone(), &truth)?;
        Ok(Measured {
            name: name.to_owned(),
            note: note.to_owned(),
            samples: data.samples.len(),
            labels: data.labels.len(),
            metrics: vec![("top1".into(), accuracy.top1), ("top5".into(), accuracy.top5)],
            scores: classifier.scores(features.clone()),
            truth,
            data: data.clone(),
            features,
        })
    }
}

/// The zero-shot table as lines of text.
pub fn table(measured: &[Measured]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<14} {:>8} {:>8} {:>8} {:>8}",
        "zero-shot", "pictures", "labels", "top-1", "top-5"
    )];
    for m in measured {
        let percent: Vec<String> =
            m.metrics.iter().map(|(_, v)| format!("{:>6.1} %", 100.0 * v)).collect();
        lines.push(format!(
            "{:<14} {:>8} {:>8} {}",
            m.name,
            m.samples,
            m.labels,
            percent.join(" ")
        ));
    }
    lines
}
