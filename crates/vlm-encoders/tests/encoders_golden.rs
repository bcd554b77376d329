//! Every family against transformers and open_clip (the folders are made by
//! xtask/golden/encoders.py).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use vlm_encoders::text::Batch;
use vlm_encoders::{
    DualModel, DualSpec, Float, Patches, States, TextModel, TextPool, TextSpec, VisionModel,
    Weights, batch_tokens, text_mask,
};
use vlm_store::TensorFiles;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encoders")
}

/// All folders, so that none is forgotten.
fn folders() -> Vec<String> {
    let entries = std::fs::read_dir(golden()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 29, "{} folders", names.len());
    names
}

/// What a golden folder says goes in and comes out.
struct Expected {
    files: TensorFiles,
    bytes: Vec<u8>,
}

impl Expected {
    fn open(name: &str) -> Self {
        let path = golden().join(name).join("expected.safetensors");
        Expected {
            files: TensorFiles::open_file(&path).unwrap(),
            bytes: std::fs::read(&path).unwrap(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.files.shape(name).is_some()
    }

    fn floats(&self, name: &str) -> TensorData {
        self.files.read(name).unwrap()
    }

    fn integers(&self, name: &str) -> (Vec<i64>, usize, usize) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        let values = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        (values, view.shape()[0], view.shape()[1])
    }

    fn batch(&self) -> Batch {
        let (ids, rows, cols) = self.integers("input_ids");
        let mask = if self.has("attention_mask") {
            self.integers("attention_mask").0.iter().map(|seen| *seen == 1).collect()
        } else {
            vec![true; ids.len()]
        };
        Batch { types: vec![0; ids.len()], ids, mask, rows, cols, truncated: 0 }
    }
}

/// The largest difference, where `seen` (if given) says that a token counts.
fn worst(ours: &TensorData, theirs: &TensorData, seen: Option<&[bool]>) -> f32 {
    assert_eq!(ours.shape(), theirs.shape());
    let ours: Vec<f32> = ours.iter::<f32>().collect();
    let theirs: Vec<f32> = theirs.iter::<f32>().collect();
    let row = seen.map_or(1, |seen| ours.len() / seen.len());
    ours.iter()
        .zip(&theirs)
        .enumerate()
        .filter(|(i, _)| seen.is_none_or(|seen| seen[i / row]))
        // A NaN is the worst there is, and `f32::max` would drop it.
        .map(|(_, (a, b))| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max)
}

/// Names, values, and which tokens count.
type Said = Vec<(String, TensorData, Option<Vec<bool>>)>;

fn states(said: &States, batch: Option<&Batch>) -> Said {
    let seen = batch.map(|batch| batch.mask.clone());
    let mut all = vec![("last_hidden_state".to_owned(), said.last.to_data(), seen.clone())];
    if let Some(pooled) = &said.pooled {
        all.push(("pooler_output".to_owned(), pooled.to_data(), None));
    }
    for (i, state) in said.layers.iter().enumerate() {
        all.push((format!("hidden_states.{i}"), state.to_data(), seen.clone()));
    }
    all
}

fn vision(model: &VisionModel, expected: &Expected) -> Said {
    let device = Device::flex();
    let sizes: Vec<String> = expected
        .files
        .names()
        .filter(|n| n.starts_with("pixels.") && n.matches('.').count() == 1)
        .map(str::to_owned)
        .collect();
    if sizes.is_empty() {
        let pixels = Tensor::<4>::from_data(expected.floats("pixel_values"), &device);
        let said = model.vision.states(pixels, true);
        let mut all = states(&said, None);
        if model.visual_projection.is_some() {
            all.push(("image_embeds".into(), model.features(&said).into_data(), None));
        }
        return all;
    }
    let mut all = Vec::new();
    for name in sizes {
        let pixels = Tensor::<4>::from_data(expected.floats(&name), &device);
        let [_, _, height, width] = pixels.dims();
        assert!(model.vision.takes((height, width)), "{name}");
        let said = model.vision.states(pixels, false);
        all.push((format!("{name}.last"), said.last.into_data(), None));
        all.push((format!("{name}.pooled"), said.pooled.unwrap().into_data(), None));
    }
    all
}

fn text(model: &TextModel, spec: &TextSpec, expected: &Expected) -> Said {
    let device = Device::flex();
    let batch = expected.batch();
    let (ids, places) = batch_tokens(&batch, spec.pool, &device);
    let places = (spec.pool != TextPool::Absent).then_some(places);
    let mut said = model.text.states(ids, places, text_mask(&batch, &device), true);
    if spec.shape.causal && spec.pool == TextPool::Absent {
        // transformers counts a decoder's last norm to its last layer.
        *said.layers.last_mut().unwrap() = said.last.clone();
    }
    let mut all = states(&said, Some(&batch));
    if let (Some(projection), Some(pooled)) = (&model.text_projection, &said.pooled) {
        let features = projection.forward(pooled.clone());
        all.push(("text_embeds".into(), features.into_data(), None));
    }
    if expected.has("logits") {
        let logits = model.text.logits(said.last).into_data();
        all.push(("logits".into(), logits, Some(batch.mask.clone())));
    }
    all
}

fn dual(model: &DualModel, spec: &DualSpec, expected: &Expected) -> Said {
    let device = Device::flex();
    let batch = expected.batch();
    let (ids, places): (Tensor<2, Int>, _) = batch_tokens(&batch, spec.text.pool, &device);
    if expected.has("image_features") {
        let pixels = Tensor::<4>::from_data(expected.floats("pixel_values"), &device);
        let image = model.image_features(pixels, None);
        let text = model.text_features(ids, places, None);
        return vec![
            ("image_features".into(), image.into_data(), None),
            ("text_features".into(), text.into_data(), None),
        ];
    }
    let mut seen = None;
    let looked = if expected.has("spatial_shapes") {
        let grids = expected.integers("spatial_shapes").0;
        let grids = grids.chunks(2).map(|g| (g[0] as usize, g[1] as usize)).collect();
        let mask = expected.integers("pixel_attention_mask").0;
        seen = Some(mask.iter().map(|seen| *seen == 1).collect());
        let values = Tensor::<3>::from_data(expected.floats("pixel_values"), &device);
        model.vision.patch_states(Patches { values, grids }, false)
    } else {
        let pixels = Tensor::<4>::from_data(expected.floats("pixel_values"), &device);
        model.vision.states(pixels, false)
    };
    let read = model.text.states(ids, Some(places), None, false);
    let unit = |x: Tensor<2>| {
        let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
        x / length
    };
    let (image, text) = (looked.pooled.unwrap(), read.pooled.unwrap());
    let (image_unit, text_unit) = (unit(image.clone()), unit(text.clone()));
    let bias = model.logit_bias.as_ref().unwrap().val().reshape([1, 1]);
    let logits = image_unit.clone().matmul(text_unit.clone().transpose()) * model.scale() + bias;
    vec![
        ("vision.last_hidden_state".into(), looked.last.into_data(), seen),
        ("vision.pooler_output".into(), image.into_data(), None),
        ("text.last_hidden_state".into(), read.last.into_data(), None),
        ("text.pooler_output".into(), text.into_data(), None),
        ("image_embeds".into(), image_unit.into_data(), None),
        ("text_embeds".into(), text_unit.into_data(), None),
        ("logits_per_image".into(), logits.into_data(), None),
    ]
}

fn said(weights: &Weights, expected: &Expected) -> Said {
    match weights {
        Weights::Vision(_, model) => vision(model, expected),
        Weights::Text(plan, model) => text(model, &plan.spec, expected),
        Weights::Dual(plan, model) => dual(model, &plan.spec, expected),
    }
}

#[test]
fn every_family_says_what_the_reference_says() {
    let mut wrong = Vec::new();
    for name in folders() {
        let expected = Expected::open(&name);
        let weights = match Weights::open(&golden().join(&name), &Device::flex()) {
            Ok(weights) => weights,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let said = said(&weights, &expected);
        let inputs = ["input_ids", "attention_mask", "pixel", "spatial_shapes"];
        for theirs in expected.files.names() {
            let input = inputs.iter().any(|input| theirs.starts_with(input));
            if input && !theirs.ends_with(".last") && !theirs.ends_with(".pooled") {
                continue;
            }
            let Some((_, ours, seen)) = said.iter().find(|(ours, ..)| ours == theirs) else {
                wrong.push(format!("{name}: nothing said of {theirs}"));
                continue;
            };
            let worst = worst(ours, &expected.floats(theirs), seen.as_deref());
            if worst > 1e-4 {
                wrong.push(format!("{name} {theirs}: differs by {worst}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every tensor of a folder, as it lies in the file.
fn tensors(dir: &Path, name: &str) -> Vec<(String, String, TensorData)> {
    let files = TensorFiles::open_dir(dir, name).unwrap();
    let one = |name: &str| {
        (name.to_owned(), files.dtype(name).unwrap().to_owned(), files.read(name).unwrap())
    };
    files.names().filter(|name| !name.ends_with("position_ids")).map(one).collect()
}

#[test]
fn what_is_written_is_what_was_read() {
    for name in folders() {
        let weights = Weights::open(&golden().join(&name), &Device::flex()).unwrap();
        let out = tempfile::tempdir().unwrap();
        weights.save(out.path(), Float::F16).unwrap();
        let file = if name == "open-clip" { "open_clip_model" } else { "model" };
        let (ours, theirs) = (tensors(out.path(), file), tensors(&golden().join(&name), file));
        if name == "bert-old" {
            // The names of old become those of today.
            let new = |name: &str| name.replace("gamma", "weight").replace("beta", "bias");
            let mut theirs: Vec<_> =
                theirs.into_iter().map(|(name, dtype, data)| (new(&name), dtype, data)).collect();
            theirs.sort_by(|a, b| a.0.cmp(&b.0));
            assert!(ours == theirs, "{name}");
        } else {
            let names = |list: &[(String, String, TensorData)]| -> Vec<String> {
                list.iter().map(|(name, ..)| name.clone()).collect()
            };
            assert_eq!(names(&ours), names(&theirs), "{name}");
            assert!(ours == theirs, "{name}");
        }
        let expected = Expected::open(&name);
        let again = Weights::open(out.path(), &Device::flex()).unwrap();
        let (first, second) = (said(&weights, &expected), said(&again, &expected));
        for ((what, a, _), (_, b, _)) in first.iter().zip(&second) {
            assert_eq!(worst(a, b, None), 0.0, "{name} {what}");
        }
    }
}
