//! The files that belong to the workspace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// A file of the workspace.
pub struct File {
    /// Its path from the root, with `/`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its text; `None` if it is none, or too large to be source.
    pub text: Option<String>,
}

/// No source is larger; other files need not be read.
const LARGEST_TEXT: u64 = 4 << 20;

/// All files that git knows or would add. Without git (an unpacked archive), all but the folders
/// that `.gitignore` names.
///
/// # Errors
/// If a file cannot be read.
pub fn files(root: &Path) -> Result<Vec<File>> {
    let git = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = match shell::output(shell::command("git").args(git)) {
        Some(list) => list.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        None => walk(root)?,
    };
    let mut files = Vec::new();
    for name in names {
        let path = root.join(&name);
        // Gone since git last looked, or a link.
        let Some(metadata) = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file) else {
            continue;
        };
        let size = metadata.len();
        let text = if size <= LARGEST_TEXT {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            String::from_utf8(bytes).ok()
        } else {
            None
        };
        files.push(File { name, size, text });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn walk(root: &Path) -> Result<Vec<String>> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let mut skip: Vec<PathBuf> = vec![root.join(".git")];
    skip.extend(
        ignored.lines().filter_map(|line| line.trim().strip_prefix('/')).map(|l| root.join(l)),
    );
    let mut names = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if skip.contains(&path) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(root) {
                names.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_file_is_found_with_its_text() {
        let files = files(&shell::root()).unwrap();
        let this = files.iter().find(|file| file.name == "xtask/src/tidy/tree.rs").unwrap();
        let text = this.text.as_ref().unwrap();
        assert!(text.contains("this_file_is_found_with_its_text"));
        assert_eq!(this.size, text.len() as u64);
    }

    #[test]
    fn without_git_ignored_folders_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["src/a.rs", "target/b.rs", ".git/c", "src/target/d.rs"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(dir.path().join(".gitignore"), "/target\n").unwrap();
        let mut names = walk(dir.path()).unwrap();
        names.sort();
        assert_eq!(names, [".gitignore", "src/a.rs", "src/target/d.rs"]);
    }
}
