//! Folders of the generative families against transformers (xtask/golden/generative.py).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use serde::Deserialize;
use vlm_encoders::image::{RgbImage, load};
use vlm_encoders::text::{Content, Message, Part};
use vlm_fusion::decode::{Sampling, generate};
use vlm_fusion::{GenerativeFolder, Prepared};
use vlm_store::{Float, TensorFiles};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generative")
}

fn folders() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("cases.json").exists())
        .collect();
    all.sort();
    assert!(all.len() >= 7, "{} folders", all.len());
    all
}

#[derive(Deserialize)]
struct Cases {
    step: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    pictures: Vec<String>,
    text: String,
    ids: Vec<i64>,
    pixels: u64,
    /// The next 64 tokens.
    greedy: Vec<i64>,
    #[serde(default)]
    chat: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Vec<Piece>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Piece {
    Image,
    Text { text: String },
}

impl Case {
    fn pictures(&self) -> Vec<RgbImage> {
        self.pictures.iter().map(|name| load(&golden().join(name)).unwrap()).collect()
    }

    fn messages(&self) -> Vec<Message> {
        let part = |piece: &Piece| match piece {
            Piece::Image => Part::Image,
            Piece::Text { text } => Part::Text { text: text.clone() },
        };
        let message = |turn: &Turn| Message {
            role: turn.role.clone(),
            content: Content::Parts(turn.content.iter().map(part).collect()),
        };
        self.chat.iter().map(message).collect()
    }

    fn prepared(&self, folder: &GenerativeFolder) -> Prepared {
        let pictures = self.pictures();
        if !pictures.is_empty() && !self.text.contains("<image>") {
            return folder.prepare(&self.text, &pictures).unwrap();
        }
        if self.chat.is_empty() {
            return folder.prepare_marked(&self.text, &pictures).unwrap();
        }
        assert_eq!(folder.chat(&self.messages(), true).unwrap(), self.text, "{}", self.name);
        folder.prepare_chat(&self.messages(), &pictures).unwrap()
    }
}

fn cases(dir: &Path) -> Cases {
    serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap()
}

fn open(dir: &Path) -> GenerativeFolder {
    GenerativeFolder::open(dir, &Device::flex())
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn worst(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    // A NaN is the worst there is, and `f32::max` would drop it.
    let distance = |(a, b): (&f32, &f32)| {
        if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }
    };
    ours.iter().zip(theirs).map(distance).fold(0.0, f32::max)
}

fn floats(data: TensorData) -> Vec<f32> {
    data.try_to_vec().unwrap()
}

/// Of the bits of each number, in order.
fn checksum(pixels: &[f32]) -> u64 {
    let weighted =
        |(pixel, weight): (&f32, u64)| u64::from(pixel.to_bits()).wrapping_mul(weight + 1);
    pixels.iter().zip((0..65_521).cycle()).map(weighted).fold(0, u64::wrapping_add) >> 1
}

/// Every `step`th column of the logits, and the logarithm of the sum over each row.
fn condensed(logits: TensorData, step: usize) -> (Vec<f32>, Vec<f32>) {
    let vocabulary = logits.shape()[1];
    let logits = floats(logits);
    let rows = logits.chunks(vocabulary);
    let columns = rows.clone().flat_map(|row| row.iter().step_by(step).copied()).collect();
    let sum = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        max + row.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln() as f32
    };
    (columns, rows.map(sum).collect())
}

fn logits(folder: &GenerativeFolder, prepared: &Prepared) -> TensorData {
    folder.model.logits(prepared).unwrap().into_data()
}

#[test]
fn every_family_says_what_the_reference_says() {
    let mut wrong = Vec::new();
    for dir in folders() {
        let (folder, Cases { step, cases }) = (open(&dir), cases(&dir));
        let expected = TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap();
        for case in cases {
            let name = format!("{} {}", dir.file_name().unwrap().display(), case.name);
            let prepared = case.prepared(&folder);
            assert_eq!(prepared.ids(), case.ids, "{name}: {:?}", prepared.text());
            let read =
                |what: &str| floats(expected.read(&format!("{}.{what}", case.name)).unwrap());
            let mut pixels = Vec::new();
            prepared.pictures().iter().for_each(|picture| picture.write(&mut pixels));
            assert_eq!(checksum(&pixels), case.pixels, "{name}: pixels differ");
            let (columns, sums) = condensed(logits(&folder, &prepared), step);
            let worst = worst(&columns, &read("logits")).max(worst(&sums, &read("sums")));
            println!("{name}: {worst}");
            if worst > 1e-4 {
                wrong.push(format!("{name}: logits differ by {worst}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every tensor of a folder, as it lies in the file.
fn tensors(dir: &Path) -> Vec<(String, String, TensorData)> {
    let files = TensorFiles::open_dir(dir, "model").unwrap();
    let one = |name: &str| {
        (name.to_owned(), files.dtype(name).unwrap().to_owned(), files.read(name).unwrap())
    };
    files.names().map(one).collect()
}

/// What follows, as far as 64 tokens, without sampling.
fn greedy(folder: &GenerativeFolder, prepared: &[Prepared], cached: bool) -> Vec<Vec<i64>> {
    let sampling = Sampling { max_tokens: 64, cached, ..Sampling::default() };
    let prompt = folder.model.prompt(prepared).unwrap();
    let said = generate(&folder.model, &prompt, &sampling, &mut |_, _| ControlFlow::Continue(()));
    said.unwrap().into_iter().map(|answer| answer.ids).collect()
}

#[test]
fn what_follows_is_what_follows_in_the_reference() {
    for dir in folders() {
        let (folder, Cases { cases, .. }) = (open(&dir), cases(&dir));
        let prepared: Vec<Prepared> = cases.iter().map(|case| case.prepared(&folder)).collect();
        // Together, though they are of different lengths.
        let together = greedy(&folder, &prepared, true);
        for ((case, prepared), together) in cases.iter().zip(&prepared).zip(together) {
            let name = format!("{} {}", dir.display(), case.name);
            let one = std::slice::from_ref(prepared);
            assert_eq!(greedy(&folder, one, true)[0], case.greedy, "{name}");
            assert_eq!(greedy(&folder, one, false)[0], case.greedy, "{name} without cache");
            assert_eq!(together, case.greedy, "{name} in a batch");
        }
    }
}

#[test]
fn what_is_written_is_what_was_read() {
    for dir in folders() {
        let out = tempfile::tempdir().unwrap();
        open(&dir).save(out.path(), Float::F16).unwrap();
        let (ours, theirs) = (tensors(out.path()), tensors(&dir));
        let names = |list: &[(String, String, TensorData)]| -> Vec<String> {
            list.iter().map(|(name, ..)| name.clone()).collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{}", dir.display());
        assert!(ours == theirs, "{}", dir.display());
        for entry in std::fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name();
            if ["cases.json", "expected.safetensors", "model.safetensors", "config.json"]
                .iter()
                .any(|other| name == *other)
            {
                continue;
            }
            let read = |dir: &Path| std::fs::read(dir.join(&name)).unwrap_or_default();
            assert!(read(out.path()) == read(&dir), "{} {}", dir.display(), name.display());
        }
        let json = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(json(out.path()), json(&dir), "{}", dir.display());
        let again = open(out.path());
        let case = &cases(&dir).cases[0];
        let (first, second) = (open(&dir), &again);
        let (first, second) =
            (logits(&first, &case.prepared(&first)), logits(second, &case.prepared(second)));
        assert_eq!(first, second, "{}", dir.display());
    }
}
