//! SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 (Tschannen et al. 2025,
//! arXiv 2502.14786), which at a fixed size is the same model.

use vlm_nn::{Activation, BlockConfig};
use vlm_store::TensorFiles;

use super::clip::{INNER, SURPLUS};
use super::fields::{Fields, heads_divide};
use super::names::{Entry, How, Names};
use super::{DualSpec, Family, Spec};
use crate::towers::{Places, PostNorm, TextPool, TextSpec, VisionPool, VisionSpec};

const OUTER: &[Entry] = &[
    ("vision.patches.", "embeddings.patch_embedding.", How::Plain),
    ("vision.positions", "embeddings.position_embedding.weight", How::Plain),
    ("vision.post_norm.", "post_layernorm.", How::Plain),
    ("vision.pool.probe", "head.probe", How::Lead(2)),
    ("vision.pool.attention.q.weight", "head.attention.in_proj_weight", How::Part(0, 3)),
    ("vision.pool.attention.k.weight", "head.attention.in_proj_weight", How::Part(1, 3)),
    ("vision.pool.attention.v.weight", "head.attention.in_proj_weight", How::Part(2, 3)),
    ("vision.pool.attention.q.bias", "head.attention.in_proj_bias", How::Part(0, 3)),
    ("vision.pool.attention.k.bias", "head.attention.in_proj_bias", How::Part(1, 3)),
    ("vision.pool.attention.v.bias", "head.attention.in_proj_bias", How::Part(2, 3)),
    ("vision.pool.attention.out.", "head.attention.out_proj.", How::Plain),
    ("vision.pool.norm.", "head.layernorm.", How::Plain),
    ("vision.pool.feed_forward.up.", "head.mlp.fc1.", How::Plain),
    ("vision.pool.feed_forward.down.", "head.mlp.fc2.", How::Plain),
    ("text.tokens", "embeddings.token_embedding.weight", How::Plain),
    ("text.positions", "embeddings.position_embedding.weight", How::Plain),
    ("text.final_norm.", "final_layer_norm.", How::Plain),
    ("text.dense.", "head.", How::Plain),
    ("logit_scale", "/logit_scale", How::Plain),
    ("logit_bias", "/logit_bias", How::Plain),
];

fn names(patches: Option<(usize, usize)>) -> Names {
    Names {
        roots: ["vision_model.".into(), "text_model.".into()],
        blocks: ["encoder.layers.", "encoder.layers."],
        inner: INNER,
        outer: OUTER,
        patches,
    }
}

fn block(fields: &mut Fields) -> Result<BlockConfig, String> {
    let (width, heads) =
        (fields.size("hidden_size", 768)?, fields.size("num_attention_heads", 12)?);
    heads_divide(width, heads)?;
    Ok(BlockConfig {
        width,
        heads,
        inner: fields.size("intermediate_size", 3072)?,
        activation: fields.activation("hidden_act", Activation::GeluTanh)?,
        eps: fields.positive("layer_norm_eps", 1e-6)?,
        ..BlockConfig::default()
    })
}

fn vision_spec(fields: &mut Fields, flexible: bool) -> Result<VisionSpec, String> {
    let block = block(fields)?;
    let patch = fields.size("patch_size", 16)?;
    let side = if flexible {
        let count = fields.size("num_patches", 256)?;
        let side = count.isqrt();
        if side * side != count {
            return Err(fields.bad("num_patches", format!("is {count}, which is no square")));
        }
        side * patch
    } else {
        fields.size("image_size", 224)?
    };
    if side < patch {
        return Err(fields.bad("image_size", format!("{side} is smaller than patch_size {patch}")));
    }
    let head = fields.flag("vision_use_head", true)?;
    Ok(VisionSpec {
        image: (side, side),
        patch,
        channels: fields.size("num_channels", 3)?,
        layers: fields.layers(12)?,
        block,
        patch_bias: true,
        class: false,
        registers: 0,
        pre_norm: false,
        post_norm: PostNorm::All,
        pool: if head { VisionPool::Attention } else { VisionPool::Absent },
        places: if flexible { Places::Flexible } else { Places::Fixed },
    })
}

