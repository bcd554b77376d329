//! Lists of rows: JSON lines, or one JSON array.

use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::{Conversation, coco, has_ending, row};
use crate::Error;
use crate::files::{Finder, bad, lines, text};

/// Reads all rows of a file.
pub(super) fn read(
    path: &Path,
    finder: &mut Finder,
    notes: &mut Vec<String>,
) -> Result<Vec<Conversation>, Error> {
    let mut samples = Vec::new();
    let mut headless = 0;
    let mut add = |origin: String, value: Value| {
        let reason = |reason| Error::Line { origin: origin.clone(), reason };
        let row = row::read(value, finder, &origin).map_err(reason)?;
        headless += usize::from(row.headless);
        samples.push(row.conversation);
        Ok(())
    };
    if has_ending(path, "jsonl") {
        for (number, line) in lines(path)? {
            let value = serde_json::from_str(&line)
                .map_err(|e| bad(path, number, format!("not JSON: {e}; put one object a line")))?;
            add(format!("{}:{number}", path.display()), value)?;
        }
    } else {
        let body = text(path)?;
        match body.trim_start().as_bytes().first() {
            Some(b'[') => array(path, &body, &mut add)?,
            Some(b'{') => return coco::read(path, &body, finder),
            _ => {
                let reason = "neither a list nor an object in JSON; formats.md has examples";
                return Err(Error::Set { path: path.to_owned(), reason: reason.into() });
            }
        }
    }
    if headless > 0 {
        notes.push(format!(
            "{}: {headless} conversations begin with an answer, which is left out, as LLaVA does",
            path.display()
        ));
    }
    Ok(samples)
}

/// Takes an array apart row by row: a list of conversations is large, and its rows are short.
fn array(
    path: &Path,
    body: &str,
    each: &mut dyn FnMut(String, Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rows = Rows { path, each, done: 0, failed: None };
    let mut reader = serde_json::Deserializer::from_str(body);
    let result = (&mut rows).deserialize(&mut reader).and_then(|()| reader.end());
    if let Some(error) = rows.failed {
        return Err(error);
    }
    result.map_err(|e| Error::Line {
        origin: origin(path, rows.done + 1),
        reason: format!("not JSON: {e}"),
    })
}

fn origin(path: &Path, row: usize) -> String {
    format!("{}: row {row}", path.display())
}

struct Rows<'a> {
    path: &'a Path,
    each: &'a mut dyn FnMut(String, Value) -> Result<(), Error>,
    done: usize,
    failed: Option<Error>,
}

impl<'de> DeserializeSeed<'de> for &mut Rows<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a list of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while let Some(value) = rows.next_element::<Value>()? {
            self.done += 1;
            if let Err(error) = (self.each)(origin(self.path, self.done), value) {
                self.failed = Some(error);
                return Err(A::Error::custom("the row cannot be used"));
            }
        }
        Ok(())
    }
}
