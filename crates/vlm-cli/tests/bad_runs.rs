//! Training runs that cannot start or go on.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    config, copy, example, fails, fresh, golden, limited, refuses, run, text, vlm, works,
};

/// `vlm train` on the tiny configuration in a fresh folder of that name.
struct Case {
    config: PathBuf,
    out: PathBuf,
}

impl Case {
    fn new(name: &str) -> Case {
        let dir = fresh(&format!("bad-run-{name}"));
        Case { config: config(&dir), out: dir.join("out") }
    }

    fn train(&self, settings: &[&str]) -> Command {
        self.train_by(vlm(), settings)
    }

    fn train_by(&self, mut vlm: Command, settings: &[&str]) -> Command {
        vlm.arg("train").arg(&self.config).arg("--out").arg(&self.out);
        vlm.args(settings.iter().flat_map(|setting| ["--set", setting]));
        vlm
    }

    fn steps(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.out.join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Forgets everything behind a step, as if the run had been killed there.
    fn back_to(&self, step: u64) {
        for name in self.steps() {
            if name[5..].parse::<u64>().unwrap() > step {
                fs::remove_dir_all(self.out.join("checkpoints").join(name)).unwrap();
            }
        }
    }
}

#[test]
fn settings_are_refused_before_anything_is_written() {
    let case = Case::new("settings");
    for (setting, status, words) in [
        ("train.epoch=3", 2, "unknown field `epoch`"),
        ("trian.epochs=3", 2, "unknown field `trian`"),
        ("train.epochs=many", 2, "invalid type"),
        ("train.epochs=-1", 2, "invalid value"),
        ("batch.size=2.5", 2, "invalid type"),
        ("seed.x=1", 2, "no section"),
        ("nothing", 2, "key=value"),
        ("loss=mse", 2, "unknown variant `mse`"),
        ("train.epochs=0", 1, "train.epochs is 0"),
        ("train.epochs=9223372036854775807", 1, "too many"),
        ("train.accumulate=0", 1, "train.accumulate"),
        ("train.accumulate=100", 1, "no step"),
        ("train.warmup=2", 1, "train.warmup is 2"),
        ("train.final_ratio=nan", 1, "train.final_ratio"),
        ("train.average=1.5", 1, "train.average"),
        ("train.keep=0", 1, "train.keep"),
        ("optim.lr=nan", 1, "optim.lr"),
        ("optim.lr=-1e-3", 1, "optim.lr"),
        ("optim.betas=[0.9, 1.5]", 1, "optim.betas"),
        ("optim.eps=0", 1, "optim.eps"),
        ("optim.lr_scale.nothing=0.1", 1, "`nothing`"),
        ("batch.size=0", 1, "batch.size is 0"),
        ("batch.size=5", 1, "a batch of 5 is larger than the set of 4"),
        ("batch.workers=100000", 1, "batch.workers"),
        ("sample.patch_keep=nan", 1, "sample.patch_keep"),
        ("sample.augment.flip=7", 1, "sample.augment.flip is 7"),
        ("model.vocabulary=3", 1, "vocabulary of 3"),
        ("model.image_std=[0,0,0]", 1, "model.image_std"),
        ("model.logit_scale=0", 1, "model.logit_scale"),
        ("model.vision.hidden_size=0", 1, "hidden_size"),
        ("model.vision.num_attention_heads=3", 1, "multiple"),
        ("model.vision.patch_size=64", 1, "patch_size"),
        ("model.vision.num_channels=1", 1, "num_channels"),
        ("model.text.max_position_embeddings=1", 1, "max_position_embeddings"),
        ("model.from=nowhere", 1, "`from` and a shape"),
        ("data.train=nowhere", 1, "no data set `nowhere`"),
        ("data.val=nowhere", 1, "no data set `nowhere`"),
        ("eval=[{name='x', data='nowhere'}]", 1, "no data set `nowhere`"),
    ] {
        refuses(&mut case.train(&[setting]), status, &[words]);
    }
    assert!(!case.out.exists());
}

#[test]
fn configurations_name_the_line() {
    let case = Case::new("config");
    let good = fs::read_to_string(&case.config).unwrap();
    let line = good.lines().position(|line| line.starts_with("epochs")).unwrap() + 1;
    for (content, words) in [
        (good.replace("epochs =", "epoch ="), format!("tiny.toml:{line}: unknown field `epoch`")),
        (good.replace("epochs = 4", "epochs = \"4\""), format!("tiny.toml:{line}: invalid type")),
        (good.replace("epochs = 4", "epochs 4"), format!("tiny.toml:{line}: ")),
        (String::new(), "tiny.toml".into()),
    ] {
        fs::write(&case.config, content).unwrap();
        refuses(&mut case.train(&[]), 1, &[&words]);
    }
    fs::write(&case.config, b"seed = \xff").unwrap();
    refuses(&mut case.train(&[]), 1, &["tiny.toml: cannot read", "UTF-8"]);
    fs::remove_file(&case.config).unwrap();
    refuses(&mut case.train(&[]), 1, &["tiny.toml: cannot read", "No such file"]);
    let batch = ["inspect", "--batch", "/no/such.toml"];
    refuses(vlm().args(batch), 1, &["/no/such.toml: cannot read"]);
}

/// Every file below a folder with its content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

#[test]
fn an_output_folder_in_use_stays_as_it_is() {
    let case = Case::new("occupied");
    copy(run(), &case.out);
    let before = content(&case.out);
    refuses(&mut case.train(&[]), 1, &["out: already holds a run", "--resume"]);
    let words = ["step-00000008: ", "optim.lr was 0.001 and is 0.5"];
    refuses(case.train(&["optim.lr=0.5"]).arg("--resume"), 1, &words);
    assert!(content(&case.out) == before, "something changed");

    let case = Case::new("other");
    fs::create_dir(&case.out).unwrap();
    fs::write(case.out.join("notes.old"), "mine").unwrap();
    refuses(&mut case.train(&[]), 1, &["out: is not empty"]);
    refuses(case.train(&[]).arg("--resume"), 1, &["out: holds no run to resume"]);
    assert_eq!(content(&case.out).len(), 1);

    let case = Case::new("file");
    fs::write(&case.out, "mine").unwrap();
    refuses(&mut case.train(&[]), 1, &["out: is a file"]);
    refuses(case.train(&[]).arg("--resume"), 1, &["out: is a file"]);
    assert_eq!(fs::read_to_string(&case.out).unwrap(), "mine");

    let case = Case::new("nothing");
    refuses(case.train(&[]).arg("--resume"), 1, &["out: holds no run to resume"]);
    assert!(!case.out.exists());
}

#[test]
fn a_damaged_checkpoint_is_named() {
    for (file, words) in [
        ("state.json", "state.json: not a checkpoint's state"),
        ("weights.safetensors", "weights.safetensors: "),
        ("optimizer.safetensors", "optimizer.safetensors: "),
    ] {
        let case = Case::new(&format!("damaged-{}", &file[..5]));
        copy(run(), &case.out);
        fs::write(case.out.join("checkpoints/step-00000008").join(file), "x").unwrap();
        refuses(case.train(&[]).arg("--resume"), 1, &["step-00000008", words]);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let case = Case::new("rate");
    fails(
        &mut case.train(&["optim.lr=1e30", "train.checkpoint_every=1"]),
        1,
        &["step 2 (epoch 1): the loss is NaN", "no good checkpoint", "lower the learning rate"],
    );
    assert!(!case.out.join("summary.json").exists());
}

/// Overwrites the first tensor of a file with NaN.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..header + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_last_good_checkpoint_is_kept() {
    let settings = ["train.checkpoint_every=1", "train.keep=100", "train.validate_every=0"];
    for (name, file, kept) in [
        // Fails at its first step, so it was no good; the one before it was.
        ("weights", "weights.safetensors", "step-00000004"),
        // Loss and gradient are fine, and the step spoils the weights.
        ("moments", "optimizer.safetensors", "step-00000005"),
    ] {
        let case = Case::new(name);
        works(&mut case.train(&settings));
        case.back_to(5);
        spoil(&case.out.join("checkpoints/step-00000005").join(file));
        let words = ["step 6 (epoch 3): ", "the last good checkpoint is ", kept];
        fails(case.train(&settings).arg("--resume"), 1, &words);
        assert_eq!(case.steps().last().unwrap(), kept);
    }
}

#[test]
fn a_broken_picture_stops_the_run_by_name() {
    let case = Case::new("picture");
    let set = case.config.with_file_name("set");
    copy(&example("csv"), &set);
    let half = fs::read(golden("wide.png")).unwrap();
    fs::write(set.join("dog.png"), &half[..half.len() / 2]).unwrap();
    let data = format!("data.train={}", set.display());
    fails(&mut case.train(&[&data]), 1, &["dog.png: the file is cut off"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_harms_no_earlier_result() {
    let settings = ["train.checkpoint_every=2", "train.keep=100", "train.validate_every=1"];
    let case = Case::new("full");
    works(&mut case.train(&settings));
    let whole = content(&case.out.join("model"));
    case.back_to(4);
    let before = content(&case.out.join("checkpoints"));
    let limited = limited("trap '' XFSZ; ulimit -f 32");
    fails(case.train_by(limited, &settings).arg("--resume"), 1, &["out/", "too large"]);
    assert!(content(&case.out.join("checkpoints")) == before, "a checkpoint changed");
    assert!(content(&case.out.join("model")) == whole, "the model changed");
    assert_eq!(case.steps(), ["step-00000002", "step-00000004"], "leftovers");
    works(case.train(&settings).arg("--resume"));
    assert!(content(&case.out.join("model")) == whole, "another model");
}

#[cfg(unix)]
#[test]
fn nobody_reading_is_no_reason_to_stop() {
    use std::process::Stdio;
    let case = Case::new("readers");
    let mut train = case.train(&[]);
    let mut child = train.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    let summary = fs::read(case.out.join("summary.json")).unwrap();
    assert!(text(&summary).contains("classes_top1"));
}
