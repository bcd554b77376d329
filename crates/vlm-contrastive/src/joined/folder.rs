//! The folder of a joined encoder: `vision/`, `text/`, `heads.safetensors` and `config.json`.

use std::path::{Path, PathBuf};

use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_encoders::image::{ImageProcessor, Pixels};
use vlm_encoders::{
    DualFolder, Encoder, Error, PictureEncoder, TextEncoder, TextFolder, VisionFolder,
};
use vlm_nn::params;
use vlm_store::{Float, TensorFiles, TensorSpec, write_file, write_tensors};

use super::model::Joint;
use super::{Head, HeadKind, ImageReading};
use crate::loss::normalize;
use crate::zero_shot;

/// What `config.json` calls it.
const KIND: &str = "vlm_joined_dual_encoder";
/// White, which pictures are laid on.
pub(crate) const WHITE: [u8; 3] = [255; 3];

/// `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub model_type: String,
    pub image: ImageReading,
    pub letterbox: bool,
    pub image_head: HeadKind,
    pub text_head: HeadKind,
    pub image_width: usize,
    pub text_width: usize,
    pub dim: usize,
    pub bias: bool,
}

impl Config {
    pub fn kind() -> String {
        KIND.to_owned()
    }
}

/// A joined encoder, ready for use.
#[derive(Debug)]
pub struct JoinedFolder {
    /// Of pictures.
    pub vision: VisionFolder,
    /// Of texts.
    pub text: TextFolder,
    pub(crate) joint: Joint,
    config: Config,
}

impl JoinedFolder {
    /// Whether a folder says that it holds a joined encoder.
    pub fn is_one(dir: &Path) -> bool {
        #[derive(Deserialize)]
        struct Kind {
            model_type: String,
        }
        let text = std::fs::read(dir.join("config.json")).unwrap_or_default();
        serde_json::from_slice::<Kind>(&text).is_ok_and(|kind| kind.model_type == KIND)
    }

    /// What the heads hold, by name, with the shapes.
    pub fn heads(&self) -> Vec<(String, Vec<usize>)> {
        params::list(&self.joint).into_iter().map(|param| (param.path, param.shape)).collect()
    }

    /// What similarities are multiplied by.
    pub fn scale(&self) -> f32 {
        self.joint.logit_scale.val().exp().into_scalar()
    }

    /// Dimensions of the shared space.
    pub fn dim(&self) -> usize {
        self.config.dim
    }

    /// Opens the folder that a [`JoinedTask`](super::JoinedTask) wrote.
    ///
    /// # Errors
    /// If a file is missing or damaged, or files do not fit each other.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let bad = |reason: String| Error::Config { path: path.clone(), reason };
        let text =
            std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let config: Config = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        const LIMIT: usize = 1 << 20;
        let widths = [config.image_width, config.text_width, config.dim];
        if widths.iter().any(|width| !(1..=LIMIT).contains(width)) {
            return Err(bad(format!("widths {widths:?}, which no model has")));
        }
        let mut vision = open_vision(&dir.join("vision"), device)?;
        let text = open_text(&dir.join("text"), device)?;
        if config.letterbox {
            vision.images.letterbox = Some(WHITE);
        }
        let head = |kind, width| Head::new(kind, width, config.dim, device);
        let joint = Joint::new(
            head(config.image_head, config.image_width),
            head(config.text_head, config.text_width),
            config.bias,
            device,
        );
        let files = TensorFiles::open_file(&dir.join("heads.safetensors"))?;
        let mut wanted = Vec::new();
        for param in params::list(&joint) {
            let shape = files.shape(&param.path);
            if shape != Some(param.shape.as_slice()) {
                return Err(bad(format!(
                    "{} of heads.safetensors is {shape:?} and should be {:?}",
                    param.path, param.shape
                )));
            }
            wanted.push(param.path);
        }
        if let Some(name) = files.names().find(|name| wanted.iter().all(|path| path != name)) {
            return Err(bad(format!("heads.safetensors has a tensor `{name}` too many")));
        }
        let joint = params::replace(joint, &mut |path, _| Ok::<_, Error>(Some(files.read(path)?)))?;
        Ok(JoinedFolder { vision, text, joint, config })
    }

    pub(super) fn save_joint(joint: &Joint, config: &Config, dir: &Path) -> Result<(), Error> {
        let specs: Vec<TensorSpec> = params::list(joint)
            .into_iter()
            .map(|param| TensorSpec { name: param.path, shape: param.shape })
            .collect();
        write_tensors(&dir.join("heads.safetensors"), Float::F32, &[], &specs, &mut |path| {
            params::read_one(joint, path)
        })?;
        write_file(&dir.join("config.json"), &mut |w| {
            serde_json::to_writer_pretty(w, config).map_err(std::io::Error::from)
        })?;
        Ok(())
    }
}

