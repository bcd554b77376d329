//! Adapters from the command line, on a random model whose goldens transformers and peft gave.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{fresh, questions as data, refuses, speaking as model, vlm, works};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn picture() -> PathBuf {
    model().join("../wide.png")
}

fn finetune(method: &str, data: &Path, out: &Path) -> Command {
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(model()).args(["--method", method]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--batch", "1", "--steps", "3", "--lr", "0.05"]);
    command
}

fn said(adapter: Option<&Path>) -> String {
    let mut command = vlm();
    command.arg("generate").arg("--model").arg(model()).arg("--image").arg(picture());
    command.args(["--prompt", "what is this", "--max-tokens", "12", "--json"]);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    works(&mut command)
}

#[test]
fn every_method_makes_an_adapter_that_can_be_worn() {
    let dir = fresh("finetune");
    let data = data(&dir);
    let weights = || fs::read(model().join("model.safetensors")).unwrap();
    let (before, plain) = (weights(), said(None));
    let methods = [
        "lora",
        "rslora",
        "dora",
        "lora-plus",
        "lora-fa",
        "dylora",
        "qlora",
        "ia3",
        "prefix",
        "prompt",
        "series",
        "pfeiffer",
        "parallel",
        "eas",
        "memvp",
    ];
    let mut differ = 0;
    for method in methods {
        let out = dir.join(method);
        let mut command = finetune(method, &data, &out);
        let narrow = ["series", "pfeiffer", "parallel"].contains(&method);
        match method {
            "ia3" => &mut command,
            "prefix" | "prompt" => command.args(["--set", "tokens=3"]),
            "eas" => command.args(["--set", "skip=1", "--set", "search=2", "--set", "size=4"]),
            "memvp" => command.args(["--set", "scale=2.0"]),
            _ if narrow => command.args(["--set", "size=3"]),
            _ => command.args(["--set", "r=4"]),
        };
        assert!(works(&mut command).contains("adapter "), "{method}");
        let adapter = out.join("adapter");
        let config = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        assert!(config.contains("\"peft_type\""), "{method}");
        assert!(!out.join("model").exists(), "{method}");
        differ += usize::from(said(Some(&adapter)) != plain);
    }
    assert!(differ >= 13, "only {differ} of 15 adapters change what the model says");
    // Rows of pictures, and narrow layers in the tower that sees them.
    let out = dir.join("memvp-tower");
    let mut command = finetune("memvp", &data, &out);
    let tower = "model.generative.train=[\"vision\", \"fusion\", \"text\"]";
    works(command.args(["--set", "scale=2.0", "--set", "tower_size=4", "--set", tower]));
    let config = fs::read_to_string(out.join("adapter/adapter_config.json")).unwrap();
    assert!(config.contains("\"tower_dim\": 4") && config.contains("fc1"), "{config}");
    assert_ne!(said(Some(&out.join("adapter"))), said(Some(&dir.join("memvp/adapter"))));
    assert!(weights() == before, "the model itself has changed");
    // A tower learns as deep as it is looked through.
    works(finetune("full", &data, &dir.join("full-tower")).args(["--set", tower]));
}

#[test]
fn a_model_that_speaks_is_trained_inside_the_backward_pass() {
    let dir = fresh("finetune-lomo");
    let data = data(&dir);
    for (method, rule) in [("full", "lomo"), ("full", "adalomo"), ("lora", "lomo")] {
        let out = dir.join(format!("{method}-{rule}"));
        let mut command = finetune(method, &data, &out);
        if method == "lora" {
            command.args(["--set", "r=2"]);
        }
        works(command.args(["--optimizer", rule, "--set", "optim.lr=0.01"]));
        let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert!(log.lines().count() >= 3 && !log.contains("\"grad\""), "{log}");
    }
    let packed = crates().join("vlm-fusion/tests/golden/four_bit/nf4");
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(&packed).args(["--method", "full"]);
    command.arg("--data").arg(&data).arg("--out").arg(dir.join("packed"));
    let words = ["weights of four bits do not train"];
    refuses(command.args(["--batch", "1", "--optimizer", "lomo"]), 1, &words);
}

/// Computed twice, it comes to the same, but for the order of sums.
#[test]
fn blocks_can_be_computed_twice() {
    let dir = fresh("finetune-recompute");
    let data = data(&dir);
    let last = |method: &str, settings: &[&str]| -> f64 {
        let out = dir.join(format!("{method}{}", settings.len()));
        let mut command = finetune(method, &data, &out);
        works(command.args(settings.iter().flat_map(|setting| ["--set", setting])));
        let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        line["loss"].as_f64().unwrap()
    };
    let twice = "train.recompute=true";
    for (method, settings) in [
        ("full", vec!["optim.lr=0.01"]),
        ("full", vec!["optim.lr=0.01", "optim.rule=lomo", "optim.clip=0"]),
        ("lora", vec!["r=2", "bias=all"]),
        ("eas", vec!["skip=1", "dropout=0", "search=2", "size=4"]),
    ] {
        let once = last(method, &settings);
        let again = last(method, &[&settings[..], &[twice]].concat());
        assert!((once - again).abs() < 1e-4, "{method} {settings:?}: {once} and {again}");
    }
    let mut command = finetune("lora", &data, &dir.join("dropout"));
    command.args(["--set", "dropout=0.1", "--set", twice]);
    refuses(&mut command, 1, &["train.recompute", "adapter.dropout", "set one of them to 0"]);
}

/// The search goes on where it stood.
#[test]
fn a_search_for_attentions_can_be_resumed() {
    let dir = fresh("finetune-eas");
    let data = data(&dir);
    let run = |out: &Path| {
        let mut command = vlm();
        command.arg("finetune").arg("--model").arg(model()).args(["--method", "eas"]);
        command.arg("--data").arg(&data).arg("--out").arg(out);
        command.args(["--batch", "1", "--steps", "12", "--lr", "0.05"]);
        for setting in [
            "skip=1",
            "search=10",
            "search_every=2",
            "search_warmup=0.1",
            "train.checkpoint_every=6",
            "train.keep=9",
        ] {
            command.args(["--set", setting]);
        }
        command
    };
    let (whole, again) = (dir.join("whole"), dir.join("again"));
    works(&mut run(&whole));
    let read = |run: &Path, file: &str| fs::read(run.join("adapter").join(file)).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&read(&whole, "adapter_config.json")).unwrap();
    let scores: Vec<f64> = serde_json::from_value(config["scores"].clone()).unwrap();
    assert!(scores.len() == 2 && scores[0] != 0.0 && scores[0] != scores[1], "{scores:?}");
    let best = if scores[0] > scores[1] { 0 } else { 1 };
    assert_eq!(config["skipped_layers"], serde_json::json!([best]));
    // Sets are compared on what is held out, if something is.
    let held = dir.join("held");
    let other = dir.join("other.jsonl");
    fs::write(&other, fs::read_to_string(&data).unwrap().replace("a cat", "two dogs")).unwrap();
    works(run(&held).arg("--val").arg(&other));
    let config: serde_json::Value =
        serde_json::from_slice(&read(&held, "adapter_config.json")).unwrap();
    let others: Vec<f64> = serde_json::from_value(config["scores"].clone()).unwrap();
    assert_ne!(others, scores, "what is held out was not asked");
    common::copy(&whole, &again);
    fs::remove_dir_all(again.join("adapter")).unwrap();
    fs::remove_dir_all(again.join("checkpoints/step-00000012")).unwrap();
    works(run(&again).arg("--resume"));
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(read(&again, file) == read(&whole, file), "{file}");
    }
}

