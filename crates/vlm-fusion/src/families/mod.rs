//! The families: what `config.json` says, as choices of the model and a table of names.

mod idefics3;
pub mod llava;
mod names;
pub mod own;
mod paligemma;
#[cfg(test)]
mod published;

pub use names::in_memory;

use serde_json::{Map, Value};
use vlm_encoders::{Fields, HeadSpec, Nested, TextSpec, VisionSpec};
use vlm_store::TensorFiles;

use crate::GenerativeSpec;
use crate::processor::Markup;

/// A config that has been understood.
pub struct Family {
    pub spec: GenerativeSpec,
    pub vision: Nested<VisionSpec>,
    pub text: Nested<TextSpec>,
    /// Beginnings of the fusion's paths and what stands for them in the file.
    pub fusion: &'static [(&'static str, &'static str)],
    /// The tensors under the names of the hub.
    pub files: TensorFiles,
}

type Parse = fn(Fields, &TensorFiles) -> Result<Family, String>;

/// `model_type`, what understands it, and how it writes pictures into texts.
const FAMILIES: &[(&str, Parse, Markup)] = &[
    ("idefics3", idefics3::parse, Markup::Idefics3),
    ("llava", llava::parse, Markup::Llava),
    ("paligemma", paligemma::parse, Markup::PaliGemma),
    ("smolvlm", idefics3::parse, Markup::Idefics3),
    ("vlm", own::parse, Markup::Llava),
];

fn known() -> String {
    FAMILIES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

/// How the model of a `model_type` writes pictures into texts; `None` if it is no generative model.
pub fn markup(kind: &str) -> Option<Markup> {
    FAMILIES.iter().find(|(name, ..)| *name == kind).map(|(.., markup)| *markup)
}

/// Understands a `config.json`.
pub fn parse(map: Map<String, Value>, files: &TensorFiles) -> Result<Family, String> {
    let kind = match map.get("model_type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err(format!("there is no model_type; supported: {}", known())),
    };
    let Some((_, parse, _)) = FAMILIES.iter().find(|(name, ..)| *name == kind) else {
        return Err(format!(
            "model_type `{kind}` is no generative model that is supported; supported: {}",
            known()
        ));
    };
    parse(Fields::new(map, ""), files)
}

/// The token that stands for pictures; transformers 5 calls it `image_token_id`.
fn image_token(fields: &mut Fields, keys: [&str; 2], usual: u64) -> Result<i64, String> {
    let [first, second] = keys;
    let (one, other) = (fields.take(first), fields.take(second));
    match one.or(other) {
        None => Ok(usual as i64),
        Some(value) => value
            .as_i64()
            .filter(|id| (0..1 << 40).contains(id))
            .ok_or_else(|| fields.bad(first, format!("is {value}; it must be a token id"))),
    }
}

/// A section, or what the class has where there is none.
fn section(fields: &mut Fields, key: &str, usual: Value) -> Result<Map<String, Value>, String> {
    match fields.take(key).unwrap_or(usual) {
        Value::Object(map) => Ok(map),
        _ => Err(fields.bad(key, "is not an object")),
    }
}

/// Decides whether the decoder's head is its token table.
///
/// transformers 4 goes by the section of the decoder, 5 by the whole configuration, which counts
/// here where there is no head in the file.
fn settle_head(text: &mut Nested<TextSpec>, whole: Option<bool>, in_file: bool) {
    let tied = text.spec.head.is_some_and(|head| head.tied);
    let tied = tied || (!in_file && whole == Some(true));
    // transformers from 4.52 on has the head in the larger class, which bends no logits; that of
    // PaliGemma does.
    text.spec.head = Some(HeadSpec { tied, softcap: None });
}

/// Whether the configuration was written by a version of transformers 4 from this minor one on.
///
/// Some of these compute something else than those before and after; a folder then computes what
/// its writer computed.
fn written_by(fields: &Fields, from: u32) -> bool {
    let version = fields.peek("transformers_version").and_then(Value::as_str).unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    numbers.next() == Some(4) && numbers.next().is_some_and(|minor| minor >= from)
}

/// What the whole configuration says of tied heads.
fn tied(fields: &mut Fields) -> Result<Option<bool>, String> {
    match fields.take("tie_word_embeddings") {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(value) => {
            Err(fields.bad("tie_word_embeddings", format!("is {value}; it must be true or false")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for (version, by) in [
            ("4.57.6", true),
            ("4.55.0.dev0", true),
            ("4.54.1", false),
            ("5.0.0", false),
            ("", false),
        ] {
            let config = serde_json::json!({ "transformers_version": version });
            let Value::Object(map) = config else { unreachable!("an object") };
            assert_eq!(written_by(&Fields::new(map, ""), 55), by, "{version}");
        }
        assert!(!written_by(&Fields::new(Map::new(), ""), 55));
    }
}