/// An image encoder, or the one of a dual encoder.
pub(crate) fn open_vision(dir: &Path, device: &Device) -> Result<VisionFolder, Error> {
    match Encoder::open(dir, device)? {
        Encoder::Vision(folder) => Ok(folder),
        Encoder::Text(_) | Encoder::Dual(_) => Err(Error::Config {
            path: dir.join("config.json"),
            reason: "is not of an image encoder, which is wanted here".into(),
        }),
    }
}

/// A text encoder.
pub(crate) fn open_text(dir: &Path, device: &Device) -> Result<TextFolder, Error> {
    match Encoder::open(dir, device)? {
        Encoder::Text(folder) => Ok(folder),
        Encoder::Vision(_) | Encoder::Dual(_) => Err(Error::Config {
            path: dir.join("config.json"),
            reason: "is not of a text encoder, which is wanted here".into(),
        }),
    }
}

impl PictureEncoder for JoinedFolder {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        Ok(&self.vision.images)
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        let vectors = image_vectors(&self.vision, self.config.image, pictures)?;
        Ok(normalize(self.joint.image_head.forward(vectors)))
    }
}

/// What a reading makes of pictures, `[pictures, width]`.
pub(crate) fn image_vectors(
    vision: &VisionFolder,
    reading: ImageReading,
    pictures: &[Pixels],
) -> Result<Tensor<2>, Error> {
    let mut parts = Vec::new();
    for pictures in pictures.chunk_by(|a, b| a.size() == b.size()) {
        let read = reading.of_folder(vision, pictures)?.ok_or_else(|| Error::Config {
            path: PathBuf::from("model.towers.image"),
            reason: format!(
                "{reading} is nothing that the image tower has; its layers are 0 to {}",
                vision.plan.spec.layers
            ),
        })?;
        parts.push(read);
    }
    Ok(Tensor::cat(parts, 0))
}

impl TextEncoder for JoinedFolder {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        let vectors = self.text.encode_texts(texts)?;
        Ok(normalize(self.joint.text_head.forward(vectors)))
    }
}

/// A dual encoder of either kind.
#[derive(Debug)]
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum Dual {
    /// One that Hugging Face's or open_clip's code opens too.
    One(DualFolder),
    /// Two towers with heads.
    Joined(JoinedFolder),
}

impl Dual {
    /// Opens whichever a folder holds.
    ///
    /// # Errors
    /// As [`DualFolder::open`] and [`JoinedFolder::open`].
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        if JoinedFolder::is_one(dir) {
            return Ok(Dual::Joined(JoinedFolder::open(dir, device)?));
        }
        Ok(Dual::One(DualFolder::open(dir, device)?))
    }

    /// Probabilities from similarities `[pictures, texts]`: of each text among all, or, of a model
    /// that was trained on yes and no for each pair (it has a bias), of each text by itself.
    pub fn probabilities(&self, similarities: Tensor<2>) -> Tensor<2> {
        let (scale, bias) = match self {
            Dual::One(folder) => (&folder.model.logit_scale, &folder.model.logit_bias),
            Dual::Joined(folder) => (&folder.joint.logit_scale, &folder.joint.logit_bias),
        };
        let logits = similarities * scale.val().exp().reshape([1, 1]);
        match bias {
            Some(bias) => sigmoid(logits + bias.val().reshape([1, 1])),
            None => zero_shot::probabilities(logits),
        }
    }
}

impl PictureEncoder for Dual {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        match self {
            Dual::One(folder) => folder.processor(),
            Dual::Joined(folder) => folder.processor(),
        }
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        match self {
            Dual::One(folder) => folder.encode_pictures(pictures),
            Dual::Joined(folder) => folder.encode_pictures(pictures),
        }
    }
}

impl TextEncoder for Dual {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        match self {
            Dual::One(folder) => folder.encode_texts(texts),
            Dual::Joined(folder) => folder.encode_texts(texts),
        }
    }
}

/// Values of a matrix, row after row.
pub(super) fn values(x: Tensor<2>) -> Vec<f32> {
    let data: TensorData = x.into_data();
    data.iter().collect()
}
