//! From pictures and texts to what the towers say of them.

use burn::tensor::{Device, Tensor, TensorData};

use crate::folder::{DualFolder, TextFolder, VisionFolder, batch_pixels, batch_tokens, text_mask};
use crate::image::{ImageProcessor, Patching, Pixels};
use crate::models::{TextModel, VisionModel, normalize};
use crate::text::Batch;
use crate::towers::{Patches, States, TextPool, TextSpec, TextTower, VisionTower};
use crate::{Encoder, Error};

/// Whatever makes features of pictures.
pub trait PictureEncoder {
    /// What prepares the pictures.
    ///
    /// # Errors
    /// If there is no image tower.
    fn processor(&self) -> Result<&ImageProcessor, Error>;

    /// Features of pictures, `[pictures, dim]`. Those of a dual encoder have length 1; those of
    /// an image encoder are what it pools, or the mean over its tokens.
    ///
    /// # Errors
    /// If there is no image tower, or it does not take pictures of that size.
    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error>;
}

/// Whatever makes features of texts.
pub trait TextEncoder {
    /// Features of texts, `[texts, dim]`. Those of a dual encoder have length 1; those of a text
    /// encoder are pooled as [`Pooling`](crate::Pooling) says.
    ///
    /// # Errors
    /// If there is no text tower, or the tokenizer fails.
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error>;
}

/// What a tower says of texts, and the tokens that it was told.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// The tokens.
    pub batch: Batch,
    /// What the tower says.
    pub states: States,
}

pub(crate) fn text_states(
    tower: &TextTower,
    spec: &TextSpec,
    batch: Batch,
    layers: bool,
    device: &Device,
) -> TextStates {
    let (ids, places) = batch_tokens(&batch, spec.pool, device);
    // SigLIP sees its padding; it was trained so.
    let mask = if spec.pool == TextPool::Last { None } else { text_mask(&batch, device) };
    let places = (spec.pool != TextPool::Absent).then_some(places);
    let mut states = tower.states(ids, places, mask, layers);
    if spec.head.is_some()
        && let Some(last) = states.layers.last_mut()
    {
        // transformers counts the norm after the stack of a decoder to its last layer.
        *last = states.last.clone();
    }
    TextStates { batch, states }
}

pub(crate) fn image_states(
    tower: &VisionTower,
    images: &ImageProcessor,
    pictures: &[Pixels],
    layers: bool,
    device: &Device,
) -> Result<States, Error> {
    Ok(match taken(tower, images, pictures, device)? {
        Taken::Patches(patches) => tower.patch_states(patches, layers),
        Taken::Pixels(pixels) => tower.states(pixels, layers),
    })
}

/// Pictures as a tower takes them.
enum Taken {
    Pixels(Tensor<4>),
    Patches(Patches),
}

fn taken(
    tower: &VisionTower,
    images: &ImageProcessor,
    pictures: &[Pixels],
    device: &Device,
) -> Result<Taken, Error> {
    if let Some(patching) = images.patching() {
        return Ok(Taken::Patches(batch_patches(pictures, patching, device)?));
    }
    for picture in pictures {
        if !tower.takes(picture.size()) {
            let (height, width) = picture.size();
            return Err(Error::PictureSize { height, width });
        }
    }
    Ok(Taken::Pixels(batch_pixels(pictures, device)))
}

/// Stacks pictures, each cut into patches.
fn batch_patches(
    pictures: &[Pixels],
    patching: Patching,
    device: &Device,
) -> Result<Patches, Error> {
    let (mut values, mut mask) = (Vec::new(), Vec::new());
    let grids = pictures
        .iter()
        .map(|picture| picture.write_patches(patching, &mut values, &mut mask))
        .collect::<Result<Vec<_>, _>>()?;
    let shape = [pictures.len(), patching.max_num_patches, patching.patch_len()];
    Ok(Patches { values: Tensor::from_data(TensorData::new(values, shape), device), grids })
}

impl VisionFolder {
    /// What the tower says of pictures of one size.
    ///
    /// # Errors
    /// If the tower does not take that size.
    pub fn states(&self, pictures: &[Pixels], layers: bool) -> Result<States, Error> {
        let device = self.model.vision.positions.device();
        image_states(&self.model.vision, &self.images, pictures, layers, &device)
    }

    /// Features of pictures by other weights of the same shape.
    ///
    /// # Errors
    /// As [`encode_pictures`](PictureEncoder::encode_pictures).
    pub fn features_of(
        &self,
        model: &VisionModel,
        pictures: &[Pixels],
    ) -> Result<Tensor<2>, Error> {
        let device = model.vision.positions.device();
        let features = |pictures: &[Pixels]| {
            let states = image_states(&model.vision, &self.images, pictures, false, &device)?;
            Ok(model.features(&states))
        };
        if self.images.patching().is_some() {
            return features(pictures);
        }
        // Pictures that keep their proportions enter one size at a time.
        by_size(pictures, &features)
    }

