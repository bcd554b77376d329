//! What the files of processors say of pictures in texts.

use std::path::Path;

use serde_json::{Map, Value};
use vlm_encoders::read_object;

use super::Markup;
use crate::Error;

/// What marks the place of a picture, where no file says otherwise.
const IMAGE: &str = "<image>";

/// How many tokens a picture, or a tile of one, takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// As many as the model makes rows of it.
    Model,
    /// Always so many.
    Fixed(usize),
    /// As many as patches of this side, and some more or less.
    Patches { patch: usize, more: usize, less: usize },
}

/// The token that marks a picture, and how many stand for it.
///
/// # Errors
/// If a file is damaged.
pub fn read(dir: &Path, markup: Markup) -> Result<(String, Count), Error> {
    let path = dir.join("processor_config.json");
    let fields = if path.exists() { read_object(&path)? } else { Map::new() };
    let bad = |reason: String| Error::File { path: path.clone(), reason };
    let token = match fields.get("image_token") {
        None | Some(Value::Null) => IMAGE.to_owned(),
        // An added token is written as an object.
        Some(value) => match value.as_str().or_else(|| value.get("content")?.as_str()) {
            Some(token) if !token.is_empty() => token.to_owned(),
            _ => return Err(bad(format!("image_token is {value}; it must be a token"))),
        },
    };
    let count = match markup {
        Markup::Llava => patches(&fields).map_err(bad)?,
        Markup::Idefics3 => fixed(&fields, "image_seq_len").map_err(bad)?,
        Markup::PaliGemma => {
            // Of the picture's processor, which transformers 5 puts into the one file.
            if let Some(Value::Object(images)) = fields.get("image_processor") {
                return Ok((token, fixed(images, "image_seq_length").map_err(bad)?));
            }
            let path = dir.join("preprocessor_config.json");
            let fields = if path.exists() { read_object(&path)? } else { Map::new() };
            fixed(&fields, "image_seq_length").map_err(|reason| Error::File { path, reason })?
        }
    };
    Ok((token, count))
}

fn number(fields: &Map<String, Value>, key: &str) -> Result<Option<usize>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n < 1 << 20) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(format!("{key} is {value}; it must be a number")),
        },
    }
}

fn fixed(fields: &Map<String, Value>, key: &str) -> Result<Count, String> {
    Ok(number(fields, key)?.map_or(Count::Model, Count::Fixed))
}

fn patches(fields: &Map<String, Value>) -> Result<Count, String> {
    let more = number(fields, "num_additional_image_tokens")?.unwrap_or(0);
    let less = match fields.get("vision_feature_select_strategy") {
        None | Some(Value::Null) => return Ok(Count::Model),
        Some(Value::String(name)) => usize::from(name == "default"),
        Some(value) => {
            return Err(format!("vision_feature_select_strategy is {value}; it must be a name"));
        }
    };
    Ok(match number(fields, "patch_size")? {
        Some(patch) if patch > 0 => Count::Patches { patch, more, less },
        _ => Count::Model,
    })
}
