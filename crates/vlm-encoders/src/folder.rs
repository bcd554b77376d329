//! Model folders in the Hugging Face layout.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_nn::four_bit::FourBitConfig;
use vlm_store::Float;

use crate::blueprint::{self, Blueprint};
use crate::families::{DualSpec, Spec};
use crate::image::{ImageProcessor, Pixels};
use crate::models::{DualModel, TextModel, VisionModel};
use crate::sentence::Pooling;
use crate::text::{self, Padding, Tokenizer};
use crate::towers::{TextPool, TextSpec, VisionSpec, padding_mask};
use crate::{Error, Places};

/// A dual encoder with its picture processor and tokenizer.
#[derive(Debug)]
pub struct DualFolder {
    /// The shape.
    pub plan: Blueprint<DualSpec>,
    /// The weights.
    pub model: DualModel,
    /// What turns pictures into pixels.
    pub images: ImageProcessor,
    /// What turns texts into ids.
    pub tokenizer: Tokenizer,
}

/// An image encoder with its picture processor.
#[derive(Debug)]
pub struct VisionFolder {
    /// The shape.
    pub plan: Blueprint<VisionSpec>,
    /// The weights.
    pub model: VisionModel,
    /// What turns pictures into pixels.
    pub images: ImageProcessor,
}

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub struct TextFolder {
    /// The shape.
    pub plan: Blueprint<TextSpec>,
    /// The weights.
    pub model: TextModel,
    /// What turns texts into ids.
    pub tokenizer: Tokenizer,
    /// How states become the feature of a text.
    pub pooling: Pooling,
}

/// Whatever encoder a folder holds.
#[derive(Debug)]
// One or two of these are ever held.
#[allow(clippy::large_enum_variant)]
pub enum Encoder {
    /// Of pictures.
    Vision(VisionFolder),
    /// Of texts.
    Text(TextFolder),
    /// Of both.
    Dual(DualFolder),
}

/// The weights of a folder without what prepares pictures and texts.
#[derive(Debug)]
// One or two of these are ever held.
#[allow(clippy::large_enum_variant)]
pub enum Weights {
    /// Of an image encoder.
    Vision(Blueprint<VisionSpec>, VisionModel),
    /// Of a text encoder.
    Text(Blueprint<TextSpec>, TextModel),
    /// Of both.
    Dual(Blueprint<DualSpec>, DualModel),
}

impl Weights {
    /// Opens a folder, which needs no more than its configuration and its tensors.
    ///
    /// # Errors
    /// If the architecture or one of its options is not supported, or a file is missing or
    /// damaged.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::open_packed(dir, None, device)
    }

    /// The same; with `packed`, the linear maps of all blocks keep four bits of each weight.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_packed(
        dir: &Path,
        packed: Option<FourBitConfig>,
        device: &Device,
    ) -> Result<Self, Error> {
        let blueprint::Opened { plan, files, .. } = blueprint::read(dir)?;
        Ok(match plan.take_spec() {
            Spec::Vision(spec, projection) => {
                let model = VisionModel::new(&spec, projection, device);
                let model = plan.load_packed(model, &files, packed)?;
                Weights::Vision(plan.with(spec), model)
            }
            Spec::Text(spec, projection) => {
                let model = TextModel::new(&spec, projection, device);
                let model = plan.load_packed(model, &files, packed)?;
                Weights::Text(plan.with(spec), model)
            }
            Spec::Dual(spec) => {
                let model = plan.load_packed(DualModel::new(&spec, device), &files, packed)?;
                Weights::Dual(plan.with(spec), model)
            }
        })
    }

    /// Writes configuration and tensors, so that the reference opens them.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<(), Error> {
        match self {
            Weights::Vision(plan, model) => plan.save(model, dir, float),
            Weights::Text(plan, model) => plan.save(model, dir, float),
            Weights::Dual(plan, model) => plan.save(model, dir, float),
        }
    }
}

