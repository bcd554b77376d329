//! Names of tensors: those that transformers has in memory, as those of the hub.
//!
//! Files of the hub, and what transformers saves unless told otherwise, have the hub's names; what
//! was saved from memory (transformers 5 with `save_original_format=False`, training loops of one's
//! own) has the others. Here everything gets the hub's, which are also what is written.

use serde_json::{Map, Value};
use vlm_store::TensorFiles;

/// Old beginnings and new ones.
type Changes = &'static [(&'static str, &'static str)];

const LLAVA: Changes = &[
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
];

/// Without the level of the whole model: saved from the model without a head.
const IDEFICS3: Changes = &[
    ("vision_model.", "model.vision_model."),
    ("connector.", "model.connector."),
    ("text_model.", "model.text_model."),
];

/// Within a layer of ViT and DINOv2.
const VIT: Changes = &[
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
];

/// Within a layer of ViT, whose feed-forward has other names too.
const VIT_INNER: Changes = &[("mlp.fc1.", "intermediate.dense."), ("mlp.fc2.", "output.dense.")];

/// Of LLaVA and PaliGemma; `vision` is the section of the image tower.
///
/// # Errors
/// If two tensors are the same under two names.
pub fn of_llava(files: &TensorFiles, vision: &Map<String, Value>) -> Result<TensorFiles, String> {
    let kind = vision.get("model_type").and_then(Value::as_str).unwrap_or("clip_vision_model");
    let name = |name: &str| {
        let name = changed(name, LLAVA);
        Some(match name.strip_prefix("vision_tower.") {
            Some(rest) => format!("vision_tower.{}", of_tower(rest, kind)),
            None => name,
        })
    };
    files.renamed(&name).map_err(|e| e.to_string())
}

/// What transformers has in memory for a name of the hub.
pub fn in_memory(name: &str, model_type: &str) -> String {
    let changes = match model_type {
        "llava" | "paligemma" => LLAVA,
        _ => return name.to_owned(),
    };
    let found = changes.iter().find(|(_, hub)| name.starts_with(hub));
    found.map_or_else(|| name.to_owned(), |(memory, hub)| format!("{memory}{}", &name[hub.len()..]))
}

/// Of Idefics 3.
///
/// # Errors
/// If two tensors are the same under two names.
pub fn of_idefics3(files: &TensorFiles) -> Result<TensorFiles, String> {
    files.renamed(&|name| Some(changed(name, IDEFICS3))).map_err(|e| e.to_string())
}

/// Of an image tower by itself.
fn of_tower(name: &str, kind: &str) -> String {
    match kind {
        // These have lost a level in memory.
        "clip_vision_model" | "siglip_vision_model" if !name.starts_with("vision_model.") => {
            format!("vision_model.{name}")
        }
        "vit" => {
            let name = changed(name, &[("layers.", "encoder.layer.")]);
            within(&name, &[VIT, VIT_INNER])
        }
        "dinov2" | "dinov2_with_registers" => within(name, &[VIT]),
        _ => name.to_owned(),
    }
}

/// The changes to what stands behind a layer's number.
fn within(name: &str, changes: &[Changes]) -> String {
    let layer = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.'));
    let Some((number, rest)) = layer else { return name.to_owned() };
    let rest = changes.iter().fold(rest.to_owned(), |rest, changes| changed(&rest, changes));
    format!("encoder.layer.{number}.{rest}")
}

/// A name with the first beginning that fits replaced.
fn changed(name: &str, changes: &[(&str, &str)]) -> String {
    let found = changes.iter().find_map(|(old, new)| Some((name.strip_prefix(old)?, *new)));
    match found {
        Some((rest, new)) => format!("{new}{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn towers_get_the_names_of_the_hub() {
        for (kind, memory, hub) in [
            ("vit", "layers.3.mlp.fc1.bias", "encoder.layer.3.intermediate.dense.bias"),
            (
                "vit",
                "layers.3.attention.o_proj.bias",
                "encoder.layer.3.attention.output.dense.bias",
            ),
            ("dinov2", "encoder.layer.0.mlp.fc1.bias", "encoder.layer.0.mlp.fc1.bias"),
            ("dinov2", "encoder.layer.0.norm1.bias", "encoder.layer.0.norm1.bias"),
            ("clip_vision_model", "post_layernorm.bias", "vision_model.post_layernorm.bias"),
            ("siglip_vision_model", "vision_model.head.probe", "vision_model.head.probe"),
        ] {
            assert_eq!(of_tower(memory, kind), hub);
            assert_eq!(of_tower(hub, kind), hub);
        }
    }
}
