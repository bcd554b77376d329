//! Tux Paint's stamps: cut-out photographs and drawings, a sentence each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use super::draw;
use crate::stage::Stage;
use crate::unpack::{Item, each};

const FOLDER: &str = "usr/share/tuxpaint/stamps/";
/// Letters, coins and signs: their captions say little of what is seen.
const LEFT_OUT: &str = "symbols/";
/// Captions of a draw that are kept for testing, and for choosing a checkpoint.
const TEST: usize = 124;
const VAL: usize = 40;
const DRAWS: usize = 5;

/// Fills the stage from the Debian package; returns what was changed.
///
/// # Errors
/// If the package is damaged or something cannot be written.
pub fn make(package: &Path, stage: &Stage) -> Result<&'static str> {
    let mut captions: BTreeMap<String, String> = BTreeMap::new();
    let mut pictures: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    each(package, &mut |name, item| {
        let Item::File(content) = item else { return Ok(()) };
        if name == "usr/share/doc/tuxpaint-stamps-default/copyright" {
            return stage.write("LICENSE", content.bytes()?);
        }
        let Some(name) = name.strip_prefix(FOLDER).filter(|name| !name.starts_with(LEFT_OUT))
        else {
            return Ok(());
        };
        match name.rsplit_once('.') {
            Some((stem, "png")) => {
                pictures.insert(stem.to_owned(), content.bytes()?);
            }
            Some((stem, "txt")) => {
                if let Some(caption) = caption(&content.bytes()?) {
                    captions.insert(stem.to_owned(), caption);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    pictures.retain(|stem, _| captions.contains_key(stem));
    if pictures.is_empty() {
        bail!("{} holds no stamps", package.display());
    }
    for (stem, bytes) in &pictures {
        stage.write(&format!("{stem}.png"), bytes)?;
    }
    let stamps: Vec<(&str, &str)> =
        pictures.keys().map(|stem| (stem.as_str(), captions[stem].as_str())).collect();
    for (name, text) in splits(&stamps) {
        stage.write(&format!("{name}.jsonl"), text)?;
    }
    Ok("only the PNG stamps outside symbols/ that have an English sentence; those are byte for \
        byte as packaged.")
}

/// The first line of a stamp's text, its English sentence.
fn caption(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let first = text.trim_start_matches('\u{feff}').lines().next()?.trim();
    (!first.is_empty()).then(|| first.to_owned())
}

/// The lists of every draw, and the first once more under plain names. A caption is in one list of
/// a draw only.
fn splits(stamps: &[(&str, &str)]) -> Vec<(String, String)> {
    let captions: BTreeSet<&str> = stamps.iter().map(|(_, caption)| *caption).collect();
    let mut lists = Vec::new();
    for draw in 1..=DRAWS {
        let drawn = draw::shuffled(&format!("tuxpaint {draw}"), captions.iter().copied());
        let (test, rest) = drawn.split_at(TEST.min(drawn.len()));
        let (val, train) = rest.split_at(VAL.min(rest.len()));
        for (name, captions) in [("train", train), ("val", val), ("test", test)] {
            let captions: BTreeSet<&str> = captions.iter().copied().collect();
            let mut text = String::new();
            for (stem, caption) in stamps.iter().filter(|(_, c)| captions.contains(c)) {
                let mut line =
                    json!({"image": format!("{stem}.png"), "caption": caption, "group": caption});
                if name != "train" {
                    line["label"] = json!(caption);
                }
                text += &format!("{line}\n");
            }
            if draw == 1 {
                lists.push((name.to_owned(), text.clone()));
            }
            lists.push((format!("{name}-{draw}"), text));
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caption_is_in_two_lists_of_a_draw() {
        let names: Vec<(String, String)> =
            (0..300).map(|i| (format!("s{i}"), format!("caption {}", i / 2 * 2))).collect();
        let stamps: Vec<(&str, &str)> =
            names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let lists: BTreeMap<String, String> = splits(&stamps).into_iter().collect();
        assert_eq!(lists.len(), 3 * (DRAWS + 1));
        assert_eq!(lists["test"], lists["test-1"]);
        assert_ne!(lists["test-1"], lists["test-2"]);
        let captions = |name: &str| -> BTreeSet<String> {
            let lines = lists[name].lines();
            lines
                .map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).unwrap();
                    line["caption"].as_str().unwrap().to_owned()
                })
                .collect()
        };
        for draw in 1..=DRAWS {
            let parts = ["train", "val", "test"].map(|name| captions(&format!("{name}-{draw}")));
            assert_eq!(parts.iter().map(BTreeSet::len).sum::<usize>(), 150);
            assert!(parts[0].is_disjoint(&parts[2]) && parts[1].is_disjoint(&parts[2]));
            assert_eq!((parts[1].len(), parts[2].len()), (26, 124));
        }
        assert!(lists["test"].contains("\"label\"") && !lists["train"].contains("\"label\""));
    }

    #[test]
    fn the_caption_is_the_first_line() {
        let text = "\u{feff} A Magellanic penguin. \nde.utf8=Ein Pinguin.\n";
        assert_eq!(caption(text.as_bytes()).unwrap(), "A Magellanic penguin.");
        assert_eq!(caption(b"\nde.utf8=x"), None);
        assert_eq!(caption(b""), None);
    }
}
