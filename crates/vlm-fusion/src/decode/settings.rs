//! `generation_config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;

/// These files are read whole; no real one has a hundredth of this.
const MAX_BYTES: u64 = 10_000_000;

/// What a model folder says about how its model speaks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub eos: Vec<i64>,
    /// The token that fills up rows.
    pub pad: Option<i64>,
    /// Whether tokens are drawn; else the likeliest is taken.
    pub do_sample: bool,
    /// See [`Sampling`](super::Sampling), as the next ones.
    pub temperature: Option<f64>,
    /// How many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// The probability of the likeliest tokens.
    pub top_p: Option<f64>,
    /// Against repetition; it holds for the likeliest token too.
    pub repetition_penalty: Option<f64>,
    /// Tokens of an answer.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads a folder: its `generation_config.json`, and for what that does not say of special
    /// tokens `config.json` and its `text_config`.
    ///
    /// # Errors
    /// If one of the files is damaged, or holds something else where such a setting belongs.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let mut all = GenerationConfig::default();
        let path = dir.join("generation_config.json");
        if let Some(map) = object(&path)? {
            all = Self::of(&map).map_err(|reason| Error::File { path: path.clone(), reason })?;
        }
        let path = dir.join("config.json");
        if let Some(map) = object(&path)? {
            let inner = map.get("text_config").and_then(Value::as_object);
            for map in [Some(&map), inner].into_iter().flatten() {
                let bad = |reason| Error::File { path: path.clone(), reason };
                if all.eos.is_empty() {
                    all.eos = ids(map, "eos_token_id").map_err(bad)?;
                }
                if all.pad.is_none() {
                    all.pad = ids(map, "pad_token_id").map_err(bad)?.first().copied();
                }
            }
        }
        Ok(all)
    }

    fn of(map: &Map<String, Value>) -> Result<Self, String> {
        let flag = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("{key} is {other}; it must be true or false")),
        };
        let number = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| format!("{key} is {value}; it must be a number")),
        };
        let count = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .map(|n| Some(n as usize))
                .ok_or_else(|| format!("{key} is {value}; it must be a count")),
        };
        Ok(GenerationConfig {
            eos: ids(map, "eos_token_id")?,
            pad: ids(map, "pad_token_id")?.first().copied(),
            do_sample: flag("do_sample")?,
            temperature: number("temperature")?,
            // 0 is how the reference turns it off.
            top_k: count("top_k")?.filter(|k| *k > 0),
            top_p: number("top_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: count("max_new_tokens")?,
        })
    }
}

/// One token, several, or none.
fn ids(map: &Map<String, Value>, key: &str) -> Result<Vec<i64>, String> {
    let bad = |value: &Value| format!("{key} is {value}; it must be a token id or a list of them");
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|id| id.as_i64().ok_or_else(|| bad(id))).collect()
        }
        Some(value) => Ok(vec![value.as_i64().ok_or_else(|| bad(value))?]),
    }
}

/// A file that holds one JSON object; `None` if it is not there.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let bad = |reason: String| Error::File { path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad(error.to_string())),
        Ok(about) if about.len() > MAX_BYTES => {
            return Err(bad(format!("{} bytes is too large for a configuration", about.len())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| bad(format!("not a JSON object ({e})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<GenerationConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        GenerationConfig::read(dir.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_own_file_comes_first() {
        let own = ("generation_config.json", r#"{"eos_token_id": [3, 4], "top_k": 0}"#);
        let model = ("config.json", r#"{"eos_token_id": 2, "pad_token_id": 9}"#);
        let all = read(&[own, model]).unwrap();
        assert_eq!((all.eos, all.pad, all.top_k), (vec![3, 4], Some(9), None));
        let nested =
            ("config.json", r#"{"eos_token_id": null, "text_config": {"eos_token_id": 7}}"#);
        assert_eq!(read(&[nested]).unwrap().eos, [7]);
        assert_eq!(read(&[]).unwrap(), GenerationConfig::default());
    }

    #[test]
    fn damage_is_named() {
        for (text, words) in [
            ("{", "not a JSON object"),
            (r#"{"eos_token_id": "x"}"#, "eos_token_id is \"x\""),
            (r#"{"do_sample": 3}"#, "do_sample is 3"),
            (r#"{"top_k": -1}"#, "top_k is -1"),
            (r#"{"temperature": []}"#, "temperature is []"),
        ] {
            let message = read(&[("generation_config.json", text)]).unwrap_err();
            assert!(message.contains("generation_config.json: ") && message.contains(words));
        }
    }
}
