//! What a generative training is told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::lesson::Telling;
use crate::assemble::Assembly;
use crate::spatial::Codec;

/// The `[model.generative]` section of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerativeConfig {
    /// A folder to go on with.
    pub from: Option<PathBuf>,
    /// A new model of an image tower and a language model.
    pub assemble: Option<Assembly>,
    /// Parts that are trained; the fusion and the decoder if none is named.
    pub train: Vec<Part>,
    /// What is asked where the set leaves that to the task, as captions do;
    /// `Describe the picture.` if not given.
    pub question: Option<String>,
    /// Whether pictures are left out: what a model knows from the questions alone.
    pub blind: bool,
    /// How boxes are written in answers; as plain numbers if not given.
    pub boxes: Option<Codec>,
    /// Conversations about one picture that stand in one row at most; 1 for none beside another.
    pub pack: Option<usize>,
    /// Conversations of one picture that an epoch takes, drawn anew in each; all if not given.
    pub per_picture: Option<usize>,
    /// Conversations that a validation looks at; 500 if not given.
    pub validate: Option<usize>,
}

/// A part of a generative model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The image tower.
    Vision,
    /// What stands between.
    Fusion,
    /// The decoder.
    Text,
}

/// What is asked of pictures that have captions only.
pub const QUESTION: &str = "Describe the picture.";

impl GenerativeConfig {
    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// The first, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if self.from.is_some() == self.assemble.is_some() {
            return Err("needs `from` (a model folder) or `assemble`, and not both".into());
        }
        for (name, value) in [("pack", self.pack), ("per_picture", self.per_picture)] {
            if value == Some(0) {
                return Err(format!("{name} is 0; it must be 1 or more"));
            }
        }
        Ok(())
    }

    /// Whether a part is trained: without pictures, the decoder alone.
    pub fn trains(&self, part: Part) -> bool {
        if self.blind && part != Part::Text {
            return false;
        }
        match self.train.as_slice() {
            [] => part != Part::Vision,
            named => named.contains(&part),
        }
    }

    /// How conversations are told to the model.
    pub fn telling(&self) -> Telling<'_> {
        let question = self.question.as_deref().unwrap_or(QUESTION);
        Telling { question, blind: self.blind, boxes: self.boxes.unwrap_or(Codec::Numbers) }
    }
}
