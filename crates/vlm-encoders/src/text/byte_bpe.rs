//! What the tokenizers that are trained here share: bytes as letters, words counted, merges learned, and how
//! the files spell vocabulary and merges.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizerWrapper};

use super::bpe_train::learn;
use super::error::{TokenizerError, one_line};
use super::files::MAIN;

/// How texts become words, and what else is in the vocabulary.
pub(super) struct Form {
    /// As in `tokenizer.json`.
    pub(super) normalizer: Option<Value>,
    /// As in `tokenizer.json`.
    pub(super) splitter: Value,
    /// What the last letter of each word carries; such letters follow the plain ones.
    pub(super) mark: Option<&'static str>,
    /// Tokens whose ids follow those of the merges.
    pub(super) special: &'static [&'static str],
}

/// What was learned, as `tokenizer.json` has it.
pub(super) struct Learned {
    /// The vocabulary as JSON, in the order of ids.
    pub(super) vocab: String,
    pub(super) merges: Vec<(String, String)>,
    /// The id of the first special token.
    pub(super) special: usize,
}

impl Learned {
    /// A `tokenizer.json` with the vocabulary in its place, where null stands: a `Value` would not keep the order
    /// of ids.
    pub(super) fn written_into(&self, file: &Value) -> String {
        file.to_string().replacen("\"vocab\":null", &format!("\"vocab\":{}", self.vocab), 1)
    }
}

impl Form {
    /// Learns at most `vocab_size` tokens. The same texts, in any order, give the same.
    pub(super) fn learn(
        &self,
        texts: impl Iterator<Item = String>,
        vocab_size: usize,
    ) -> Result<Learned, TokenizerError> {
        let letters = byte_letters();
        let mut symbols: Vec<String> = letters.iter().map(char::to_string).collect();
        if let Some(mark) = self.mark {
            symbols.extend(letters.iter().map(|letter| format!("{letter}{mark}")));
        }
        let least = symbols.len() + self.special.len();
        if !(least..=i32::MAX as usize).contains(&vocab_size) {
            return Err(TokenizerError::VocabSize { vocab_size, least });
        }
        let ids: BTreeMap<char, u32> = letters.iter().copied().zip(0..).collect();
        let marked = if self.mark.is_some() { letters.len() as u32 } else { 0 };
        let mut words = Vec::new();
        for (word, count) in count_words(texts, self)? {
            let mut word: Vec<u32> = word.chars().filter_map(|c| ids.get(&c).copied()).collect();
            if let Some(last) = word.last_mut() {
                *last += marked;
                words.push((word, count));
            }
        }
        if words.is_empty() {
            return Err(TokenizerError::NoText);
        }
        let learned = learn(symbols, words, vocab_size - self.special.len());
        let token = |id: u32| learned.tokens[id as usize].clone();
        let merges = learned.pairs.iter().map(|(a, b)| (token(*a), token(*b))).collect();
        let names = learned.tokens.iter().map(String::as_str).chain(self.special.iter().copied());
        // Not a sorted map: it is written in the order of ids.
        let entries: Vec<String> =
            names.zip(0..).map(|(token, id)| format!("{}:{id}", json!(token))).collect();
        let vocab = format!("{{{}}}", entries.join(","));
        Ok(Learned { vocab, merges, special: learned.tokens.len() })
    }
}

/// Distinct words as byte letters, in alphabetical order, with their counts.
fn count_words(
    texts: impl Iterator<Item = String>,
    form: &Form,
) -> Result<BTreeMap<String, u64>, TokenizerError> {
    let broken =
        |e: serde_json::Error| TokenizerError::File { file: MAIN.into(), detail: one_line(e) };
    let normalizer: Option<NormalizerWrapper> =
        form.normalizer.clone().map(serde_json::from_value).transpose().map_err(broken)?;
    let splitter: PreTokenizerWrapper =
        serde_json::from_value(form.splitter.clone()).map_err(broken)?;
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
fn byte_letters() -> Vec<char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255u8).filter(printable).map(char::from);
    let hidden = (0..=255u8).filter(|b| !printable(b)).count() as u32;
    own.chain((0..hidden).filter_map(|n| char::from_u32(0x100 + n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_are_256_different_ones() {
        let letters = byte_letters();
        assert_eq!(letters.len(), 256);
        assert_eq!(letters.iter().collect::<std::collections::BTreeSet<_>>().len(), 256);
        assert_eq!((letters[0], letters[188], letters[255]), ('!', 'Ā', 'Ń'));
    }
}
