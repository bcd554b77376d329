//! Runs that are killed and resumed end with the bits of a run that was not.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use common::{config, copy, fresh, signal, text, vlm, works};

/// Saves at every step, so that most kills come while something is being written. Averaged,
/// so that there is state of every kind.
const SETTINGS: [&str; 6] = [
    "train.epochs=20",
    "train.checkpoint_every=1",
    "train.validate_every=3",
    "train.average=0.9",
    "sample.augment.flip=0.5",
    "batch.extra_texts=1",
];

const STEPS: u64 = 40;

fn train(out: &Path, resume: bool) -> Command {
    let mut train = vlm();
    train.arg("train").arg(config(out.parent().unwrap())).arg("--out").arg(out);
    train.args(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
    train.args(resume.then_some("--resume"));
    train
}

/// The run that nobody disturbed.
fn undisturbed() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let out = fresh("resume-undisturbed").join("out");
        works(&mut train(&out, false));
        out
    })
}

fn steps(out: &Path) -> Vec<u64> {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// The records of a log without their times.
fn records(out: &Path) -> Vec<serde_json::Value> {
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let mut records: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        record.as_object_mut().unwrap().remove("seconds");
    }
    records
}

#[track_caller]
fn same_end(out: &Path) {
    let last = format!("checkpoints/step-{STEPS:08}");
    let files = ["weights.safetensors", "optimizer.safetensors", "average.safetensors"];
    let mut names = vec!["model/model.safetensors".to_owned(), format!("{last}/state.json")];
    names.extend(files.iter().map(|file| format!("{last}/{file}")));
    for name in names {
        let read = |run: &Path| fs::read(run.join(&name)).unwrap();
        assert!(read(out) == read(undisturbed()), "{} differs", out.join(&name).display());
    }
    // Each step once, and with the numbers that it had the first time.
    let got = records(out);
    assert_eq!(got, records(undisturbed()));
    let train: Vec<u64> = got
        .iter()
        .filter(|record| record["kind"] == "train")
        .map(|record| record["step"].as_u64().unwrap())
        .collect();
    assert_eq!(train, (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(steps(out), [STEPS - 1, STEPS]);
    assert!(out.join("summary.json").exists() && out.join("report.html").exists());
    let hidden = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with('.')).count()
    };
    assert_eq!(hidden(out) + hidden(&out.join("checkpoints")), 0, "leftovers");
}

/// Whatever has a checkpoint's name must be a whole one.
fn all_whole(out: &Path) {
    for step in steps(out) {
        let dir = out.join(format!("checkpoints/step-{step:08}"));
        let state = fs::read(dir.join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["step"].as_u64(), Some(step));
        for part in ["weights", "optimizer", "average"] {
            let bytes = fs::read(dir.join(format!("{part}.safetensors"))).unwrap();
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            let end = header.values().filter_map(|t| t["data_offsets"][1].as_u64()).max();
            let before = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(bytes.len() as u64, before + end.unwrap());
        }
    }
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_at_any_moment() {
    let out = fresh("resume-killed").join("out");
    let (mut kills, mut early) = (0, 0);
    // From before the folder is there to well into the run; each goes on where the last stood.
    for milliseconds in [1, 10, 20, 40, 60, 90, 120, 90, 60, 120, 150, 80, 200, 100] {
        let begun = out.join("checkpoints").exists();
        let mut child = quiet(train(&out, begun));
        std::thread::sleep(Duration::from_millis(milliseconds));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ended.is_none_or(|status| status.success()), "did not resume");
        kills += u32::from(ended.is_none());
        early += u32::from(steps(&out).is_empty());
        all_whole(&out);
    }
    assert!(kills >= 3 && early >= 1, "{kills} kills, {early} of them early: choose other moments");
    works(&mut train(&out, out.join("checkpoints").exists()));
    same_end(&out);
}

#[test]
fn killed_before_the_first_checkpoint() {
    let out = fresh("resume-early").join("out");
    fs::create_dir_all(out.join("checkpoints/.writing-abc")).unwrap();
    fs::write(out.join("checkpoints/.writing-abc/state.json"), "{").unwrap();
    fs::write(out.join(".writing-xyz"), "half").unwrap();
    fs::write(out.join("metrics.jsonl"), "{\"step\":1,\"epoch\":0,\"kind\":\"train\"}\n{\"st")
        .unwrap();
    let done = train(&out, true).output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("out: no checkpoint yet; starting from the beginning"), "{said}");
    same_end(&out);
}

#[test]
fn killed_while_a_folder_was_written() {
    let out = fresh("resume-writing").join("out");
    copy(undisturbed(), &out);
    let checkpoints = out.join("checkpoints");
    // The step before the last is whole; of the last there is half, and the model was just being
    // replaced.
    let last = checkpoints.join(format!("step-{STEPS:08}"));
    fs::write(last.join("weights.safetensors"), "half").unwrap();
    fs::rename(&last, checkpoints.join(".writing-Ab3dEf")).unwrap();
    fs::rename(out.join("model"), out.join("model.old")).unwrap();
    fs::write(out.join("notes.old"), "mine").unwrap();
    let done = train(&out, true).output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains(&format!("(step {})", STEPS - 1)), "{said}");
    assert_eq!(fs::read_to_string(out.join("notes.old")).unwrap(), "mine");
    assert!(!out.join("model.old").exists());
    same_end(&out);
    // And once more, with nothing left to do.
    works(&mut train(&out, true));
    same_end(&out);
}

#[test]
fn interrupted_with_ctrl_c() {
    let out = fresh("resume-interrupted").join("out");
    let mut train_it = train(&out, false);
    let mut child = train_it.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.find(|line| line.as_ref().unwrap().starts_with("every trainable parameter"));
    assert!(begun.is_some());
    signal("INT", child.id());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let last = rest.last().unwrap();
    let at = *steps(&out).last().unwrap();
    assert!(last.starts_with(&format!("stopped after step {at}; go on with --resume")), "{last}");
    assert!(at < STEPS, "too late to see anything");
    all_whole(&out);
    works(&mut train(&out, true));
    same_end(&out);
}
