//! PaliGemma 1 and 2 (Beyer et al. 2024, arXiv 2407.07726; Steiner et al. 2024, arXiv 2412.03555),
//! `PaliGemmaForConditionalGeneration`.

use serde_json::json;
use vlm_encoders::{Fields, Nested};
use vlm_store::TensorFiles;

use super::{Family, image_token, names, section, settle_head, tied, written_by};
use crate::GenerativeSpec;
use crate::fuse::{FusionConfig, LinearConfig};
use crate::spec::Reading;

const FUSION: &[(&str, &str)] = &[("linear.", "multi_modal_projector.linear.")];

pub fn parse(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    // SigLIP-So400m and Gemma 2B.
    let usual = json!({
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4096,
        "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
        "vision_use_head": false,
    });
    let mut vision = section(&mut fields, "vision_config", usual)?;
    vision.entry("model_type").or_insert_with(|| json!("siglip_vision_model"));
    let usual = json!({
        "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384,
        "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
        "vocab_size": 257_152,
    });
    let mut text = section(&mut fields, "text_config", usual)?;
    // Of transformers 5; Gemma by itself knows no such thing.
    let mut both = Fields::new(text, "text_config.");
    let prefix = both.flag("use_bidirectional_attention", true)?;
    text = both.into_map();
    let files = names::of_llava(files, &vision)?;
    let vision = Nested::vision(vision, "siglip_vision_model", &files, "vision_tower.")?;
    let head = "language_model.lm_head.";
    let mut text = Nested::text(text, "gemma", &files, "language_model.model.", head)?;
    let softcap = text.spec.head.and_then(|head| head.softcap);
    settle_head(&mut text, tied(&mut fields)?, files.shape(&format!("{head}weight")).is_some());
    // Of Gemma 2; from 4.52 to 4.57 transformers forgot it.
    if let Some(head) = text.spec.head.as_mut().filter(|_| !written_by(&fields, 52)) {
        head.softcap = softcap;
    }
    let width = text.spec.shape.width;
    let projected = fields.size("projection_dim", 2048)?;
    if projected != width {
        let reason = format!("is {projected}, but the decoder's hidden_size is {width}");
        return Err(fields.bad("projection_dim", reason));
    }
    let image_token = image_token(&mut fields, ["image_token_index", "image_token_id"], 256_000)?;
    // Copies of the decoder's.
    for key in ["hidden_size", "vocab_size", "_vocab_size", "ignore_index", "num_hidden_layers"] {
        fields.take(key);
    }
    fields.finish()?;
    Ok(Family {
        spec: GenerativeSpec {
            vision: vision.spec.clone(),
            reading: Reading::Last,
            fusion: FusionConfig::Linear(LinearConfig::default()),
            // Gemma multiplies what it is given by this.
            divide: Some((width as f64).sqrt()),
            text: text.spec.clone(),
            image_token,
            prefix,
            memory: false,
        },
        vision,
        text,
        fusion: FUSION,
        files,
    })
}
