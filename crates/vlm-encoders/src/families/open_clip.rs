//! CLIP as open_clip writes it: `open_clip_config.json` and OpenAI's own names.

use serde_json::{Map, Value};
use vlm_nn::{Activation, BlockConfig};
use vlm_store::TensorFiles;

use super::fields::{Fields, heads_divide};
use super::names::{Entry, How, Names};
use super::{DualSpec, Family, Spec, root};
use crate::image::{Filter, ImageProcessor};
use crate::towers::{Places, PostNorm, TextPool, TextSpec, VisionPool, VisionSpec};

const INNER: &[Entry] = &[
    ("norm1.", "ln_1.", How::Plain),
    ("norm2.", "ln_2.", How::Plain),
    ("attention.q.weight", "attn.in_proj_weight", How::Part(0, 3)),
    ("attention.k.weight", "attn.in_proj_weight", How::Part(1, 3)),
    ("attention.v.weight", "attn.in_proj_weight", How::Part(2, 3)),
    ("attention.q.bias", "attn.in_proj_bias", How::Part(0, 3)),
    ("attention.k.bias", "attn.in_proj_bias", How::Part(1, 3)),
    ("attention.v.bias", "attn.in_proj_bias", How::Part(2, 3)),
    ("attention.out.", "attn.out_proj.", How::Plain),
    ("feed_forward.up.", "mlp.c_fc.", How::Plain),
    ("feed_forward.down.", "mlp.c_proj.", How::Plain),
];

const OUTER: &[Entry] = &[
    ("vision.patches.", "conv1.", How::Plain),
    ("vision.class", "class_embedding", How::Plain),
    ("vision.positions", "positional_embedding", How::Plain),
    ("vision.pre_norm.", "ln_pre.", How::Plain),
    ("vision.post_norm.", "ln_post.", How::Plain),
    ("visual_projection.weight", "/visual.proj", How::AsIs),
    ("text.tokens", "token_embedding.weight", How::Plain),
    ("text.positions", "positional_embedding", How::Plain),
    ("text.final_norm.", "ln_final.", How::Plain),
    ("text_projection.weight", "text_projection", How::AsIs),
    ("logit_scale", "/logit_scale", How::Scalar),
];

fn activation(quick: bool) -> Activation {
    if quick { Activation::QuickGelu } else { Activation::Gelu }
}

/// Both towers and the picture processing of an `open_clip_config.json`.
pub fn parse(
    map: Map<String, Value>,
    files: &TensorFiles,
) -> Result<(Family, ImageProcessor), String> {
    let mut fields = Fields::new(map, "");
    let mut model = fields.section("model_cfg")?;
    let mut preprocess = fields.section("preprocess_cfg")?;
    fields.finish()?;
    let quick = model.flag("quick_gelu", false)?;
    let dim = model.size("embed_dim", 512)?;
    // Which class holds the text tower; its names tell.
    model.take("custom_text");
    let mut section = model.section("vision_cfg")?;
    let vision = vision(&mut section, quick)?;
    section.finish()?;
    let mut section = model.section("text_cfg")?;
    let text = text(&mut section, quick)?;
    section.finish()?;
    model.finish()?;
    let processor = processor(&mut preprocess, vision.image)?;
    preprocess.finish()?;
    let names = Names {
        roots: ["visual.".into(), root(files, "text.")],
        blocks: ["transformer.resblocks.", "transformer.resblocks."],
        inner: INNER,
        outer: OUTER,
        patches: Some((vision.channels, vision.patch)),
    };
    let spec = DualSpec { vision, text, dim, projections: true, bias: false };
    let family = Family { spec: Spec::Dual(spec), names, carried: &[], surplus: &["attn_mask"] };
    Ok((family, processor))
}

/// What open_clip offers beyond CLIP is refused by its name.
fn plain(fields: &mut Fields, keys: &[&str]) -> Result<(), String> {
    for key in keys {
        match fields.take(key) {
            None | Some(Value::Bool(false)) => {}
            Some(value) => return Err(fields.bad(key, format!("is {value}; not supported"))),
        }
    }
    Ok(())
}