impl Encoder {
    /// Opens a folder that transformers, open_clip, sentence-transformers or this project wrote;
    /// its `config.json` says what it is.
    ///
    /// # Errors
    /// If the architecture or one of its options is not supported, a file is missing or damaged,
    /// or files do not fit each other.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::open_packed(dir, None, device)
    }

    /// The same; with `packed`, the linear maps of all blocks keep four bits of each weight. Those that
    /// have four bits in the file keep them anyway.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_packed(
        dir: &Path,
        packed: Option<FourBitConfig>,
        device: &Device,
    ) -> Result<Self, Error> {
        let blueprint::Opened { plan, files, images } = blueprint::read(dir)?;
        let config = |reason: String| Error::Config { path: dir.join("config.json"), reason };
        let images = || match images {
            Some(images) => Ok(images),
            None => ImageProcessor::from_dir(dir).map_err(Error::from),
        };
        match plan.take_spec() {
            Spec::Vision(spec, projection) => {
                let images = images()?;
                check_images(&spec, &images).map_err(config)?;
                let plan = plan.with(spec);
                let model = VisionModel::new(&plan.spec, projection, device);
                let model = plan.load_packed(model, &files, packed)?;
                Ok(Encoder::Vision(VisionFolder { plan, model, images }))
            }
            Spec::Text(spec, projection) => {
                let tokenizer = Tokenizer::from_dir(dir)?;
                check_tokens(&spec, &tokenizer).map_err(config)?;
                let pooling = Pooling::read(dir, &spec)?;
                let plan = plan.with(spec);
                let model = TextModel::new(&plan.spec, projection, device);
                let model = plan.load_packed(model, &files, packed)?;
                Ok(Encoder::Text(TextFolder { plan, model, tokenizer, pooling }))
            }
            Spec::Dual(spec) => {
                let images = images()?;
                check_images(&spec.vision, &images).map_err(config)?;
                let tokenizer = Tokenizer::from_dir(dir)?;
                check_tokens(&spec.text, &tokenizer).map_err(config)?;
                let plan = plan.with(spec);
                let model = plan.load_packed(DualModel::new(&plan.spec, device), &files, packed)?;
                Ok(Encoder::Dual(DualFolder { plan, model, images, tokenizer }))
            }
        }
    }
}

/// Whether pictures come out of the processor as the tower wants them.
///
/// # Errors
/// The fields of `config.json` and `preprocessor_config.json` that disagree.
pub fn check_images(spec: &VisionSpec, images: &ImageProcessor) -> Result<(), String> {
    if spec.channels != 3 {
        return Err(format!(
            "num_channels is {}, but preprocessor_config.json makes pictures of 3 channels",
            spec.channels
        ));
    }
    if spec.places == Places::Flexible {
        return match images.patching() {
            Some(patching) if patching.patch_size == spec.patch => Ok(()),
            _ => Err(format!(
                "patch_size is {}, but preprocessor_config.json does not cut patches of that size",
                spec.patch
            )),
        };
    }
    if images.patching().is_some() {
        return Err("preprocessor_config.json cuts patches, which this model does not take".into());
    }
    if spec.places == Places::Fixed && images.output_size() != Some(spec.image) {
        let (h, w) = spec.image;
        return Err(format!(
            "image_size is {h}x{w}, but preprocessor_config.json does not make pictures of {h}x{w}"
        ));
    }
    Ok(())
}

/// Whether every token has a row.
///
/// # Errors
/// How many there are of both.
pub fn check_tokens(spec: &TextSpec, tokenizer: &Tokenizer) -> Result<(), String> {
    if tokenizer.vocab_size() > spec.vocabulary {
        return Err(format!(
            "vocab_size is {}, but tokenizer.json has {} tokens",
            spec.vocabulary,
            tokenizer.vocab_size()
        ));
    }
    Ok(())
}

impl DualFolder {
    /// Opens the folder of a dual encoder.
    ///
    /// # Errors
    /// As [`Encoder::open`], and if the folder holds one tower only.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::open_packed(dir, None, device)
    }

    /// The same; with `packed`, the linear maps of all blocks keep four bits of each weight.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_packed(
        dir: &Path,
        packed: Option<FourBitConfig>,
        device: &Device,
    ) -> Result<Self, Error> {
        let one = |what: &str| Error::Config {
            path: dir.join("config.json"),
            reason: format!(
                "holds {what} encoder; this needs one of pictures and texts, such as CLIP or SigLIP"
            ),
        };
        match Encoder::open_packed(dir, packed, device)? {
            Encoder::Dual(folder) => Ok(folder),
            Encoder::Vision(_) => Err(one("only an image")),
            Encoder::Text(_) => Err(one("only a text")),
        }
    }

    /// Writes the folder, so that the reference opens it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<(), Error> {
        self.plan.save(&self.model, dir, float)?;
        self.images.save(dir)?;
        Ok(self.tokenizer.save(dir)?)
    }

    /// Token ids of texts, cut to the model's context and filled up as the model was trained.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, texts: &[String]) -> Result<text::Batch, Error> {
        self.plan.spec.text.tokenize(&self.tokenizer, texts)
    }
}

