//! `tokenizer.json` and what stands beside it, out of the metadata.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::config::Shape;
use super::keys::Keys;
use super::patterns::Cut;
use super::pieces;
use crate::error::{Fault, damaged, quoted, unsupported};

/// Types of tokens.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER: i64 = 4;

/// The id of a role, if the file gives it one.
pub(super) fn id(keys: &Keys, role: &str, vocabulary: usize) -> Result<Option<usize>, Fault> {
    let role = match role {
        "pad" => "padding",
        "unk" => "unknown",
        other => other,
    };
    let key = format!("tokenizer.ggml.{role}_token_id");
    match keys.size(&key)? {
        // Some files say "none" with the largest number there is.
        Some(id) if id == u32::MAX as usize => Ok(None),
        Some(id) if id >= vocabulary => {
            damaged(format!("{key} is {id}, and there are {vocabulary} tokens"))
        }
        found => Ok(found),
    }
}

/// What `tokenizer.json` is made of.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    merges: Vec<(String, String)>,
    /// Whether it goes by characters with bytes as the last resort, or by bytes alone.
    by_characters: bool,
    whole_pieces: bool,
    bos: bool,
}

/// `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`.
pub(super) fn files(mut keys: Keys, shape: &Shape) -> Result<Vec<(&'static str, Value)>, Fault> {
    let missing = |key: &str| Fault::Damaged(format!("tokenizer.ggml.{key} is missing"));
    let model = keys.text("tokenizer.ggml.model")?.ok_or_else(|| missing("model"))?.to_owned();
    let mut tokens = keys.take_texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokens"))?;
    if tokens.len() > shape.vocabulary {
        return damaged(format!(
            "it has {} tokens, and vectors for {}",
            tokens.len(),
            shape.vocabulary
        ));
    }
    let types = keys.whole("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
    if types.len() != tokens.len() {
        return damaged(format!("it has {} tokens and {} types", tokens.len(), types.len()));
    }
    let parts = match model.as_str() {
        "gpt2" => bytes(&mut keys)?,
        "llama" => {
            let scores = keys.floats("tokenizer.ggml.scores")?;
            let mut scores = scores.ok_or_else(|| missing("scores"))?;
            if scores.len() != tokens.len() {
                return damaged(format!("it has {} tokens, {} scores", tokens.len(), scores.len()));
            }
            // SentencePiece counts these as best; llama.cpp's converter writes -1000.
            for (score, kind) in scores.iter_mut().zip(&types) {
                if matches!(*kind, CONTROL | USER) {
                    *score = 0.0;
                }
            }
            characters(&keys, shape, &mut tokens, &types, &scores)?
        }
        other => {
            return unsupported(format!(
                "tokenizer.ggml.model is {}, which is not imported; imported are gpt2 and llama",
                quoted(other)
            ));
        }
    };
    let config = config(&keys, shape, &tokens)?;
    let generation = generation(&keys, shape)?;
    let ends = ends(&keys, shape, &tokens, parts.bos)?;
    let main = main(tokens, &types, parts, ends, &keys, shape)?;
    Ok(vec![
        ("tokenizer.json", main),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ])
}

/// GPT-2's kind: merges of bytes.
fn bytes(keys: &mut Keys) -> Result<Parts, Fault> {
    let cut = Cut::named(keys.text("tokenizer.ggml.pre")?)?;
    let listed = keys.take_texts("tokenizer.ggml.merges")?;
    let listed = listed.ok_or_else(|| Fault::Damaged("tokenizer.ggml.merges is missing".into()))?;
    let mut merges = Vec::with_capacity(listed.len());
    for merge in listed {
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                merges.push((left.to_owned(), right.to_owned()));
            }
            _ => return damaged(format!("the merge {} is not two tokens", quoted(&merge))),
        }
    }
    let decoder = json!({
        "type": "ByteLevel",
        "add_prefix_space": true,
        "trim_offsets": true,
        "use_regex": true,
    });
    Ok(Parts {
        normalizer: cut.normalizer(),
        pre_tokenizer: cut.pre_tokenizer(),
        decoder,
        merges,
        by_characters: false,
        whole_pieces: cut.is_llama3(),
        bos: cut.is_llama3(),
    })
}