#[test]
fn what_eas_and_memvp_cannot_do_is_said() {
    let dir = fresh("finetune-slots");
    let data = data(&dir);
    let refused = |method: &str, settings: &[&str], words: &[&str]| {
        let mut command = finetune(method, &data, &dir.join("refused"));
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        refuses(&mut command, 1, words);
    };
    refused("eas", &["skip=3"], &["skip is 3", "has 2 attentions"]);
    refused("eas", &["layers=[2]"], &["layers names 2", "0 to 1"]);
    refused("eas", &["layers=[1, 1]"], &["layers names 1 twice"]);
    refused("eas", &["skip=2", "layers=[1]"], &["skip is 2, but layers names 1"]);
    refused("eas", &["size=3"], &["size is 3; it must be even"]);
    refused("eas", &[], &["a third is none; give skip"]);
    refused("memvp", &["slots=3"], &["slots is 3", "sees 16 rows"]);
    refused("memvp", &["lambda=0"], &["lambda is 0"]);
    refused("memvp", &["tower_size=4"], &["needs the image tower", "model.generative.train="]);
    let mezo = ["optim.rule=mezo", "skip=1", "dropout=0"];
    refused("eas", &mezo, &["name the attentions that are skipped"]);

    // For another model, and for one that sees no pictures.
    let out = dir.join("eas");
    works(finetune("eas", &data, &out).args(["--set", "layers=[1]"]));
    let config = out.join("adapter/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let wear = |words: &[&str]| {
        let mut command = vlm();
        command
            .arg("generate")
            .arg("--model")
            .arg(model())
            .arg("--adapter")
            .arg(out.join("adapter"));
        refuses(command.args(["--prompt", "what"]), 1, words);
    };
    fs::write(&config, text.replace("\"num_layers\": 2", "\"num_layers\": 30")).unwrap();
    wear(&["is for a model of 30 attentions; this one has 2"]);
    fs::write(&config, text.replace("    1\n", "    7\n")).unwrap();
    wear(&["layers names 7"]);
    fs::write(&config, text.replace("    1\n", "    0\n")).unwrap();
    wear(&["is missing"]);
    let encoders = dir.join("encoders");
    fs::create_dir_all(&encoders).unwrap();
    common::encoders(&encoders);
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(encoders.join("text")).args(["--method", "memvp"]);
    command.arg("--data").arg(common::example("csv")).arg("--out").arg(dir.join("memvp"));
    refuses(command.args(["--batch", "2"]), 1, &["memvp needs a model of pictures and text"]);
}