    /// The state of pictures of one size after the first `depth` layers, `[pictures, tokens,
    /// width]`; later layers are not computed.
    ///
    /// # Errors
    /// If the tower does not take that size.
    pub fn state_at(&self, pictures: &[Pixels], depth: usize) -> Result<Tensor<3>, Error> {
        let tower = &self.model.vision;
        Ok(match taken(tower, &self.images, pictures, &tower.positions.device())? {
            Taken::Patches(patches) => tower.patch_state_at(patches, depth),
            Taken::Pixels(pixels) => tower.state_at(pixels, depth),
        })
    }
}

impl PictureEncoder for VisionFolder {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        Ok(&self.images)
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        self.features_of(&self.model, pictures)
    }
}

/// Runs neighbours of one size together.
pub(crate) fn by_size(
    pictures: &[Pixels],
    encode: &dyn Fn(&[Pixels]) -> Result<Tensor<2>, Error>,
) -> Result<Tensor<2>, Error> {
    let parts = pictures
        .chunk_by(|a, b| a.size() == b.size())
        .map(encode)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(parts, 0))
}

impl TextFolder {
    /// What the tower says of texts.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn states(&self, texts: &[String], layers: bool) -> Result<TextStates, Error> {
        self.states_of(&self.model, texts, layers)
    }

    fn states_of(
        &self,
        model: &TextModel,
        texts: &[String],
        layers: bool,
    ) -> Result<TextStates, Error> {
        let device = model.text.tokens.device();
        let batch = self.tokenize(texts)?;
        Ok(text_states(&model.text, &self.plan.spec, batch, layers, &device))
    }

    /// Features of texts by other weights of the same shape.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn features_of(&self, model: &TextModel, texts: &[String]) -> Result<Tensor<2>, Error> {
        let TextStates { batch, states } = self.states_of(model, texts, false)?;
        Ok(self.pooling.features(model, &states, &batch))
    }
}

impl TextEncoder for TextFolder {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        self.features_of(&self.model, texts)
    }
}

impl DualFolder {
    /// What the image tower says of pictures of one size.
    ///
    /// # Errors
    /// If the tower does not take that size.
    pub fn image_states(&self, pictures: &[Pixels], layers: bool) -> Result<States, Error> {
        let device = self.model.logit_scale.device();
        image_states(&self.model.vision, &self.images, pictures, layers, &device)
    }

    /// What the text tower says of texts.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn text_states(&self, texts: &[String], layers: bool) -> Result<TextStates, Error> {
        let device = self.model.logit_scale.device();
        let batch = self.tokenize(texts)?;
        Ok(text_states(&self.model.text, &self.plan.spec.text, batch, layers, &device))
    }
}

impl PictureEncoder for DualFolder {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        Ok(&self.images)
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        if self.model.vision.plain() {
            let device = self.model.logit_scale.device();
            return Ok(self.model.encode_images(batch_pixels(pictures, &device)));
        }
        let pooled = self.image_states(pictures, false)?.pooled;
        let pooled = pooled.unwrap_or_else(|| unreachable!("a dual encoder pools"));
        Ok(normalize(self.model.project_image(pooled)))
    }
}

impl TextEncoder for DualFolder {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        let device = self.model.logit_scale.device();
        let batch = self.tokenize(texts)?;
        let (ids, places) = batch_tokens(&batch, self.plan.spec.text.pool, &device);
        Ok(self.model.encode_texts(ids, places, None))
    }
}

impl PictureEncoder for Encoder {
    fn processor(&self) -> Result<&ImageProcessor, Error> {
        match self {
            Encoder::Vision(folder) => folder.processor(),
            Encoder::Dual(folder) => folder.processor(),
            Encoder::Text(_) => Err(Error::OneTower { has: "text", wants: "pictures" }),
        }
    }

    fn encode_pictures(&self, pictures: &[Pixels]) -> Result<Tensor<2>, Error> {
        match self {
            Encoder::Vision(folder) => folder.encode_pictures(pictures),
            Encoder::Dual(folder) => folder.encode_pictures(pictures),
            Encoder::Text(_) => Err(Error::OneTower { has: "text", wants: "pictures" }),
        }
    }
}

impl TextEncoder for Encoder {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        match self {
            Encoder::Text(folder) => folder.encode_texts(texts),
            Encoder::Dual(folder) => folder.encode_texts(texts),
            Encoder::Vision(_) => Err(Error::OneTower { has: "image", wants: "texts" }),
        }
    }
}

impl Encoder {
    /// What the image tower says of pictures of one size.
    ///
    /// # Errors
    /// If there is no image tower, or it does not take that size.
    pub fn image_states(&self, pictures: &[Pixels], layers: bool) -> Result<States, Error> {
        match self {
            Encoder::Vision(folder) => folder.states(pictures, layers),
            Encoder::Dual(folder) => folder.image_states(pictures, layers),
            Encoder::Text(_) => Err(Error::OneTower { has: "text", wants: "pictures" }),
        }
    }

    /// What the text tower says of texts.
    ///
    /// # Errors
    /// If there is no text tower, or the tokenizer fails.
    pub fn text_states(&self, texts: &[String], layers: bool) -> Result<TextStates, Error> {
        match self {
            Encoder::Text(folder) => folder.states(texts, layers),
            Encoder::Dual(folder) => folder.text_states(texts, layers),
            Encoder::Vision(_) => Err(Error::OneTower { has: "image", wants: "texts" }),
        }
    }
}
