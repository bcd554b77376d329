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
use vlm_store::TensorFiles;

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

/// A GPU adds up in the order in which its threads happen to end, so two runs from one seed
/// differ in the last bits there; on the CPU they may not.
const EXACT: bool = cfg!(any(feature = "flex", feature = "tch"));

/// Whether all that is not a broken number is the same, and numbers are to a thousandth.
fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| alike(v, w)))
        }
        (serde_json::Value::Number(a), serde_json::Value::Number(b)) if a.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-3 * a.abs().max(1.0)
        }
        _ => a == b,
    }
}

/// Whether two tensor files hold the same, to a hundredth of the largest value of each tensor. The
/// loss does not depend on the biases of keys: what their gradient is made of is rounding alone.
fn alike_tensors(a: &Path, b: &Path) -> bool {
    let (a, b) = (TensorFiles::open_file(a).unwrap(), TensorFiles::open_file(b).unwrap());
    a.names().eq(b.names())
        && a.names().filter(|name| !name.contains("k.bias") && !name.contains("k_proj.bias")).all(
            |name| {
                let read =
                    |files: &TensorFiles| files.read(name).unwrap().try_to_vec::<f32>().unwrap();
                let (a, b) = (read(&a), read(&b));
                let largest = a.iter().fold(0f32, |most, x| most.max(x.abs()));
                a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| (x - y).abs() <= 1e-2 * largest)
            },
        )
}

fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    if EXACT { a == b } else { alike(a, b) }
}

#[track_caller]
fn same_end(out: &Path) {
    let last = format!("checkpoints/step-{STEPS:08}");
    let files = ["weights.safetensors", "optimizer.safetensors", "average.safetensors"];
    let mut names = vec!["model/model.safetensors".to_owned()];
    names.extend(files.iter().map(|file| format!("{last}/{file}")));
    for name in names {
        let (ours, theirs) = (out.join(&name), undisturbed().join(&name));
        let same = fs::read(&ours).unwrap() == fs::read(&theirs).unwrap();
        assert!(same || !EXACT && alike_tensors(&ours, &theirs), "{} differs", ours.display());
    }
    let state = |run: &Path| {
        let text = fs::read(run.join(&last).join("state.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    assert!(same(&state(out), &state(undisturbed())), "{}", state(out));
    // Each step once, and with the numbers that it had the first time.
    let (got, want) = (records(out), records(undisturbed()));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!(same(got, want), "{got} and not {want}");
    }
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
