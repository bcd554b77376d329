//! Adapters from the command line, on a random model whose goldens transformers and peft gave.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{fresh, refuses, vlm, works};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn model() -> PathBuf {
    crates().join("vlm-fusion/tests/golden/generative/llava-clip")
}

fn picture() -> PathBuf {
    model().join("../wide.png")
}

/// Eight questions about one picture.
fn data(dir: &Path) -> PathBuf {
    fs::copy(picture(), dir.join("wide.png")).unwrap();
    let row = |i: usize| {
        format!("{{\"image\": \"wide.png\", \"question\": \"what {i}\", \"answer\": \"a cat\"}}\n")
    };
    let path = dir.join("data.jsonl");
    fs::write(&path, (0..8).map(row).collect::<String>()).unwrap();
    path
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
        "ia3",
        "series",
        "pfeiffer",
        "parallel",
    ];
    let mut differ = 0;
    for method in methods {
        let out = dir.join(method);
        let mut command = finetune(method, &data, &out);
        let narrow = ["series", "pfeiffer", "parallel"].contains(&method);
        match method {
            "ia3" => &mut command,
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
    assert!(differ >= 8, "only {differ} of ten adapters change what the model says");
    assert!(weights() == before, "the model itself has changed");
}

#[test]
fn an_adapter_of_peft_can_be_worn() {
    let adapter = crates().join("vlm-peft/tests/golden/adapters/llava-lora");
    assert_ne!(said(Some(&adapter)), said(None));
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
    refuses(&mut with("lorra", &[]), 2, &["--method lorra: no such method; there are lora"]);
    refuses(&mut with("lora", &["--set", "r=0"]), 1, &["r is 0; the rank must be at least 1"]);
    refuses(&mut with("lora", &["--set", "rank=4"]), 1, &["unknown field `rank`"]);
    refuses(&mut with("lora", &["--set", "r=99"]), 1, &["has only 16 ranks"]);
    refuses(&mut with("lora", &["--targets", "qproj"]), 1, &["fits `qproj`; near are q_proj"]);
    refuses(&mut with("lora", &["--targets", "a("]), 1, &["`a(` is no regular expression"]);
    assert!(!out.exists());
    let other = crates().join("vlm-peft/tests/golden/adapters/llama-lora");
    let mut command = vlm();
    command.arg("generate").arg("--model").arg(model()).arg("--adapter").arg(other);
    refuses(command.args(["--prompt", "what"]), 1, &["the adapter does not fit the model"]);
}
