//! A tokenizer of CLIP's form, trained on captions.
//!
//! Same steps as OpenAI's, in the words of transformers' `CLIPTokenizerFast`: NFC, runs of white
//! space to one space, lower case; split into contractions, runs of letters, single digits and runs
//! of other signs; bytes as letters, with `</w>` on the last; merges. The vocabulary is laid out
//! the same way too: 256 bytes, 256 with the end mark, merged tokens, start, end, so that the end
//! token has the largest id, which models that pool at the largest id rely on.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::byte_bpe::{Form, Learned};
use super::error::TokenizerError;
use super::files::{CONFIG, Files, MAIN, MERGES, SPECIAL, VOCAB};
use super::special::SpecialIds;
use super::tokenizer::Tokenizer;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const MARK: &str = "</w>";

/// Trains a tokenizer of CLIP's form with at most `vocab_size` tokens, for models that read
/// `context_length` tokens. The same texts, in any order, give the same tokenizer. It stays smaller
/// than asked for if the texts have no more pairs that occur twice;
/// [`Tokenizer::vocab_size`] tells.
///
/// # Errors
/// [`TokenizerError::VocabSize`] below 514, [`TokenizerError::NoText`] if there is no word,
/// [`TokenizerError::Text`].
pub fn train_clip_bpe(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
    context_length: usize,
) -> Result<Tokenizer, TokenizerError> {
    let form = Form {
        normalizer: Some(normalizer()),
        splitter: pre_tokenizer(),
        mark: Some(MARK),
        special: &[START, END],
    };
    let files = write_files(&form.learn(texts, vocab_size)?, context_length);
    Tokenizer::from_files(files, Path::new("(trained)"), SpecialIds::default())
}

fn normalizer() -> Value {
    json!({ "type": "Sequence", "normalizers": [
        { "type": "NFC" },
        { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
        { "type": "Lowercase" },
    ]})
}

fn pre_tokenizer() -> Value {
    json!({ "type": "Sequence", "pretokenizers": [
        {
            "type": "Split",
            "pattern": { "Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+" },
            "behavior": "Removed",
            "invert": true,
        },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
    ]})
}

/// What `CLIPTokenizerFast.save_pretrained` of transformers 4.57 writes.
fn write_files(learned: &Learned, context_length: usize) -> Files {
    let (start, end) = (learned.special, learned.special + 1);
    let added = |content: &str| {
        json!({
            "content": content, "lstrip": false, "normalized": true, "rstrip": false,
            "single_word": false, "special": true,
        })
    };
    let with_id = |id: usize, mut token: Value| {
        token["id"] = json!(id);
        token
    };
    let main = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [with_id(start, added(START)), with_id(end, added(END))],
        "normalizer": normalizer(),
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": MARK, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": null, "merges": learned.merges,
        },
    });
    let main = learned.written_into(&main);

    let mut lines = String::from("#version: 0.2\n");
    for (left, right) in &learned.merges {
        lines.push_str(&format!("{left} {right}\n"));
    }
    let without_special = |mut token: Value| {
        token.as_object_mut().map(|t: &mut Map<String, Value>| t.remove("special"));
        token
    };
    let special = json!({
        "bos_token": without_special(added(START)),
        "eos_token": without_special(added(END)),
        "pad_token": END,
        "unk_token": without_special(added(END)),
    });
    let config = json!({
        "add_prefix_space": false,
        "added_tokens_decoder": {
            start.to_string(): added(START), end.to_string(): added(END),
        },
        "bos_token": START,
        "clean_up_tokenization_spaces": false,
        "do_lower_case": true,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": context_length,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    });
    Files::from([
        (MAIN, main.into_bytes()),
        (VOCAB, learned.vocab.clone().into_bytes()),
        (MERGES, lines.into_bytes()),
        (SPECIAL, format!("{special:#}\n").into_bytes()),
        (CONFIG, format!("{config:#}\n").into_bytes()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<String> {
        ["A red bus, a RED car.", "the  red bus isn't 12 years old", "ein Café"]
            .map(String::from)
            .into()
    }

    #[test]
    fn training_twice_gives_the_same_files_whatever_the_order() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        train_clip_bpe(texts().into_iter(), 560, 16).unwrap().save(a.path()).unwrap();
        train_clip_bpe(texts().into_iter().rev(), 560, 16).unwrap().save(b.path()).unwrap();
        for name in [MAIN, VOCAB, MERGES, SPECIAL, CONFIG] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(read(&a), read(&b), "{name}");
        }
    }

    #[test]
    fn special_tokens_are_the_last_two() {
        let tokenizer = train_clip_bpe(texts().into_iter(), 517, 16).unwrap();
        assert_eq!(tokenizer.vocab_size(), 517);
        assert_eq!(tokenizer.bos_id(), Some(515));
        assert_eq!(tokenizer.eos_id(), Some(516));
        assert_eq!(tokenizer.pad_id(), Some(516));
    }

    #[test]
    fn too_little_is_refused() {
        assert!(matches!(
            train_clip_bpe(texts().into_iter(), 513, 16),
            Err(TokenizerError::VocabSize { .. })
        ));
        let blank = ["  ".to_owned(), String::new()];
        assert!(matches!(train_clip_bpe(blank.into_iter(), 600, 16), Err(TokenizerError::NoText)));
    }
}
