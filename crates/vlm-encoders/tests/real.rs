//! The real three against their references (numbers by xtask/golden/real.py): MiniLM under
//! transformers, DINO's ONNX graph under onnxruntime, SmolLM2's GGUF file under transformers.
//!
//! `cargo xtask test --real` fetches the models and runs this. `VLM_REAL` names another folder that
//! holds `minilm`, `dino` and `smollm2`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use vlm_encoders::text::{Batch, Message, TokenIds, Tokenizer};
use vlm_encoders::{
    Encoder, PictureEncoder, TextEncoder, TextModel, TextSpec, Weights, batch_tokens,
};

fn folder(name: &str) -> PathBuf {
    let models = match std::env::var_os("VLM_REAL") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/.cache"),
    };
    let folder = models.join(name);
    assert!(folder.exists(), "{} is missing; run cargo xtask data {name}", folder.display());
    folder
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn expected(name: &str) -> Value {
    let path = golden().join("real").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn rows(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let width = tensor.dims()[1];
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

/// The largest difference; a NaN is the worst there is.
fn worst(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

#[test]
#[ignore = "needs the real models; run by cargo xtask test --real"]
fn minilm_says_of_sentences_what_the_reference_says() {
    let expected = expected("minilm");
    let encoder = Encoder::open(&folder("minilm"), &Device::default()).unwrap();
    let features = rows(encoder.encode_texts(&texts(&expected["sentences"])).unwrap());
    for (i, feature) in features.iter().enumerate() {
        let first = numbers(&expected["first"][i]);
        let difference = worst(&feature[..first.len()], &first);
        assert!(difference < 1e-4, "sentence {i}: {difference}");
        let cosines: Vec<f32> = features
            .iter()
            .map(|other| feature.iter().zip(other).map(|(a, b)| a * b).sum())
            .collect();
        let difference = worst(&cosines, &numbers(&expected["cosines"][i]));
        assert!(difference < 1e-4, "cosines of {i}: {difference}");
    }
}

#[test]
#[ignore = "needs the real models; run by cargo xtask test --real"]
fn dino_says_of_pictures_what_its_onnx_graph_says() {
    let expected = expected("dino");
    let encoder = Encoder::open(&folder("dino"), &Device::default()).unwrap();
    let processor = encoder.processor().unwrap();
    for (i, name) in texts(&expected["pictures"]).iter().enumerate() {
        let pixels = processor.process_path(&golden().join(name)).unwrap();
        let states = encoder.image_states(&[pixels], false).unwrap().last;
        let [_, tokens, width] = states.dims();
        let cls = rows(states.clone().narrow(1, 0, 1).reshape([1, width])).remove(0);
        let patches = states.narrow(1, 1, tokens - 1).mean_dim(1).reshape([1, width]);
        // Values go up to 8; summing in another order moves them by 1e-5.
        let difference = worst(&cls, &numbers(&expected["cls"][i]));
        assert!(difference < 1e-4, "{name}: class token {difference}");
        let difference = worst(&rows(patches)[0], &numbers(&expected["mean_patch"][i]));
        assert!(difference < 1e-4, "{name}: mean of the patches {difference}");
    }
}

/// Logits of the last `places` places, `[places, vocabulary]`.
fn logits(model: &TextModel, spec: &TextSpec, ids: &[i64], places: usize) -> Tensor<2> {
    let device = Device::default();
    let batch = Batch {
        ids: ids.to_vec(),
        mask: vec![true; ids.len()],
        types: vec![0; ids.len()],
        rows: 1,
        cols: ids.len(),
        truncated: 0,
    };
    let (ids, _) = batch_tokens(&batch, spec.pool, &device);
    let states = model.text.states(ids, None, None, false).last;
    let tokens = states.dims()[1];
    let logits = model.text.logits(states.narrow(1, tokens - places, places));
    let vocabulary = logits.dims()[2];
    logits.reshape([places, vocabulary])
}

fn smollm2() -> (Tokenizer, TextSpec, TextModel) {
    let folder = folder("smollm2");
    let Weights::Text(plan, model) = Weights::open(&folder, &Device::default()).unwrap() else {
        panic!("not a text model")
    };
    (Tokenizer::from_dir(&folder).unwrap(), plan.spec, model)
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
    let TokenIds { ids, .. } = tokenizer.encode_bare(text, 8192).unwrap();
    ids
}

/// Rows of queries and keys that are permuted the wrong way raise the perplexity fourfold and still
/// let the model say that Paris is the capital of France.
#[test]
#[ignore = "needs the real models; run by cargo xtask test --real"]
fn smollm2_is_as_surprised_as_the_reference() {
    let expected = expected("smollm2");
    let (tokenizer, spec, model) = smollm2();
    let ids = encode(&tokenizer, expected["text"].as_str().unwrap());
    assert_eq!(ids, self::ids(&expected["ids"]));
    let logits = logits(&model, &spec, &ids, ids.len());
    let [tokens, vocabulary] = logits.dims();
    let chances = burn::tensor::activation::log_softmax(logits, 1);
    let chances: Vec<f32> = chances.into_data().iter::<f32>().collect();
    let told =
        chances.chunks(vocabulary).zip(&ids[1..]).map(|(row, id)| f64::from(row[*id as usize]));
    let perplexity = (-told.sum::<f64>() / (tokens - 1) as f64).exp();
    let reference = expected["perplexity"].as_f64().unwrap();
    assert!((perplexity / reference - 1.0).abs() < 1e-3, "{perplexity} instead of {reference}");
}

#[test]
#[ignore = "needs the real models; run by cargo xtask test --real"]
fn smollm2_goes_on_as_the_reference_does() {
    let expected = expected("smollm2");
    let (tokenizer, spec, model) = smollm2();
    let question = Message::text("user", expected["question"].as_str().unwrap());
    let chat = tokenizer.chat(&[question], true).unwrap();
    assert_eq!(chat, expected["prompts"][1]["text"].as_str().unwrap());
    for prompt in expected["prompts"].as_array().unwrap() {
        let mut found = encode(&tokenizer, prompt["text"].as_str().unwrap());
        assert_eq!(found, ids(&prompt["ids"]));
        let start = found.len();
        let continuation = ids(&prompt["continuation"]);
        for _ in 0..continuation.len() {
            // The whole text anew for each token: slow, and with nothing that could go stale.
            let next: TensorData = logits(&model, &spec, &found, 1).argmax(1).into_data();
            found.push(next.iter::<i64>().next().unwrap());
        }
        assert_eq!(found[start..], continuation, "{}", tokenizer.decode(&found).unwrap());
    }
}
