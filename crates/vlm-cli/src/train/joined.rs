//! Joining two towers.

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use anyhow::{Error, Result, bail};
use burn::tensor::Device;
use vlm_contrastive::joined::{FeatureCache, JoinConfig, JoinedModel, JoinedTask, Towers};
use vlm_datasets::Dataset;

use super::Facts;
use crate::config::RunConfig;
use crate::inspect::{Preview, STANDS_FOR, Seen};
use crate::output;

/// Builds task and model of a configuration with `[model.towers]`. What locked towers say is kept
/// in `features/` beside the run's folder, where other runs find it.
pub fn prepare(
    config: &RunConfig,
    join: &JoinConfig,
    out: &Path,
    device: &Device,
) -> Result<(JoinedTask, JoinedModel, Facts)> {
    let data = Dataset::open(&config.data.train, "train")?;
    let validation = config.data.val.as_ref().map(|v| Dataset::open(v, "val")).transpose()?;
    if let Some(data) = validation.as_ref().filter(|data| !data.labels.is_empty()) {
        data.truth()?;
    }
    let scale = config.model.logit_scale.unwrap_or(10.0);
    if !(1.0..=100.0).contains(&scale) {
        bail!("model.logit_scale is {scale}; it must lie between 1 and 100");
    }
    let training = device.clone().autodiff();
    let cache = features_of(out.parent().unwrap_or(Path::new(".")));
    let towers = Towers::open(join, cache, device, &training).map_err(Error::from_boxed)?;
    let locked = |tower: &str, name: &str| {
        let trained = serde_json::to_value(&join.train).is_ok_and(|list| {
            list.as_array().is_some_and(|list| list.iter().any(|entry| entry == name))
        });
        format!("{tower}, {}", if trained { "trained" } else { "locked" })
    };
    let facts = vec![
        ("image tower", locked(&join.vision.display().to_string(), "vision")),
        ("text tower", locked(&join.text.display().to_string(), "text")),
        ("image head", format!("{:?}", join.image_head).to_lowercase()),
        ("text head", format!("{:?}", join.text_head).to_lowercase()),
    ];
    let pace = Pace::default();
    let rest = (config.sample.clone(), config.batch.clone(), config.loss, config.seed);
    let told = |what: &str, done: usize, of: usize| pace.tell(what, done, of);
    let (task, model) = JoinedTask::new(data, validation, towers, rest, scale, &training, &told)
        .map_err(Error::from_boxed)?;
    Ok((task, model, facts))
}

/// The first pictures and texts of a run, as the towers see them.
pub fn preview(config: &RunConfig, join: &JoinConfig, device: &Device) -> Result<Preview> {
    let data = Dataset::open(&config.data.train, "train")?;
    let towers = Towers::open(join, features_of(Path::new(".")), device, device)
        .map_err(Error::from_boxed)?;
    let order = vlm_datasets::order(config.seed, 0, data.samples.len());
    let samples: Vec<_> =
        order.into_iter().take(config.batch.size).map(|i| &data.samples[i]).collect();
    let captions: Vec<String> = samples.iter().map(|s| s.captions[0].clone()).collect();
    let texts = towers.text.tokenize(&captions)?;
    let mut pictures = Vec::new();
    for (row, sample) in samples.iter().enumerate() {
        let cells = row * texts.cols..(row + 1) * texts.cols;
        let real = texts.ids[cells.clone()].iter().zip(&texts.mask[cells]).filter(|(_, m)| **m);
        pictures.push(Seen {
            picture: towers.vision.images.process_path(&sample.image)?.picture(),
            caption: format!("{} ({})", sample.captions[0], sample.image_ref),
            tokens: real.map(|(id, _)| towers.text.tokenizer.shown(*id)).collect(),
            marked: Vec::new(),
        });
    }
    let facts = vec![
        ("pictures", pictures.len().to_string()),
        ("texts cut to the context", texts.truncated.to_string()),
    ];
    Ok(Preview { pictures, facts, note: STANDS_FOR })
}

/// Where the vectors of locked towers are kept, for runs in that folder.
pub fn features_of(runs: &Path) -> FeatureCache {
    FeatureCache::new(runs.join("features"))
}

/// Says now and then how far the towers are.
#[derive(Default)]
pub struct Pace(RefCell<Option<(String, Instant, usize, Instant)>>);

impl Pace {
    /// `done` of `of` are there.
    pub fn tell(&self, what: &str, done: usize, of: usize) {
        let now = Instant::now();
        let mut state = self.0.borrow_mut();
        match state.as_mut().filter(|state| state.0 == what && state.2 <= done) {
            None => *state = Some((what.to_owned(), now, done, now)),
            Some((_, began, from, last)) if now.duration_since(*last).as_secs() >= 5 => {
                *last = now;
                let rate = (done - *from) as f64 / now.duration_since(*began).as_secs_f64();
                let left = match rate > 0.0 {
                    true => format!(", {:.0} s left", (of - done) as f64 / rate),
                    false => String::new(),
                };
                output::note(&format!("{what} {done} of {of}{left}"));
            }
            Some(_) => {}
        }
    }
}
