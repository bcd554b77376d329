//! Training one encoder by itself.

use std::process::ExitCode;

use anyhow::{Error, Result, bail};
use burn::module::Module;
use vlm_contrastive::Loss;
use vlm_contrastive::solo::{Solo, SoloTask, nearest};
use vlm_datasets::Dataset;
use vlm_encoders::{Blueprint, Encoder, TextFolder, TextSpec, VisionFolder};
use vlm_nn::params::emptied;
use vlm_peft::Adapted;

use super::{Facts, Run};
use crate::adapter::{Worn, open_encoder};
use crate::{output, report};

/// An encoder of pictures.
pub fn pictures(run: &Run<'_>, mut folder: VisionFolder) -> Result<ExitCode> {
    let plan = folder.plan.clone();
    // The task keeps the shape alone.
    let shape = emptied(folder.model.clone(), false);
    let model = std::mem::replace(&mut folder.model, shape);
    let block = &plan.spec.block;
    let facts =
        vec![("image tower", format!("{} layers, width {}", plan.spec.layers, block.width))];
    go(run, folder, model, (&plan, None), facts)
}

/// An encoder of texts.
pub fn texts(run: &Run<'_>, mut folder: TextFolder) -> Result<ExitCode> {
    if let Some(adapter) = &run.config.adapter {
        adapter.make_room(&mut folder.plan.spec)?;
    }
    let plan = folder.plan.clone();
    let shape = emptied(folder.model.clone(), false);
    let model = std::mem::replace(&mut folder.model, shape);
    let facts = vec![(
        "text tower",
        format!("{} layers, width {}", plan.spec.blocks.len(), plan.spec.shape.width),
    )];
    go(run, folder, model, (&plan, Some(&plan.spec)), facts)
}

/// Trains, measures and reports.
fn go<S: Solo, P>(
    run: &Run<'_>,
    encoder: S,
    model: S::Model,
    (plan, text): (&Blueprint<P>, Option<&TextSpec>),
    facts: Facts,
) -> Result<ExitCode>
where
    S::Model: Module,
{
    let Run { config, device, .. } = run;
    if config.loss != Loss::InfoNce {
        bail!("loss: an encoder by itself is trained with infonce");
    }
    if config.batch.chunk > 0 || config.batch.extra_texts > 0 {
        bail!("batch.chunk and batch.extra_texts are of models of pictures and texts");
    }
    let open = |name: &str, split: &str| {
        let data = Dataset::open(name, split)?;
        encoder.suits(&data).map_err(|lacks| anyhow::anyhow!("{name}: {lacks}"))?;
        Ok::<_, Error>(data)
    };
    let data = open(&config.data.train, "train")?;
    let validation = config.data.val.as_ref().map(|name| open(name, "val")).transpose()?;
    let evals = config
        .eval
        .iter()
        .map(|eval| Ok((eval, open(&eval.data, "test")?)))
        .collect::<Result<Vec<_>>>()?;
    let how = (config.sample.clone(), config.batch.clone());
    let task =
        SoloTask::new(encoder, data, validation, how, config.seed).map_err(Error::from_boxed)?;
    let from = config.model.from.as_deref();
    let trained = match &config.adapter {
        None => run.train(&task, model, task.samples(), &config.optim)?,
        Some(adapter) => {
            let (model, adapter, base) =
                adapter.attach_encoder((model, ""), (plan, text), from, config.seed)?;
            let mut optim = config.optim.clone();
            optim.lr_scale.extend(adapter.rates(&model));
            let adapted = Adapted::new(&task, adapter, base, config.seed);
            run.train(&adapted, model, task.samples(), &optim)?
        }
    };
    let Some(trained) = trained else { return Ok(ExitCode::from(130)) };
    // Measured as others will use it: from the folder on disk.
    let (folder, adapter) = match (&config.adapter, from) {
        (Some(_), Some(from)) => (from.to_owned(), Some(trained.run.adapter())),
        _ => (trained.run.model(), None),
    };
    let four_bit = config.four_bit();
    let worn = adapter.as_deref().map(Worn::of);
    let encoder = open_encoder(&folder, worn, four_bit, device)?;
    let (mut metrics, mut lines, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (eval, data) in &evals {
        let (features, groups) = match &encoder {
            Encoder::Vision(folder) => folder.of_set(&folder.model, data),
            Encoder::Text(folder) => folder.of_set(&folder.model, data),
            Encoder::Dual(_) => bail!("{}: is no encoder of one kind", folder.display()),
        }
        .map_err(output::blame(&folder))?;
        let share = nearest(features, &groups).unwrap_or_default();
        let percent = format!("{:.1} %", 100.0 * share);
        lines.push(format!("{:<14} {:>8} things, nearest {percent}", eval.name, groups.len()));
        rows.push(vec![eval.data.clone(), groups.len().to_string(), percent]);
        metrics.push((format!("{}_nearest", eval.name), share));
    }
    let mut report = report::beginning(&trained.run, config, facts);
    report.table(
        "The nearest other",
        &["set", "things", "nearest"],
        &rows,
        "How often the thing with the most similar feature is of the same label or group.",
    );
    report::curves(
        &trained.run,
        &mut report,
        &[
            ("Training loss", "nats", &[("train", "loss")]),
            ("Validation: nearest", "share", &[("val", "nearest")]),
            ("Learning rate", "", &[("train", "lr")]),
        ],
    )?;
    run.finish(&trained, metrics, &report.render(), &lines)
}
