//! CLIP (Radford et al. 2021, arXiv 2103.00020).

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use vlm_store::TensorFiles;

use super::fields::{Fields, HARMLESS};
use super::names::{Entry, How, Names};
use super::{DualSpec, Family, Spec};
use crate::clip::{ClipConfig, TextConfig, VisionConfig};
use crate::towers::{Places, PostNorm, TextPool, TextSpec, VisionPool, VisionSpec};

/// Shared with SigLIP.
pub const INNER: &[Entry] = &[
    ("norm1.", "layer_norm1.", How::Plain),
    ("norm2.", "layer_norm2.", How::Plain),
    ("attention.q.", "self_attn.q_proj.", How::Plain),
    ("attention.k.", "self_attn.k_proj.", How::Plain),
    ("attention.v.", "self_attn.v_proj.", How::Plain),
    ("attention.out.", "self_attn.out_proj.", How::Plain),
    ("feed_forward.up.", "mlp.fc1.", How::Plain),
    ("feed_forward.down.", "mlp.fc2.", How::Plain),
];

const OUTER: &[Entry] = &[
    ("vision.patches.", "embeddings.patch_embedding.", How::Plain),
    ("vision.class", "embeddings.class_embedding", How::Plain),
    ("vision.positions", "embeddings.position_embedding.weight", How::Plain),
    // The misspelling is transformers' own.
    ("vision.pre_norm.", "pre_layrnorm.", How::Plain),
    ("vision.post_norm.", "post_layernorm.", How::Plain),
    ("text.tokens", "embeddings.token_embedding.weight", How::Plain),
    ("text.positions", "embeddings.position_embedding.weight", How::Plain),
    ("text.final_norm.", "final_layer_norm.", How::Plain),
    ("visual_projection.", "/visual_projection.", How::Plain),
    ("text_projection.", "/text_projection.", How::Plain),
    ("logit_scale", "/logit_scale", How::Scalar),
];

pub const SURPLUS: &[&str] = &[".embeddings.position_ids"];

/// The table of a config.
pub fn clip_names(vision: &VisionConfig) -> Names {
    names(Some((vision.num_channels, vision.patch_size)))
}

fn names(patches: Option<(usize, usize)>) -> Names {
    Names {
        roots: ["vision_model.".into(), "text_model.".into()],
        blocks: ["encoder.layers.", "encoder.layers."],
        inner: INNER,
        outer: OUTER,
        patches,
    }
}

/// The towers of a config.
pub fn clip_spec(config: &ClipConfig) -> DualSpec {
    DualSpec {
        vision: vision_spec(&config.vision),
        text: text_spec(&config.text),
        dim: config.projection_dim,
        projections: true,
        bias: false,
    }
}

fn vision_spec(config: &VisionConfig) -> VisionSpec {
    VisionSpec {
        image: (config.image_size, config.image_size),
        patch: config.patch_size,
        channels: config.num_channels,
        layers: config.num_hidden_layers,
        block: config.block(),
        patch_bias: false,
        class: true,
        registers: 0,
        pre_norm: true,
        post_norm: PostNorm::Pooled,
        pool: VisionPool::Class,
        places: Places::Fixed,
    }
}

fn text_spec(config: &TextConfig) -> TextSpec {
    TextSpec {
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        positions: true,
        segments: 0,
        embed_norm: false,
        embed_scale: None,
        blocks: vec![config.block(); config.num_hidden_layers],
        shape: config.block(),
        final_norm: true,
        pool: TextPool::End(config.eos_token_id),
        dense: None,
        dense_tanh: false,
        head: None,
    }
}

/// `CLIPModel`.
pub fn dual(fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    let config = ClipConfig::parse(fields.into_map())?;
    Ok(Family {
        spec: Spec::Dual(clip_spec(&config)),
        names: clip_names(&config.vision),
        carried: &[],
        surplus: SURPLUS,
    })
}

/// `CLIPVisionModel`, with its projection or without.
pub fn vision(fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let config: VisionConfig = tower(fields.into_map(), &[])?;
    ClipConfig { vision: config.clone(), ..ClipConfig::default() }.validate()?;
    let projection = files.shape("visual_projection.weight").map(|_| config.projection_dim);
    Ok(Family {
        spec: Spec::Vision(vision_spec(&config), projection),
        names: clip_names(&config),
        carried: &[],
        surplus: SURPLUS,
    })
}

/// `CLIPTextModel`, with its projection or without.
pub fn text(fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let config: TextConfig = tower(fields.into_map(), &ids)?;
    ClipConfig { text: config.clone(), ..ClipConfig::default() }.validate()?;
    let projection = files.shape("text_projection.weight").map(|_| config.projection_dim);
    Ok(Family {
        spec: Spec::Text(text_spec(&config), projection),
        names: names(None),
        carried: &[],
        surplus: SURPLUS,
    })
}

fn tower<T: DeserializeOwned>(mut map: Map<String, Value>, keep: &[&str]) -> Result<T, String> {
    map.retain(|key, value| {
        !value.is_null() && (keep.contains(&key.as_str()) || !HARMLESS.contains(&key.as_str()))
    });
    serde_json::from_value(Value::Object(map)).map_err(|e| e.to_string())
}
