//! Training and asking, on tiny models that transformers wrote.
#![cfg(feature = "train")]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use vlm_datasets::{Conversation, Conversations};
use vlm_encoders::image::load;
use vlm_fusion::GenerativeFolder;
use vlm_fusion::decode::Sampling;
use vlm_fusion::spatial::Codec;
use vlm_fusion::task::{Batching, GenerativeConfig, GenerativeTask, Telling, ask};
use vlm_train::{FeatureCache, Grads, Task};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generative").join(name)
}

const TELLING: Telling<'_> = Telling { question: "what", blind: false, boxes: Codec::Numbers };

/// Questions about two pictures, of several lengths, one of them asked twice.
fn set(dir: &Path) -> Conversations {
    let mut lines = String::new();
    for (picture, question, answer) in [
        ("wide.png", "what is it", "a cat"),
        ("wide.png", "is it red", "no"),
        ("wide.png", "is it red", "maybe"),
        ("tall.png", "what is it there", "a tree"),
        ("tall.png", "how many", "two"),
    ] {
        std::fs::copy(golden(picture), dir.join(picture)).unwrap();
        let row = serde_json::json!({"image": picture, "question": question, "answer": answer});
        lines += &format!("{row}\n");
    }
    std::fs::write(dir.join("train.jsonl"), lines).unwrap();
    Conversations::open(dir.to_str().unwrap(), "train").unwrap()
}

fn task(
    folder: &str,
    dir: &Path,
    pack: usize,
    size: usize,
) -> (GenerativeTask, vlm_fusion::GenerativeModel) {
    let folder_dir = golden(folder);
    let folder = GenerativeFolder::open(&folder_dir, &Device::default()).unwrap();
    let config = GenerativeConfig { pack: Some(pack), ..GenerativeConfig::default() };
    let batching = Batching { size, chunk: 0, seed: 1 };
    let cache = FeatureCache::new(dir.join("features"));
    let data = set(dir);
    GenerativeTask::new(&data, Some(&data), folder, (config, batching), &cache, &|_, _, _| {})
        .unwrap()
}

fn loss(folder: &str, dir: &Path, pack: usize, rows: usize) -> (f64, f64) {
    let (task, model) = task(folder, dir, pack, rows);
    assert_eq!(task.batches_per_epoch(), 1, "{folder}");
    let batch = task.batches(0, 0).unwrap().next().unwrap().unwrap();
    let mut grads = Grads::default();
    let report = task.gradients(&model, batch, 1.0, &mut grads).unwrap();
    assert_eq!(report.samples, 5);
    let validation = task.validate(&model).unwrap();
    assert!((validation.metrics[0].1 - report.loss).abs() < 1e-4, "{validation:?}");
    (report.loss, grads.norms(&model).0)
}

/// Questions that share a row learn what each learns in a row of its own.
#[test]
fn packed_questions_have_the_loss_and_the_gradient_of_single_ones() {
    for folder in ["llava-clip", "llava-dinov2", "llava-siglip", "idefics3", "smolvlm"] {
        let dir = tempfile::tempdir().unwrap();
        let (packed, single) = (loss(folder, dir.path(), 8, 2), loss(folder, dir.path(), 1, 5));
        assert!((packed.0 - single.0).abs() < 1e-4, "{folder}: {packed:?} {single:?}");
        let off = (packed.1 - single.1).abs() / single.1;
        assert!(off < 1e-3, "{folder}: {packed:?} {single:?}");
    }
}

/// What is learned is told as it will be asked, with as many tokens for the tiles of each picture.
#[test]
fn a_row_begins_as_the_prompt_that_is_asked() {
    for name in ["llava-clip", "idefics3", "smolvlm", "paligemma"] {
        let dir = tempfile::tempdir().unwrap();
        let data = set(dir.path());
        let open = || GenerativeFolder::open(&golden(name), &Device::default()).unwrap();
        let config = GenerativeConfig { pack: Some(1), ..GenerativeConfig::default() };
        let how = (config, Batching { size: 5, chunk: 0, seed: 1 });
        let rows = GenerativeTask::first_rows(&data, open(), how).unwrap();
        let asked: Vec<Vec<i64>> =
            rows.iter().map(|(row, _)| row.ids[..row.answers[0].0 + 1].to_vec()).collect();
        let folder = open();
        for sample in &data.samples {
            let picture = load(&sample.pictures[0]).unwrap();
            let prompt = folder.prepare(sample.question(), &[picture]).unwrap();
            assert!(asked.iter().any(|ids| ids == prompt.ids()), "{name}: {}", prompt.text());
        }
    }
}

/// A prefix is seen both ways, so that nothing is packed; it trains all the same.
#[test]
fn a_prefix_model_is_trained_one_question_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let (found, length) = loss("paligemma", dir.path(), 8, 5);
    assert!(found.is_finite() && length > 0.0);
}

/// Questions about one picture are answered together as each alone.
#[test]
fn a_shared_beginning_changes_no_answer() {
    for folder in ["llava-clip", "llava-siglip", "paligemma"] {
        let dir = tempfile::tempdir().unwrap();
        let data = set(dir.path());
        let folder = GenerativeFolder::open(&golden(folder), &Device::default()).unwrap();
        let sampling = Sampling { max_tokens: 6, ..Sampling::default() };
        let all: Vec<&Conversation> = data.samples.iter().collect();
        let together = ask(&folder, &all, TELLING, &sampling, &mut |_| {}).unwrap();
        for (sample, together) in all.iter().zip(&together) {
            let alone = ask(&folder, &[*sample], TELLING, &sampling, &mut |_| {}).unwrap();
            assert_eq!(&alone[0], together);
        }
    }
}

/// A conversation that the model cannot take whole is named, before anything is trained.
#[test]
fn a_conversation_longer_than_the_context_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = set(dir.path());
    data.samples[2].turns[0].text = "is it red ".repeat(400);
    let folder = GenerativeFolder::open(&golden("llava-clip"), &Device::default()).unwrap();
    let how = (GenerativeConfig::default(), Batching { size: 2, chunk: 0, seed: 1 });
    let refused = GenerativeTask::first_rows(&data, folder, how).unwrap_err().to_string();
    for words in ["train.jsonl", "3", "tokens", "256"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
}
