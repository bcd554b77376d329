//! Model folders that are damaged: one line that names the file, and no panic.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{copy, example, fresh, model, refuses, vlm};

/// A copy of the trained folder that `harm` has changed.
fn broken(name: &str, harm: impl FnOnce(&Path)) -> PathBuf {
    let dir = fresh(&format!("bad-model-{name}"));
    copy(&model(), &dir);
    harm(&dir);
    dir
}

/// Refused wherever a model is opened, by a line with these words.
#[track_caller]
fn refused(name: &str, harm: impl FnOnce(&Path), words: &[&str]) {
    let dir = broken(name, harm);
    refuses(vlm().arg("inspect").arg(&dir), 1, words);
    let text = ["--text", "a cat"];
    refuses(vlm().args(["embed", "--model"]).arg(&dir).args(text), 1, words);
}

fn weights(dir: &Path) -> PathBuf {
    dir.join("model.safetensors")
}

/// Changes the header's JSON and writes the file anew.
fn reheader(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let bytes = fs::read(weights(dir)).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    change(&mut header);
    let header = header.to_string().into_bytes();
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend(header);
    changed.extend(&bytes[8 + len..]);
    fs::write(weights(dir), changed).unwrap();
}

const TOKENS: &str = "text_model.embeddings.token_embedding.weight";

#[test]
fn no_such_model() {
    let nowhere = fresh("bad-model-none").join("nowhere");
    let words = ["nowhere: no such model folder", "config.json"];
    let picture = example("csv/cat.png");
    let file = example("csv/captions.csv");
    for model in [&nowhere, &file] {
        let words = if model == &file { &words[1..] } else { &words[..] };
        let run = |command: &str| {
            let mut vlm = vlm();
            vlm.arg(command).arg("--model").arg(model);
            vlm
        };
        refuses(vlm().arg("inspect").arg(model), 1, words);
        refuses(run("zero-shot").args(["--labels", "a,b", "--image"]).arg(&picture), 1, words);
        refuses(run("embed").arg("--image").arg(&picture), 1, words);
        refuses(run("embed").args(["--text", "x"]), 1, words);
        refuses(run("eval").args(["--task", "zero-shot", "--data"]).arg(&file), 1, words);
        refuses(run("retrieve").args(["--query", "x", "--images"]).arg(example("csv")), 1, words);
    }
    let empty = fresh("bad-model-empty");
    refuses(vlm().arg("inspect").arg(&empty), 1, &["bad-model-empty/config.json"]);
}

#[test]
fn a_truncated_file() {
    for (name, keep) in [("nothing", 0), ("four", 4), ("header", 300), ("half", 30_000)] {
        let cut = |dir: &Path| {
            let bytes = fs::read(weights(dir)).unwrap();
            assert!(bytes.len() > keep);
            fs::write(weights(dir), &bytes[..keep]).unwrap();
        };
        refused(name, cut, &["model.safetensors: ", "fetch or save it again"]);
    }
    let cut = |dir: &Path| {
        let bytes = fs::read(weights(dir)).unwrap();
        fs::write(weights(dir), &bytes[..bytes.len() - 1]).unwrap();
    };
    refused("one", cut, &["model.safetensors: ", "claims bytes"]);
}

