//! A tokenizer of CLIP's form, trained on captions.
//!
//! Same steps as OpenAI's, in the words of transformers' `CLIPTokenizerFast`: NFC, runs of white
//! space to one space, lower case; split into contractions, runs of letters, single digits and runs
//! of other signs; bytes as letters, with `</w>` on the last; merges. The vocabulary is laid out
//! the same way too: 256 bytes, 256 with the end mark, merged tokens, start, end, so that the end
//! token has the largest id, which models that pool at the largest id rely on.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizerWrapper};

use super::bpe_train::{Merges, learn};
use super::error::{TokenizerError, one_line};
use super::files::{CONFIG, Files, MAIN, MERGES, SPECIAL, VOCAB};
use super::special::SpecialIds;
use super::tokenizer::Tokenizer;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const MARK: &str = "</w>";
/// Bytes, bytes with the end mark, start and end.
const LEAST: usize = 256 + 256 + 2;

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
    if !(LEAST..=i32::MAX as usize).contains(&vocab_size) {
        return Err(TokenizerError::VocabSize { vocab_size, least: LEAST });
    }
    let letters = byte_letters();
    let ids: BTreeMap<char, u32> = letters.iter().copied().zip(0..).collect();
    let mut words = Vec::new();
    for (word, count) in count_words(texts, Some(normalizer()), pre_tokenizer())? {
        let mut symbols: Vec<u32> = word.chars().filter_map(|c| ids.get(&c).copied()).collect();
        // The marked letters follow the plain ones.
        if let Some(last) = symbols.last_mut() {
            *last += 256;
            words.push((symbols, count));
        }
    }
    if words.is_empty() {
        return Err(TokenizerError::NoText);
    }
    let plain = letters.iter().map(char::to_string);
    let marked = letters.iter().map(|letter| format!("{letter}{MARK}"));
    let merges = learn(plain.chain(marked).collect(), words, vocab_size - 2);
    let files = write_files(merges, context_length);
    Tokenizer::from_files(files, Path::new("(trained)"), SpecialIds::default())
}

/// Distinct words as byte letters, in alphabetical order, with their counts.
pub(super) fn count_words(
    texts: impl Iterator<Item = String>,
    normalizer: Option<Value>,
    splitter: Value,
) -> Result<BTreeMap<String, u64>, TokenizerError> {
    let broken =
        |e: serde_json::Error| TokenizerError::File { file: MAIN.into(), detail: one_line(e) };
    let normalizer: Option<NormalizerWrapper> =
        normalizer.map(serde_json::from_value).transpose().map_err(broken)?;
    let splitter: PreTokenizerWrapper = serde_json::from_value(splitter).map_err(broken)?;
    let mut counts = BTreeMap::new();
    for text in texts {
        let fail =
            |e| TokenizerError::Text { text: text.chars().take(40).collect(), detail: one_line(e) };
        let mut normalized = NormalizedString::from(text.as_str());
        if let Some(normalizer) = &normalizer {
            normalizer.normalize(&mut normalized).map_err(fail)?;
        }
        let mut split = PreTokenizedString::from(normalized);
        splitter.pre_tokenize(&mut split).map_err(fail)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            *counts.entry(word.to_owned()).or_insert(0u64) += 1;
        }
    }
    Ok(counts)
}

/// The letter that stands for each byte, in the order of CLIP's vocabulary: printable bytes stand
/// for themselves and come first, the others follow as the letters from U+0100 on.
pub(super) fn byte_letters() -> Vec<char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255u8).filter(printable).map(char::from);
    let hidden = (0..=255u8).filter(|b| !printable(b)).count() as u32;
    own.chain((0..hidden).filter_map(|n| char::from_u32(0x100 + n))).collect()
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
fn write_files(merges: Merges, context_length: usize) -> Files {
    let pairs: Vec<(&str, &str)> = merges
        .pairs
        .iter()
        .map(|pair| {
            (merges.tokens[pair.0 as usize].as_str(), merges.tokens[pair.1 as usize].as_str())
        })
        .collect();
    let (start, end) = (merges.tokens.len(), merges.tokens.len() + 1);
    let names = merges.tokens.iter().map(String::as_str).chain([START, END]);
    // Not a sorted map: the vocabulary is written in the order of ids.
    let entries: Vec<String> =
        names.zip(0..).map(|(token, id)| format!("{}:{id}", json!(token))).collect();
    let vocab = format!("{{{}}}", entries.join(","));

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
            "ignore_merges": false, "vocab": "@vocab@", "merges": pairs,
        },
    });
    let main = main.to_string().replacen("\"@vocab@\"", &vocab, 1);

    let mut lines = String::from("#version: 0.2\n");
    for (left, right) in &pairs {
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
        (VOCAB, vocab.into_bytes()),
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
    fn the_letters_are_256_different_ones() {
        let letters = byte_letters();
        assert_eq!(letters.len(), 256);
        assert_eq!(letters.iter().collect::<std::collections::BTreeSet<_>>().len(), 256);
        assert_eq!((letters[0], letters[188], letters[255]), ('!', 'Ā', 'Ń'));
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
