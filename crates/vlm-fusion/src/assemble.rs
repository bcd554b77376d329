//! A new generative model out of an image encoder and a language model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_encoders::image::Resize;
use vlm_encoders::{Encoder, Nested, NewDecoder, TextFolder, VisionFolder};

use crate::families::{llava, own};
use crate::fuse::{Fusion, FusionConfig, MlpConfig};
use crate::processor::{Markup, Processor};
use crate::spec::Reading;
use crate::{Error, GenerativeFolder, GenerativeModel, GenerativeSpec, Plan};

/// What marks a picture in the texts of an assembled model.
const IMAGE: &str = "<image>";

/// What a new model is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assembly {
    /// The folder of an image encoder.
    pub vision: PathBuf,
    /// The folder of a language model.
    #[serde(default)]
    pub language: Option<PathBuf>,
    /// In its place, a new one of this shape, whose tokens are learned from what it is trained on.
    #[serde(default)]
    pub decoder: Option<NewDecoder>,
    /// What stands between: `{ kind = "mlp" }` and its choices.
    #[serde(default = "mlp")]
    pub fusion: FusionConfig,
    /// Layers of the image tower that are looked through, counted from behind if below 0; the last
    /// but one (−2) if not given.
    #[serde(default)]
    pub layer: Option<i64>,
    /// Side in pixels that pictures are stretched to, a multiple of the patches; as the image
    /// encoder has it if not given.
    #[serde(default)]
    pub image_size: Option<usize>,
    /// Blocks of the language model that are kept, from the first on; all if not given. A shallower decoder
    /// trains and answers in that much less time, and has to be trained along.
    #[serde(default)]
    pub language_layers: Option<usize>,
    /// Whether the tokens of a prompt see each other both ways.
    #[serde(default)]
    pub prefix_lm: bool,
    /// Whether the language model's chat template is left out: a model is then asked one question at a time,
    /// with nothing around it, which can halve the tokens of short ones, and has to be trained so.
    #[serde(default)]
    pub plain: bool,
}

fn mlp() -> FusionConfig {
    FusionConfig::Mlp(MlpConfig::default())
}

impl Assembly {
    /// Two towers with LLaVA's projector between.
    pub fn new(vision: impl Into<PathBuf>, language: impl Into<PathBuf>) -> Self {
        Assembly {
            vision: vision.into(),
            language: Some(language.into()),
            decoder: None,
            fusion: mlp(),
            layer: None,
            image_size: None,
            language_layers: None,
            prefix_lm: false,
            plain: false,
        }
    }

    /// Whether a class of transformers is this model: LLaVA's.
    fn is_llava(&self) -> bool {
        let plain = |config: &MlpConfig| config.pool == 1;
        matches!(&self.fusion, FusionConfig::Mlp(config) if plain(config)) && !self.prefix_lm
    }

