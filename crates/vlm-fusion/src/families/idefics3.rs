//! Idefics 3 (Laurençon et al. 2024, arXiv 2408.12637) and SmolVLM (Marafioti et al. 2025,
//! arXiv 2504.05299), which is the same model under another name.

use serde_json::json;
use vlm_encoders::{Fields, Nested};
use vlm_store::TensorFiles;

use super::{Family, image_token, names, section, settle_head, tied, written_by};
use crate::GenerativeSpec;
use crate::fuse::{FusionConfig, PixelShuffleConfig};
use crate::spec::Reading;

const FUSION: &[(&str, &str)] = &[("projection.", "model.connector.modality_projection.proj.")];

pub fn parse(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let text = section(&mut fields, "text_config", json!({ "rms_norm_eps": 1e-5 }))?;
    let vision = section(&mut fields, "vision_config", json!({}))?;
    // Published models were trained before that, and 5 is without again (issue 41190 there).
    let shifted = written_by(&fields, 55);
    let files = names::of_idefics3(files)?;
    let vision = Nested::idefics3(vision, shifted, &files, "model.")?;
    let mut text = Nested::text(text, "llama", &files, "model.text_model.", "lm_head.")?;
    settle_head(&mut text, tied(&mut fields)?, files.shape("lm_head.weight").is_some());
    let factor = fields.size("scale_factor", 2)?;
    let side = vision.spec.image.0 / vision.spec.patch;
    if !side.is_multiple_of(factor) {
        let reason = format!("is {factor}, which does not divide the {side} patches of a side");
        return Err(fields.bad("scale_factor", reason));
    }
    let image_token = image_token(&mut fields, ["image_token_id", "image_token_index"], 128_257)?;
    // Copies of the decoder's, and of how training went.
    for key in ["_pad_token_id", "image_seq_len", "use_reentrant_checkpointing", "vocab_size"] {
        fields.take(key);
    }
    fields.take("transformers.js_config");
    fields.finish()?;
    Ok(Family {
        spec: GenerativeSpec {
            vision: vision.spec.clone(),
            reading: Reading::Last,
            fusion: FusionConfig::PixelShuffle(PixelShuffleConfig { factor }),
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
