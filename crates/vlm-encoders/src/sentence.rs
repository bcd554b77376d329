//! What sentence-transformers adds to a folder: how states become one feature of a text.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde_json::Value;
use vlm_store::write_file;

use crate::blueprint::read_object;
use crate::models::normalize;
use crate::text;
use crate::towers::{States, TextPool, TextSpec};
use crate::{Error, TextModel};

const MODULES: &str = "modules.json";

/// How states become the feature of a text.
#[derive(Clone, Debug)]
pub struct Pooling {
    how: How,
    normalize: bool,
    /// The files that said so, to be written again.
    files: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// `pooler_output`.
    Model,
    /// The mean over what is no padding.
    Mean,
    /// The largest of each dimension over what is no padding.
    Max,
    /// The first token.
    First,
    /// The last that is no padding.
    Last,
}

impl Pooling {
    /// Reads `modules.json` and what it names. Without it the model's own pooling counts; without
    /// that the mean, or in a causal model the last token.
    pub(crate) fn read(dir: &Path, spec: &TextSpec) -> Result<Self, Error> {
        let path = dir.join(MODULES);
        if !path.exists() {
            let how = match (spec.pool, spec.shape.causal) {
                (TextPool::Absent, true) => How::Last,
                (TextPool::Absent, false) => How::Mean,
                _ => How::Model,
            };
            return Ok(Pooling { how, normalize: false, files: Vec::new() });
        }
        let bad = |reason: String| Error::Config { path: path.clone(), reason };
        let bytes = small(&path)?;
        let modules: Vec<Value> = serde_json::from_slice(&bytes)
            .map_err(|e| bad(format!("not a list of modules ({e})")))?;
        let mut pooling =
            Pooling { how: How::Mean, normalize: false, files: vec![(MODULES.into(), bytes)] };
        for module in &modules {
            let kind = module["type"].as_str().unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if module["path"].as_str().unwrap_or_default().is_empty() => {}
                "Normalize" => pooling.normalize = true,
                "Pooling" => {
                    let folder = module["path"].as_str().unwrap_or_default();
                    let mut parts = Path::new(folder).components();
                    if !matches!(
                        (parts.next(), parts.next()),
                        (Some(std::path::Component::Normal(_)), None)
                    ) {
                        return Err(bad(format!("path `{folder}` is not a folder beside it")));
                    }
                    let name = format!("{folder}/config.json");
                    pooling.how = how(&dir.join(&name))?;
                    let bytes = small(&dir.join(&name))?;
                    pooling.files.push((name, bytes));
                }
                _ => {
                    return Err(bad(format!(
                        "module `{kind}` is not supported; supported: Transformer, Pooling, Normalize"
                    )));
                }
            }
        }
        let more = "sentence_bert_config.json";
        if dir.join(more).exists() {
            pooling.files.push((more.into(), small(&dir.join(more))?));
        }
        Ok(pooling)
    }

    /// Writes the files again.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), Error> {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .map_err(|source| Error::Io { path: parent.to_owned(), source })?;
            }
            write_file(&path, &mut |w| w.write_all(bytes))?;
        }
        Ok(())
    }

    /// The features `[texts, dim]` of states; `batch` says what is padding.
    pub fn features(&self, model: &TextModel, states: &States, batch: &text::Batch) -> Tensor<2> {
        let x = states.last.clone();
        let ([b, t, width], device) = (x.dims(), x.device());
        let seen: Vec<f32> = batch.mask.iter().map(|seen| f32::from(u8::from(*seen))).collect();
        let seen = Tensor::<3>::from_data(TensorData::new(seen, [b, t, 1]), &device);
        let pooled = match self.how {
            How::Model => match &states.pooled {
                Some(pooled) => pooled.clone(),
                None => mean(x, seen),
            },
            How::Mean => mean(x, seen),
            How::Max => {
                let hidden = (seen - 1.0) * 1e9;
                (x + hidden).max_dim(1).reshape([b, width])
            }
            How::First => x.narrow(1, 0, 1).reshape([b, width]),
            How::Last => {
                let last = |row: &[bool]| row.iter().rposition(|seen| *seen).unwrap_or(0) as i64;
                let places: Vec<i64> = batch.mask.chunks(t.max(1)).map(last).collect();
                let places = Tensor::from_data(TensorData::new(places, [b]), &device);
                crate::towers::rows_at(x, places)
            }
        };
        let pooled = match &model.text_projection {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        };
        if self.normalize { normalize(pooled) } else { pooled }
    }
}

fn mean(x: Tensor<3>, seen: Tensor<3>) -> Tensor<2> {
    let [b, _, width] = x.dims();
    let sum = (x * seen.clone()).sum_dim(1);
    (sum / seen.sum_dim(1).clamp_min(1e-9)).reshape([b, width])
}

fn small(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > 1_000_000 {
        let reason = format!("{size} bytes is too large for a configuration");
        return Err(Error::Config { path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(io)
}

/// The one mode that a pooling's `config.json` switches on.
fn how(path: &Path) -> Result<How, Error> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let config = read_object(path)?;
    let on: Vec<&str> = config
        .iter()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == Value::Bool(true))
        .map(|(key, _)| key.as_str())
        .collect();
    match on.as_slice() {
        ["pooling_mode_mean_tokens"] => Ok(How::Mean),
        ["pooling_mode_max_tokens"] => Ok(How::Max),
        ["pooling_mode_cls_token"] => Ok(How::First),
        ["pooling_mode_lasttoken"] => Ok(How::Last),
        other => Err(bad(format!(
            "{} is not supported; supported is one of the modes mean, max, cls and last token",
            if other.is_empty() { "no mode".to_owned() } else { other.join(" and ") }
        ))),
    }
}