fn vision(fields: &mut Fields, quick: bool) -> Result<VisionSpec, String> {
    plain(
        fields,
        &[
            "timm_model_name",
            "global_average_pool",
            "attentional_pool",
            "ls_init_value",
            "input_patchnorm",
            "no_ln_pre",
            "final_ln_after_pool",
            "output_tokens",
            "qk_norm",
            "scaled_cosine_attn",
        ],
    )?;
    fields.only("pool_type", "tok")?;
    fields.only("pos_embed_type", "learnable")?;
    // Of training.
    fields.take("patch_dropout");
    let width = fields.size("width", 768)?;
    let head = fields.size("head_width", 64)?;
    if width % head != 0 {
        return Err(fields.bad("width", format!("{width} is not a multiple of head_width {head}")));
    }
    let image = fields.pair("image_size", 224)?;
    let patch = fields.pair("patch_size", 16)?;
    if patch.0 != patch.1 || image.0 < patch.0 || image.1 < patch.0 {
        return Err(fields.bad("patch_size", "is not square, or larger than image_size"));
    }
    let layers = match fields.peek("layers") {
        Some(Value::Array(_)) => {
            return Err(fields.bad("layers", "is a list (a ResNet), which is not supported"));
        }
        _ => fields.size("layers", 12)?,
    };
    Ok(VisionSpec {
        image,
        patch: patch.0,
        channels: 3,
        layers,
        block: BlockConfig {
            width,
            heads: width / head,
            inner: (width as f64 * fields.positive("mlp_ratio", 4.0)?) as usize,
            activation: activation(quick),
            ..BlockConfig::default()
        },
        patch_bias: false,
        class: true,
        registers: 0,
        pre_norm: true,
        post_norm: PostNorm::Pooled,
        pool: VisionPool::Class,
        places: Places::Fixed,
    })
}

fn text(fields: &mut Fields, quick: bool) -> Result<TextSpec, String> {
    plain(
        fields,
        &[
            "hf_model_name",
            "embed_cls",
            "no_causal_mask",
            "ls_init_value",
            "proj_bias",
            "output_tokens",
        ],
    )?;
    fields.only("pool_type", "argmax")?;
    fields.only("proj_type", "linear")?;
    // Where tokens come from; here from tokenizer.json.
    for key in ["hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id"] {
        fields.take(key);
    }
    let (width, heads) = (fields.size("width", 512)?, fields.size("heads", 8)?);
    heads_divide(width, heads)?;
    let shape = BlockConfig {
        width,
        heads,
        inner: (width as f64 * fields.positive("mlp_ratio", 4.0)?) as usize,
        activation: activation(quick),
        causal: true,
        ..BlockConfig::default()
    };
    Ok(TextSpec {
        vocabulary: fields.size("vocab_size", 49408)?,
        context: fields.size("context_length", 77)?,
        positions: true,
        segments: 0,
        embed_norm: false,
        embed_scale: None,
        blocks: vec![shape.clone(); fields.size("layers", 12)?.min(10_000)],
        shape,
        final_norm: true,
        // The largest id of a text, as OpenAI's code has it.
        pool: TextPool::End(2),
        dense: None,
        dense_tanh: false,
        head: None,
    })
}

fn processor(fields: &mut Fields, image: (usize, usize)) -> Result<ImageProcessor, String> {
    fields.only("resize_mode", "shortest")?;
    fields.only("mode", "RGB")?;
    fields.take("fill_color");
    let size = fields.pair("size", image.0)?;
    if size != image || image.0 != image.1 {
        return Err(fields.bad("size", format!("{size:?} is not a square image_size {image:?}")));
    }
    let mut three = |key: &str, default: [f64; 3]| match fields.take(key) {
        None => Ok(default),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|_| fields.bad(key, format!("is {value}; three numbers are wanted"))),
    };
    let mean = three("mean", crate::image::CLIP_MEAN)?;
    let std = three("std", crate::image::CLIP_STD)?;
    let mut processor = ImageProcessor::clip(image.0, mean, std);
    processor.filter = match fields.take("interpolation").as_ref().and_then(Value::as_str) {
        None | Some("bicubic" | "random") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(other) => {
            return Err(fields.bad("interpolation", format!("`{other}` is not supported")));
        }
    };
    Ok(processor)
}
