//! Two towers joined: trained, locked, kept on disk, resumed, and used like any dual encoder.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{copy, example, fails, fresh, refuses, text, vlm, works};
use serde_json::{Value, json};

/// A DINOv2 and a BERT of some thousand values, as folders.
struct Towers {
    dir: PathBuf,
}

impl Towers {
    fn new(name: &str) -> Towers {
        let dir = fresh(&format!("joined-{name}"));
        common::encoders(&dir);
        Towers { dir }
    }

    fn config(&self, towers: &str, rest: &str) -> PathBuf {
        let (train, val) = (example("csv"), example("classes"));
        let (vision, texts) = (self.dir.join("vision"), self.dir.join("text"));
        let config = format!(
            "seed = 1
[data]
train = {train:?}
val = {val:?}
[model.towers]
vision = {vision:?}
text = {texts:?}
{towers}
[batch]
size = 4
[optim]
lr = 1e-2
[train]
epochs = 6
{rest}
[[eval]]
name = \"classes\"
data = {val:?}
"
        );
        let path = self.dir.join("joined.toml");
        fs::write(&path, config).unwrap();
        path
    }

    fn train(&self, towers: &str, out: &str) -> Command {
        self.train_on(&self.config(towers, ""), out)
    }

    fn train_on(&self, config: &Path, out: &str) -> Command {
        let mut vlm = vlm();
        vlm.arg("train").arg(config).arg("--out").arg(self.dir.join(out));
        vlm
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.join(path)).unwrap()
    }
}

fn losses(run: &Path) -> Vec<f64> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn locked_towers_stay_as_they_are_and_heads_learn() {
    let towers = Towers::new("locked");
    for (name, choices) in [
        ("linear", "dim = 12\nmirror = true\ndropout = 0.1"),
        ("mlp", "dim = 12\nimage_head = { mlp = 20 }\ntext_head = \"none\"\nletterbox = 20"),
        ("middle", "image = { layer = 1, pool = \"class-mean\" }"),
    ] {
        works(&mut towers.train(choices, name));
        let losses = losses(&towers.dir.join(name));
        assert!(losses.last() < losses.first(), "{name}: {losses:?}");
        let model = format!("{name}/model");
        // The towers of the result hold the weights that came in, to the last bit; half floats
        // are exact in f32, so features agree exactly too.
        for (tower, what) in [("vision", "--image"), ("text", "--text")] {
            if tower == "vision" && choices.contains("letterbox") {
                continue; // Its folder says to look at larger pictures now.
            }
            let value = match tower {
                "vision" => example("csv/dog.png").to_str().unwrap().to_owned(),
                _ => "a dog".to_owned(),
            };
            let embed = |dir: PathBuf| {
                works(vlm().arg("embed").arg("--model").arg(dir).args([what, &value, "--json"]))
            };
            let after = embed(towers.dir.join(&model).join(tower));
            assert_eq!(embed(towers.dir.join(tower)), after, "{name} {tower}");
        }
    }
}

