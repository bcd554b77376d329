//! Files of what a model said.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use vlm_datasets::Conversations;

#[derive(Deserialize)]
struct Line {
    row: Option<usize>,
    id: Option<Id>,
    text: String,
}

/// Sets name their samples by texts or numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(u64),
}

/// Writes what was said to each of the `chosen` samples.
///
/// # Errors
/// What the operating system reports.
pub fn write(path: &Path, chosen: &[usize], said: &[String]) -> Result<()> {
    let mut text = String::new();
    for (row, said) in chosen.iter().zip(said) {
        text += &format!("{}\n", serde_json::json!({ "row": row + 1, "text": said }));
    }
    Ok(vlm_store::write_file(path, &mut |w| w.write_all(text.as_bytes()))?)
}

/// What was said to each of the `chosen` samples. Lines of other samples are passed over, so that
/// one file can hold what was said to all.
///
/// # Errors
/// If a line cannot be used, or a sample has none.
pub fn read(path: &Path, data: &Conversations, chosen: &[usize]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for (i, sample) in data.samples.iter().enumerate() {
        by_id.extend(sample.id.as_deref().map(|id| (id, i)));
    }
    let mut said: Vec<Option<(usize, String)>> = vec![None; data.samples.len()];
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("{}:{number}", path.display());
        let line: Line = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => bail!("{place}: not {{\"row\": 1, \"text\": \"...\"}} in JSON: {error}"),
        };
        let row = match (line.row, line.id) {
            (Some(row), _) if (1..=said.len()).contains(&row) => row - 1,
            (Some(row), _) => {
                bail!("{place}: row {row} of a set of {}; rows count from 1", said.len())
            }
            (None, Some(id)) => {
                let id = match id {
                    Id::Text(text) => text,
                    Id::Number(number) => number.to_string(),
                };
                match by_id.get(id.as_str()) {
                    Some(row) => *row,
                    None => bail!("{place}: no sample of the set has the id `{id}`; use `row`"),
                }
            }
            (None, None) => bail!("{place}: neither `row` nor `id`; add one"),
        };
        if let Some((first, _)) = &said[row] {
            bail!("{place}: row {} was predicted in line {first} already; keep one", row + 1);
        }
        said[row] = Some((number, line.text));
    }
    let missing = chosen.iter().filter(|i| said[**i].is_none());
    if let Some(first) = missing.clone().next() {
        bail!(
            "{}: {} of {} samples have no prediction, row {} first; add them, with an empty text \
             where nothing was said",
            path.display(),
            missing.count(),
            chosen.len(),
            first + 1
        );
    }
    Ok(chosen.iter().filter_map(|i| said[*i].take().map(|(_, text)| text)).collect())
}
