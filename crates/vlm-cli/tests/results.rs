//! What the commands print and what a run leaves behind.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{config, example, fresh, model, run, text, vlm, works};
use serde_json::Value;

fn with_model(command: &str) -> Command {
    let mut vlm = vlm();
    vlm.arg(command).arg("--model").arg(model());
    vlm
}

/// The one document on stdout; with `--json` nothing else is said anywhere.
#[track_caller]
fn document(command: &mut Command) -> Value {
    let done = command.output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The names of an object's fields, sorted.
#[track_caller]
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn zero_shot() {
    let (cat, dog) = (example("csv/cat.png"), example("csv/dog.png"));
    let mut command = with_model("zero-shot");
    command.arg("--image").args([&dog, &cat]).args(["--labels", "cat, dog,pear", "--json"]);
    let json = document(&mut command);
    assert_eq!(fields(&json), ["predictions"]);
    let predictions = json["predictions"].as_array().unwrap();
    for (prediction, path) in predictions.iter().zip([&dog, &cat]) {
        assert_eq!(fields(prediction), ["image", "labels"]);
        assert_eq!(prediction["image"], path.to_str().unwrap());
        let labels = prediction["labels"].as_array().unwrap();
        let mut names: Vec<&str> = labels.iter().map(|l| l["label"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["cat", "dog", "pear"]);
        assert_eq!(fields(&labels[0]), ["label", "probability"]);
        let shares: Vec<f64> = labels.iter().map(|l| l["probability"].as_f64().unwrap()).collect();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{shares:?}");
        assert!(shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
    }
    assert_eq!(predictions.len(), 2);
    let mut top = with_model("zero-shot");
    top.arg("--image").arg(&cat).args(["--labels", "a,b,c", "--top-k", "2"]);
    // The picture, and two labels below it.
    assert_eq!(works(&mut top).lines().count(), 3);
    let json = document(top.args(["--json", "--templates", "clip80"]));
    assert_eq!(json["predictions"][0]["labels"].as_array().unwrap().len(), 2);
}

#[test]
fn eval() {
    for (task, names) in [
        ("zero-shot", &["top1", "top5"][..]),
        ("retrieval", &["i2t_r1", "i2t_r10", "i2t_r5", "t2i_r1", "t2i_r10", "t2i_r5"]),
    ] {
        let mut command = with_model("eval");
        command.arg("--data").arg(example("csv")).args(["--task", task, "--json"]);
        let json = document(&mut command);
        assert_eq!(fields(&json), ["metrics", "samples", "task"]);
        assert_eq!((json["task"].as_str(), json["samples"].as_u64()), (Some(task), Some(4)));
        assert_eq!(fields(&json["metrics"]), names);
        for name in names {
            let share = json["metrics"][name].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{name} is {share}");
        }
    }
}

#[test]
fn embed() {
    let pictures = [example("csv/dog.png"), example("csv/cat.png"), example("csv/dog.png")];
    let texts = ["a dog", "a cat", "a dog", ""];
    let mut of_pictures = with_model("embed");
    of_pictures.arg("--json").arg("--image").args(&pictures);
    let mut of_texts = with_model("embed");
    of_texts.arg("--json").arg("--text").args(texts);
    let names = pictures.iter().map(|p| p.to_str().unwrap()).collect::<Vec<_>>();
    for (command, kind, names) in
        [(&mut of_pictures, "image", &names[..]), (&mut of_texts, "text", &texts[..])]
    {
        let json = document(command);
        assert_eq!(fields(&json), ["embeddings"]);
        let embeddings = json["embeddings"].as_array().unwrap();
        assert_eq!(embeddings.len(), names.len());
        for (embedding, name) in embeddings.iter().zip(names) {
            let mut wanted = ["embedding", kind];
            wanted.sort_unstable();
            assert_eq!(fields(embedding), wanted);
            assert_eq!(embedding[kind].as_str(), Some(*name));
            let values = numbers(&embedding["embedding"]);
            let square: f64 = values.iter().map(|x| x * x).sum();
            assert!(values.len() == 16 && (square - 1.0).abs() < 1e-5, "{square}");
        }
        // The order is that of the arguments: the third is the first again.
        assert_eq!(embeddings[0]["embedding"], embeddings[2]["embedding"]);
        assert_ne!(embeddings[0]["embedding"], embeddings[1]["embedding"]);
    }

    let out = fresh("results-embed").join("texts.safetensors");
    let json = document(of_texts.arg("--out").arg(&out));
    let bytes = fs::read(&out).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensor: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    assert_eq!(tensor["embeddings"]["shape"], serde_json::json!([4, 16]));
    let saved: Vec<f64> = bytes[header..]
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let printed: Vec<f64> = json["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|embedding| numbers(&embedding["embedding"]))
        .collect();
    assert!(saved.iter().zip(&printed).all(|(a, b)| (a - b).abs() < 1e-7));
    assert_eq!(saved.len(), printed.len());
}

#[test]
fn retrieve() {
    let mut command = with_model("retrieve");
    command.arg("--images").arg(example("classes")).args(["--query", "a dog", "--json"]);
    let json = document(&mut command);
    assert_eq!(fields(&json), ["query", "results"]);
    assert_eq!(json["query"], "a dog");
    let results = json["results"].as_array().unwrap();
    assert_eq!((results.len(), fields(&results[0])), (4, vec!["image", "similarity"]));
    assert!(results.iter().all(|hit| Path::new(hit["image"].as_str().unwrap()).is_file()));
    assert!(results.is_sorted_by(|a, b| a["similarity"].as_f64() >= b["similarity"].as_f64()));
}

#[test]
fn inspect() {
    let said = works(vlm().arg("inspect").arg(model()));
    for words in
        ["1 layers, width 16, 2 heads, 16x16 px in patches of 8", "16 dimensions", "[16, 3, 8, 8]"]
    {
        assert!(said.contains(words), "{said}");
    }
    let dir = fresh("results-inspect");
    let page = dir.join("batch.html");
    let mut batch = vlm();
    batch.arg("inspect").arg("--batch").arg(config(&dir)).arg("--out").arg(&page);
    assert!(works(&mut batch).ends_with("batch.html\n"));
    self_contained(&page, 2);
}

/// A page that loads nothing from elsewhere and has at least that many pictures in it.
fn self_contained(page: &Path, pictures: usize) {
    let html = fs::read_to_string(page).unwrap();
    assert!(html.matches("src=\"data:image/png;base64,").count() >= pictures);
    let lower = html.to_lowercase();
    for load in
        ["src=\"http", "src='http", "href=\"http", "url(http", "@import", "<script src", "<link"]
    {
        assert!(!lower.contains(load), "{} has {load}", page.display());
    }
}

#[test]
fn a_run_folder_has_everything() {
    let run = run();
    for file in [
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "checkpoints/step-00000006/state.json",
        "checkpoints/step-00000008/state.json",
        "model/config.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
        "model/tokenizer.json",
        "summary.json",
        "report.html",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let read = |file: &str| -> Value {
        serde_json::from_slice(&fs::read(run.join(file)).unwrap()).unwrap()
    };
    let summary = read("summary.json");
    assert_eq!(fields(&summary["metrics"]), ["classes_top1", "classes_top5"]);
    assert_eq!(summary["seed"].as_u64(), Some(1));
    // The first backend of the build.
    let device = read("run.json")["device"].as_str().unwrap_or_default().to_owned();
    assert!(["flex", "tch", "cuda", "rocm", "wgpu"].contains(&&*device), "{device}");
    self_contained(&run.join("report.html"), 4);
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let kinds = |kind: &str| log.matches(&format!("\"kind\":\"{kind}\"")).count();
    assert_eq!((kinds("train"), kinds("val")), (8, 4));
}

/// The configuration that a run keeps makes the same run again.
#[test]
fn the_kept_configuration_repeats_the_run() {
    let out = fresh("results-repeat").join("out");
    let said = works(vlm().arg("train").arg(run().join("config.toml")).arg("--out").arg(&out));
    assert!(
        said.contains("top-1") && said.contains("out/model") && said.contains("out/report.html")
    );
    let weights = |run: &Path| fs::read(run.join("model/model.safetensors")).unwrap();
    assert!(weights(&out) == weights(run()));
}

/// Without a validation set the last weights are the model.
#[test]
fn without_validation_the_last_weights_are_kept() {
    let dir = fresh("results-unvalidated");
    let path = config(&dir);
    let text = fs::read_to_string(&path).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("val =")).collect();
    fs::write(&path, without.join("\n")).unwrap();
    let train = |out: &Path, settings: &[&str]| {
        let mut vlm = vlm();
        vlm.arg("train").arg(&path).arg("--out").arg(out).args(settings);
        works(&mut vlm);
        fs::read(out.join("model/model.safetensors")).unwrap()
    };
    let often = train(&dir.join("often"), &[]);
    let once = train(&dir.join("once"), &["--set", "train.validate_every=0"]);
    assert!(often == once, "an earlier model was kept");
}