#[test]
fn an_oversized_or_lying_header() {
    for (name, claim, words) in [
        ("largest", u64::MAX, "over the format's limit"),
        ("oversized", 100_000_001, "over the format's limit"),
        ("beyond", 99_000_000, "of a file of"),
    ] {
        let claims = |dir: &Path| {
            let mut bytes = fs::read(weights(dir)).unwrap();
            bytes[..8].copy_from_slice(&claim.to_le_bytes());
            fs::write(weights(dir), bytes).unwrap();
        };
        refused(name, claims, &["model.safetensors: ", words]);
    }
    let words = |dir: &Path| fs::write(weights(dir), b"\x05\0\0\0\0\0\0\0hello").unwrap();
    refused("words", words, &["model.safetensors: ", "JSON"]);
    let shape = |dir: &Path| reheader(dir, |h| h[TOKENS]["shape"] = [1u64 << 40, 1 << 40].into());
    refused("shape", shape, &["model.safetensors: ", TOKENS, "claims bytes"]);
    let offsets =
        |dir: &Path| reheader(dir, |h| h[TOKENS]["data_offsets"] = [0u64, 1 << 60].into());
    refused("offsets", offsets, &["model.safetensors: ", TOKENS]);
    let kind = |dir: &Path| reheader(dir, |h| h[TOKENS]["dtype"] = "F31".into());
    refused("dtype", kind, &["model.safetensors: ", TOKENS, "F31"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let turned = |dir: &Path| {
        reheader(dir, |h| {
            let shape = h[TOKENS]["shape"].as_array_mut().unwrap();
            assert_ne!(shape[0], shape[1]);
            shape.reverse();
        });
    };
    refused("turned", turned, &["model.safetensors: ", TOKENS, "should be"]);
    let renamed = |dir: &Path| {
        reheader(dir, |h| {
            let tensor = h.as_object_mut().unwrap().remove(TOKENS).unwrap();
            h["something_else"] = tensor;
        });
    };
    refused("renamed", renamed, &["1 missing: ", TOKENS, "1 surplus: something_else"]);
    let without = |dir: &Path| fs::remove_file(weights(dir)).unwrap();
    refused("without", without, &["model.safetensors"]);
    let folder = |dir: &Path| {
        fs::remove_file(weights(dir)).unwrap();
        fs::create_dir(weights(dir)).unwrap();
    };
    refused("folder", folder, &["model.safetensors"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let dir = broken("nan", |dir| {
        let mut bytes = fs::read(weights(dir)).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for value in bytes[header..].chunks_exact_mut(4) {
            value.copy_from_slice(&f32::NAN.to_le_bytes());
        }
        fs::write(weights(dir), bytes).unwrap();
    });
    let words = ["bad-model-nan: ", "no numbers"];
    let run = |command: &str| {
        let mut vlm = vlm();
        vlm.arg(command).arg("--model").arg(&dir);
        vlm
    };
    let picture = example("csv/cat.png");
    refuses(run("embed").args(["--json", "--text", "x"]), 1, &words);
    refuses(run("embed").arg("--image").arg(&picture), 1, &words);
    refuses(run("zero-shot").args(["--labels", "a,b", "--image"]).arg(&picture), 1, &words);
    refuses(run("eval").args(["--task", "retrieval", "--data"]).arg(example("csv")), 1, &words);
    refuses(run("retrieve").args(["--query", "x", "--images"]).arg(example("csv")), 1, &words);
}

#[test]
fn missing_or_foreign_files_beside_the_weights() {
    let remove = |names: &'static [&'static str]| {
        move |dir: &Path| names.iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap())
    };
    let files: &[&str] = &["tokenizer.json", "vocab.json", "merges.txt"];
    refused("no-tokenizer", remove(files), &["bad-model-no-tokenizer", "tokenizer.json"]);
    let files: &[&str] = &["preprocessor_config.json"];
    refused("no-processor", remove(files), &["bad-model-no-processor", "preprocessor_config.json"]);
    refused("no-config", remove(&["config.json"]), &["config.json: "]);
    for (name, file, content) in [
        ("bad-tokenizer", "tokenizer.json", "{\"version\": 1}"),
        ("bad-processor", "preprocessor_config.json", "nonsense"),
        ("bad-config", "config.json", "{"),
        ("other-config", "config.json", "{\"model_type\": \"bert\"}"),
        ("empty-config", "config.json", ""),
    ] {
        let write = |dir: &Path| fs::write(dir.join(file), content).unwrap();
        refused(name, write, &[&format!("{file}: ")]);
    }
}

#[test]
fn unknown_keys_of_its_configuration() {
    for (name, place) in [("top", ""), ("vision", "vision_config"), ("text", "text_config")] {
        let add = |dir: &Path| {
            let path = dir.join("config.json");
            let mut json: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let part = if place.is_empty() { &mut json } else { &mut json[place] };
            part["use_magic"] = true.into();
            fs::write(&path, json.to_string()).unwrap();
        };
        refused(&format!("key-{name}"), add, &["config.json: ", "use_magic"]);
    }
    for (name, key, value) in [("zero", "hidden_size", 0), ("heads", "num_attention_heads", 3)] {
        let change = |dir: &Path| {
            let path = dir.join("config.json");
            let mut json: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            json["vision_config"][key] = value.into();
            fs::write(&path, json.to_string()).unwrap();
        };
        refused(&format!("value-{name}"), change, &["config.json: ", "hidden_size"]);
    }
}
