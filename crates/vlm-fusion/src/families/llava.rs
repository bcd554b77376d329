//! LLaVA 1.5 (Liu et al. 2023, arXiv 2310.03744), `LlavaForConditionalGeneration`: any image tower,
//! an MLP, any decoder.

use serde_json::{Value, json};
use vlm_encoders::{Fields, Nested};
use vlm_nn::Activation;
use vlm_store::TensorFiles;

use super::{Family, image_token, names, section, settle_head, tied};
use crate::GenerativeSpec;
use crate::fuse::{FusionConfig, MlpConfig};
use crate::spec::Reading;

/// The projector's names.
pub const FUSION: &[(&str, &str)] =
    &[("up.", "multi_modal_projector.linear_1."), ("down.", "multi_modal_projector.linear_2.")];

pub fn parse(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    // CLIP-L/14 at 336 pixels.
    let usual = json!({
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    });
    let vision = section(&mut fields, "vision_config", usual)?;
    let text = section(&mut fields, "text_config", json!({}))?;
    let files = names::of_llava(files, &vision)?;
    let vision = Nested::vision(vision, "clip_vision_model", &files, "vision_tower.")?;
    let head = "language_model.lm_head.";
    let mut text = Nested::text(text, "llama", &files, "language_model.model.", head)?;
    settle_head(&mut text, tied(&mut fields)?, files.shape(&format!("{head}weight")).is_some());
    let skip_first = skip_first(&mut fields)?;
    let depths = depths(&mut fields, vision.spec.layers)?;
    let activation = fields.activation("projector_hidden_act", Activation::Gelu)?;
    let bias = fields.flag("multimodal_projector_bias", true)?;
    let image_token = image_token(&mut fields, ["image_token_index", "image_token_id"], 32000)?;
    // The processor counts; training's mark for what is not learned; copies of the decoder's.
    for key in ["image_seq_length", "ignore_index", "vocab_size", "hidden_size"] {
        fields.take(key);
    }
    fields.finish()?;
    Ok(Family {
        spec: GenerativeSpec {
            vision: vision.spec.clone(),
            reading: Reading::Layers { depths, skip_first },
            fusion: FusionConfig::Mlp(MlpConfig { activation, bias, pool: 1 }),
            divide: None,
            text: text.spec.clone(),
            image_token,
            prefix: false,
            memory: false,
        },
        vision,
        text,
        fusion: FUSION,
        files,
    })
}

/// Whether `vision_feature_select_strategy` leaves out the class token.
pub fn skip_first(fields: &mut Fields) -> Result<bool, String> {
    match fields.take("vision_feature_select_strategy") {
        None => Ok(true),
        Some(Value::String(name)) if name == "default" => Ok(true),
        Some(Value::String(name)) if name == "full" => Ok(false),
        Some(other) => {
            let reason = format!("is {other}; it must be \"default\" or \"full\"");
            Err(fields.bad("vision_feature_select_strategy", reason))
        }
    }
}

/// `vision_feature_layer`, one or several, as numbers of layers; those below 0 count from behind.
pub fn depths(fields: &mut Fields, layers: usize) -> Result<Vec<usize>, String> {
    let value = fields.take("vision_feature_layer").unwrap_or_else(|| json!(-2));
    let list = match &value {
        Value::Array(list) if (1..=64).contains(&list.len()) => list.clone(),
        one => vec![one.clone()],
    };
    let depth = |value: &Value| {
        let number = value.as_i64()?;
        let number = if number < 0 { number.checked_add(layers as i64 + 1)? } else { number };
        usize::try_from(number).ok().filter(|depth| *depth <= layers)
    };
    list.iter().map(depth).collect::<Option<Vec<usize>>>().ok_or_else(|| {
        let reason = format!("is {value}; the image tower has the states 0 to {layers}");
        fields.bad("vision_feature_layer", reason)
    })
}
