//! The program as a stranger runs it, and a tiny model for it.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

/// One thread, so that the order of sums and with it every bit is the same in each run.
pub fn vlm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vlm"));
    plain(&mut command);
    command
}

fn plain(command: &mut Command) {
    // A backtrace would bring back the panic messages that must not occur.
    command.env("RAYON_NUM_THREADS", "1").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
}

/// The program under a shell's limits, such as `ulimit -f 8`.
pub fn limited(limits: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{limits}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_vlm"));
    plain(&mut command);
    command
}

/// A fresh folder of this name below the build folder.
pub fn fresh(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A shipped example of a data format.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/examples").join(name)
}

/// A picture of the image processor's tests.
pub fn golden(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-encoders/tests/golden/image");
    dir.join(name)
}

/// A random model that speaks, whose goldens transformers gave.
pub fn speaking() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-fusion/tests/golden/generative/llava-clip")
}

/// Eight questions about one picture.
pub fn questions(dir: &Path) -> PathBuf {
    fs::copy(speaking().join("../wide.png"), dir.join("wide.png")).unwrap();
    let row = |i: usize| {
        format!("{{\"image\": \"wide.png\", \"question\": \"what {i}\", \"answer\": \"a cat\"}}\n")
    };
    let path = dir.join("data.jsonl");
    fs::write(&path, (0..8).map(row).collect::<String>()).unwrap();
    path
}

/// Eight steps of a model with one layer; takes less than a second.
pub fn config(dir: &Path) -> PathBuf {
    let (train, classes) = (example("csv"), example("classes"));
    let text = format!(
        "seed = 1
[data]
train = {train:?}
val = {classes:?}
[model]
vocabulary = 530
projection_dim = 16
[model.vision]
image_size = 16
patch_size = 8
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
[model.text]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 16
[batch]
size = 2
workers = 1
[train]
epochs = 4
[[eval]]
name = \"classes\"
data = {classes:?}
"
    );
    let path = dir.join("tiny.toml");
    fs::write(&path, text).unwrap();
    path
}

/// A run of [`config`], trained once for each test binary.
pub fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = fresh(concat!(env!("CARGO_CRATE_NAME"), "-run"));
        let out = dir.join("run");
        let done = vlm().arg("train").arg(config(&dir)).arg("--out").arg(&out).output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
        out
    })
}

/// Its model folder.
pub fn model() -> PathBuf {
    run().join("model")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Runs to the end, or for half a minute: what is wrong must be found soon.
#[track_caller]
fn finish(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (send, receive) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let done = child.wait_with_output().unwrap();
        let _ = send.send(());
        done
    });
    if receive.recv_timeout(Duration::from_secs(30)).is_err() {
        signal("KILL", pid);
        panic!("{command:?} did not end");
    }
    waiter.join().unwrap()
}

/// Sends a signal to a process.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Runs and expects success; the output on stdout.
#[track_caller]
pub fn works(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

/// Runs and expects that exit status and, as the last line on stderr and its only error, one
/// that says all of `words`; nothing on stdout.
#[track_caller]
pub fn fails(command: &mut Command, status: i32, words: &[&str]) -> Output {
    let done = finish(command);
    let stderr = text(&done.stderr);
    assert_eq!(done.status.code(), Some(status), "{command:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 1, "{command:?}: {stderr}");
    assert!(
        errors[0].starts_with("error: ") && stderr.ends_with(&format!("{}\n", errors[0])),
        "{stderr}"
    );
    for word in words {
        assert!(errors[0].contains(word), "{command:?}: `{}` lacks `{word}`", errors[0]);
    }
    for word in ["panicked", "bug in vlm", "RUST_BACKTRACE"] {
        assert!(!stderr.contains(word), "{command:?}: {stderr}");
    }
    assert!(done.stdout.is_empty(), "{command:?}: {}", text(&done.stdout));
    done
}

/// As [`fails`], of a command that has no reason to print anything else.
#[track_caller]
pub fn refuses(command: &mut Command, status: i32, words: &[&str]) {
    let done = fails(command, status, words);
    assert_eq!(text(&done.stderr).lines().count(), 1, "{}", text(&done.stderr));
}

/// A DINOv2 and a BERT of some thousand values, as the folders `vision` and `text`.
pub fn encoders(dir: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-encoders/tests/golden");
    copy(&golden.join("encoders/dinov2"), &dir.join("vision"));
    let images = json!({
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 20},
        "crop_size": {"height": 16, "width": 16},
    });
    fs::write(dir.join("vision/preprocessor_config.json"), images.to_string()).unwrap();
    copy(&golden.join("encoders/bert"), &dir.join("text"));
    copy(&golden.join("tokenizer_kinds/bert-uncased"), &dir.join("text"));
    // The tower has 40 rows, so the tokenizer gets 40 words: single letters, mostly.
    let path = dir.join("text/tokenizer.json");
    let mut words: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let vocabulary = words["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.retain(|_, id| id.as_u64().unwrap() < 40);
    fs::write(&path, words.to_string()).unwrap();
}
