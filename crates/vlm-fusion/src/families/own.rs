//! Models of this project that no class of transformers is: any image tower, any fusion, any
//! decoder.

use serde_json::{Value, json};
use vlm_encoders::{Fields, Nested};
use vlm_store::TensorFiles;

use super::llava::{depths, skip_first};
use super::{Family, image_token, section};
use crate::GenerativeSpec;
use crate::fuse::FusionConfig;
use crate::spec::Reading;

/// Beginnings of the tensors' names, which are LLaVA's.
pub const VISION: &str = "vision_tower.";
pub const TEXT: &str = "language_model.model.";
pub const HEAD: &str = "language_model.lm_head.";

pub fn parse(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let vision = section(&mut fields, "vision_config", json!({}))?;
    let text = section(&mut fields, "text_config", json!({}))?;
    let vision = Nested::vision(vision, "dinov2", files, VISION)?;
    let text = Nested::text(text, "llama", files, TEXT, HEAD)?;
    let fusion = fields.take("fusion").unwrap_or(Value::Null);
    let fusion: FusionConfig =
        serde_json::from_value(fusion).map_err(|e| fields.bad("fusion", e.to_string()))?;
    let skip_first = skip_first(&mut fields)?;
    let depths = depths(&mut fields, vision.spec.layers)?;
    let prefix = fields.flag("prefix_lm", false)?;
    let image_token = image_token(&mut fields, ["image_token_index", "image_token_id"], 0)?;
    fields.take("tie_word_embeddings");
    fields.finish()?;
    Ok(Family {
        spec: GenerativeSpec {
            vision: vision.spec.clone(),
            reading: Reading::Layers { depths, skip_first },
            fusion,
            divide: None,
            text: text.spec.clone(),
            image_token,
            prefix,
            memory: false,
        },
        vision,
        text,
        fusion: &[],
        files: files.clone(),
    })
}
