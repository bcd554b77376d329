//! Lists over the shipped emoji pictures whose labels are emojibase's groups and subgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::emoji::{normal, table};
use crate::unpack::{Item, each};

/// Name of the lists, the table of names in `groups.json`, the field of an emoji.
const KINDS: [(&str, &str, &str); 2] =
    [("group", "groups", "group"), ("subgroup", "subgroups", "subgroup")];

/// Where the pictures of the last style go, by place: to adapt to it, and to measure that.
const PARTS: [&str; 4] = ["train", "val", "train", "test"];

/// The lists as names and texts: `KIND-train.jsonl` with all styles but the last, `KIND-test.jsonl`
/// with the last, `KIND-style-train.jsonl`, `-val` and `-test` with that in parts, `KIND.labels.txt`. An emoji
/// without a group is in none.
///
/// # Errors
/// If the package is damaged.
pub fn lists(package: &Path, codes: &[&str], styles: &[&str]) -> Result<Vec<(String, String)>> {
    let mut groups = None;
    each(package, &mut |name, item| {
        if let ("package/meta/groups.json", Item::File(content)) = (name, item) {
            groups = Some(serde_json::from_slice::<Value>(&content.bytes()?)?);
        }
        Ok(())
    })?;
    let groups = groups.context("package/meta/groups.json is missing")?;
    KINDS
        .iter()
        .map(|(kind, names, field)| {
            of_kind(kind, &groups[names], field, &table(package)?, codes, styles)
        })
        .collect::<Result<Vec<_>>>()
        .map(|lists| lists.into_iter().flatten().collect())
}

fn of_kind(
    kind: &str,
    names: &Value,
    field: &str,
    emoji: &[Value],
    codes: &[&str],
    styles: &[&str],
) -> Result<Vec<(String, String)>> {
    let numbers: BTreeMap<String, u64> = emoji
        .iter()
        .filter_map(|emoji| Some((normal(emoji["hexcode"].as_str()?), emoji[field].as_u64()?)))
        .collect();
    let name = |number: u64| {
        let name = names[number.to_string()].as_str();
        let name = name.with_context(|| format!("{field} {number} has no name"))?;
        Ok::<_, anyhow::Error>(name.replace('-', " "))
    };
    let mut used = BTreeSet::new();
    let (mut train, mut test) = (String::new(), String::new());
    let mut parts: BTreeMap<&str, String> = BTreeMap::new();
    for (place, code) in codes.iter().enumerate() {
        let Some(number) = numbers.get(*code) else { continue };
        used.insert(*number);
        for (i, style) in styles.iter().enumerate() {
            let line = json!({"image": format!("{style}/{code}.webp"), "label": name(*number)?, "group": code});
            let list = if i + 1 == styles.len() { &mut test } else { &mut train };
            *list += &format!("{line}\n");
        }
        // What is of one class is not told apart when a model adapts to the style.
        let (style, label) = (styles.last().copied().unwrap_or_default(), name(*number)?);
        let line = json!({"image": format!("{style}/{code}.webp"), "label": label, "group": label});
        *parts.entry(PARTS[place % PARTS.len()]).or_default() += &format!("{line}\n");
    }
    let labels =
        used.into_iter().map(|number| Ok(name(number)? + "\n")).collect::<Result<String>>()?;
    let mut lists = vec![
        (format!("{kind}-train.jsonl"), train),
        (format!("{kind}-test.jsonl"), test),
        (format!("{kind}.labels.txt"), labels),
    ];
    let part = |(part, list)| (format!("{kind}-style-{part}.jsonl"), list);
    lists.extend(parts.into_iter().map(part));
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_style_is_for_testing_and_labels_keep_their_order() {
        let emoji = [
            json!({"hexcode": "2A-FE0F", "group": 1}),
            json!({"hexcode": "2B", "group": 0}),
            json!({"hexcode": "2C"}),
        ];
        let names = json!({"0": "zebra-like", "1": "ant", "2": "unused"});
        let lists =
            of_kind("group", &names, "group", &emoji, &["2a", "2b", "2c"], &["x", "y"]).unwrap();
        let [train, test, labels, first, second] = lists.try_into().unwrap();
        assert_eq!(
            first,
            (
                "group-style-train.jsonl".into(),
                "{\"group\":\"ant\",\"image\":\"y/2a.webp\",\"label\":\"ant\"}\n".into()
            )
        );
        assert_eq!((&*second.0, second.1.lines().count()), ("group-style-val.jsonl", 1));
        assert_eq!(labels, ("group.labels.txt".into(), "zebra like\nant\n".into()));
        assert_eq!(train.1.lines().count(), 2);
        assert_eq!(
            test.1,
            "{\"group\":\"2a\",\"image\":\"y/2a.webp\",\"label\":\"ant\"}\n\
             {\"group\":\"2b\",\"image\":\"y/2b.webp\",\"label\":\"zebra like\"}\n"
        );
        let missing = json!({"0": "zebra-like"});
        let error = of_kind("group", &missing, "group", &emoji, &["2a"], &["x"]).unwrap_err();
        assert_eq!(error.to_string(), "group 1 has no name");
    }
}
