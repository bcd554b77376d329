//! easy-VQA: questions about pictures of shapes.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::unpack::{Item, each};

/// Fills the stage from the wheel; returns what was changed.
///
/// # Errors
/// If the package is damaged or something cannot be written.
pub fn make(wheel: &Path, stage: &Stage) -> Result<&'static str> {
    let mut lists = 0;
    each(wheel, &mut |name, item| {
        let Item::File(content) = item else { return Ok(()) };
        if name.ends_with(".dist-info/LICENSE") {
            return stage.write("LICENSE", content.bytes()?);
        }
        match name.strip_prefix("easy_vqa/data/").map(|name| name.split('/').collect::<Vec<_>>()) {
            Some(parts) if parts == ["answers.txt"] => stage.write("answers.txt", content.bytes()?),
            Some(parts) if matches!(parts[..], [_, "questions.json"]) => {
                lists += 1;
                let text = questions(parts[0], &content.bytes()?)?;
                stage.write(&format!("{}.jsonl", parts[0]), text)
            }
            Some(parts) if matches!(parts[..], [_, "images", _]) && name.ends_with(".png") => {
                stage.write(&format!("{}/{}", parts[0], parts[2]), content.bytes()?)
            }
            _ => Ok(()),
        }
    })?;
    if lists != 2 {
        bail!("{} holds {lists} lists of questions instead of 2", wheel.display());
    }
    Ok("the questions as JSON lines; words and pictures are as packaged.")
}

/// `[[question, answer, number of the picture], ...]` as JSON lines.
fn questions(split: &str, json: &[u8]) -> Result<String> {
    let rows: Vec<(String, String, u32)> =
        serde_json::from_slice(json).context("not a list of questions")?;
    let line = |(question, answer, image): (String, String, u32)| -> Value {
        json!({"image": format!("{split}/{image}.png"), "question": question, "answer": answer})
    };
    Ok(rows.into_iter().map(|row| format!("{}\n", line(row))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_lines() {
        assert_eq!(
            questions("test", br#"[["what color?", "red", 3]]"#).unwrap(),
            "{\"answer\":\"red\",\"image\":\"test/3.png\",\"question\":\"what color?\"}\n"
        );
        assert!(questions("test", br#"[["what color?", "red"]]"#).is_err());
    }
}
