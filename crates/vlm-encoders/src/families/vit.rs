//! ViT (Dosovitskiy et al. 2020, arXiv 2010.11929) and DINOv2 (Oquab et al. 2023,
//! arXiv 2304.07193).

use vlm_nn::{Activation, BlockConfig};
use vlm_store::TensorFiles;

use super::fields::{Fields, heads_divide};
use super::names::{Entry, How, Names};
use super::{Family, Spec, root};
use crate::towers::{Places, PostNorm, VisionPool, VisionSpec};

const OUTER: &[Entry] = &[
    ("vision.patches.", "embeddings.patch_embeddings.projection.", How::Plain),
    ("vision.class", "embeddings.cls_token", How::Lead(2)),
    ("vision.registers", "embeddings.register_tokens", How::Lead(1)),
    ("vision.positions", "embeddings.position_embeddings", How::Lead(1)),
    ("vision.post_norm.", "layernorm.", How::Plain),
    ("vision.dense.", "pooler.dense.", How::Plain),
];

const VIT: &[Entry] = &[
    ("norm1.", "layernorm_before.", How::Plain),
    ("norm2.", "layernorm_after.", How::Plain),
    ("attention.q.", "attention.attention.query.", How::Plain),
    ("attention.k.", "attention.attention.key.", How::Plain),
    ("attention.v.", "attention.attention.value.", How::Plain),
    ("attention.out.", "attention.output.dense.", How::Plain),
    ("feed_forward.up.", "intermediate.dense.", How::Plain),
    ("feed_forward.down.", "output.dense.", How::Plain),
];

const DINO: &[Entry] = &[
    ("attention.q.", "attention.attention.query.", How::Plain),
    ("attention.k.", "attention.attention.key.", How::Plain),
    ("attention.v.", "attention.attention.value.", How::Plain),
    ("attention.out.", "attention.output.dense.", How::Plain),
    ("scale1", "layer_scale1.lambda1", How::Plain),
    ("scale2", "layer_scale2.lambda1", How::Plain),
    ("feed_forward.up.", "mlp.fc1.", How::Plain),
    ("feed_forward.down.", "mlp.fc2.", How::Plain),
];

/// With the gated feed-forward of the giant model, whose two maps are one in the file.
const DINO_GATED: &[Entry] = &[
    ("attention.q.", "attention.attention.query.", How::Plain),
    ("attention.k.", "attention.attention.key.", How::Plain),
    ("attention.v.", "attention.attention.value.", How::Plain),
    ("attention.out.", "attention.output.dense.", How::Plain),
    ("scale1", "layer_scale1.lambda1", How::Plain),
    ("scale2", "layer_scale2.lambda1", How::Plain),
    ("feed_forward.gate.", "mlp.weights_in.", How::Part(0, 2)),
    ("feed_forward.up.", "mlp.weights_in.", How::Part(1, 2)),
    ("feed_forward.down.", "mlp.weights_out.", How::Plain),
];

/// Fields that both have; the rest of the spec is ViT's.
fn spec(fields: &mut Fields, patch: usize, eps: f64) -> Result<VisionSpec, String> {
    let (width, heads) =
        (fields.size("hidden_size", 768)?, fields.size("num_attention_heads", 12)?);
    heads_divide(width, heads)?;
    let image = fields.pair("image_size", 224)?;
    let patches = fields.pair("patch_size", patch)?;
    if patches.0 != patches.1 {
        return Err(fields.bad("patch_size", "is not square, which is not supported"));
    }
    let patch = patches.0;
    if image.0 < patch || image.1 < patch {
        return Err(fields.bad("image_size", format!("is smaller than patch_size {patch}")));
    }
    Ok(VisionSpec {
        image,
        patch,
        channels: fields.size("num_channels", 3)?,
        layers: fields.layers(12)?,
        block: BlockConfig {
            width,
            heads,
            inner: 4 * width,
            activation: fields.activation("hidden_act", Activation::Gelu)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            eps: fields.positive("layer_norm_eps", eps)?,
            ..BlockConfig::default()
        },
        patch_bias: true,
        class: true,
        registers: 0,
        pre_norm: false,
        post_norm: PostNorm::All,
        pool: VisionPool::Class,
        places: Places::Fixed,
    })
}

