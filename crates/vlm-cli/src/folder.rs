//! Whatever model a folder holds.

use std::path::Path;

use anyhow::Result;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;
use vlm_encoders::{Encoder, Float, FourBitConfig, Weights};
use vlm_fusion::GenerativeFolder;
use vlm_peft::{Error, Names};

// The plans are of different types with one face.
macro_rules! changed {
    ($change:expr, $plan:expr, $model:expr) => {{
        let names = |path: &str, rank: usize| $plan.in_memory(path, rank);
        $model = $change.change($model.clone(), &names)?;
    }};
}

/// An opened model folder.
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum AnyFolder {
    /// A model that speaks of pictures.
    Generative(GenerativeFolder),
    /// An encoder, or a language model.
    Encoder(Encoder),
    /// The same without what prepares pictures and texts.
    Weights(Weights),
}

/// What can be done with any model.
pub trait Change {
    /// The model changed; `names` is what the reference calls its parameters.
    ///
    /// # Errors
    /// As the change.
    fn change<M: Module + ModuleDisplay>(
        &mut self,
        model: M,
        names: &Names<'_>,
    ) -> Result<M, Error>;
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

    /// Opens a folder whose pictures and texts do not matter.
    ///
    /// # Errors
    /// As [`GenerativeFolder::open`] or [`Weights::open`].
    pub fn open_weights(dir: &Path, device: &Device) -> Result<Self> {
        if GenerativeFolder::is_one(dir) {
            return Self::open(dir, None, device);
        }
        Ok(AnyFolder::Weights(Weights::open(dir, device)?))
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
            AnyFolder::Weights(weights) => weights.save(dir, float)?,
        }
        Ok(())
    }

    /// Changes the model.
    ///
    /// # Errors
    /// As the change.
    pub fn change(&mut self, change: &mut impl Change) -> Result<(), Error> {
        match self {
            AnyFolder::Generative(folder) => changed!(change, folder.plan, folder.model),
            AnyFolder::Encoder(encoder) => return change_encoder(encoder, change),
            AnyFolder::Weights(Weights::Dual(plan, model)) => changed!(change, plan, *model),
            AnyFolder::Weights(Weights::Text(plan, model)) => changed!(change, plan, *model),
            AnyFolder::Weights(Weights::Vision(plan, model)) => changed!(change, plan, *model),
        }
        Ok(())
    }
}

/// Changes the model of an encoder.
///
/// # Errors
/// As the change.
pub fn change_encoder(encoder: &mut Encoder, change: &mut impl Change) -> Result<(), Error> {
    match encoder {
        Encoder::Dual(folder) => changed!(change, folder.plan, folder.model),
        Encoder::Text(folder) => changed!(change, folder.plan, folder.model),
        Encoder::Vision(folder) => changed!(change, folder.plan, folder.model),
    }
    Ok(())
}