#[test]
fn what_locked_towers_say_is_computed_once() {
    let towers = Towers::new("cache");
    works(&mut towers.train("dim = 12", "first"));
    let listing = || {
        let folders = fs::read_dir(towers.dir.join("features")).unwrap();
        let mut files: Vec<_> = folders
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::metadata(path).unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let kept = listing();
    // Pictures of the training and of the validation set, and texts.
    assert_eq!(kept.len(), 3);
    works(&mut towers.train("dim = 12", "second"));
    assert_eq!(listing(), kept);
    assert_eq!(
        towers.bytes("first/model/heads.safetensors"),
        towers.bytes("second/model/heads.safetensors")
    );
    // Another reading of the pictures is other vectors.
    works(&mut towers.train("dim = 12\nimage = { pool = \"mean\" }", "third"));
    assert_eq!(listing().len(), 5);
    // A damaged file is made again.
    for (path, _) in kept {
        fs::write(path, "half").unwrap();
    }
    works(&mut towers.train("dim = 12", "fourth"));
    assert_eq!(
        towers.bytes("first/model/heads.safetensors"),
        towers.bytes("fourth/model/heads.safetensors")
    );
}

#[test]
fn a_tower_that_is_not_locked_is_trained() {
    let towers = Towers::new("trained");
    for (name, trained) in [("text", "[\"text\"]"), ("vision", "[\"vision\"]")] {
        let run = format!("{name}-run");
        works(&mut towers.train(&format!("dim = 12\ntrain = {trained}"), &run));
        let losses = losses(&towers.dir.join(&run));
        assert!(losses.last() < losses.first(), "{name}: {losses:?}");
        let embed = |dir: PathBuf| {
            let picture = example("csv/dog.png");
            let mut vlm = vlm();
            vlm.arg("embed").arg("--model").arg(dir);
            match name {
                "text" => vlm.args(["--text", "a dog"]),
                _ => vlm.arg("--image").arg(picture),
            };
            works(vlm.arg("--json"))
        };
        let after = embed(towers.dir.join(run).join("model").join(name));
        assert_ne!(embed(towers.dir.join(name)), after, "{name} did not change");
    }
}

#[test]
fn a_stopped_run_goes_on_as_if_it_had_not_stopped() {
    let towers = Towers::new("resume");
    let choices = "dim = 12\ntrain = [\"text\"]\nmirror = true\ndropout = 0.2";
    works(&mut towers.train(choices, "whole"));
    works(&mut towers.train(choices, "broken"));
    // As if it had been killed behind its first checkpoint.
    let mut steps: Vec<_> = fs::read_dir(towers.dir.join("broken/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    steps.sort_by_key(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.trim_start_matches("step-").parse::<u64>().unwrap()
    });
    assert!(steps.len() > 1, "{steps:?}");
    for step in &steps[1..] {
        fs::remove_dir_all(step).unwrap();
    }
    works(towers.train(choices, "broken").arg("--resume"));
    for file in ["model/heads.safetensors", "model/text/model.safetensors"] {
        assert_eq!(
            towers.bytes(&format!("whole/{file}")),
            towers.bytes(&format!("broken/{file}")),
            "{file}"
        );
    }
}

#[test]
fn every_command_takes_the_result() {
    let towers = Towers::new("use");
    works(&mut towers.train("dim = 12", "run"));
    let model = towers.dir.join("run/model");
    let with = |command: &str| {
        let mut vlm = vlm();
        vlm.arg(command).arg("--model").arg(&model);
        vlm
    };
    let dog = example("csv/dog.png");
    let shown = works(with("zero-shot").arg("--image").arg(&dog).args(["--labels", "cat,dog"]));
    assert_eq!(shown.lines().count(), 3, "{shown}");
    for task in ["zero-shot", "retrieval"] {
        let set = example("classes");
        works(with("eval").arg("--data").arg(set).args(["--task", task, "--json"]));
    }
    let found = works(
        with("retrieve").arg("--images").arg(example("csv")).args(["--query", "a dog", "--json"]),
    );
    assert!(found.contains("dog.png"), "{found}");
    let embedded = works(with("embed").args(["--text", "a dog", "--json"]));
    let embedded: Value = serde_json::from_str(&embedded).unwrap();
    let row = embedded["embeddings"][0]["embedding"].as_array().unwrap();
    let length: f64 = row.iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!(row.len() == 12 && (length - 1.0).abs() < 1e-5, "{} {length}", row.len());
    let shown = works(vlm().arg("inspect").arg(&model));
    for word in ["two towers", "12 dimensions", "image_head.first.weight", "embeddings.cls_token"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let page = towers.dir.join("batch.html");
    let config = towers.dir.join("joined.toml");
    works(vlm().arg("inspect").arg("--batch").arg(config).arg("--out").arg(&page));
    assert!(fs::read_to_string(page).unwrap().contains("[CLS]"));
    let hidden = with("embed").args(["--text", "x", "--hidden", "/dev/null"]).output().unwrap();
    assert!(!hidden.status.success() && text(&hidden.stderr).contains("/vision or "));
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    let towers = Towers::new("refused");
    let cases = [
        ("dim = 0", "", 1, "dim is 0; it must be from 1"),
        ("letterbox = 0", "", 1, "letterbox is 0"),
        ("dropout = 1.0", "", 1, "dropout is 1"),
        ("image_head = \"none\"", "", 1, "image_head is `none`"),
        ("image_head = { mlp = 0 }", "", 1, "width of 0"),
        ("image = { layer = 9 }", "", 1, "0 to 2"),
        ("image = { layr = 1 }", "", 1, "unknown field `layr`"),
        ("train = [\"both\"]", "", 1, "unknown variant `both`"),
        ("", "[sample.augment]\nblur = 0.5", 1, "the image tower is locked"),
        ("", "[sample.captions]\nparts = 2", 1, "the text tower is locked"),
    ];
    for (choices, rest, status, words) in cases {
        let config = towers.config(choices, rest);
        let out = towers.dir.join("out");
        fails(&mut towers.train_on(&config, "out"), status, &[words]);
        assert!(!out.exists(), "{choices}");
    }
    // Each tower in the other's place.
    let config = towers.config("", "");
    let set = format!("model.towers.vision={:?}", towers.dir.join("text"));
    fails(towers.train_on(&config, "out").args(["--set", &set]), 1, &["image encoder"]);
    let set = format!("model.towers.text={:?}", towers.dir.join("vision"));
    fails(towers.train_on(&config, "out").args(["--set", &set]), 1, &["text encoder"]);
}

#[test]
fn damaged_results_are_named() {
    let towers = Towers::new("damaged");
    works(&mut towers.train("dim = 12", "run"));
    let cases: [(&str, Damage, &str); 5] = [
        ("config.json", &|p| fs::write(p, "{").unwrap(), "config.json"),
        ("config.json", &|p| edit(p, "dim", json!(13)), "heads.safetensors"),
        ("config.json", &|p| edit(p, "dim", json!(1u64 << 40)), "which no model has"),
        ("heads.safetensors", &|p| cut(p), "heads.safetensors"),
        ("text/model.safetensors", &|p| cut(p), "model.safetensors"),
    ];
    for (number, (file, damage, words)) in cases.into_iter().enumerate() {
        let dir = towers.dir.join(format!("damaged-{number}"));
        copy(&towers.dir.join("run/model"), &dir);
        damage(&dir.join(file));
        refuses(vlm().arg("embed").arg("--model").arg(&dir).args(["--text", "x"]), 1, &[words]);
    }
}

/// What is done to a file.
type Damage<'a> = &'a dyn Fn(&Path);

fn edit(path: &Path, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
