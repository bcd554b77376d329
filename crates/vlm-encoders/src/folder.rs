//! A model folder in the Hugging Face layout.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_store::{Float, TensorFiles, write_file};

use crate::image::{ImageProcessor, Pixels};
use crate::text::{self, Padding, Tokenizer};
use crate::{ClipConfig, ClipModel, Error, checkpoint};

/// A `CLIPModel` with its picture processor and tokenizer.
#[derive(Debug)]
pub struct ClipFolder {
    /// The shape.
    pub config: ClipConfig,
    /// The weights.
    pub model: ClipModel,
    /// What turns pictures into pixels.
    pub images: ImageProcessor,
    /// What turns texts into ids.
    pub tokenizer: Tokenizer,
}

impl ClipFolder {
    /// Opens a folder that `transformers`, or [`save`](Self::save), wrote.
    ///
    /// # Errors
    /// If a file is missing or damaged, or files do not fit each other.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        let config = Self::config(dir)?;
        let images = ImageProcessor::from_dir(dir)?;
        let tokenizer = Tokenizer::from_dir(dir)?;
        let files = TensorFiles::open_dir(dir, "model")?;
        let bad = |reason: String| Error::Config { path: dir.join("config.json"), reason };
        if tokenizer.vocab_size() > config.text.vocab_size {
            return Err(bad(format!(
                "vocab_size is {}, but tokenizer.json has {} tokens",
                config.text.vocab_size,
                tokenizer.vocab_size()
            )));
        }
        if config.vision.num_channels != 3 {
            return Err(bad(format!(
                "num_channels is {}, but preprocessor_config.json makes pictures of 3 channels",
                config.vision.num_channels
            )));
        }
        let side = config.vision.image_size;
        if images.output_size() != Some((side, side)) {
            return Err(bad(format!(
                "image_size is {side}, but preprocessor_config.json does not make pictures of {side}x{side}"
            )));
        }
        let model = ClipModel::load(&config, &files, device)?;
        Ok(ClipFolder { config, model, images, tokenizer })
    }

    /// Reads only the shape of the model in a folder.
    ///
    /// # Errors
    /// If there is no such folder, or its `config.json` is not a CLIP model's.
    pub fn config(dir: &Path) -> Result<ClipConfig, Error> {
        if !dir.is_dir() {
            return Err(Error::NoModel(dir.to_owned()));
        }
        ClipConfig::read(&dir.join("config.json"))
    }

    /// Writes the folder, so that `transformers.CLIPModel` and `CLIPProcessor` open it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn save(&self, dir: &Path, float: Float) -> Result<(), Error> {
        std::fs::create_dir_all(dir)
            .map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let path = dir.join("config.json");
        let json = self
            .config
            .to_json(float)
            .map_err(|e| Error::Config { path: path.clone(), reason: e.to_string() })?;
        write_file(&path, &mut |w| {
            serde_json::to_writer_pretty(w, &json).map_err(std::io::Error::from)
        })?;
        self.images.save(dir)?;
        self.tokenizer.save(dir)?;
        let names = ClipModel::names(&self.config);
        checkpoint::save(&self.model, &dir.join("model.safetensors"), float, &names)
    }

    /// Token ids and end places of texts, cut to the model's context.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, texts: &[String]) -> Result<text::Batch, Error> {
        let context = self.config.text.max_position_embeddings;
        Ok(self.tokenizer.encode_batch(texts, context, Padding::Longest)?)
    }

    /// L2-normalised features of texts, `[texts, dim]`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, Error> {
        let device = self.model.logit_scale.device();
        let batch = self.tokenize(texts)?;
        let (ids, ends) = batch_tokens(&batch, self.config.text.eos_token_id, &device);
        Ok(self.model.encode_texts(ids, ends))
    }
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

/// Ids `[batch, tokens]` and the [place of each end](end_places) `[batch]`.
pub fn batch_tokens(
    batch: &text::Batch,
    eos: i64,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let ends = end_places(batch, eos);
    let rows = batch.rows;
    let ids = Tensor::from_data(TensorData::new(batch.ids.clone(), [rows, batch.cols]), device);
    (ids, Tensor::from_data(TensorData::new(ends, [rows]), device))
}