#[test]
fn an_adapter_of_peft_can_be_worn() {
    let adapter = crates().join("vlm-peft/tests/golden/adapters/llava-lora");
    assert_ne!(said(Some(&adapter)), said(None));
}

#[test]
fn merged_adapters_are_in_the_weights() {
    let dir = fresh("merge");
    let adapter = crates().join("vlm-peft/tests/golden/adapters/llava-lora");
    let merge = |out: &str, adapters: &[&Path], more: &[&str]| {
        let mut command = vlm();
        command.arg("merge").arg("--model").arg(model()).arg("--out").arg(dir.join(out));
        adapters.iter().for_each(|adapter| {
            command.arg("--adapter").arg(adapter);
        });
        command.args(more);
        command
    };
    let speaks = |out: &str| {
        let mut command = vlm();
        command.arg("generate").arg("--model").arg(dir.join(out)).arg("--image").arg(picture());
        works(command.args(["--prompt", "what is this", "--max-tokens", "12", "--json"]))
    };
    works(&mut merge("one", &[&adapter], &[]));
    assert_eq!(speaks("one"), said(Some(&adapter)));
    // Twice the half is the whole, and nothing of it is nothing.
    works(&mut merge("halves", &[&adapter, &adapter], &["--weights", "0.5,0.5"]));
    assert_eq!(speaks("halves"), said(Some(&adapter)));
    works(&mut merge("none", &[&adapter], &["--weights", "0"]));
    assert_eq!(speaks("none"), said(None));
    let prefix = crates().join("vlm-peft/tests/golden/adapters/llava-prefix");
    refuses(&mut merge("prefix", &[&prefix], &[]), 1, &["prefix is no change of a weight"]);
    refuses(&mut merge("one", &[&adapter], &[]), 1, &["exists; give --force"]);
    refuses(&mut merge("x", &[&adapter], &["--weights", "1,2"]), 2, &["1 numbers"]);
    assert!(!dir.join("prefix").exists() && !dir.join("x").exists());
}

#[test]
fn a_dual_encoder_is_adapted_and_merged() {
    let dir = fresh("finetune-dual");
    let (out, merged, clip) = (dir.join("run"), dir.join("merged"), common::model());
    let tune = |method: &str, out: &Path, more: &[&str]| {
        let mut command = vlm();
        command.arg("finetune").arg("--model").arg(&clip).args(["--method", method]);
        command.arg("--data").arg(common::example("csv")).arg("--out").arg(out);
        command.arg("--test").arg(common::example("classes"));
        command.args(["--batch", "2", "--steps", "4", "--lr", "0.05"]).args(more);
        command
    };
    let said = works(&mut tune("lora", &out, &["--set", "r=2"]));
    assert!(said.contains("zero-shot") && said.contains("adapter "), "{said}");
    assert!(!out.join("model").exists());
    let mut command = vlm();
    command.arg("merge").arg("--model").arg(&clip).arg("--adapter").arg(out.join("adapter"));
    works(command.arg("--out").arg(&merged));
    let scores = |model: &Path| {
        let mut command = vlm();
        command.arg("zero-shot").arg("--model").arg(model).args(["--labels", "red,blue", "--json"]);
        works(command.arg("--image").arg(picture()))
    };
    assert_ne!(scores(&merged), scores(&clip));
    for method in ["ia3", "prompt", "prefix", "parallel", "qlora"] {
        let more: &[&str] = match method {
            "prompt" | "prefix" => &["--set", "tokens=2"],
            "parallel" => &["--set", "size=3"],
            "qlora" => &["--set", "r=2"],
            _ => &[],
        };
        works(&mut tune(method, &dir.join(method), more));
    }
}

