//! Tuning without a backward pass from the command line, and making a run's weights again from its steps.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{encoders, example, fails, fresh, questions, refuses, speaking, vlm, works};

fn tune(model: &Path, method: &str, data: &Path, out: &Path) -> Command {
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(model).args(["--method", method]);
    command.arg("--data").arg(data).arg("--out").arg(out).args(["--optimizer", "mezo"]);
    command.args(["--batch", "2", "--steps", "6", "--lr", "1e-3"]);
    command.args(["--set", "train.checkpoint_every=3", "--set", "train.keep=9"]);
    if method == "lora" {
        command.args(["--set", "r=2"]);
    }
    command
}

fn replay(run: &Path, out: &Path) -> Command {
    let mut command = vlm();
    command.arg("replay").arg(run.join("replay.json")).arg("--out").arg(out);
    command
}

/// What a folder holds of weights.
fn weights(dir: &Path) -> Vec<u8> {
    let names = ["model.safetensors", "adapter_model.safetensors"];
    let path = names.iter().map(|name| dir.join(name)).find(|path| path.exists());
    fs::read(path.unwrap_or_else(|| panic!("{}: no weights", dir.display()))).unwrap()
}

/// A model of each kind, with data for it.
fn models(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    encoders(dir);
    let pairs = example("csv");
    vec![
        (dir.join("vision"), pairs.clone()),
        (dir.join("text"), pairs.clone()),
        (common::model(), pairs),
        (speaking(), questions(dir)),
    ]
}

#[test]
fn a_run_can_be_made_again_from_its_steps() {
    let dir = fresh("mezo");
    for (number, (model, data)) in models(&dir).iter().enumerate() {
        for method in ["full", "lora"] {
            let what = format!("{number} {method}");
            let out = |name: &str| dir.join(format!("{number}-{method}-{name}"));
            let (run, made) = (out("run"), out("made"));
            let mut command = tune(model, method, data, &run);
            if number == 3 {
                // One picture is one row.
                command.args(["--set", "batch.size=1", "--set", "optim.zo_directions=2"]);
            }
            if method == "full" {
                command.args(["--set", "optim.weight_decay=0.1"]);
            }
            works(&mut command);
            let said = works(&mut replay(&run, &made));
            assert!(said.contains("6 steps made again"), "{what}: {said}");
            let saved = run.join(if method == "lora" { "adapter" } else { "model" });
            assert!(weights(&made) == weights(&saved), "{what}");
            assert!(weights(&made) != weights(model), "{what}");
            for file in ["config.json", "adapter_config.json"] {
                let read = |dir: &Path| fs::read_to_string(dir.join(file)).ok();
                assert_eq!(read(&made), read(&saved), "{what}");
            }
            assert!(fs::metadata(run.join("replay.json")).unwrap().len() < 6000, "{what}");
            let three = out("three");
            works(replay(&run, &three).args(["--steps", "3"]));
            assert!(weights(&three) != weights(&made), "{what}");

            // Stopped after half of it and gone on with, it comes to the same.
            let again = out("again");
            common::copy(&run, &again);
            fs::remove_dir_all(again.join(saved.file_name().unwrap())).unwrap();
            fs::remove_dir_all(again.join("checkpoints/step-00000006")).unwrap();
            fs::remove_file(again.join("replay.json")).unwrap();
            let mut command = tune(model, method, data, &again);
            if number == 3 {
                command.args(["--set", "batch.size=1", "--set", "optim.zo_directions=2"]);
            }
            if method == "full" {
                command.args(["--set", "optim.weight_decay=0.1"]);
            }
            works(command.arg("--resume"));
            assert!(weights(&again.join(saved.file_name().unwrap())) == weights(&saved), "{what}");
            let steps = |run: &Path| fs::read(run.join("replay.json")).unwrap();
            assert!(steps(&again) == steps(&run), "{what}");
        }
    }
}

#[test]
fn what_cannot_be_combined_is_refused() {
    let dir = fresh("mezo-refused");
    let (model, data) = (common::model(), example("csv"));
    let out = dir.join("out");
    let refused = |method: &str, setting: &str, words: &[&str]| {
        let mut command = tune(&model, method, &data, &out);
        refuses(command.args(["--set", setting]), 1, words);
    };
    refused("lora", "dropout=0.1", &["adapter.dropout", "two different models", "set it to 0"]);
    refused("series", "dropout=0.1", &["adapter.dropout"]);
    refused("lora-fa", "r=2", &["lora-fa", "mezo has none"]);
    refused("dylora", "r=2", &["dylora", "mezo has none"]);
    refused("full", "train.average=0.9", &["train.average", "could not be replayed"]);
    refused("full", "optim.zo_eps=0", &["optim.zo_eps is 0"]);
    refused("full", "optim.zo_directions=0", &["optim.zo_directions is 0"]);
}

#[test]
fn what_explodes_keeps_the_last_good_state() {
    let dir = fresh("mezo-explodes");
    let (model, data) = (common::model(), example("csv"));
    let out = dir.join("out");
    works(&mut tune(&model, "full", &data, &out));
    let before = weights(&out.join("model"));
    let mut command = tune(&model, "full", &data, &dir.join("steep"));
    command.args(["--set", "optim.lr=1e6"]);
    fails(&mut command, 1, &["projected gradient", "optim.lr"]);
    assert!(!dir.join("steep/model").exists());
    assert!(weights(&out.join("model")) == before);
}

#[test]
fn a_list_of_steps_is_for_its_model() {
    let dir = fresh("mezo-replay");
    let models = models(&dir);
    let (model, data) = &models[2];
    let (run, made) = (dir.join("run"), dir.join("made"));
    works(&mut tune(model, "full", data, &run));
    refuses(replay(&run, &made).args(["--steps", "7"]), 1, &["has 6 steps, not 7"]);
    let other = replay(&run, &made).arg("--model").arg(run.join("model")).output().unwrap();
    let said = common::text(&other.stderr);
    assert!(!other.status.success() && said.contains("is not the model that the run"), "{said}");
    refuses(replay(&run, &made).arg("--model").arg(&models[0].0), 1, &["is not the model"]);
    assert!(!made.exists());
    let text = fs::read_to_string(run.join("replay.json")).unwrap();
    let broken = dir.join("broken");
    fs::create_dir_all(&broken).unwrap();
    let lies = [
        (text[..text.len() / 2].to_owned(), "is no list of steps"),
        ("{}".to_owned(), "is no list of steps"),
        (text.replace("\"lr\":[[", "\"lr\":[[0.5,18446744073709551615],["), "learning rates for"),
        (text.replace("\"slopes\":[[", "\"slopes\":[[],["), "has not 1 slopes"),
        (text.replace("\"zo_directions\":1", "\"zo_directions\":2"), "has not 2 slopes"),
        (text.replace("\"slopes\":[[", "\"slopes\":[[1e39],["), "the slope of step 1 is no number"),
        (text.replace("\"kept\":6", "\"kept\":60"), "has 6 steps, not 60"),
    ];
    for (lie, words) in lies {
        assert_ne!(lie, text);
        fs::write(broken.join("replay.json"), lie).unwrap();
        refuses(&mut replay(&broken, &made), 1, &[words]);
    }
    works(&mut replay(&run, &made));
    refuses(&mut replay(&run, &made), 1, &["exists; give --force"]);
    works(replay(&run, &made).arg("--force"));
}
