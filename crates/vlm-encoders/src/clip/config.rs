//! `config.json` of a `CLIPModel`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::{Activation, BlockConfig};
use vlm_store::Float;

use crate::families::HARMLESS;

/// The text tower's shape. Missing fields have transformers' defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Values a token.
    pub hidden_size: usize,
    /// Inner width of the feed-forward.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Activation.
    pub hidden_act: Activation,
    /// Added under the norms' root.
    pub layer_norm_eps: f64,
    /// Start token.
    pub bos_token_id: i64,
    /// End token; the legacy value 2 means "the largest id of the text".
    pub eos_token_id: i64,
    /// Padding token.
    pub pad_token_id: i64,
    /// Dimensions of the shared space.
    pub projection_dim: usize,
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            bos_token_id: 49406,
            eos_token_id: 49407,
            pad_token_id: 1,
            projection_dim: 512,
        }
    }
}

/// The image tower's shape. Missing fields have transformers' defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionConfig {
    /// Values a token.
    pub hidden_size: usize,
    /// Inner width of the feed-forward.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Colour channels.
    pub num_channels: usize,
    /// Side of the picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Activation.
    pub hidden_act: Activation,
    /// Added under the norms' root.
    pub layer_norm_eps: f64,
    /// Dimensions of the shared space.
    pub projection_dim: usize,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

/// A dual encoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The text tower.
    pub text: TextConfig,
    /// The image tower.
    pub vision: VisionConfig,
    /// Dimensions of the shared space.
    pub projection_dim: usize,
    /// The logarithm of the logit scale at the start.
    pub logit_scale_init_value: f64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        ClipConfig {
            text: TextConfig::default(),
            vision: VisionConfig::default(),
            projection_dim: 512,
            logit_scale_init_value: 2.6592,
        }
    }
}

impl ClipConfig {
    /// Understands a `config.json`: an option that is not understood is refused, never guessed.
    pub(crate) fn parse(mut value: Map<String, Value>) -> Result<Self, String> {
        match value.get("model_type").and_then(Value::as_str) {
            Some("clip") => {}
            Some(other) => {
                return Err(format!("model_type `{other}` is not supported; supported: clip"));
            }
            None => return Err("there is no model_type; supported: clip".into()),
        }
        let text: TextConfig = tower(&mut value, "text_config", true)?;
        let vision: VisionConfig = tower(&mut value, "vision_config", false)?;
        let projection_dim = match value.remove("projection_dim") {
            None => 512,
            Some(v) => v.as_u64().ok_or("projection_dim is not a number")? as usize,
        };
        let logit_scale_init_value = match value.remove("logit_scale_init_value") {
            None => 2.6592,
            Some(v) => v.as_f64().ok_or("logit_scale_init_value is not a number")?,
        };
        refuse_unknown(&value, "")?;
        let config = ClipConfig { text, vision, projection_dim, logit_scale_init_value };
        config.validate()?;
        Ok(config)
    }

    /// Whether the numbers can be a model.
    ///
    /// # Errors
    /// A sentence that names the number.
    pub fn validate(&self) -> Result<(), String> {
        let (t, v) = (&self.text, &self.vision);
        // Beyond any model, and small enough that no product of three overflows.
        const LIMIT: usize = 1 << 20;
        for (name, value) in [
            ("vocab_size", t.vocab_size),
            ("text hidden_size", t.hidden_size),
            ("text intermediate_size", t.intermediate_size),
            ("text num_attention_heads", t.num_attention_heads),
            ("max_position_embeddings", t.max_position_embeddings),
            ("vision hidden_size", v.hidden_size),
            ("vision intermediate_size", v.intermediate_size),
            ("vision num_attention_heads", v.num_attention_heads),
            ("num_channels", v.num_channels),
            ("image_size", v.image_size),
            ("patch_size", v.patch_size),
            ("projection_dim", self.projection_dim),
        ] {
            if value == 0 || value > LIMIT {
                return Err(format!("{name} is {value}, which no model has"));
            }
        }
        if t.num_hidden_layers > 10_000 || v.num_hidden_layers > 10_000 {
            return Err("num_hidden_layers is over 10000, which no model has".into());
        }
        for (what, width, heads) in [
            ("text", t.hidden_size, t.num_attention_heads),
            ("vision", v.hidden_size, v.num_attention_heads),
        ] {
            if width % heads != 0 {
                return Err(format!(
                    "{what} hidden_size {width} is not a multiple of its {heads} heads"
                ));
            }
        }
        if v.patch_size > v.image_size {
            return Err(format!(
                "patch_size {} is larger than image_size {}",
                v.patch_size, v.image_size
            ));
        }
        if !(t.layer_norm_eps > 0.0 && v.layer_norm_eps > 0.0) {
            return Err("layer_norm_eps must be above 0".into());
        }
        Ok(())
    }

    /// What transformers writes for this model with its weights in that type.
    ///
    /// # Errors
    /// None that can occur with numbers; JSON's own.
    pub fn to_json(&self, float: Float) -> Result<Value, serde_json::Error> {
        let mut text = serde_json::to_value(&self.text)?;
        let mut vision = serde_json::to_value(&self.vision)?;
        text["model_type"] = json!("clip_text_model");
        vision["model_type"] = json!("clip_vision_model");
        text["attention_dropout"] = json!(0.0);
        vision["attention_dropout"] = json!(0.0);
        Ok(json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "initializer_factor": 1.0,
            "torch_dtype": match float {
                Float::F32 => "float32",
                Float::F16 => "float16",
                Float::Bf16 => "bfloat16",
            },
            "text_config": text,
            "vision_config": vision,
        }))
    }
}

/// A tower's section, without the keys that mean nothing here. Old files have a second copy,
/// which transformers takes where both are there.
fn tower<T: for<'a> Deserialize<'a> + Default>(
    config: &mut Map<String, Value>,
    name: &str,
    has_tokens: bool,
) -> Result<T, String> {
    let section = config.remove(name);
    let copy = config.remove(&format!("{name}_dict")).filter(|copy| !copy.is_null());
    let mut map = match copy.or(section) {
        None | Some(Value::Null) => return Ok(T::default()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(format!("{name} is not an object")),
    };
    map.retain(|key, value| {
        let token =
            has_tokens && ["bos_token_id", "eos_token_id", "pad_token_id"].contains(&key.as_str());
        // A null means "the default" in the files that transformers writes.
        !value.is_null() && (token || !HARMLESS.contains(&key.as_str()))
    });
    serde_json::from_value(Value::Object(map)).map_err(|e| format!("{name}: {e}"))
}

fn refuse_unknown(map: &Map<String, Value>, place: &str) -> Result<(), String> {
    let unknown: Vec<&str> =
        map.keys().map(String::as_str).filter(|key| !HARMLESS.contains(key)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!("unknown key{place}: {}", unknown.join(", ")))
}

impl TextConfig {
    pub(crate) fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
            causal: true,
            ..BlockConfig::default()
        }
    }
}

impl VisionConfig {
    pub(crate) fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
            ..BlockConfig::default()
        }
    }
}
