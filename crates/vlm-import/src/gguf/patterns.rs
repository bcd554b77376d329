//! How texts are cut before merging: what `tokenizer.ggml.pre` names.

use serde_json::{Value, json};

use crate::error::{Fault, quoted, unsupported};

/// Llama 3's, digits in threes; and Qwen 2's, digit by digit.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text becomes the pieces that are merged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    /// GPT-2's pattern.
    Gpt2,
    /// Each digit by itself, then GPT-2's pattern.
    Digits,
    Llama3,
    Qwen2,
}

/// The names that llama.cpp gives them; a file without one was made when there was GPT-2's only.
const NAMES: [(&str, Cut); 10] = [
    ("default", Cut::Gpt2),
    ("gpt-2", Cut::Gpt2),
    ("smollm", Cut::Digits),
    ("starcoder", Cut::Digits),
    ("refact", Cut::Digits),
    ("llama-bpe", Cut::Llama3),
    ("llama3", Cut::Llama3),
    ("llama-v3", Cut::Llama3),
    ("qwen2", Cut::Qwen2),
    ("deepseek-r1-qwen", Cut::Qwen2),
];

impl Cut {
    pub(super) fn named(name: Option<&str>) -> Result<Cut, Fault> {
        let name = name.unwrap_or("default");
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, cut)) => Ok(*cut),
            None => unsupported(format!(
                "tokenizer.ggml.pre is {}, which is not imported; imported are {}",
                quoted(name),
                NAMES.map(|(name, _)| name).join(", ")
            )),
        }
    }

    /// Whether a piece that is a token is taken whole, and texts begin with `bos` unless told
    /// otherwise: both as Llama 3 does.
    pub(super) fn is_llama3(self) -> bool {
        self == Cut::Llama3
    }

    /// Of `tokenizer.json`.
    pub(super) fn normalizer(self) -> Value {
        if self == Cut::Qwen2 { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// Of `tokenizer.json`.
    pub(super) fn pre_tokenizer(self) -> Value {
        let bytes = |own_pattern: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": own_pattern,
            })
        };
        let split = |pattern: &str| {
            json!({
                "type": "Split",
                "pattern": { "Regex": pattern },
                "behavior": "Isolated",
                "invert": false,
            })
        };
        let steps = match self {
            Cut::Gpt2 => return bytes(true),
            Cut::Digits => {
                json!([{ "type": "Digits", "individual_digits": true }, bytes(true)])
            }
            Cut::Llama3 => json!([split(LLAMA3), bytes(false)]),
            Cut::Qwen2 => json!([split(QWEN2), bytes(false)]),
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}
