//! Imported folders against the models that the files were made of (xtask/golden/gguf_files.py and
//! onnx_files.py): what they say, and how they read texts.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::Value;
use vlm_encoders::text::{Batch, Tokenizer};
use vlm_encoders::{TextPool, Weights, batch_tokens};
use vlm_import::{Error, Float, Made, Options, import};
use vlm_store::TensorFiles;

fn golden(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder).join(name)
}

fn made(file: &Path, dir: &Path) -> Made {
    import(file, dir, &Options::default(), &mut |_, _| {}).unwrap()
}

/// The largest difference.
fn worst(ours: &TensorData, theirs: &TensorData) -> f32 {
    assert_eq!(ours.shape(), theirs.shape());
    ours.iter::<f32>()
        .zip(theirs.iter::<f32>())
        // A NaN is the worst there is, and `f32::max` would drop it.
        .map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max)
}

fn ids(path: &Path) -> Batch {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("input_ids").unwrap();
    let ids: Vec<i64> = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    Batch {
        mask: vec![true; ids.len()],
        types: vec![0; ids.len()],
        rows: view.shape()[0],
        cols: view.shape()[1],
        ids,
        truncated: 0,
    }
}

/// How far the folder's logits are from those of the model.
fn distance(dir: &Path, expected: &Path) -> f32 {
    let Weights::Text(plan, model) = Weights::open(dir, &Device::flex()).unwrap() else {
        panic!("{} is no text model", dir.display());
    };
    let batch = ids(expected);
    let (tokens, _) = batch_tokens(&batch, TextPool::Absent, &Device::flex());
    assert_eq!(plan.spec.pool, TextPool::Absent);
    let said = model.text.states(tokens, None, None, true);
    let files = TensorFiles::open_file(expected).unwrap();
    let mut layers: Vec<TensorData> = said.layers.into_iter().map(Tensor::into_data).collect();
    // transformers counts the last norm to the last layer.
    *layers.last_mut().unwrap() = said.last.to_data();
    let mut far = worst(&model.text.logits(said.last).into_data(), &files.read("logits").unwrap());
    for (nth, layer) in layers.iter().enumerate() {
        far = far.max(worst(layer, &files.read(&format!("hidden_states.{nth}")).unwrap()));
    }
    far
}

const TEXT: [&str; 10] = [
    "llama",
    "llama-tied",
    "llama-pieces",
    "llama3",
    "llama-divided",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
];

