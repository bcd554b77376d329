//! Whatever model a folder holds.

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use vlm_encoders::{Encoder, Float, FourBitConfig};
use vlm_fusion::GenerativeFolder;
use vlm_peft::{Error, Names};

/// An opened model folder.
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum AnyFolder {
    /// A model that speaks of pictures.
    Generative(GenerativeFolder),
    /// An encoder, or a language model.
    Encoder(Encoder),
}

/// What can be done with any model.
pub trait Change {
    /// The model changed; `names` is what the reference calls its parameters.
    ///
    /// # Errors
    /// As the change.
    fn change<M: Module>(&mut self, model: M, names: &Names<'_>) -> Result<M, Error>;
}

impl AnyFolder {
    /// Opens a folder; with `four_bit`, the linear maps of its blocks keep four bits of each weight (of a
    /// model that speaks of pictures, those of the decoder).
    ///
    /// # Errors
    /// As [`GenerativeFolder::open`] or [`Encoder::open`].
    pub fn open(dir: &Path, four_bit: Option<FourBitConfig>, device: &Device) -> Result<Self> {
        if GenerativeFolder::is_one(dir) {
            let folder = GenerativeFolder::open_packed(dir, four_bit, device)?;
            return Ok(AnyFolder::Generative(folder));
        }
        Ok(AnyFolder::Encoder(Encoder::open_packed(dir, four_bit, device)?))
    }

    /// Writes the folder.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<()> {
        match self {
            AnyFolder::Generative(folder) => folder.save(dir, float)?,
            AnyFolder::Encoder(Encoder::Dual(folder)) => folder.save(dir, float)?,
            AnyFolder::Encoder(Encoder::Text(folder)) => folder.save(dir, float)?,
            AnyFolder::Encoder(Encoder::Vision(folder)) => folder.save(dir, float)?,
        }
        Ok(())
    }

    /// Changes the model.
    ///
    /// # Errors
    /// As the change.
    pub fn change(&mut self, change: &mut impl Change) -> Result<(), Error> {
        // The plans are of different types with one face.
        macro_rules! changed {
            ($folder:expr) => {{
                let plan = &$folder.plan;
                let names = |path: &str, rank: usize| plan.in_memory(path, rank);
                $folder.model = change.change($folder.model.clone(), &names)?;
            }};
        }
        match self {
            AnyFolder::Generative(folder) => changed!(folder),
            AnyFolder::Encoder(Encoder::Dual(folder)) => changed!(folder),
            AnyFolder::Encoder(Encoder::Text(folder)) => changed!(folder),
            AnyFolder::Encoder(Encoder::Vision(folder)) => changed!(folder),
        }
        Ok(())
    }
}
