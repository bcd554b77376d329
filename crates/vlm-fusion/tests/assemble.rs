//! Models put together of tiny towers that transformers wrote, with every kind of fusion.
#![cfg(feature = "train")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use vlm_datasets::{Conversation, Conversations};
use vlm_encoders::NewDecoder;
use vlm_encoders::image::{RgbImage, load};
use vlm_fusion::decode::Sampling;
use vlm_fusion::fuse::FusionConfig;
use vlm_fusion::spatial::Codec;
use vlm_fusion::task::{Batching, GenerativeConfig, GenerativeTask, Telling, ask};
use vlm_fusion::{Assembly, GenerativeFolder};
use vlm_nn::params;
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};
use vlm_train::{FeatureCache, Grads, Task, check_gradients, moved_from_zero};

const KINDS: [&str; 8] = [
    r#"{"kind": "linear", "pool": 2}"#,
    r#"{"kind": "mlp"}"#,
    r#"{"kind": "pixel-shuffle", "factor": 2}"#,
    r#"{"kind": "resampler", "latents": 3, "layers": 1, "heads": 2, "head_dim": 4}"#,
    r#"{"kind": "q-former", "queries": 3, "width": 8, "layers": 2, "heads": 2, "inner": 12}"#,
    r#"{"kind": "co-attention", "width": 8, "layers": 1, "heads": 2, "inner": 12}"#,
    r#"{"kind": "merged", "width": 8, "layers": 1, "heads": 2, "inner": 12}"#,
    GATED,
];
const GATED: &str = r#"{"kind": "gated", "every": 1, "heads": 2, "head_dim": 4, "inner": 2,
    "resampler": {"latents": 3, "layers": 1, "heads": 2, "head_dim": 4}}"#;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generative").join(name)
}

/// The folders of the two towers of a LLaVA folder.
fn towers(dir: &Path) -> (PathBuf, PathBuf) {
    let llava = golden("llava-dinov2");
    let config = std::fs::read_to_string(llava.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let files = TensorFiles::open_dir(&llava, "model").unwrap();
    let tower = |name: &str, section: &str, prefix: &str, carried: &[&str]| {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("config.json"), config[section].to_string()).unwrap();
        for file in carried {
            std::fs::copy(llava.join(file), dir.join(file)).unwrap();
        }
        let specs: Vec<TensorSpec> = (files.names().filter_map(|name| name.strip_prefix(prefix)))
            .map(|name| TensorSpec {
                name: name.to_owned(),
                shape: files.shape(&format!("{prefix}{name}")).unwrap().to_vec(),
            })
            .collect();
        let mut read = |name: &str| files.read(&format!("{prefix}{name}")).unwrap();
        write_tensors(&dir.join("model.safetensors"), Float::F32, &[], &specs, &mut read).unwrap();
        dir
    };
    let language = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    (
        tower("vision", "vision_config", "vision_tower.", &["preprocessor_config.json"]),
        tower("language", "text_config", "language_model.", &language),
    )
}

fn assembled(dir: &Path, kind: &str) -> GenerativeFolder {
    let fusion: FusionConfig = serde_json::from_str(kind).unwrap();
    let (vision, language) = (dir.join("vision"), dir.join("language"));
    let assembly = Assembly { fusion, ..Assembly::new(vision, language) };
    assembly.assemble(std::iter::empty(), 3, &Device::default()).unwrap()
}

/// Gates that stand open.
fn opened(mut folder: GenerativeFolder) -> GenerativeFolder {
    let open = params::replace(folder.model, &mut |path, _| {
        let gate = path.ends_with("gate1") || path.ends_with("gate2");
        Ok::<_, Infallible>(gate.then(|| TensorData::new(vec![0.7f32], [1])))
    });
    let Ok(open) = open;
    folder.model = open;
    folder
}

fn picture(name: &str) -> RgbImage {
    load(&golden(name)).unwrap()
}

fn logits(folder: &GenerativeFolder, picture: RgbImage) -> Vec<u32> {
    let prepared = folder.prepare("<image> what is it", &[picture]).unwrap();
    let logits = folder.model.logits(&prepared).unwrap();
    logits.into_data().iter::<f32>().map(f32::to_bits).collect()
}

