use std::path::PathBuf;

use crate::image::ImageError;
use crate::text::TokenizerError;

/// What can go wrong with models and their folders. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor file cannot be read or written.
    #[error(transparent)]
    Store(#[from] vlm_store::Error),
    /// A picture cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is no such model folder.
    #[error("{}: no such model folder; give a folder that holds config.json and model.safetensors", .0.display())]
    NoModel(PathBuf),
    /// A file of the folder is missing or unreadable.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `config.json` does not describe a model of this project.
    #[error("{}: {}", path.display(), without_breaks(reason))]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture of a size that the model does not take.
    #[error(
        "a picture of {width}x{height} pixels does not fit the model; prepare it as preprocessor_config.json says"
    )]
    PictureSize {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
    },
    /// A model with one tower was asked for the other.
    #[error("the model has only {} {has} encoder, and cannot look at {wants}", if *has == "image" { "an" } else { "a" })]
    OneTower {
        /// What it has.
        has: &'static str,
        /// What it was asked for.
        wants: &'static str,
    },
    /// The tensors of the file are not those of the configuration.
    #[error("{}: the tensors do not fit config.json: {}", path.display(), mismatch)]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        mismatch: Mismatch,
    },
}

/// The reason may quote a key of the file, which may hold line breaks and worse.
fn without_breaks(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Tensors that a checkpoint lacks, has too many, or has in another shape.
#[derive(Debug, Default, PartialEq)]
pub struct Mismatch {
    /// Wanted and not there.
    pub missing: Vec<String>,
    /// There and not wanted.
    pub surplus: Vec<String>,
    /// Name, wanted shape, shape in the file.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty() && self.misshapen.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One line of a message; the fields hold all.
        const SHOWN: usize = 32;
        let shapes: Vec<String> = self
            .misshapen
            .iter()
            .map(|(name, want, got)| format!("{name} is {got:?} and should be {want:?}"))
            .collect();
        let parts: Vec<String> = [
            ("missing", &self.missing),
            ("surplus", &self.surplus),
            ("of the wrong shape", &shapes),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| {
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{} {what}: {shown}{more}", names.len())
        })
        .collect();
        f.write_str(&parts.join("; "))
    }
}