#[test]
fn text_models_say_what_the_reference_says() {
    let mut wrong = Vec::new();
    for name in TEXT {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        made(&golden("gguf_files", &format!("{name}.gguf")), &dir);
        let far = distance(&dir, &golden("gguf_files", &format!("{name}.safetensors")));
        if far > 1e-4 {
            wrong.push(format!("{name} differs by {far}"));
        }
        let cases = std::fs::read(golden("gguf_files", &format!("{name}.json"))).unwrap();
        let cases: Value = serde_json::from_slice(&cases).unwrap();
        let tokenizer = Tokenizer::from_dir(&dir).unwrap();
        for case in cases.as_array().unwrap() {
            let row = tokenizer.encode(case["text"].as_str().unwrap(), 1 << 20).unwrap();
            let ours = serde_json::json!(row.ids);
            if ours != case["ids"] {
                wrong.push(format!("{name} reads {} as {ours}, not {}", case["text"], case["ids"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The trap: with rows in the file's order, answers are wrong, though not by much.
#[test]
fn rows_in_the_order_of_the_file_would_be_noticed() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    made(&golden("gguf_files", "llama.gguf"), &dir);
    let path = dir.join("model.safetensors");
    let files = TensorFiles::open_file(&path).unwrap();
    let specs: Vec<vlm_store::TensorSpec> = files
        .names()
        .map(|name| vlm_store::TensorSpec {
            name: name.into(),
            shape: files.shape(name).unwrap().to_vec(),
        })
        .collect();
    let mut all: Vec<(String, TensorData)> =
        files.names().map(|name| (name.to_owned(), files.read(name).unwrap())).collect();
    for (name, data) in &mut all {
        let heads = match name.as_str() {
            name if name.ends_with("q_proj.weight") => 4,
            name if name.ends_with("k_proj.weight") => 2,
            _ => continue,
        };
        let [rows, columns] = data.shape()[..] else { panic!("{name}") };
        let old: Vec<f32> = data.iter().collect();
        let mut new = old.clone();
        let dim = rows / heads;
        for row in 0..rows {
            let (head, at) = (row / dim, row % dim);
            let from = head * dim + at % 2 * (dim / 2) + at / 2;
            new[row * columns..][..columns].copy_from_slice(&old[from * columns..][..columns]);
        }
        *data = TensorData::new(new, data.shape().to_vec());
    }
    let value = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.clone();
    vlm_store::write_tensors(&path, Float::F32, &[], &specs, &mut |name| value(name)).unwrap();
    let far = distance(&dir, &golden("gguf_files", "llama.safetensors"));
    assert!(far > 1e-2, "only {far}");
}

#[test]
fn image_encoders_say_what_the_reference_says() {
    for (name, left_out) in [("headed", 2), ("same", 2), ("alone", 0)] {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        let made = made(&golden("onnx_files", &format!("{name}.onnx")), &dir);
        assert_eq!(made.left_out.len(), left_out, "{name}: {:?}", made.left_out);
        let Weights::Vision(_, model) = Weights::open(&dir, &Device::flex()).unwrap() else {
            panic!("{name} is no image encoder");
        };
        let files =
            TensorFiles::open_file(&golden("onnx_files", &format!("{name}.safetensors"))).unwrap();
        for (pixels, states) in [("pixels", "last_hidden_state"), ("small", "small_hidden_state")] {
            let pixels = Tensor::<4>::from_data(files.read(pixels).unwrap(), &Device::flex());
            let ours = model.vision.states(pixels, false).last.into_data();
            let far = worst(&ours, &files.read(states).unwrap());
            assert!(far < 1e-4, "{name}: {states} differs by {far}");
        }
    }
}

#[test]
fn the_folder_appears_whole_and_replaces_only_models() {
    let out = tempfile::tempdir().unwrap();
    let file = golden("gguf_files", "llama.gguf");
    let dir = out.path().join("a/model");
    let first = made(&file, &dir);
    let size = |name: &str| std::fs::metadata(dir.join(name)).unwrap().len();
    assert_eq!(first.bytes, first.files.iter().map(|name| size(name)).sum::<u64>());
    let attempt = |dir: &Path, force: bool| {
        import(&file, dir, &Options { float: Float::F16, force }, &mut |_, _| {})
    };
    let refused = |dir: &Path, force: bool, words: &str| {
        let error = attempt(dir, force).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Occupied { .. }) && message.contains(words), "{message}");
    };
    refused(&dir, false, "--force");
    assert!(attempt(&dir, true).unwrap().bytes < first.bytes);
    let dtype = TensorFiles::open_dir(&dir, "model").unwrap();
    assert_eq!(dtype.dtype("model.norm.weight"), Some("F16"));
    let other = out.path().join("papers");
    std::fs::create_dir(&other).unwrap();
    attempt(&other, false).unwrap();
    std::fs::create_dir(other.join("more")).unwrap();
    refused(&other, true, "it is none");
    std::fs::create_dir(out.path().join("a/model.old")).unwrap();
    refused(&dir, true, "model.old");
    refused(&file, true, "a file");
    let plain = out.path().join("plain");
    let text = out.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let error = import(&text, &plain, &Options::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("neither GGUF nor ONNX"), "{error}");
    let error = import(out.path(), &plain, &Options::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
    assert!(!plain.exists());
}
