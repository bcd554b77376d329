//! What a `tokenizer.json` may ask for.
//!
//! The library trusts its file: it indexes where the file says, and repeats as often as the file
//! says. Here the file is looked over first, so that a file from anywhere can be opened. What the
//! look does not find and the library panics on becomes an error in [`caught`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::error::{TokenizerError, one_line};

/// How many times longer a text may become.
const MAX_GROWTH: usize = 256;
/// Patterns in a file; each takes the memory of a compiled automaton.
const MAX_PATTERNS: usize = 64;
/// Characters of a word that WordPiece looks at (BERT: 100); its time grows with the square.
const MAX_WORD: u64 = 1000;

/// The look-ahead that GPT-2's pattern and its descendants have, as a branch of its own: white space
/// up to the last one before a word. All other patterns run in linear time.
const BEFORE_WORD: &str = r"\s+(?!\S)";

/// A call of the library, whose panics become messages. The library has no other way to say that
/// a vocabulary contradicts itself: it unwraps, indexes and asserts.
///
/// # Errors
/// What the library says, as one line.
pub(super) fn caught<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Only caches are shared with other calls, and those are behind locks that are tried, not awaited.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(one_line),
        Err(_) => Err("the tokenizers library panicked".into()),
    }
}

/// The parts that are looked at; the vocabulary is not built here.
#[derive(Deserialize)]
struct Outline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f64>,
    max_input_chars_per_word: Option<u64>,
}

/// Looks a `tokenizer.json` over before the library reads it.
///
/// # Errors
/// [`TokenizerError::File`] if it is no JSON, [`TokenizerError::Unsafe`].
pub(super) fn check(bytes: &[u8], file: &Path) -> Result<(), TokenizerError> {
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| TokenizerError::File {
        file: file.to_owned(),
        detail: format!("not a tokenizer that can be read ({})", one_line(e)),
    })?;
    let fail = |field| {
        move |detail: String| TokenizerError::Unsafe { file: file.to_owned(), field, detail }
    };
    let mut patterns = 0;
    for (field, part) in [
        ("`normalizer`", &outline.normalizer),
        ("`pre_tokenizer`", &outline.pre_tokenizer),
        ("`decoder`", &outline.decoder),
    ] {
        let mut growth = 1;
        if let Some(part) = part {
            steps(part, &mut patterns, &mut growth).map_err(fail(field))?;
        }
    }
    if let Some(part) = &outline.post_processor {
        templates(part).map_err(fail("`post_processor`"))?;
    }
    let model = outline.model.as_ref();
    if model.and_then(|m| m.dropout).is_some_and(|dropout| dropout != 0.0) {
        return Err(fail("`model`")("drops merges by chance (`dropout`)".into()));
    }
    if let Some(most) = model.and_then(|m| m.max_input_chars_per_word).filter(|n| *n > MAX_WORD) {
        let detail = format!("has `max_input_chars_per_word` = {most}, over {MAX_WORD}");
        return Err(fail("`model`")(detail));
    }
    Ok(())
}

/// Walks the steps of a part, wherever they are nested.
fn steps(part: &Value, patterns: &mut usize, growth: &mut usize) -> Result<(), String> {
    match part {
        Value::Array(list) => list.iter().try_for_each(|step| steps(step, patterns, growth)),
        Value::Object(step) => {
            let shortest = match step.get("pattern") {
                Some(Value::Object(pattern)) => {
                    *patterns += 1;
                    if *patterns > MAX_PATTERNS {
                        return Err(format!("has more than {MAX_PATTERNS} patterns"));
                    }
                    match (pattern.get("Regex"), pattern.get("String")) {
                        (Some(Value::String(regex)), _) => shortest_match(regex)?,
                        (_, Some(Value::String(string))) => string.len(),
                        _ => 0,
                    }
                }
                _ => 0,
            };
            let mut grows = |times: usize| {
                *growth = growth.saturating_mul(times.max(1));
                if *growth > MAX_GROWTH {
                    return Err(format!("makes texts more than {MAX_GROWTH} times longer"));
                }
                Ok(())
            };
            if let (true, Some(Value::String(content))) =
                (step.contains_key("pattern"), step.get("content"))
            {
                // A pattern that matches nothing at all is replaced between all letters.
                let nothing = usize::from(shortest == 0);
                grows(content.len().div_ceil(shortest.max(1)) + nothing)?;
            }
            if let Some(map) = step.get("precompiled_charsmap") {
                grows(longest_replacement(map)?)?;
            }
            step.values().try_for_each(|value| steps(value, patterns, growth))
        }
        _ => Ok(()),
    }
}

/// Bytes of the shortest match.
///
/// Everything is refused that the backtracking engine would have to search for, which can take
/// time exponential in the text, except [`BEFORE_WORD`].
fn shortest_match(regex: &str) -> Result<usize, String> {
    let plain = branches(regex)
        .into_iter()
        .map(|branch| if branch == BEFORE_WORD { r"\s+" } else { branch })
        .collect::<Vec<_>>()
        .join("|");
    let parsed = regex_syntax::ParserBuilder::new().nest_limit(32).build().parse(&plain);
    let parsed = parsed.map_err(|e| {
        let shown: String = regex.chars().take(60).collect();
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("has the pattern {shown:?}, which might never end ({reason})")
    })?;
    Ok(parsed.properties().minimum_len().unwrap_or(0))
}

