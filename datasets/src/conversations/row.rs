//! One row of a list: a conversation, a question, or captions.

use serde_json::{Map, Value};

use super::{Conversation, Region, Role, Turn, captioned, turns};
use crate::files::Finder;
use crate::formats;

/// What a row says.
pub(super) struct Row {
    pub conversation: Conversation,
    /// Whether an answer to no question was left out at its begin.
    pub headless: bool,
}

/// Reads a row of any kind; the reason is without its place.
pub(super) fn read(value: Value, finder: &mut Finder, origin: &str) -> Result<Row, String> {
    let Value::Object(mut fields) = value else {
        return Err("not an object; put a row in {}".into());
    };
    let has = |name: &str| fields.contains_key(name);
    if has("conversations") || has("messages") {
        return turns::read(&mut fields, finder, origin);
    }
    let conversation = if has("question") {
        question(fields, finder, origin)?
    } else if has("caption") || has("captions") || has("label") {
        let sample = formats::row(Value::Object(fields), finder, origin)?;
        captioned(sample)
    } else {
        return Err("none of the fields `conversations`, `messages`, `question` and `caption`; \
                    add one"
            .into());
    };
    Ok(Row { conversation, headless: false })
}

/// A question with its answers, or with the boxes that answer it.
fn question(
    mut fields: Map<String, Value>,
    finder: &mut Finder,
    origin: &str,
) -> Result<Conversation, String> {
    let pictures = pictures(&mut fields, finder)?;
    if pictures.is_empty() {
        return Err("no picture is named; add the field `image`".into());
    }
    let asked = text(&mut fields, "question")?.unwrap_or_default();
    let answer = text(&mut fields, "answer")?;
    let mut answers = texts(&mut fields, "answers")?;
    let choices = texts(&mut fields, "choices")?;
    let boxes = boxes(&mut fields)?;
    let kind = text(&mut fields, "kind")?;
    let id = id(&mut fields);
    if let Some(field) = fields.keys().next() {
        return Err(format!(
            "unknown field `{field}`; known: id, image, images, question, answer, answers, \
             choices, boxes, kind"
        ));
    }
    let said = match answer {
        Some(answer) => answer,
        None if answers.is_empty() && boxes.is_empty() => {
            return Err("no answer; add the field `answer`, `answers` or `boxes`".into());
        }
        None => most_frequent(&answers),
    };
    if answers.is_empty() && !said.is_empty() {
        answers.push(said.clone());
    }
    if !boxes.is_empty() && pictures.len() > 1 {
        return Err("`boxes` with more than one picture; give each picture a row".into());
    }
    if !choices.is_empty() && !choices.contains(&said) {
        return Err(format!("the answer `{said}` is not among the `choices`; add it there"));
    }
    let count = pictures.len();
    Ok(Conversation {
        id,
        pictures,
        turns: vec![
            Turn { role: Role::User, text: asked, pictures: count },
            Turn { role: Role::Assistant, text: said, pictures: 0 },
        ],
        answers,
        choices,
        boxes,
        kind,
        origin: origin.to_owned(),
    })
}

/// What most say, and of several such the first.
pub(super) fn most_frequent(answers: &[String]) -> String {
    let count = |answer: &String| answers.iter().filter(|other| *other == answer).count();
    let mut best: Option<(&String, usize)> = None;
    for answer in answers {
        let count = count(answer);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((answer, count));
        }
    }
    best.map(|(answer, _)| answer.clone()).unwrap_or_default()
}

/// Takes the field `id`, a text or a number.
pub(super) fn id(fields: &mut Map<String, Value>) -> Option<String> {
    match fields.remove("id")? {
        Value::String(text) => Some(text),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

/// Takes the pictures of `image` and `images`: a path, a list of them, or none.
pub(super) fn pictures(
    fields: &mut Map<String, Value>,
    finder: &mut Finder,
) -> Result<Vec<std::path::PathBuf>, String> {
    let mut found = Vec::new();
    for field in ["image", "images"] {
        for name in paths(fields.remove(field)).ok_or_else(|| {
            format!("`{field}` is neither a path nor a list of paths; give the picture's path")
        })? {
            found.push(finder.find(&name).map_err(|reason| format!("`{field}`: {reason}"))?);
        }
    }
    Ok(found)
}

fn paths(value: Option<Value>) -> Option<Vec<String>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(path)) => Some(vec![path]),
        Some(Value::Array(list)) => {
            list.into_iter().map(|path| path.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    }
}

/// Takes a field that is a text with something in it.
fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => said(value, name).map(Some),
    }
}

fn said(value: Value, name: &str) -> Result<String, String> {
    match value {
        Value::String(text) if text.trim().is_empty() => {
            Err(format!("`{name}` is empty; fill it or remove the row"))
        }
        Value::String(text) => Ok(text.trim().to_owned()),
        other => Err(format!("`{name}` is {}; put the text in quotes", sort(&other))),
    }
}

/// Takes a field that is a list of texts.
fn texts(fields: &mut Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) if list.is_empty() => {
            Err(format!("`{name}` is an empty list; fill it or leave it out"))
        }
        Some(Value::Array(list)) => list
            .into_iter()
            .enumerate()
            .map(|(i, value)| said(value, &format!("{name}[{i}]")))
            .collect(),
        Some(other) => Err(format!("`{name}` is {}; give a list of texts", sort(&other))),
    }
}

/// Takes `boxes`: a list of `[left, top, right, bottom]`, or of objects with `box` and `label`.
fn boxes(fields: &mut Map<String, Value>) -> Result<Vec<Region>, String> {
    let list = match fields.remove("boxes") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) => {
            return Err(
                "`boxes` is no list with boxes in it; give [[left, top, right, bottom]]".into()
            );
        }
    };
    list.into_iter()
        .enumerate()
        .map(|(i, value)| {
            let name = format!("boxes[{i}]");
            let (label, corners) = match value {
                Value::Object(mut fields) => {
                    let label = text(&mut fields, "label").map_err(|e| format!("{name}: {e}"))?;
                    let corners = fields.remove("box").unwrap_or_default();
                    if let Some(field) = fields.keys().next() {
                        return Err(format!(
                            "`{name}` has the unknown field `{field}`; known: label, box"
                        ));
                    }
                    (label, corners)
                }
                other => (None, other),
            };
            corners_of(&corners, &name).map(|corners| Region { label, corners })
        })
        .collect()
}

fn corners_of(value: &Value, name: &str) -> Result<[f64; 4], String> {
    let numbers: Option<Vec<f64>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    let Some(&[left, top, right, bottom]) = numbers.as_deref() else {
        return Err(format!("`{name}` is not four numbers; give [left, top, right, bottom]"));
    };
    let corners = [left, top, right, bottom];
    if corners.iter().any(|c| !(0.0..=1.0).contains(c)) {
        return Err(format!(
            "`{name}` is {value}, not within 0 to 1; divide by the picture's width and height"
        ));
    }
    if left >= right || top >= bottom {
        return Err(format!(
            "`{name}` is {value}, which is empty or reversed; give [left, top, right, bottom]"
        ));
    }
    Ok(corners)
}

/// What sort of value it is, in words.
pub(super) fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