#[test]
fn every_kind_is_written_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    towers(dir.path());
    for (number, kind) in KINDS.into_iter().enumerate() {
        let folder = opened(assembled(dir.path(), kind));
        let (wide, tall) = (picture("wide.png"), picture("tall.png"));
        let said = logits(&folder, wide.clone());
        assert_ne!(said, logits(&folder, tall), "{kind} looks at no picture");
        let written = dir.path().join(number.to_string());
        folder.save(&written, Float::F32).unwrap();
        let again = GenerativeFolder::open(&written, &Device::default()).unwrap();
        assert_eq!(said, logits(&again, wide), "{kind}");
    }
}

#[test]
fn behind_new_gates_no_picture_changes_anything() {
    let dir = tempfile::tempdir().unwrap();
    towers(dir.path());
    let folder = assembled(dir.path(), GATED);
    let (wide, tall) = (picture("wide.png"), picture("tall.png"));
    assert_eq!(logits(&folder, wide.clone()), logits(&folder, tall));
    let prepared = folder.prepare("<image> what is it", &[wide]).unwrap();
    let marks = prepared.ids().iter().filter(|id| **id == folder.model.image_token());
    assert_eq!(marks.count(), 1, "a picture beside the text takes the place of its mark only");
}

/// Questions about two pictures.
fn set(dir: &Path) -> Conversations {
    let mut lines = String::new();
    for (picture, question, answer) in [
        ("wide.png", "what is it", "a cat"),
        ("wide.png", "is it red", "no"),
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

#[test]
fn every_kind_is_trained_and_asked_alike_packed_and_alone() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        towers(dir.path());
        let data = set(dir.path());
        let learn = |pack: usize, size: usize| {
            let config = GenerativeConfig { pack: Some(pack), ..GenerativeConfig::default() };
            let batching = Batching { size, chunk: 0, seed: 1 };
            let cache = FeatureCache::new(dir.path().join("features"));
            let folder = opened(assembled(dir.path(), kind));
            let how = (config, batching);
            let (task, model) =
                GenerativeTask::new(&data, None, folder, how, &cache, &|_, _, _| {}).unwrap();
            let batch = task.batches(0, 0).unwrap().next().unwrap().unwrap();
            let mut grads = Grads::default();
            let report = task.gradients(&model, batch, 1.0, &mut grads).unwrap();
            check_gradients(&model, &grads, &|_| false).unwrap();
            (report.loss, grads.norms(&model).0)
        };
        let folder = opened(assembled(dir.path(), kind));
        let single = learn(1, 4);
        if !folder.model.reads_question() {
            let packed = learn(8, 2);
            assert!((packed.0 - single.0).abs() < 1e-4, "{kind}: {packed:?} {single:?}");
            let off = (packed.1 - single.1).abs() / single.1;
            assert!(off < 1e-3, "{kind}: {packed:?} {single:?}");
        }
        let telling = Telling { question: "what", blind: false, boxes: Codec::Numbers };
        let sampling = Sampling { max_tokens: 6, ..Sampling::default() };
        let all: Vec<&Conversation> = data.samples.iter().collect();
        let together = ask(&folder, &all, telling, &sampling, &mut |_| {}).unwrap();
        for (sample, together) in all.iter().zip(&together) {
            let alone = ask(&folder, &[*sample], telling, &sampling, &mut |_| {}).unwrap();
            assert_eq!(&alone[0], together, "{kind}");
        }
    }
}

#[test]
fn closed_gates_pass_the_look_before_a_run() {
    let dir = tempfile::tempdir().unwrap();
    towers(dir.path());
    let data = set(dir.path());
    let how = (GenerativeConfig::default(), Batching { size: 2, chunk: 0, seed: 1 });
    let cache = FeatureCache::new(dir.path().join("features"));
    let folder = assembled(dir.path(), GATED);
    let (task, model) =
        GenerativeTask::new(&data, None, folder, how, &cache, &|_, _, _| {}).unwrap();
    let of = |model: &vlm_fusion::GenerativeModel| {
        let batch = task.batches(0, 0).unwrap().next().unwrap().unwrap();
        let mut grads = Grads::default();
        task.gradients(model, batch, 1.0, &mut grads).unwrap();
        check_gradients(model, &grads, &|_| false)
    };
    // Nothing but the gates learns in the first step.
    assert!(of(&model).unwrap_err().to_string().contains("resampler.latents"));
    of(&moved_from_zero(&model).unwrap()).unwrap();
}