/// SentencePiece's kind: spaces become signs, and pieces have scores.
fn characters(
    keys: &Keys,
    shape: &Shape,
    tokens: &mut [String],
    types: &[i64],
    scores: &[f64],
) -> Result<Parts, Fault> {
    if keys.get("tokenizer.ggml.precompiled_charsmap").is_some() {
        return unsupported("tokenizer.ggml.precompiled_charsmap is not imported");
    }
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let sign = "\u{2581}";
    let gemma = shape.family.is_gemma();
    // Where users defined runs of spaces, converters write them as spaces.
    for (token, kind) in tokens.iter_mut().zip(types) {
        if *kind == USER && !token.is_empty() && token.chars().all(|c| c == ' ') {
            *token = sign.repeat(token.len());
        }
    }
    // Early Gemmas know the tab as a byte only, and transformers as itself.
    if gemma
        && !tokens.iter().any(|token| token == "\t")
        && let Some(tab) = tokens.iter_mut().find(|token| *token == "<0x09>")
    {
        *tab = "\t".into();
    }
    let merges = pieces::merges(tokens, scores)?;
    let leads = keys.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(!gemma);
    let mut decoders =
        vec![replace(sign, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if leads {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let spaces = replace(" ", sign);
    let lead = json!({ "type": "Prepend", "prepend": sign });
    let normalizer = match (gemma, leads) {
        (_, true) => json!({ "type": "Sequence", "normalizers": [lead, spaces] }),
        (true, false) => spaces,
        (false, false) => json!({ "type": "Sequence", "normalizers": [spaces] }),
    };
    let pre_tokenizer = if gemma {
        json!({
            "type": "Split",
            "pattern": { "String": " " },
            "behavior": "MergedWithPrevious",
            "invert": false,
        })
    } else {
        Value::Null
    };
    Ok(Parts {
        normalizer,
        pre_tokenizer,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        merges,
        by_characters: true,
        whole_pieces: false,
        bos: true,
    })
}

/// Tokens put before and behind each text.
type Ends = [Option<(usize, String)>; 2];

fn ends(keys: &Keys, shape: &Shape, tokens: &[String], bos: bool) -> Result<Ends, Fault> {
    let mut ends = [None, None];
    for (end, (role, default)) in ends.iter_mut().zip([("bos", bos), ("eos", false)]) {
        let wanted = keys.flag(&format!("tokenizer.ggml.add_{role}_token"))?.unwrap_or(default);
        if let (true, Some(id)) = (wanted, id(keys, role, shape.vocabulary)?) {
            *end = tokens.get(id).map(|token| (id, token.clone()));
        }
    }
    Ok(ends)
}

fn post_processor([bos, eos]: &Ends) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let row = |id: &str, type_id: u32| {
        let special = |end: &Option<(usize, String)>| {
            end.as_ref()
                .map(|(_, token)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
        };
        let text = json!({ "Sequence": { "id": id, "type_id": type_id } });
        special(bos).into_iter().chain([text]).chain(special(eos)).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, token)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })))
        .collect();
    let pair = [row("A", 0), row("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": row("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

fn main(
    tokens: Vec<String>,
    types: &[i64],
    parts: Parts,
    ends: Ends,
    keys: &Keys,
    shape: &Shape,
) -> Result<Value, Fault> {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    if ids.len() < tokens.len() {
        let twice = tokens.iter().enumerate().find(|(id, token)| ids[token.as_str()] != *id);
        let shown = quoted(twice.map_or("", |(_, token)| token));
        return damaged(format!("the token {shown} is there twice"));
    }
    for (nth, (left, right)) in parts.merges.iter().enumerate() {
        let whole = format!("{left}{right}");
        if let Some(part) =
            [left, right, &whole].into_iter().find(|part| !ids.contains_key(part.as_str()))
        {
            return damaged(format!("merge {nth} needs {}, which is no token", quoted(part)));
        }
    }
    let unknown = match id(keys, "unk", shape.vocabulary)? {
        Some(id) if parts.by_characters => tokens.get(id).cloned(),
        _ => None,
    };
    let added: Vec<Value> = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER))
        .map(|(id, (token, kind))| {
            let turn = token == "<start_of_turn>" || token == "<end_of_turn>";
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *kind != USER || turn,
            })
        })
        .collect();
    let merges: Vec<Value> =
        parts.merges.into_iter().map(|(left, right)| json!([left, right])).collect();
    drop(ids);
    let vocab: Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor(&ends),
        "decoder": parts.decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": parts.by_characters,
            "byte_fallback": parts.by_characters,
            "ignore_merges": parts.whole_pieces,
            "vocab": vocab,
            "merges": merges,
        },
    }))
}

fn config(keys: &Keys, shape: &Shape, tokens: &[String]) -> Result<Value, Fault> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("model_max_length".into(), json!(shape.context));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    for role in ["bos", "eos", "unk", "pad"] {
        if let Some(token) = id(keys, role, shape.vocabulary)?.and_then(|id| tokens.get(id)) {
            config.insert(format!("{role}_token"), json!(token));
        }
    }
    if let Some(template) = keys.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(Value::Object(config))
}

/// A text may end with the end of a turn or of a message as well.
fn generation(keys: &Keys, shape: &Shape) -> Result<Value, Fault> {
    let mut config = Map::new();
    let mut ends = Vec::new();
    for role in ["eos", "eot", "eom"] {
        ends.extend(id(keys, role, shape.vocabulary)?.filter(|id| !ends.contains(id)));
    }
    match ends.as_slice() {
        [] => {}
        [one] => drop(config.insert("eos_token_id".into(), json!(one))),
        several => drop(config.insert("eos_token_id".into(), json!(several))),
    }
    for role in ["bos", "pad"] {
        if let Some(id) = id(keys, role, shape.vocabulary)? {
            config.insert(format!("{role}_token_id"), json!(id));
        }
    }
    Ok(Value::Object(config))
}
