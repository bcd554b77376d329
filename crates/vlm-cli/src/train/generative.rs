//! Training a model that speaks.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Error, Result};
use vlm_datasets::Conversations;
use vlm_fusion::GenerativeFolder;
use vlm_fusion::task::{Batching, GenerativeConfig, GenerativeTask, Part};

use super::joined::{Pace, features_of};
use super::{Facts, Run};
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
    let validation = config.data.val.as_ref().map(|name| open(name, "val")).transpose()?;
    let (folder, source) = match (&generative.from, &generative.assemble) {
        (Some(dir), _) => (GenerativeFolder::open(dir, device)?, dir),
        (None, Some(assembly)) => (assembly.assemble(config.seed, device)?, &assembly.vision),
        (None, None) => anyhow::bail!("model.generative needs `from` or `assemble`"),
    };
    let facts = facts(&folder, generative);
    let batching =
        Batching { size: config.batch.size, chunk: config.batch.chunk, seed: config.seed };
    let pace = Pace::default();
    let told = |what: &str, done: usize, of: usize| pace.tell(what, done, of);
    let cache = features_of(out.parent().unwrap_or(Path::new(".")));
    let (task, model) = GenerativeTask::new(
        &data,
        validation.as_ref(),
        folder,
        (generative.clone(), batching),
        (&cache, source),
        &told,
    )
    .map_err(Error::from_boxed)?;
    let Some(trained) = run.train(&task, model, task.samples())? else {
        return Ok(ExitCode::from(130));
    };
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
    run.finish(&trained, Vec::new(), &report.render(), &[])
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
