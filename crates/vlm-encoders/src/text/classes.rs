//! What transformers' classes change about a `tokenizer.json` when they open it (4.57).
//!
//! The file alone does not say all: tokens that only `tokenizer_config.json` names become special,
//! BERT's class sets letter case and accents, and those of Llama and Gemma put their own start and
//! end around a text.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer};

use super::settings::{GEMMA, LLAMA, ROLES, Settings, content};

/// Applies `settings` to a tokenizer as it stands in its file.
///
/// # Errors
/// What the library refuses.
pub(super) fn apply(inner: &mut Tokenizer, settings: &Settings) -> tokenizers::Result<()> {
    add_tokens(inner, settings)?;
    match settings.class() {
        "BertTokenizer" => bert(inner, settings)?,
        LLAMA | GEMMA => ends(inner, settings)?,
        _ => {}
    }
    Ok(())
}

/// Adds tokens that only the settings name, and those that the vocabulary has without their being
/// special.
fn add_tokens(inner: &mut Tokenizer, settings: &Settings) -> tokenizers::Result<()> {
    let there = inner.get_added_tokens_decoder();
    let roles: Vec<&Value> = ROLES
        .iter()
        .filter_map(|role| settings.token(role))
        .chain(
            settings
                .get("additional_special_tokens")
                .and_then(Value::as_array)
                .into_iter()
                .flatten(),
        )
        .chain(
            settings
                .get("extra_special_tokens")
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(Map::values),
        )
        .collect();
    let names: HashSet<&str> = roles.iter().filter_map(|role| content(role)).collect();
    let mut wanted = Vec::new();
    if let Some(Value::Object(entries)) = settings.get("added_tokens_decoder") {
        for entry in by_id(entries) {
            if let Some(token) = content(entry) {
                let special = flag(entry, "special") || names.contains(token);
                wanted.push(added(entry, token, special));
            }
        }
    }
    let mut known: HashSet<String> = wanted.iter().map(|token| token.content.clone()).collect();
    known.extend(there.values().map(|token| token.content.clone()));
    for role in roles {
        let Some(token) = content(role) else { continue };
        // A token that is not in the vocabulary is not made up: it is an error, found later.
        if !known.contains(token) && inner.token_to_id(token).is_some() {
            wanted.push(added(role, token, true));
        }
    }
    let there: HashSet<&AddedToken> = there.values().collect();
    wanted.retain(|token| !there.contains(token));
    if !wanted.is_empty() {
        inner.add_tokens(wanted)?;
    }
    Ok(())
}

/// In the order of their ids, which are the keys.
fn by_id(entries: &Map<String, Value>) -> Vec<&Value> {
    let mut entries: Vec<(u64, &Value)> =
        entries.iter().filter_map(|(id, entry)| Some((id.parse().ok()?, entry))).collect();
    entries.sort_by_key(|(id, _)| *id);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn flag(entry: &Value, name: &str) -> bool {
    entry.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn added(entry: &Value, token: &str, special: bool) -> AddedToken {
    let normalized = entry.get("normalized").and_then(Value::as_bool).unwrap_or(!special);
    AddedToken::from(token, special)
        .normalized(normalized)
        .lstrip(flag(entry, "lstrip"))
        .rstrip(flag(entry, "rstrip"))
        .single_word(flag(entry, "single_word"))
}

fn bert(inner: &mut Tokenizer, settings: &Settings) -> tokenizers::Result<()> {
    let Some(NormalizerWrapper::BertNormalizer(mut normalizer)) = inner.get_normalizer().cloned()
    else {
        return Ok(());
    };
    normalizer.lowercase = settings.flag("do_lower_case").unwrap_or(true);
    normalizer.strip_accents = settings.flag("strip_accents");
    normalizer.handle_chinese_chars = settings.flag("tokenize_chinese_chars").unwrap_or(true);
    inner.with_normalizer(Some(NormalizerWrapper::BertNormalizer(normalizer)))?;
    Ok(())
}

fn ends(inner: &mut Tokenizer, settings: &Settings) -> tokenizers::Result<()> {
    let token = |role: &str, on: bool| {
        let name = settings.token(role).and_then(content)?;
        on.then_some((name.to_owned(), inner.token_to_id(name)?))
    };
    let bos = token("bos_token", settings.flag("add_bos_token").unwrap_or(true));
    let eos = token("eos_token", settings.flag("add_eos_token").unwrap_or(false));
    let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let piece = |token: &Option<(String, u32)>, type_id: u32| {
        token
            .iter()
            .map(|(name, _)| json!({ "SpecialToken": { "id": name, "type_id": type_id } }))
            .collect::<Vec<_>>()
    };
    let single = [piece(&bos, 0), vec![text("A", 0)], piece(&eos, 0)].concat();
    let second = [piece(&bos, 1), vec![text("B", 1)], piece(&eos, 1)].concat();
    let pair = [single.clone(), second].concat();
    let defined: Map<String, Value> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(name, id)| (name.clone(), json!({ "id": name, "ids": [id], "tokens": [name] })))
        .collect();
    let post_processor: PostProcessorWrapper = serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": defined,
    }))?;
    inner.with_post_processor(Some(post_processor));
    Ok(())
}
