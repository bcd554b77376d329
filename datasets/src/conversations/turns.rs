//! Conversations as LLaVA writes them, and lists of messages.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::row::{Row, id, pictures, sort};
use super::{Conversation, Role, Turn};
use crate::files::Finder;

/// What stands in a text for a picture.
const PLACEHOLDER: &str = "<image>";

/// The field names of a style of conversation, and what its roles are called.
struct Style {
    list: &'static str,
    role: &'static str,
    text: &'static str,
    roles: &'static [(&'static str, Role)],
    known: &'static str,
}

const LLAVA: Style = Style {
    list: "conversations",
    role: "from",
    text: "value",
    roles: &[("human", Role::User), ("gpt", Role::Assistant), ("system", Role::System)],
    known: "human, gpt or system",
};
const MESSAGES: Style = Style {
    list: "messages",
    role: "role",
    text: "content",
    roles: &[("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)],
    known: "user, assistant or system",
};

/// Reads a row with `conversations` or `messages`; fields that are not used are passed over, for
/// sets in this form carry many.
pub(super) fn read(
    fields: &mut Map<String, Value>,
    finder: &mut Finder,
    origin: &str,
) -> Result<Row, String> {
    let style = if fields.contains_key(LLAVA.list) { LLAVA } else { MESSAGES };
    let pictures = pictures(fields, finder)?;
    let list = match fields.remove(style.list) {
        Some(Value::Array(list)) if !list.is_empty() => list,
        _ => return Err(format!("`{}` is no list with turns in it; add some", style.list)),
    };
    let mut turns = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        turns.push(turn(value, &style).map_err(|e| format!("`{}[{i}]`: {e}", style.list))?);
    }
    let headless = begin(&mut turns);
    follow(&turns, &style)?;
    place(&mut turns, &pictures)?;
    for (i, turn) in turns.iter().enumerate() {
        if turn.text.is_empty() && (turn.role != Role::User || turn.pictures == 0) {
            let what = if turn.role == Role::Assistant { "answer" } else { "text" };
            return Err(format!(
                "turn {}: the {what} is empty; fill it or remove the turn",
                i + 1 + usize::from(headless)
            ));
        }
    }
    let answer = turns.last().map(|turn| turn.text.clone()).unwrap_or_default();
    let conversation = Conversation {
        id: id(fields),
        pictures,
        turns,
        answers: vec![answer],
        choices: Vec::new(),
        boxes: Vec::new(),
        kind: None,
        origin: origin.to_owned(),
    };
    Ok(Row { conversation, headless })
}

/// One turn, with the count of placeholders in it.
fn turn(value: Value, style: &Style) -> Result<Turn, String> {
    let Value::Object(mut fields) = value else {
        return Err(format!("not an object with `{}` and `{}`", style.role, style.text));
    };
    let role = match fields.remove(style.role) {
        Some(Value::String(name)) => match style.roles.iter().find(|(known, _)| *known == name) {
            Some((_, role)) => *role,
            None => {
                return Err(format!("unknown role `{name}`; `{}` is {}", style.role, style.known));
            }
        },
        _ => return Err(format!("no role; `{}` is {}", style.role, style.known)),
    };
    let (text, pictures) = match fields.remove(style.text) {
        Some(Value::String(text)) => without_placeholders(&text),
        Some(Value::Array(parts)) => joined(parts)?,
        _ => return Err(format!("no text; add the field `{}`", style.text)),
    };
    if pictures > 0 && role != Role::User {
        return Err(format!("{PLACEHOLDER} in a turn that is not the user's; move it to theirs"));
    }
    Ok(Turn { role, text, pictures })
}

/// The text without placeholders, and how many there were. LLaVA, too, moves them to the front.
fn without_placeholders(text: &str) -> (String, usize) {
    let count = text.matches(PLACEHOLDER).count();
    if count == 0 {
        return (text.trim().to_owned(), 0);
    }
    (text.replace(PLACEHOLDER, "").trim().to_owned(), count)
}

/// The parts of a message's content.
fn joined(parts: Vec<Value>) -> Result<(String, usize), String> {
    let (mut texts, mut pictures) = (Vec::new(), 0);
    for part in parts {
        match part["type"].as_str() {
            Some("image") => pictures += 1,
            Some("text") => match part["text"].as_str() {
                Some(text) => texts.push(text.trim().to_owned()),
                None => return Err("a part of type `text` has no `text`; add it".into()),
            },
            Some(other) => {
                return Err(format!("a part has the unknown type `{other}`; use text or image"));
            }
            None => {
                return Err(format!("a part is {} without a `type`; add one", sort(&part)));
            }
        }
    }
    Ok((texts.join("\n"), pictures))
}

/// Leaves out an answer to no question at the begin, as LLaVA does.
fn begin(turns: &mut Vec<Turn>) -> bool {
    let first = usize::from(turns[0].role == Role::System);
    let headless = turns.get(first).is_some_and(|turn| turn.role == Role::Assistant);
    if headless {
        turns.remove(first);
    }
    headless
}

/// Checks that questions and answers follow each other.
fn follow(turns: &[Turn], style: &Style) -> Result<(), String> {
    let name = |role: Role| {
        style.roles.iter().find(|(_, known)| *known == role).map_or("", |(name, _)| name)
    };
    let spoken = &turns[usize::from(turns.first().is_some_and(|t| t.role == Role::System))..];
    for (i, turn) in spoken.iter().enumerate() {
        let wanted = if i % 2 == 0 { Role::User } else { Role::Assistant };
        if turn.role != wanted {
            return Err(format!(
                "`{}`: a turn of `{}` where one of `{}` belongs; they must take turns",
                style.list,
                name(turn.role),
                name(wanted)
            ));
        }
    }
    if spoken.is_empty() || spoken.len() % 2 == 1 {
        return Err(format!("`{}` does not end with an answer; add it", style.list));
    }
    Ok(())
}

/// Gives each turn its pictures: where the placeholders are, and without any in the first.
fn place(turns: &mut [Turn], pictures: &[PathBuf]) -> Result<(), String> {
    let places: usize = turns.iter().map(|turn| turn.pictures).sum();
    if places == pictures.len() {
        return Ok(());
    }
    if places > 0 {
        return Err(format!(
            "{places} x {PLACEHOLDER} in the turns and {} in `image`; make them equal",
            match pictures.len() {
                0 => "no picture".to_owned(),
                1 => "one picture".to_owned(),
                n => format!("{n} pictures"),
            }
        ));
    }
    if let Some(turn) = turns.iter_mut().find(|turn| turn.role == Role::User) {
        turn.pictures = pictures.len();
    }
    Ok(())
}
