//! The tokenizer against transformers (expected.json is made by xtask/golden/tokenizer.py).

use std::path::{Path, PathBuf};

use serde_json::Value;
use vlm_encoders::text::{Padding, SpecialIds, Tokenizer, TokenizerError, train_clip_bpe};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(dir().join("expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
}

fn trained() -> Tokenizer {
    let corpus = std::fs::read_to_string(dir().join("corpus.txt")).unwrap();
    train_clip_bpe(corpus.lines().map(String::from), 700, 24).unwrap()
}

#[test]
fn training_gives_the_golden_files_to_the_byte() {
    let out = tempfile::tempdir().unwrap();
    trained().save(out.path()).unwrap();
    let names = [
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ];
    for name in names {
        let (new, golden) = (std::fs::read(out.path().join(name)), std::fs::read(dir().join(name)));
        assert!(new.unwrap() == golden.unwrap(), "{name}");
    }
}

#[test]
fn ids_and_texts_are_transformers() {
    let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
    let expected = expected();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let whole = tokenizer.encode(text, 1 << 20).unwrap();
        assert_eq!(whole.ids, numbers(&case["ids"]), "{text:?}");
        assert!(!whole.truncated);
        let cut = tokenizer.encode(text, 24).unwrap();
        assert_eq!(cut.ids, numbers(&case["cut"]), "{text:?}");
        assert_eq!(cut.truncated, whole.ids.len() > 24, "{text:?}");
        assert_eq!(tokenizer.decode(&whole.ids).unwrap(), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn a_batch_is_transformers() {
    let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
    let expected = expected();
    let texts: Vec<&str> =
        expected["cases"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    let batch = tokenizer.encode_batch(&texts, 24, Padding::Fixed(24)).unwrap();
    assert_eq!((batch.rows, batch.cols), (texts.len(), 24));
    assert_eq!(batch.ids, numbers(&expected["batch"]));
    let mask: Vec<i64> = batch.mask.iter().map(|&m| i64::from(m)).collect();
    assert_eq!(mask, numbers(&expected["mask"]));
    assert_eq!(batch.truncated, expected["cut_rows"].as_u64().unwrap() as usize);

    let longest = tokenizer.encode_batch(&["a", "a red bus"], 24, Padding::Longest).unwrap();
    assert_eq!(longest.cols, tokenizer.encode("a red bus", 24).unwrap().ids.len());
    assert_eq!(longest.mask.iter().filter(|m| !**m).count(), 2);
    let none = tokenizer.encode_batch::<&str>(&[], 24, Padding::Longest).unwrap();
    assert_eq!((none.rows, none.cols, none.ids.len()), (0, 0, 0));
}

#[test]
fn special_tokens_have_ids_and_names() {
    let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
    let size = tokenizer.vocab_size() as i64;
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(size - 2), Some(size - 1)));
    assert_eq!(tokenizer.pad_id(), tokenizer.eos_id());
    assert_eq!(tokenizer.id_to_token(size - 1).as_deref(), Some("<|endoftext|>"));
    assert_eq!(tokenizer.id_to_token(size), None);
    assert_eq!(tokenizer.id_to_token(-1), None);
    assert!(matches!(tokenizer.decode(&[size]), Err(TokenizerError::UnknownId { .. })));
    assert!(matches!(tokenizer.encode("a", 1), Err(TokenizerError::ShortContext { .. })));
    assert_eq!(tokenizer.encode("a red bus", 2).unwrap().ids, [size - 2, size - 1]);
}

#[test]
fn ids_of_the_config_stand_in_for_missing_names_only() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir().join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let wrong = SpecialIds { bos: Some(0), eos: Some(2), pad: Some(1) };
    let bare = Tokenizer::from_dir_with_ids(copy.path(), wrong).unwrap();
    assert_eq!((bare.bos_id(), bare.eos_id(), bare.pad_id()), (Some(0), Some(2), Some(1)));
    let named = Tokenizer::from_dir_with_ids(&dir(), wrong).unwrap();
    assert_eq!(named.pad_id(), Some(named.vocab_size() as i64 - 1));
    let none = Tokenizer::from_dir(copy.path()).unwrap();
    assert!(matches!(
        none.encode_batch(&["a", "a bus"], 24, Padding::Longest),
        Err(TokenizerError::NoPad)
    ));
}

#[test]
fn broken_folders_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let says = |words: &str| {
        let message = Tokenizer::from_dir(folder.path()).unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    };
    says("no tokenizer.json; copy it");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", "{\n\"version\": 3}");
    says("not a tokenizer that can be read");
    std::fs::copy(dir().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    write("tokenizer_config.json", "{\"pad_token\": \"<pad>\"}");
    says("pad_token \"<pad>\" is not in the vocabulary");
    write("tokenizer_config.json", "{");
    says("not valid JSON");
}