#[test]
fn a_decoder_can_be_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let (vision, language) = towers(dir.path());
    let short = |kept| {
        let language_layers = Some(kept);
        let assembly = Assembly { language_layers, ..Assembly::new(&vision, &language) };
        assembly.assemble(std::iter::empty(), 3, &Device::default())
    };
    let folder = short(1).unwrap();
    let all = assembled(dir.path(), KINDS[1]);
    assert_eq!(all.plan.spec.text.blocks.len(), 2);
    let out = dir.path().join("short");
    folder.save(&out, Float::F32).unwrap();
    let again = GenerativeFolder::open(&out, &Device::default()).unwrap();
    assert_eq!(again.plan.spec.text.blocks.len(), 1);
    assert_eq!(logits(&again, picture("wide.png")), logits(&folder, picture("wide.png")));
    assert_ne!(logits(&again, picture("wide.png")), logits(&all, picture("wide.png")));
    for kept in [0, 3] {
        let error = short(kept).unwrap_err().to_string();
        assert!(error.contains("has 2 layers; keep 1 to 2 of them"), "{error}");
    }
}

fn new_decoder() -> NewDecoder {
    NewDecoder { width: 16, layers: 1, heads: 2, inner: None, vocabulary: 300, context: 64 }
}

#[test]
fn without_a_chat_template_there_is_nothing_around_a_question() {
    let dir = tempfile::tempdir().unwrap();
    let (vision, _) = towers(dir.path());
    let of = |plain| {
        let decoder = Some(new_decoder());
        let assembly = Assembly { language: None, decoder, plain, ..Assembly::new(&vision, "") };
        let texts = ["What color is the star?", "red"].map(str::to_owned);
        assembly.assemble(texts.into_iter(), 3, &Device::default()).unwrap()
    };
    let out = dir.path().join("plain");
    of(true).save(&out, Float::F32).unwrap();
    let plain = GenerativeFolder::open(&out, &Device::default()).unwrap();
    let picture = RgbImage::new(16, 16);
    let prompt = plain.prepare("What color is the star?", std::slice::from_ref(&picture)).unwrap();
    assert_eq!(prompt.text().trim_start_matches("<image>"), "\nWhat color is the star?");
    let around = of(false).prepare("What color is the star?", &[picture]).unwrap();
    assert!(prompt.ids().len() < around.ids().len());
}

#[test]
fn a_new_decoder_learns_its_words_from_the_texts() {
    let dir = tempfile::tempdir().unwrap();
    let (vision, language) = towers(dir.path());
    let decoder = new_decoder();
    let of = |language, decoder| {
        let assembly = Assembly { language, decoder, ..Assembly::new(&vision, "") };
        let texts = ["What color is the star?", "red", "What color is the star?", "red"];
        assembly.assemble(texts.iter().map(ToString::to_string), 3, &Device::default())
    };
    let folder = of(None, Some(decoder.clone())).unwrap();
    let out = dir.path().join("new");
    folder.save(&out, Float::F32).unwrap();
    let again = GenerativeFolder::open(&out, &Device::default()).unwrap();
    assert_eq!(again.plan.model_type(), "llava");
    let picture = RgbImage::new(16, 16);
    let prompt = again.prepare("What color is the star?", &[picture]).unwrap();
    assert!(prompt.text().starts_with("<|user|><image>"), "{}", prompt.text());
    assert!(prompt.text().ends_with("<|assistant|>"), "{}", prompt.text());
    let words = prompt.ids().iter().filter(|id| **id != again.plan.spec.image_token).count();
    assert!(words < 12, "{words} tokens");
    for both in [of(None, None), of(Some(language), Some(decoder))] {
        assert!(both.unwrap_err().to_string().contains("and not both"));
    }
}
