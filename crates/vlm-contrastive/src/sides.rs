//! One side of a dual encoder by itself, or of an encoder that has one side only.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use vlm_encoders::image::{ImageProcessor, Pixels};
use vlm_encoders::{Error, PictureEncoder, TextEncoder, TextFolder, VisionFolder};
use vlm_nn::params;
use vlm_store::TensorFiles;

use crate::joined::JoinedFolder;
use crate::joined::folder::{Config, WHITE, image_vectors, open_text, open_vision};
use crate::joined::{Head, HeadKind, ImageReading};
use crate::loss::normalize;

/// What a model folder has for texts, with the features that [`Dual`](crate::Dual) gives. Opening
/// it reads nothing of an image tower, which for a query is most of the time.
#[derive(Debug)]
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum TextSide {
    /// Of a folder with one `config.json`.
    One(vlm_encoders::TextSide),
    /// Of two towers with heads.
    Joined(TextFolder, Head),
}

/// What a model folder has for pictures, likewise.
#[derive(Debug)]
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum PictureSide {
    /// Of a folder with one `config.json`.
    One(vlm_encoders::PictureSide),
    /// Of two towers with heads.
    Joined(VisionFolder, ImageReading, Head),
}

impl TextSide {
    /// Opens the text side of a folder.
    ///
    /// # Errors
    /// If a file that it needs is missing or damaged, or the model has no text side.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        if !JoinedFolder::is_one(dir) {
            return Ok(TextSide::One(vlm_encoders::TextSide::open(dir, device)?));
        }
        let config = config(dir)?;
        let head = head(dir, "text_head", (config.text_head, config.text_width), &config, device)?;
        Ok(TextSide::Joined(open_text(&dir.join("text"), device)?, head))
    }
}

impl TextEncoder for TextSide {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        match self {
            TextSide::One(side) => side.encode_texts(texts),
            TextSide::Joined(folder, head) => {
                Ok(normalize(head.forward(folder.encode_texts(texts)?)))
            }
        }
    }
}

impl PictureSide {
    /// Opens the picture side of a folder.
    ///
    /// # Errors
    /// If a file that it needs is missing or damaged, or the model has no picture side.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        if !JoinedFolder::is_one(dir) {
            return Ok(PictureSide::One(vlm_encoders::PictureSide::open(dir, device)?));
        }
        let config = config(dir)?;
        let kind = (config.image_head, config.image_width);
        let head = head(dir, "image_head", kind, &config, device)?;
        let mut vision = open_vision(&dir.join("vision"), device)?;
        if config.letterbox {
            vision.images.letterbox = Some(WHITE);
        }
        Ok(PictureSide::Joined(vision, config.image, head))
    }
}

impl PictureEncoder for PictureSide {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        match self {
            PictureSide::One(side) => side.processor(),
            PictureSide::Joined(vision, ..) => Ok(&vision.images),
        }
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        match self {
            PictureSide::One(side) => side.encode_pictures(pictures),
            PictureSide::Joined(vision, reading, head) => {
                let vectors = image_vectors(vision, *reading, pictures)?;
                Ok(normalize(head.forward(vectors)))
            }
        }
    }
}

/// `config.json` of a joined encoder.
fn config(dir: &Path) -> Result<Config, Error> {
    let path = dir.join("config.json");
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::Config { path: path.clone(), reason: e.to_string() })
}

/// One of the heads in `heads.safetensors`, of a kind and for vectors of a width.
fn head(
    dir: &Path,
    name: &str,
    (kind, width): (HeadKind, usize),
    config: &Config,
    device: &Device,
) -> Result<Head, Error> {
    let files = TensorFiles::open_file(&dir.join("heads.safetensors"))?;
    let blank = Head::new(kind, width, config.dim, device);
    params::replace(blank, &mut |path, shape| {
        let path = format!("{name}.{path}");
        if files.shape(&path) != Some(shape) {
            let reason = format!(
                "{path} of heads.safetensors is {:?} and should be {shape:?}",
                files.shape(&path)
            );
            return Err(Error::Config { path: dir.join("config.json"), reason });
        }
        Ok(Some(files.read(&path)?))
    })
}