    /// Puts the parts together; the fusion has start values that depend on the seed alone. The
    /// tokenizer gets the mark `<image>`, and the language model a row for it. A new decoder learns its
    /// tokens from the texts.
    ///
    /// # Errors
    /// If a folder cannot be opened or is of another kind, or a choice does not fit.
    pub fn assemble(
        &self,
        texts: impl Iterator<Item = String>,
        seed: u64,
        device: &Device,
    ) -> Result<GenerativeFolder, Error> {
        self.fusion.check()?;
        let vision = self.open_vision(device)?;
        let mut language = match (&self.language, &self.decoder) {
            (Some(dir), None) => open_language(dir, device)?,
            (None, Some(decoder)) => decoder.begin(texts, seed, device)?,
            _ => return Err(Error::Language),
        };
        self.shorten(&mut language)?;
        if self.plain {
            language.tokenizer =
                language.tokenizer.without_template().map_err(vlm_encoders::Error::from)?;
        }
        let (tokenizer, image_token) =
            language.tokenizer.with_token(IMAGE).map_err(vlm_encoders::Error::from)?;
        let rows = language.plan.spec.vocabulary;
        if image_token >= rows as i64 {
            grow(&mut language, image_token as usize + 1);
        }
        let mut images = vision.images.clone();
        if let Some(side) = self.image_size {
            images.resize = Some(Resize::Exact { height: side, width: side });
            images.crop = None;
        }
        let layers = vision.plan.spec.layers as i64;
        let layer = self.layer.unwrap_or(-2);
        let depth = if layer < 0 { layer + layers + 1 } else { layer };
        let wrong = |path: &Path, reason: String| Error::Assemble { path: path.to_owned(), reason };
        let depth =
            usize::try_from(depth).ok().filter(|d| *d as i64 <= layers).ok_or_else(|| {
                wrong(&self.vision, format!("layer {layer} does not exist; it has 0 to {layers}"))
            })?;
        let size = images.output_size().ok_or_else(|| {
            wrong(&self.vision, "its pictures have no one size; give an image size".into())
        })?;
        let (patch, fixed) = (vision.plan.spec.patch, !vision.model.vision.takes(size));
        if size.0 % patch != 0 || size.1 % patch != 0 || fixed {
            let reason = format!(
                "does not take pictures of {}x{}; give another image size, a multiple of {patch}",
                size.0, size.1
            );
            return Err(wrong(&self.vision, reason));
        }
        let skip_first = vision.plan.spec.class;
        let (vision_nested, text_nested) = (
            Nested::of(&vision.plan, own::VISION, ""),
            Nested::of(&language.plan, own::TEXT, own::HEAD),
        );
        let spec = GenerativeSpec {
            vision: vision.plan.spec.clone(),
            reading: Reading::Layers { depths: vec![depth], skip_first },
            fusion: self.fusion.clone(),
            divide: None,
            text: language.plan.spec.clone(),
            image_token,
            prefix: self.prefix_lm,
            memory: false,
        };
        let grid = (size.0 / patch, size.1 / patch);
        if let FusionConfig::PixelShuffle(config) = &self.fusion
            && (grid.0 % config.factor != 0 || grid.1 % config.factor != 0)
        {
            let reason = format!(
                "a grid of {}x{} patches is no multiple of factor {}; change one of them",
                grid.0, grid.1, config.factor
            );
            return Err(Error::Fusion { kind: "pixel-shuffle", reason });
        }
        let config = self.config(&spec, &vision, &language, layer);
        let mut model = GenerativeModel::new(&spec, device)?;
        let text_width = spec.text.shape.width;
        let layers = spec.text.blocks.len();
        model.fusion =
            Fusion::init(&self.fusion, spec.fused_width(), text_width, layers, seed, device)?;
        model.vision = vision.model.vision;
        model.text = language.model.text;
        let processor_config = json!({
            "processor_class": "LlavaProcessor", "patch_size": patch, "image_token": IMAGE,
            "num_additional_image_tokens": usize::from(skip_first),
            "vision_feature_select_strategy": if skip_first { "default" } else { "full" },
        });
        let mut carried = BTreeMap::new();
        if self.is_llava() {
            carried.insert("processor_config.json", bytes(&processor_config));
        }
        images_file(&images, &mut carried)?;
        let generation = self.language.as_ref().map(|dir| dir.join("generation_config.json"));
        if let Some(bytes) = generation.and_then(|file| std::fs::read(file).ok()) {
            carried.insert("generation_config.json", bytes);
        }
        let processor = Processor::new(Markup::Llava, IMAGE);
        let fusion = if self.is_llava() { llava::FUSION } else { &[] };
        let plan = Plan::new(config, spec, (vision_nested, text_nested), fusion);
        Ok(GenerativeFolder::assembled(plan, model, (images, tokenizer, processor), carried))
    }

    fn open_vision(&self, device: &Device) -> Result<VisionFolder, Error> {
        let wrong = |what: &str| Error::Assemble {
            path: self.vision.clone(),
            reason: format!("holds {what}; give the folder of an image encoder, such as DINOv2"),
        };
        match Encoder::open(&self.vision, device)? {
            Encoder::Vision(folder) if folder.model.vision.plain() => Ok(folder),
            Encoder::Vision(_) => Err(wrong("an encoder of pictures with grids of their own")),
            Encoder::Text(_) => Err(wrong("a text encoder")),
            Encoder::Dual(folder) => {
                let (vision, images) = (folder.model.vision, folder.images);
                let spec = folder.plan.spec.vision.clone();
                let plan = folder.plan.with(spec);
                let model = vlm_encoders::VisionModel { vision, visual_projection: None };
                Ok(VisionFolder { plan, model, images })
            }
        }
    }

