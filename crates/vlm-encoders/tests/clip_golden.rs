//! `CLIPModel` against transformers (the folders are made by xtask/golden/clip.py).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use vlm_encoders::text::Batch;
use vlm_encoders::{Blueprint, DualModel, DualSpec, Float, Weights, batch_tokens};
use vlm_store::TensorFiles;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip").join(name)
}

type Clip = (Blueprint<DualSpec>, DualModel);

fn open(dir: &Path) -> Clip {
    match Weights::open(dir, &Device::flex()).unwrap() {
        Weights::Dual(plan, model) => (plan, model),
        _ => panic!("{}: not a dual encoder", dir.display()),
    }
}

fn ids(dir: &Path) -> Batch {
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("input_ids").unwrap();
    let ids: Vec<i64> = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let (rows, cols) = (view.shape()[0], view.shape()[1]);
    Batch { mask: vec![true; ids.len()], types: vec![0; ids.len()], ids, rows, cols, truncated: 0 }
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// What the model makes of the inputs of a golden folder, under transformers' names.
fn outputs((plan, model): &Clip, dir: &Path) -> Vec<(&'static str, Vec<f32>)> {
    let device = Device::flex();
    let expected = TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap();
    let pixels = Tensor::<4>::from_data(expected.read("pixel_values").unwrap(), &device);
    let (ids, ends) = batch_tokens(&ids(dir), plan.spec.text.pool, &device);
    let images = model.encode_images(pixels.clone());
    let texts = model.encode_texts(ids.clone(), ends.clone(), None);
    let logits = images.clone().matmul(texts.clone().transpose()) * model.scale();
    vec![
        ("image_features", floats(model.image_features(pixels, None))),
        ("text_features", floats(model.text_features(ids, ends, None))),
        ("image_embeds", floats(images)),
        ("text_embeds", floats(texts)),
        ("logits_per_image", floats(logits)),
    ]
}

#[test]
fn features_and_logits_are_transformers() {
    for name in ["quick", "gelu", "legacy", "f16", "bf16", "sharded"] {
        let dir = golden(name);
        let expected = TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap();
        for (what, ours) in outputs(&open(&dir), &dir) {
            let theirs: Vec<f32> = expected.read(what).unwrap().try_to_vec().unwrap();
            assert_eq!(ours.len(), theirs.len(), "{name} {what}");
            // A NaN is the worst there is, and `f32::max` would drop it.
            let worse = |worst: f32, d: f32| if d > worst || d.is_nan() { d } else { worst };
            let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
            assert!(worst <= 1e-4, "{name} {what}: differs by {worst}");
        }
    }
}

/// Every tensor of a folder, as it lies in the file.
fn tensors(dir: &Path) -> Vec<(String, String, TensorData)> {
    let files = TensorFiles::open_dir(dir, "model").unwrap();
    let one = |name: &str| {
        (name.to_owned(), files.dtype(name).unwrap().to_owned(), files.read(name).unwrap())
    };
    files.names().filter(|name| !name.ends_with("position_ids")).map(one).collect()
}

#[test]
fn what_we_write_is_what_transformers_wrote() {
    for name in ["quick", "gelu", "legacy"] {
        let (plan, model) = open(&golden(name));
        let out = tempfile::tempdir().unwrap();
        plan.save(&model, out.path(), Float::F32).unwrap();
        assert_eq!(tensors(out.path()), tensors(&golden(name)), "{name}");
    }
    // These two were made from the weights of "quick": rounding is the same too.
    let (plan, model) = open(&golden("quick"));
    for (name, float) in [("f16", Float::F16), ("bf16", Float::Bf16)] {
        let out = tempfile::tempdir().unwrap();
        plan.save(&model, out.path(), float).unwrap();
        assert_eq!(tensors(out.path()), tensors(&golden(name)), "{name}");
        let (once, dir) = (open(out.path()), golden("quick"));
        once.0.save(&once.1, out.path(), float).unwrap();
        let twice = open(out.path());
        assert_eq!(outputs(&once, &dir), outputs(&twice, &dir), "{name}");
    }
}

#[test]
fn shards_hold_the_same_and_keep_their_size() {
    const MAX: usize = 20_000;
    let sharded = open(&golden("sharded"));
    let out = tempfile::tempdir().unwrap();
    sharded.0.save_sharded(&sharded.1, out.path(), Float::F32, MAX).unwrap();
    assert!(out.path().join("model.safetensors.index.json").exists());
    assert_eq!(tensors(out.path()), tensors(&golden("quick")));
    let mut shards = 0;
    for entry in std::fs::read_dir(out.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let shard = TensorFiles::open_file(&path).unwrap();
            let size = |name| shard.shape(name).unwrap().iter().product::<usize>() * 4;
            assert!(shard.names().map(size).sum::<usize>() <= MAX, "{}", path.display());
            shards += 1;
        }
    }
    assert!(shards >= 3, "{shards} shards");
    let dir = golden("quick");
    assert_eq!(outputs(&open(out.path()), &dir), outputs(&sharded, &dir));
}

#[test]
fn config_json_comes_back() {
    for name in ["quick", "gelu", "legacy"] {
        let (plan, model) = open(&golden(name));
        let out = tempfile::tempdir().unwrap();
        plan.save(&model, out.path(), Float::F32).unwrap();
        assert_eq!(open(out.path()).0.spec, plan.spec, "{name}");
    }
    let (plan, model) = open(&golden("quick"));
    let out = tempfile::tempdir().unwrap();
    plan.save(&model, out.path(), Float::Bf16).unwrap();
    let text = std::fs::read(out.path().join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let key = if config["dtype"].is_null() { "torch_dtype" } else { "dtype" };
    assert_eq!(config[key], "bfloat16");
}