fn text_spec(fields: &mut Fields) -> Result<TextSpec, String> {
    let shape = block(fields)?;
    let dense = fields.size("projection_size", shape.width)?;
    // Ids in a SigLIP config are remains of CLIP's and say nothing of its vocabulary.
    Ok(TextSpec {
        vocabulary: fields.size("vocab_size", 32000)?,
        context: fields.size("max_position_embeddings", 64)?,
        positions: true,
        segments: 0,
        embed_norm: false,
        embed_scale: None,
        blocks: vec![shape.clone(); fields.layers(12)?],
        shape,
        final_norm: true,
        pool: TextPool::Last,
        dense: Some(dense),
        dense_tanh: false,
        head: None,
    })
}

/// `SiglipModel`.
pub fn dual(fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    both(fields, false)
}

/// `Siglip2Model`, whose pictures keep their proportions (NaFlex).
pub fn dual2(fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    both(fields, true)
}

fn both(mut fields: Fields, flexible: bool) -> Result<Family, String> {
    let mut section = fields.section("vision_config")?;
    let vision = vision_spec(&mut section, flexible)?;
    section.finish()?;
    let mut section = fields.section("text_config")?;
    let text = text_spec(&mut section)?;
    section.finish()?;
    fields.finish()?;
    let dim = vision.block.width;
    if vision.pool != VisionPool::Attention {
        return Err(
            "vision_config.vision_use_head is false, so that nothing stands for a picture".into()
        );
    }
    if text.dense != Some(dim) {
        return Err(format!(
            "the image tower ends in {dim} dimensions, the text tower in {}",
            text.dense.unwrap_or_default()
        ));
    }
    let patches = (!flexible).then_some((vision.channels, vision.patch));
    Ok(Family {
        spec: Spec::Dual(DualSpec { vision, text, dim, projections: false, bias: true }),
        names: names(patches),
        carried: &["classifier."],
        surplus: SURPLUS,
    })
}

/// `SiglipVisionModel`.
pub fn vision(fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    one_vision(fields, false)
}

/// `Siglip2VisionModel`.
pub fn vision2(fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    one_vision(fields, true)
}

fn one_vision(mut fields: Fields, flexible: bool) -> Result<Family, String> {
    let vision = vision_spec(&mut fields, flexible)?;
    fields.finish()?;
    let patches = (!flexible).then_some((vision.channels, vision.patch));
    Ok(Family {
        spec: Spec::Vision(vision, None),
        names: names(patches),
        carried: &[],
        surplus: SURPLUS,
    })
}

/// The image tower of `Idefics3Model` and `SmolVLMModel`, whose class has other sizes.
pub fn idefics3(mut fields: Fields, shifted: bool) -> Result<Family, String> {
    for (key, usual) in [("hidden_size", 1152), ("num_attention_heads", 16), ("patch_size", 32)] {
        fields.usually(key, usual);
    }
    fields.only("vision_use_head", false)?;
    let mut vision = vision_spec(&mut fields, false)?;
    fields.finish()?;
    vision.pool = VisionPool::Absent;
    vision.places = Places::Buckets { shifted };
    let patches = Some((vision.channels, vision.patch));
    let spec = Spec::Vision(vision, None);
    Ok(Family { spec, names: names(patches), carried: &[], surplus: SURPLUS })
}

/// `SiglipTextModel` and `Siglip2TextModel`.
pub fn text(mut fields: Fields, _: &TensorFiles) -> Result<Family, String> {
    let text = text_spec(&mut fields)?;
    fields.finish()?;
    Ok(Family { spec: Spec::Text(text, None), names: names(None), carried: &[], surplus: SURPLUS })
}
