//! Where each parameter lies in a `CLIPModel` file.

use crate::checkpoint::{Layout, Named};

/// Our field names and transformers', from the outside in; the first that fits is replaced,
/// in each of the groups.
const PREFIXES: &[(&str, &str)] = &[
    ("vision.stack.blocks.", "vision_model.encoder.layers."),
    ("text.stack.blocks.", "text_model.encoder.layers."),
    ("vision.patches.", "vision_model.embeddings.patch_embedding."),
    ("vision.class", "vision_model.embeddings.class_embedding"),
    ("vision.positions", "vision_model.embeddings.position_embedding.weight"),
    // The misspelling is transformers' own.
    ("vision.pre_norm.", "vision_model.pre_layrnorm."),
    ("vision.post_norm.", "vision_model.post_layernorm."),
    ("text.tokens", "text_model.embeddings.token_embedding.weight"),
    ("text.positions", "text_model.embeddings.position_embedding.weight"),
    ("text.final_norm.", "text_model.final_layer_norm."),
];

const INNER: &[(&str, &str)] = &[
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attention.q.", ".self_attn.q_proj."),
    (".attention.k.", ".self_attn.k_proj."),
    (".attention.v.", ".self_attn.v_proj."),
    (".attention.out.", ".self_attn.out_proj."),
    (".feed_forward.up.", ".mlp.fc1."),
    (".feed_forward.down.", ".mlp.fc2."),
];

/// The name and layout of the parameter at `path`.
pub(super) fn named(path: &str, channels: usize, patch: usize) -> Named {
    let mut name = path.to_owned();
    if let Some((ours, theirs)) = PREFIXES.iter().find(|(ours, _)| path.starts_with(ours)) {
        name = format!("{theirs}{}", &path[ours.len()..]);
    }
    if let Some((ours, theirs)) = INNER.iter().find(|(ours, _)| name.contains(ours)) {
        name = name.replacen(ours, theirs, 1);
    }
    let layout = if path == "vision.patches.weight" {
        Layout::Patches { channels, patch }
    } else if path == "logit_scale" {
        Layout::Scalar
    } else if name.contains("_proj.weight")
        || name.contains("_projection.weight")
        || name.contains(".mlp.fc") && name.ends_with(".weight")
    {
        Layout::Transposed
    } else {
        Layout::Same
    };
    Named { name, layout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_hub() {
        for (path, name, layout) in [
            ("logit_scale", "logit_scale", Layout::Scalar),
            ("visual_projection.weight", "visual_projection.weight", Layout::Transposed),
            ("vision.class", "vision_model.embeddings.class_embedding", Layout::Same),
            (
                "vision.stack.blocks.3.attention.out.weight",
                "vision_model.encoder.layers.3.self_attn.out_proj.weight",
                Layout::Transposed,
            ),
            (
                "text.stack.blocks.11.feed_forward.down.bias",
                "text_model.encoder.layers.11.mlp.fc2.bias",
                Layout::Same,
            ),
            (
                "text.stack.blocks.0.norm2.weight",
                "text_model.encoder.layers.0.layer_norm2.weight",
                Layout::Same,
            ),
            (
                "vision.patches.weight",
                "vision_model.embeddings.patch_embedding.weight",
                Layout::Patches { channels: 3, patch: 8 },
            ),
        ] {
            assert_eq!(named(path, 3, 8), Named { name: name.into(), layout });
        }
    }
}
