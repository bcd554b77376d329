//! `cargo xtask data`.

use anyhow::{Result, bail};

use crate::shell;

/// A data set that can be made from public packages.
struct Data {
    name: &'static str,
    what: &'static str,
    licences: &'static str,
    /// Arguments of the cargo that makes it.
    make: &'static [&'static str],
}

const ALL: [Data; 1] = [Data {
    name: "emoji",
    what: "emoji in three art styles, 64x64, with captions; shipped in datasets/emoji",
    licences: "Noto Emoji: Apache-2.0; Twemoji: CC-BY-4.0; Fluent Emoji: MIT; emojibase: MIT",
    make: &[
        "run",
        "--release",
        "-p",
        "vlm-datasets",
        "--features",
        "make-emoji",
        "--bin",
        "make-emoji",
        "--",
        "datasets/emoji",
    ],
}];

/// Fetch or make data sets
///
/// They come from public packages, pinned by version and checksum; `list` shows their licences.
#[derive(clap::Args)]
pub struct Args {
    /// A data set, `all`, or `list`
    name: String,
}

/// Makes one data set or all, or lists them.
///
/// # Errors
/// If there is no such data set, or it cannot be made.
pub fn run(args: &Args) -> Result<()> {
    if args.name == "list" {
        for data in &ALL {
            println!("{}\n  {}\n  licences: {}", data.name, data.what, data.licences);
        }
        return Ok(());
    }
    for data in chosen(&args.name)? {
        shell::run(shell::cargo().args(data.make))?;
    }
    Ok(())
}

fn chosen(name: &str) -> Result<Vec<&'static Data>> {
    let chosen: Vec<&Data> = ALL.iter().filter(|data| name == "all" || data.name == name).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = ALL.iter().map(|data| data.name).collect();
        bail!("no data set `{name}`; there are: {}, or `all`", known.join(", "));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sets_are_chosen_by_name() {
        assert_eq!(chosen("all").unwrap().len(), ALL.len());
        assert_eq!(chosen("emoji").unwrap()[0].name, "emoji");
        let message = chosen("emojis").err().unwrap().to_string();
        assert!(message.contains("`emojis`") && message.contains("emoji, or `all`"), "{message}");
    }
}