    /// Leaves the first blocks of a language model.
    fn shorten(&self, language: &mut TextFolder) -> Result<(), Error> {
        let Some(kept) = self.language_layers else { return Ok(()) };
        let layers = language.plan.spec.blocks.len();
        if kept == 0 || kept > layers {
            let reason = format!("has {layers} layers; keep 1 to {layers} of them, not {kept}");
            let path = self.language.clone().unwrap_or_else(|| "decoder".into());
            return Err(Error::Assemble { path, reason });
        }
        language.plan.spec.blocks.truncate(kept);
        language.model.text.stack.blocks.truncate(kept);
        Ok(())
    }

    /// What `config.json` says of the model.
    fn config(
        &self,
        spec: &GenerativeSpec,
        vision: &VisionFolder,
        language: &TextFolder,
        layer: i64,
    ) -> Map<String, Value> {
        let mut config = Map::new();
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        let mut of_vision = vision.plan.config().clone();
        if let Some(Value::Object(section)) = of_vision.remove("vision_config") {
            let kind = match of_vision.get("model_type").and_then(Value::as_str) {
                Some("siglip") => "siglip_vision_model",
                _ => "clip_vision_model",
            };
            of_vision = section;
            of_vision.insert("model_type".into(), json!(kind));
        }
        let mut of_text = language.plan.config().clone();
        of_text.insert("vocab_size".into(), json!(spec.text.vocabulary));
        let layers = spec.text.blocks.len();
        of_text.insert("num_hidden_layers".into(), json!(layers));
        // Some families list the kind of each.
        if let Some(Value::Array(kinds)) = of_text.get_mut("layer_types") {
            kinds.truncate(layers);
        }
        put("vision_config", Value::Object(of_vision));
        put("text_config", Value::Object(of_text));
        put("image_token_index", json!(spec.image_token));
        put("vision_feature_layer", json!(layer));
        let Reading::Layers { skip_first, .. } = &spec.reading else { return config };
        let strategy = if *skip_first { "default" } else { "full" };
        put("vision_feature_select_strategy", json!(strategy));
        put("tie_word_embeddings", json!(spec.text.head.is_some_and(|head| head.tied)));
        match (&self.fusion, self.is_llava()) {
            (FusionConfig::Mlp(mlp), true) => {
                put("model_type", json!("llava"));
                put("architectures", json!(["LlavaForConditionalGeneration"]));
                put("projector_hidden_act", json!(mlp.activation));
                put("multimodal_projector_bias", json!(mlp.bias));
            }
            _ => {
                put("model_type", json!("vlm"));
                put("fusion", json!(self.fusion));
                put("prefix_lm", json!(self.prefix_lm));
            }
        }
        config
    }
}

fn open_language(dir: &Path, device: &Device) -> Result<TextFolder, Error> {
    let wrong = |reason: &str| Error::Assemble {
        path: dir.to_owned(),
        reason: format!("{reason}; give the folder of a language model, such as SmolLM2"),
    };
    match Encoder::open(dir, device)? {
        Encoder::Text(folder) if folder.plan.spec.head.is_some() => Ok(folder),
        Encoder::Text(_) => Err(wrong("has no map to the vocabulary")),
        _ => Err(wrong("holds no language model")),
    }
}

/// Adds rows to the vocabulary up to so many, each the mean of all: the start that disturbs least.
fn grow(language: &mut TextFolder, rows: usize) {
    let longer = |table: Tensor<2>, dim: usize| {
        let more = rows - table.dims()[dim];
        let mean = table.clone().mean_dim(dim).repeat_dim(dim, more);
        Tensor::cat(vec![table, mean], dim)
    };
    let text = &mut language.model.text;
    text.tokens = Param::from_tensor(longer(text.tokens.val(), 0));
    if let Some(head) = &mut text.head {
        head.weight = Param::from_tensor(longer(head.weight.val(), 1));
    }
    language.plan.spec.vocabulary = rows;
}

/// What the image processor's own file says, which is written beside the others.
fn images_file(
    images: &vlm_encoders::image::ImageProcessor,
    carried: &mut BTreeMap<&'static str, Vec<u8>>,
) -> Result<(), Error> {
    let text = images.to_json().map_err(vlm_encoders::Error::from)?;
    carried.insert("preprocessor_config.json", text.into_bytes());
    Ok(())
}

fn bytes(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