#[test]
fn an_adapter_goes_on_where_it_was_stopped_and_its_checkpoint_is_small() {
    let dir = fresh("finetune-resume");
    let data = data(&dir);
    let run = |name: &str| {
        let mut command = finetune("lora", &data, &dir.join(name));
        command.args(["--set", "r=2", "--set", "train.steps=4", "--set", "train.keep=9"]);
        command.args(["--set", "train.checkpoint_every=2"]);
        command
    };
    works(&mut run("whole"));
    // As if it had been broken off in the third step.
    common::copy(&dir.join("whole"), &dir.join("again"));
    fs::remove_dir_all(dir.join("again/checkpoints/step-00000004")).unwrap();
    fs::remove_dir_all(dir.join("again/adapter")).unwrap();
    works(run("again").arg("--resume"));
    let adapter = |name: &str| fs::read(dir.join(name).join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter("again").unwrap(), adapter("whole").unwrap());
    let checkpoint = dir.join("whole/checkpoints/step-00000004/weights.safetensors");
    let size = fs::metadata(&checkpoint).unwrap().len();
    let model = fs::metadata(model().join("model.safetensors")).unwrap().len();
    assert!(size < model / 3, "{size} of {model}");
}

#[test]
fn four_bits_are_written_and_adapted() {
    let dir = fresh("quantize");
    let whole = crates().join("vlm-fusion/tests/golden/four_bit/whole");
    let speaks = |model: &Path| {
        let mut command = vlm();
        command.arg("generate").arg("--model").arg(model).arg("--image").arg(picture());
        works(command.args(["--prompt", "what is this", "--max-tokens", "12", "--json"]))
    };
    let packed = dir.join("packed");
    let mut command = vlm();
    command.arg("quantize").arg("--model").arg(&whole).arg("--out").arg(&packed);
    works(&mut command);
    assert!(speaks(&packed).contains("token_ids"));
    let config = fs::read_to_string(packed.join("config.json")).unwrap();
    assert!(config.contains("\"load_in_4bit\": true"));
    refuses(&mut command, 1, &["exists; give --force"]);
    // LoRA on a folder of four bits is QLoRA.
    let (data, out) = (data(&dir), dir.join("run"));
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(&packed).args(["--method", "lora"]);
    command.arg("--data").arg(&data).arg("--out").arg(&out).args(["--batch", "1", "--steps", "3"]);
    works(&mut command);
    let mut command = vlm();
    command.arg("generate").arg("--model").arg(&packed).arg("--image").arg(picture());
    command.arg("--adapter").arg(out.join("adapter"));
    works(command.args(["--prompt", "what is this", "--max-tokens", "12"]));
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    let dir = fresh("finetune-refused");
    let data = data(&dir);
    let out = dir.join("run");
    let with = |method: &str, more: &[&str]| {
        let mut command = finetune(method, &data, &out);
        command.args(more);
        command
    };
    refuses(&mut with("lorra", &[]), 2, &["--method lorra: no such method; there are full, lora"]);
    refuses(&mut with("lora", &["--set", "r=0"]), 1, &["r is 0; the rank must be at least 1"]);
    refuses(&mut with("lora", &["--set", "rank=4"]), 1, &["unknown field `rank`"]);
    refuses(&mut with("lora", &["--set", "r=99"]), 1, &["has only 16 ranks"]);
    refuses(&mut with("lora", &["--targets", "qproj"]), 1, &["fits `qproj`; near are q_proj"]);
    refuses(&mut with("lora", &["--targets", "a("]), 1, &["`a(` is no regular expression"]);
    refuses(&mut with("full", &["--set", "r=4"]), 2, &["`full` has no settings of its own"]);
    refuses(&mut with("full", &["--targets", "q_proj"]), 2, &["--targets is of adapters"]);
    assert!(!out.exists());
    let other = crates().join("vlm-peft/tests/golden/adapters/llama-lora");
    let mut command = vlm();
    command.arg("generate").arg("--model").arg(model()).arg("--adapter").arg(other);
    refuses(command.args(["--prompt", "what"]), 1, &["the adapter does not fit the model"]);
}