fn family(
    fields: Fields,
    vision: VisionSpec,
    root: String,
    block: &'static [Entry],
) -> Result<Family, String> {
    fields.finish()?;
    let patches = Some((vision.channels, vision.patch));
    Ok(Family {
        spec: Spec::Vision(vision, None),
        names: Names {
            roots: [root, String::new()],
            blocks: ["encoder.layer.", ""],
            inner: block,
            outer: OUTER,
            patches,
        },
        carried: &[
            "classifier.",
            "embeddings.mask_token",
            "vit.embeddings.mask_token",
            "dinov2.embeddings.mask_token",
            "dinov2_with_registers.embeddings.mask_token",
        ],
        surplus: &[],
    })
}

/// `ViTModel`, and `ViTForImageClassification` without its head.
pub fn vit(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let mut vision = spec(&mut fields, 16, 1e-12)?;
    vision.block.inner = fields.size("intermediate_size", 3072)?;
    let pooled = fields.size("pooler_output_size", vision.block.width)?;
    let root = root(files, "vit.");
    if files.shape(&format!("{root}pooler.dense.weight")).is_some() {
        fields.only("pooler_act", "tanh")?;
        vision.pool = VisionPool::Dense(pooled);
    } else {
        fields.take("pooler_act");
        vision.pool = VisionPool::Absent;
    }
    family(fields, vision, root, VIT)
}

/// `Dinov2Model`, and `Dinov2ForImageClassification` without its head.
pub fn dinov2(fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let root = root(files, "dinov2.");
    dino(fields, root, 14, false)
}

/// `Dinov2WithRegistersModel`.
pub fn dinov2_registers(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let registers = match fields.take("num_register_tokens") {
        None => 4,
        Some(value) => match value.as_u64().filter(|n| *n <= 1024) {
            Some(n) => n as usize,
            None => return Err(fields.bad("num_register_tokens", format!("is {value}"))),
        },
    };
    let root = root(files, "dinov2_with_registers.");
    let mut family = dino(fields, root, 16, true)?;
    if let Spec::Vision(vision, _) = &mut family.spec {
        vision.registers = registers;
    }
    Ok(family)
}

fn dino(mut fields: Fields, root: String, patch: usize, antialias: bool) -> Result<Family, String> {
    let mut vision = spec(&mut fields, patch, 1e-6)?;
    let ratio = fields.positive("mlp_ratio", 4.0)?;
    let inner = vision.block.width as f64 * ratio;
    if !(1.0..=f64::from(1 << 24)).contains(&inner) {
        return Err(fields.bad("mlp_ratio", format!("is {ratio}; no model has that")));
    }
    let gated = fields.flag("use_swiglu_ffn", false)?;
    vision.block.gated = gated;
    vision.block.inner = inner as usize;
    if gated {
        vision.block.inner = (inner as usize * 2 / 3).div_ceil(8) * 8;
        vision.block.activation = Activation::Silu;
    }
    vision.block.layer_scale = true;
    vision.places = Places::Resized { antialias };
    let grid = (vision.image.0 / vision.patch, vision.image.1 / vision.patch);
    if grid.0 != grid.1 {
        // The reference takes the root of the number of positions for both sides.
        return Err(fields.bad("image_size", "is not square, which is not supported"));
    }
    // Of the backbone's use in detectors, or a start value.
    for key in [
        "layerscale_value",
        "out_features",
        "out_indices",
        "stage_names",
        "apply_layernorm",
        "reshape_hidden_states",
        "use_mask_token",
    ] {
        fields.take(key);
    }
    family(fields, vision, root, if gated { DINO_GATED } else { DINO })
}