/// The alternatives outside of all brackets.
fn branches(regex: &str) -> Vec<&str> {
    let (mut depth, mut class, mut from) = (0usize, 0usize, 0);
    let mut found = Vec::new();
    let mut signs = regex.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\\' => {
                signs.next();
            }
            '[' => class += 1,
            ']' => class = class.saturating_sub(1),
            '(' if class == 0 => depth += 1,
            ')' if class == 0 => depth = depth.saturating_sub(1),
            '|' if class == 0 && depth == 0 => {
                found.push(&regex[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&regex[from..]);
    found
}

/// Bytes of the longest replacement in SentencePiece's table of characters: the length of a trie in
/// bytes (32 bits, little endian), the trie, and replacements that end with a zero.
fn longest_replacement(map: &Value) -> Result<usize, String> {
    let broken = || "has a `precompiled_charsmap` that is cut off".to_owned();
    let table = map.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    let table = table.ok_or_else(broken)?;
    let (length, rest) = table.split_first_chunk().ok_or_else(broken)?;
    let (trie, replacements) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(broken)?;
    // The search begins at the first entry without looking whether there is one.
    if trie.len() < 4 {
        return Err(broken());
    }
    Ok(replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0))
}

/// Checks each template: it must hold the text once, and only tokens that it defines.
fn templates(part: &Value) -> Result<(), String> {
    if let Some(list) = part.get("processors").and_then(Value::as_array) {
        return list.iter().try_for_each(templates);
    }
    let Some(single) = part.get("single").and_then(Value::as_array) else { return Ok(()) };
    let mut texts = 0;
    for piece in single {
        if let Some(text) = piece.get("Sequence") {
            if text.get("id").and_then(Value::as_str) != Some("A") {
                return Err("wants a second text where there is one".into());
            }
            texts += 1;
        }
        if let Some(id) = piece.get("SpecialToken").and_then(|t| t.get("id")?.as_str()) {
            let token = part.get("special_tokens").and_then(|tokens| tokens.get(id));
            let count = |key| Some(token?.get(key)?.as_array()?.len());
            if count("ids").is_none() || count("ids") != count("tokens") {
                return Err(format!("uses {id:?} without saying which token it is"));
            }
        }
    }
    if texts != 1 {
        return Err(format!("holds the text {texts} times in `single`, not once"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn grown(part: Value) -> Result<usize, String> {
        let (mut patterns, mut growth) = (0, 1);
        steps(&part, &mut patterns, &mut growth).map(|()| growth)
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({ "type": "Replace", "pattern": pattern, "content": content })
    }

    #[test]
    fn growth_is_that_of_all_steps_together() {
        assert_eq!(grown(replace(json!({ "String": " " }), "▁")), Ok(3));
        assert_eq!(grown(replace(json!({ "Regex": " {2,}" }), "▁")), Ok(2));
        assert_eq!(grown(replace(json!({ "Regex": "a*" }), "bb")), Ok(3));
        let many = vec![replace(json!({ "String": "a" }), "aa"); 9];
        assert!(grown(json!({ "type": "Sequence", "normalizers": many })).is_err());
        assert_eq!(grown(Value::Array(many[..8].to_vec())), Ok(256));
    }

    #[test]
    fn known_patterns_pass_and_slow_ones_do_not() {
        for pattern in [
            // GPT-2, Llama 3, o200k, CLIP, BLOOM, DeepSeek, with possessive repetition.
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            " ?[^(\\s|[.,!?…。，、।۔،])]+",
            r"[!-/:-~！-／：-～‘-‟　-。]+",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|\s++$|\s+(?!\S)|\s",
        ] {
            assert!(shortest_match(pattern).is_ok_and(|n| n > 0), "{pattern}");
        }
        for pattern in [
            r"(a+)+(?!b)",
            r"(?:\s+(?!\S))+",
            r"(a*)\1",
            r"(?<=a)b",
            "[",
            r"x{9}{99}{999}{9999}{9999}(?=y)",
        ] {
            assert!(shortest_match(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn tables_of_characters_are_whole() {
        let table = |trie: u32, bytes: &[u8]| {
            let all = [&trie.to_le_bytes()[..], bytes].concat();
            longest_replacement(&json!(BASE64_STANDARD.encode(all)))
        };
        assert_eq!(table(4, b"....ab\0abc\0"), Ok(3));
        assert!(table(u32::MAX, b"....").is_err());
        assert!(table(0, b"ab\0").is_err());
        assert!(longest_replacement(&json!("!!")).is_err());
    }

    #[test]
    fn a_panic_is_a_message() {
        let none: Vec<u32> = Vec::new();
        assert_eq!(caught(|| Ok(none[3])), Err("the tokenizers library panicked".into()));
        assert_eq!(caught(|| Ok(3)), Ok(3));
    }
}
