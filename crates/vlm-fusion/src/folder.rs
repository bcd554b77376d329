//! Folders of generative models in the Hugging Face layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::Device;
use vlm_encoders::image::ImageProcessor;
use vlm_encoders::text::{Message, Tokenizer};
use vlm_encoders::{Error as EncoderError, FourBitConfig, check_images};
use vlm_store::{Float, write_file};

use crate::families;
use crate::fuse::FusionConfig;
use crate::processor::{Markup, Processor};
use crate::{Error, GenerativeModel, GenerativeSpec, Plan};

/// Small files that are written back as they were read.
const CARRIED: [&str; 4] = [
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];
/// No real one has a hundredth of this.
const MAX_BYTES: u64 = 10_000_000;

/// A generative model with what prepares pictures and texts for it.
#[derive(Debug)]
pub struct GenerativeFolder {
    /// The shape, and how the folder is written again.
    pub plan: Plan,
    /// The weights.
    pub model: GenerativeModel,
    /// What turns pictures into pixels.
    pub images: ImageProcessor,
    /// What turns texts into ids.
    pub tokenizer: Tokenizer,
    /// How pictures stand in texts.
    pub(crate) processor: Processor,
    /// Small files beside them, by name.
    carried: BTreeMap<&'static str, Vec<u8>>,
    /// Whether the chat template knows messages in parts; found out when it is first asked.
    knows_parts: OnceLock<bool>,
}

impl GenerativeFolder {
    /// A new model that has been put together.
    pub(crate) fn assembled(
        plan: Plan,
        model: GenerativeModel,
        (images, tokenizer, processor): (ImageProcessor, Tokenizer, Processor),
        carried: BTreeMap<&'static str, Vec<u8>>,
    ) -> Self {
        let knows_parts = OnceLock::new();
        GenerativeFolder { plan, model, images, tokenizer, processor, carried, knows_parts }
    }

    /// Whether the chat template knows messages in parts, of which some are pictures.
    pub(crate) fn knows_parts(&self) -> bool {
        *self.knows_parts.get_or_init(|| {
            let probe = Message::image_and_text("user", "?");
            self.tokenizer.chat(&[probe], true).is_ok_and(|text| self.places(&text) == 1)
        })
    }

    /// Whether a folder says that it holds a generative model.
    pub fn is_one(dir: &Path) -> bool {
        let config = vlm_encoders::read_object(&dir.join("config.json")).unwrap_or_default();
        let kind = config.get("model_type").and_then(serde_json::Value::as_str);
        kind.is_some_and(|kind| families::markup(kind).is_some())
    }

    /// Opens a folder that transformers or this project wrote; its `config.json` says what it is.
    ///
    /// # Errors
    /// If the architecture or one of its options is not supported, a file is missing or damaged, or
    /// files do not fit each other.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::open_packed(dir, None, device)
    }

    /// The same; with `packed`, the linear maps of the decoder's blocks keep four bits of each weight, and
    /// never more than one of them is in memory whole. Those that have four bits in the file keep them
    /// anyway.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_packed(
        dir: &Path,
        packed: Option<FourBitConfig>,
        device: &Device,
    ) -> Result<Self, Error> {
        let (plan, files) = Plan::read(dir)?;
        let images = ImageProcessor::from_dir(dir).map_err(EncoderError::from)?;
        let tokenizer = Tokenizer::from_dir(dir).map_err(EncoderError::from)?;
        let bos = tokenizer.bos_id().and_then(|id| tokenizer.id_to_token(id));
        let markup = families::markup(plan.model_type()).unwrap_or(Markup::Llava);
        let processor = Processor::read(dir, markup, bos)?;
        let config = |reason| EncoderError::Config { path: dir.join("config.json"), reason };
        check_images(&plan.spec.vision, &images).map_err(config)?;
        check_tiles(&plan.spec, &images).map_err(config)?;
        check_tokens(&plan.spec, &tokenizer).map_err(config)?;
        let (token, id) = (&processor.token, plan.spec.image_token);
        if tokenizer.token_to_id(token) != Some(id) {
            return Err(Error::NoImageToken { dir: dir.to_owned(), token: token.clone(), id });
        }
        let carried = read_carried(dir)?;
        let model = plan.load(&files, packed, device)?;
        Ok(Self::assembled(plan, model, (images, tokenizer, processor), carried))
    }

    /// How many places of the decoder's sequence a picture of this height and width takes.
    pub fn rows_of(&self, size: (usize, usize)) -> usize {
        crate::model::rows_of(&self.plan.spec, size)
    }

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
    pub fn save_with(
        &self,
        model: &GenerativeModel,
        dir: &Path,
        float: Float,
    ) -> Result<(), Error> {
        self.plan.save(model, dir, float)?;
        for (name, bytes) in &self.carried {
            write_file(&dir.join(name), &mut |w| w.write_all(bytes)).map_err(EncoderError::from)?;
        }
        Ok(self.tokenizer.save(dir).map_err(EncoderError::from)?)
    }
}

/// Whether a tile, or a picture, becomes whole rows.
fn check_tiles(spec: &GenerativeSpec, images: &ImageProcessor) -> Result<(), String> {
    let FusionConfig::PixelShuffle(config) = &spec.fusion else { return Ok(()) };
    let (patch, factor) = (spec.vision.patch, config.factor);
    match images.output_size() {
        Some((height, width)) if height == width && (height / patch).is_multiple_of(factor) => Ok(()),
        Some((height, width)) => Err(format!(
            "preprocessor_config.json makes pictures of {height}x{width}, which are not squares of whole {factor}x{factor} patches of {patch} pixels (scale_factor, patch_size)"
        )),
        None => Err("preprocessor_config.json makes pictures of any size; this model wants squares of one size".into()),
    }
}

/// Whether every token has a row, but for that of pictures, which needs none. Where PaliGemma's
/// processor has added tokens for places to a vocabulary without them, they are refused in use.
fn check_tokens(spec: &GenerativeSpec, tokenizer: &Tokenizer) -> Result<(), String> {
    let rows = spec.text.vocabulary;
    let beyond = usize::from(spec.image_token >= rows as i64);
    let added = tokenizer.token_to_id("<loc0000>").is_some_and(|id| id >= rows as i64);
    if !added && tokenizer.vocab_size() > rows + beyond {
        return Err(format!(
            "vocab_size is {rows}, but tokenizer.json has {} tokens",
            tokenizer.vocab_size()
        ));
    }
    Ok(())
}

fn read_carried(dir: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>, Error> {
    let mut carried = BTreeMap::new();
    for name in CARRIED {
        let path = dir.join(name);
        let io = |source| EncoderError::Io { path: path.clone(), source };
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error).into()),
            Ok(about) if !about.is_file() || about.len() > MAX_BYTES => {
                let reason = "is no file of settings; copy it again".to_owned();
                return Err(Error::File { path, reason });
            }
            Ok(_) => {
                carried.insert(name, std::fs::read(&path).map_err(io)?);
            }
        }
    }
    Ok(carried)
}
