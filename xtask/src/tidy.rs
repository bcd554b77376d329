//! The house rules that a machine can check.

mod rules;
mod tree;

use anyhow::{Result, bail};

use crate::{build, shell};

/// Checks every file of the workspace, says what is wrong with each, and fails if anything is.
///
/// # Errors
/// If a rule is broken, or the workspace cannot be read.
pub fn run() -> Result<()> {
    let complaints = complaints()?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        1 => bail!("tidy: one complaint"),
        n => bail!("tidy: {n} complaints"),
    }
}

fn complaints() -> Result<Vec<String>> {
    let root = shell::root();
    let files = tree::files(&root)?;
    let mut complaints = rules::exceptions(&files);
    for file in &files {
        complaints.extend(rules::file(file));
    }
    complaints.extend(rules::packages(&build::metadata()?));
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let complaints = complaints().unwrap();
        assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    }
}