impl VisionFolder {
    /// Writes the folder, so that the reference opens it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<(), Error> {
        self.plan.save(&self.model, dir, float)?;
        Ok(self.images.save(dir)?)
    }
}

impl TextFolder {
    /// Writes the folder, so that the reference opens it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<(), Error> {
        self.save_with(&self.model, dir, float)
    }

    /// The same with other weights of the same shape.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save_with(&self, model: &TextModel, dir: &Path, float: Float) -> Result<(), Error> {
        self.plan.save(model, dir, float)?;
        self.pooling.save(dir)?;
        Ok(self.tokenizer.save(dir)?)
    }

    /// Token ids of texts, cut to the model's context.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, texts: &[String]) -> Result<text::Batch, Error> {
        self.plan.spec.tokenize(&self.tokenizer, texts)
    }
}

impl TextSpec {
    /// Token ids of texts, cut to the context and filled up as the model was trained.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, tokenizer: &Tokenizer, texts: &[String]) -> Result<text::Batch, Error> {
        // SigLIP looks at the last place, and was trained with all places filled.
        let fixed = self.pool == TextPool::Last;
        let padding = if fixed { Padding::Fixed(self.context) } else { Padding::Longest };
        Ok(tokenizer.encode_batch(texts, self.context, padding)?)
    }
}

/// The mask of a batch of texts whose padding is not to be seen.
pub fn text_mask(batch: &text::Batch, device: &Device) -> Option<Tensor<3>> {
    padding_mask(&batch.mask, batch.rows, batch.cols, device)
}

/// Stacks pictures to `[batch, channels, height, width]`.
///
/// # Panics
/// If the pictures differ in size.
pub fn batch_pixels(pictures: &[Pixels], device: &Device) -> Tensor<4> {
    let (h, w) = pictures.first().map_or((0, 0), Pixels::size);
    let mut data = Vec::with_capacity(pictures.len() * 3 * h * w);
    for picture in pictures {
        assert_eq!(picture.size(), (h, w), "pictures of different sizes");
        picture.write(&mut data);
    }
    Tensor::from_data(TensorData::new(data, [pictures.len(), 3, h, w]), device)
}

/// The place of each text's end token: the first `eos`, or the first of the largest id where
/// `eos` is the legacy value 2. A text without an end token is pooled at its start, as
/// transformers does.
pub fn end_places(batch: &text::Batch, eos: i64) -> Vec<i64> {
    batch
        .ids
        .chunks(batch.cols.max(1))
        .map(|row| {
            let largest = row.iter().max();
            let wanted = if eos == 2 { largest } else { Some(&eos) };
            row.iter().position(|id| Some(id) == wanted).unwrap_or(0) as i64
        })
        .collect()
}

/// Where the state stands that is pooled, for each text.
pub fn pool_places(batch: &text::Batch, pool: TextPool) -> Vec<i64> {
    match pool {
        TextPool::End(eos) => end_places(batch, eos),
        TextPool::Last => vec![batch.cols as i64 - 1; batch.rows],
        TextPool::First | TextPool::Absent => vec![0; batch.rows],
    }
}

/// Ids `[batch, tokens]` and the [place that is pooled](pool_places) of each `[batch]`.
pub fn batch_tokens(
    batch: &text::Batch,
    pool: TextPool,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let places = pool_places(batch, pool);
    let rows = batch.rows;
    let ids = Tensor::from_data(TensorData::new(batch.ids.clone(), [rows, batch.cols]), device);
    (ids, Tensor::from_data(TensorData::new(places, [rows]), device))
}
