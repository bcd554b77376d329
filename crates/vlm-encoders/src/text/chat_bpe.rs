//! A tokenizer for a language model that is yet to learn everything, trained on what it will read.
//!
//! Bytes as letters and merges of them, as GPT-2 has it (Radford et al. 2019), digits one by one, and a chat
//! template of three tokens: who speaks, and the end of an answer.

use std::path::Path;

use serde_json::{Value, json};

use super::byte_bpe::{Form, Learned};
use super::error::TokenizerError;
use super::files::{CONFIG, Files, MAIN, TEMPLATE};
use super::special::SpecialIds;
use super::tokenizer::Tokenizer;

const PAD: &str = "<|pad|>";
const USER: &str = "<|user|>";
const ASSISTANT: &str = "<|assistant|>";
const END: &str = "<|end|>";
/// Their ids follow those of the merges.
const SPECIAL: [&str; 4] = [PAD, USER, ASSISTANT, END];

/// Trains a tokenizer for chats with at most `vocab_size` tokens, for models that read `context_length`
/// tokens. The same texts, in any order, give the same tokenizer.
///
/// # Errors
/// [`TokenizerError::VocabSize`] below 260, [`TokenizerError::NoText`] if there is no word,
/// [`TokenizerError::Text`].
pub fn train_chat_bpe(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
    context_length: usize,
) -> Result<Tokenizer, TokenizerError> {
    let form = Form { normalizer: None, splitter: pre_tokenizer(), mark: None, special: &SPECIAL };
    let files = write_files(&form.learn(texts, vocab_size)?, context_length);
    Tokenizer::from_files(files, Path::new("(trained)"), SpecialIds::default())
}

fn pre_tokenizer() -> Value {
    json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Digits", "individual_digits": true },
        byte_level(),
    ]})
}

fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

/// What a `PreTrainedTokenizerFast` of transformers reads.
fn write_files(learned: &Learned, context_length: usize) -> Files {
    let added = |(id, content): (usize, &str)| {
        json!({
            "id": id, "content": content, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": true,
        })
    };
    let added: Vec<Value> = (learned.special..).zip(SPECIAL).map(added).collect();
    let main = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": null,
        "decoder": byte_level(),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": null, "merges": learned.merges,
        },
    });
    let main = learned.written_into(&main);
    let config = json!({
        "clean_up_tokenization_spaces": false,
        "eos_token": END,
        "model_max_length": context_length,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    Files::from([
        (MAIN, main.into_bytes()),
        (CONFIG, format!("{config:#}\n").into_bytes()),
        (TEMPLATE, template().into_bytes()),
    ])
}

/// Questions behind the one mark, answers behind the other.
fn template() -> String {
    format!(
        "{{% for message in messages %}}\
         {{% if message['role'] == 'assistant' %}}\
         {{{{ '{ASSISTANT}' + message['content'] + '{END}' }}}}\
         {{% else %}}{{{{ '{USER}' + message['content'] }}}}{{% endif %}}\
         {{% endfor %}}\
         {{% if add_generation_prompt %}}{{{{ '{ASSISTANT}' }}}}{{% endif %}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Message;

    fn trained(vocab_size: usize) -> Tokenizer {
        let texts = ["Where is the red circle?", "the red star [12, 7, 120, 8]", "Grüße, 東京"];
        train_chat_bpe(texts.iter().map(ToString::to_string), vocab_size, 64).unwrap()
    }

    #[test]
    fn what_it_cuts_it_joins_again() {
        let tokenizer = trained(300);
        for text in ["Where is the red star?", "unseen Wörter  東\n", "[12, 7]"] {
            let ids = tokenizer.encode(text, 64).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        let red = tokenizer.encode(" red", 64).unwrap().ids;
        assert_eq!(red.len(), 1, "a frequent word is one token");
        assert_eq!(tokenizer.encode("120", 64).unwrap().ids.len(), 3, "digits stand alone");
    }

    #[test]
    fn the_same_texts_give_the_same_files() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        trained(280).save(a.path()).unwrap();
        trained(280).save(b.path()).unwrap();
        for name in [MAIN, CONFIG, TEMPLATE] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(read(&a), read(&b), "{name}");
        }
    }

    #[test]
    fn a_chat_is_cut_at_its_marks() {
        let tokenizer = trained(262);
        assert_eq!(tokenizer.vocab_size(), 262);
        let messages = [Message::text("user", "red"), Message::text("assistant", "star")];
        assert_eq!(tokenizer.chat(&messages[..1], true).unwrap(), "<|user|>red<|assistant|>");
        let whole = tokenizer.chat(&messages, false).unwrap();
        assert_eq!(whole, "<|user|>red<|assistant|>star<|end|>");
        let ids = tokenizer.encode(&whole, 64).unwrap().ids;
        assert_eq!((ids[0], *ids.last().unwrap()), (259, 261));
        assert_eq!((tokenizer.pad_id(), tokenizer.eos_id()), (Some(258), Some(261)));
    }

    #[test]
    fn what_cannot_be_trained_is_said() {
        let none = train_chat_bpe(std::iter::empty(), 300, 64);
        assert!(matches!(none, Err(TokenizerError::NoText)));
        let small = train_chat_bpe(["a".to_owned()].into_iter(), 100, 64).unwrap_err().to_string();
        assert!(small.contains("at least 260"), "{small}");
    }
}
