//! One side of a folder by itself: for whoever has texts alone, or pictures alone, to encode.

use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::Error;
use crate::blueprint;
use crate::encode::{PictureEncoder, TextEncoder, by_size, image_states, text_states};
use crate::families::Spec;
use crate::folder::{batch_tokens, check_images, check_tokens};
use crate::image::{ImageProcessor, Pixels};
use crate::models::{DualModel, TextModel, VisionModel, normalize};
use crate::sentence::Pooling;
use crate::text::Tokenizer;
use crate::towers::TextSpec;

/// What a folder has for texts: the text encoder that it holds, or that of its dual encoder. It
/// gives the features that [`Encoder`](crate::Encoder) gives.
#[derive(Debug)]
pub struct TextSide {
    spec: TextSpec,
    model: TextModel,
    tokenizer: Tokenizer,
    /// `None` of a dual encoder, whose features are what its tower pools, at length 1.
    pooling: Option<Pooling>,
}

/// What a folder has for pictures, likewise.
#[derive(Debug)]
pub struct PictureSide {
    model: VisionModel,
    images: ImageProcessor,
    /// Whether features get length 1, as those of dual encoders do.
    unit: bool,
}

impl TextSide {
    /// Opens the folder as [`Encoder::open`](crate::Encoder::open) does, without reading an image tower's weights.
    ///
    /// # Errors
    /// As [`Encoder::open`](crate::Encoder::open), and if the folder holds an image encoder only.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        let blueprint::Opened { plan, files, .. } = blueprint::read(dir)?;
        let config = |reason| Error::Config { path: dir.join("config.json"), reason };
        let tokenizer = |spec: &TextSpec| {
            let tokenizer = Tokenizer::from_dir(dir)?;
            check_tokens(spec, &tokenizer).map_err(config)?;
            Ok::<_, Error>(tokenizer)
        };
        match plan.take_spec() {
            Spec::Vision(..) => Err(Error::OneTower { has: "image", wants: "texts" }),
            Spec::Text(spec, projection) => {
                let pooling = Some(Pooling::read(dir, &spec)?);
                let blank = TextModel::new(&spec, projection, device);
                // A tokenizer takes as long as the weights of a small model.
                let (tokenizer, model) =
                    rayon::join(|| tokenizer(&spec), || plan.load(blank, &files));
                Ok(TextSide { tokenizer: tokenizer?, model: model?, spec, pooling })
            }
            Spec::Dual(dual) => {
                let whole = DualModel::new(&dual, device);
                plan.check(&whole, &files)?;
                let DualModel { text, text_projection, .. } = whole;
                let blank = TextModel { text, text_projection };
                let (tokenizer, model) =
                    rayon::join(|| tokenizer(&dual.text), || plan.fill(blank, &files));
                let (tokenizer, model) = (tokenizer?, model?);
                Ok(TextSide { spec: dual.text, model, tokenizer, pooling: None })
            }
        }
    }
}

impl TextEncoder for TextSide {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        let device = self.model.text.tokens.device();
        let batch = self.spec.tokenize(&self.tokenizer, texts)?;
        if let Some(pooling) = &self.pooling {
            let said = text_states(&self.model.text, &self.spec, batch, false, &device);
            return Ok(pooling.features(&self.model, &said.states, &said.batch));
        }
        let (ids, places) = batch_tokens(&batch, self.spec.pool, &device);
        let pooled = self.model.text.forward(ids, places, None);
        Ok(normalize(match &self.model.text_projection {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        }))
    }
}

impl PictureSide {
    /// Opens the folder as [`Encoder::open`](crate::Encoder::open) does, without reading a text
    /// tower's weights or a tokenizer.
    ///
    /// # Errors
    /// As [`Encoder::open`](crate::Encoder::open), and if the folder holds a text encoder only.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        let blueprint::Opened { plan, files, images } = blueprint::read(dir)?;
        let config = |reason| Error::Config { path: dir.join("config.json"), reason };
        let images = || match images {
            Some(images) => Ok(images),
            None => ImageProcessor::from_dir(dir).map_err(Error::from),
        };
        match plan.take_spec() {
            Spec::Text(..) => Err(Error::OneTower { has: "text", wants: "pictures" }),
            Spec::Vision(spec, projection) => {
                let images = images()?;
                check_images(&spec, &images).map_err(config)?;
                let model = plan.load(VisionModel::new(&spec, projection, device), &files)?;
                Ok(PictureSide { model, images, unit: false })
            }
            Spec::Dual(dual) => {
                let images = images()?;
                check_images(&dual.vision, &images).map_err(config)?;
                let whole = DualModel::new(&dual, device);
                plan.check(&whole, &files)?;
                let DualModel { vision, visual_projection, .. } = whole;
                let model = plan.fill(VisionModel { vision, visual_projection }, &files)?;
                Ok(PictureSide { model, images, unit: true })
            }
        }
    }
}

impl PictureEncoder for PictureSide {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        Ok(&self.images)
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        let device = self.model.vision.positions.device();
        let features = |pictures: &[Pixels]| {
            let tower = &self.model.vision;
            let states = image_states(tower, &self.images, pictures, false, &device)?;
            let features = self.model.features(&states);
            Ok(if self.unit { normalize(features) } else { features })
        };
        if self.images.patching().is_some() {
            return features(pictures);
        }
        by_size(pictures, &features)
    }
}
