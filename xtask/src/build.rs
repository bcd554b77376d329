//! Building the programs of the workspace, and finding them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backend::Backend;
use crate::shell;

/// How programs and tests are built.
///
/// Always the whole workspace in release: cargo joins the features of all that it is asked to
/// build, so with other flags it would build the dependencies, minutes of work, once more.
/// Tests train models, which a debug build would take hours for.
pub const FLAGS: [&str; 2] = ["--release", "--workspace"];

/// Builds the programs of the workspace and returns a command that runs `name`.
///
/// # Errors
/// If the build fails, or the backend lacks something.
pub fn program(name: &str, backend: Backend) -> Result<Command> {
    let path =
        target_dir()?.join("release").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    if path.exists() {
        eprintln!("building {name}…");
    } else {
        eprintln!("building {name} (first time: about 7 minutes on 2 cores)…");
    }
    let mut build = shell::cargo();
    build.arg("build").args(FLAGS).arg("--bins").args(backend.flags());
    backend.prepare(&mut build)?;
    shell::run(&mut build)?;
    let mut command = shell::command(path);
    backend.prepare(&mut command)?;
    Ok(command)
}

fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(dir.into())
}

/// What cargo knows about the workspace's own packages.
///
/// # Errors
/// If cargo cannot read the workspace.
pub fn metadata() -> Result<Value> {
    let mut cargo = shell::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let output =
        cargo.output().with_context(|| format!("`{}` cannot be run", shell::show(&cargo)))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("`{}` failed: {}", shell::show(&cargo), reason.trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}
