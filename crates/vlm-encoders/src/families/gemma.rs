//! Gemma 1 to 3 (arXiv 2403.08295, 2408.00118, 2503.19786), the text models.

use serde_json::Value;
use vlm_nn::{Activation, BlockConfig, NormKind, NormPlace, Rotary};
use vlm_store::TensorFiles;

use super::fields::Fields;
use super::llama::{Defaults, Widths, names, surplus, text, widths};
use super::names::{Entry, How};
use super::{Family, Spec, rope};

const FIRST: &[Entry] = &[
    ("norm1.", "input_layernorm.", How::Plain),
    ("norm2.", "post_attention_layernorm.", How::Plain),
    ("attention.q.", "self_attn.q_proj.", How::Plain),
    ("attention.k.", "self_attn.k_proj.", How::Plain),
    ("attention.v.", "self_attn.v_proj.", How::Plain),
    ("attention.out.", "self_attn.o_proj.", How::Plain),
    ("feed_forward.gate.", "mlp.gate_proj.", How::Plain),
    ("feed_forward.up.", "mlp.up_proj.", How::Plain),
    ("feed_forward.down.", "mlp.down_proj.", How::Plain),
];

/// With norms around each sub-layer.
const AROUND: &[Entry] = &[
    ("norm1.", "input_layernorm.", How::Plain),
    ("norm1_after.", "post_attention_layernorm.", How::Plain),
    ("norm2.", "pre_feedforward_layernorm.", How::Plain),
    ("norm2_after.", "post_feedforward_layernorm.", How::Plain),
    ("attention.q.", "self_attn.q_proj.", How::Plain),
    ("attention.k.", "self_attn.k_proj.", How::Plain),
    ("attention.v.", "self_attn.v_proj.", How::Plain),
    ("attention.out.", "self_attn.o_proj.", How::Plain),
    ("attention.q_norm.", "self_attn.q_norm.", How::Plain),
    ("attention.k_norm.", "self_attn.k_norm.", How::Plain),
    ("feed_forward.gate.", "mlp.gate_proj.", How::Plain),
    ("feed_forward.up.", "mlp.up_proj.", How::Plain),
    ("feed_forward.down.", "mlp.down_proj.", How::Plain),
];

/// Norms counted from 1, and bias where it is asked for.
fn dress(fields: &mut Fields, widths: &mut Widths) -> Result<(), String> {
    let bias = fields.flag("attention_bias", false)?;
    (widths.block.qkv_bias, widths.block.out_bias) = (bias, bias);
    widths.block.norm = NormKind::RmsFromOne;
    Ok(())
}

/// The reference multiplies embeddings by the root of the width in their own type, f32 here.
fn embed_scale(widths: &Widths) -> Option<f64> {
    Some(f64::from((widths.block.width as f64).sqrt() as f32))
}

fn family(
    spec: crate::towers::TextSpec,
    tied: bool,
    files: &TensorFiles,
    inner: &'static [Entry],
) -> Family {
    Family {
        spec: Spec::Text(spec, None),
        names: names(files, inner),
        carried: &[],
        surplus: surplus(tied),
    }
}

/// `GemmaModel` and `GemmaForCausalLM`.
pub fn gemma(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let mut widths = widths(
        &mut fields,
        &Defaults {
            sizes: [256_000, 3072, 24576, 28, 16, 8192],
            kv_heads: Some(16),
            head_dim: Some(256),
            theta: 1e4,
            tied: true,
        },
    )?;
    dress(&mut fields, &mut widths)?;
    fields.take("hidden_activation");
    // The first files said "gelu" and meant its approximation, as transformers 5 takes it.
    widths.block.activation = match fields.activation("hidden_act", Activation::GeluTanh)? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    widths.block.rotary = Some(rope::rotary(&mut fields, 1e4, widths.head_dim, widths.context)?);
    fields.finish()?;
    let blocks = vec![widths.block.clone(); widths.layers];
    let spec = text(&widths, blocks, embed_scale(&widths), None, files);
    Ok(family(spec, widths.tied, files, FIRST))
}

/// Which layers look at a window only.
fn windowed(fields: &mut Fields, layers: usize, pattern: usize) -> Result<Vec<bool>, String> {
    let pattern = fields.size("sliding_window_pattern", pattern)?;
    let pattern = fields.size("_sliding_window_pattern", pattern)?;
    let Some(kinds) = fields.take("layer_types") else {
        return Ok((1..=layers).map(|layer| layer % pattern != 0).collect());
    };
    let one = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let list: Option<Vec<bool>> = kinds.as_array().and_then(|k| k.iter().map(one).collect());
    list.filter(|list| list.len() == layers).ok_or_else(|| {
        fields.bad(
            "layer_types",
            format!("must be {layers} times sliding_attention or full_attention"),
        )
    })
}

/// What Gemma 2 and 3 share: norms around, own scale, windows.
fn later(
    fields: &mut Fields,
    widths: &mut Widths,
    pattern: usize,
) -> Result<(Vec<bool>, usize), String> {
    dress(fields, widths)?;
    widths.block.place = NormPlace::Around;
    widths.block.activation = fields.activation("hidden_activation", Activation::GeluTanh)?;
    fields.take("hidden_act");
    widths.block.scale = Some(1.0 / fields.positive("query_pre_attn_scalar", 256.0)?.sqrt());
    let windowed = windowed(fields, widths.layers, pattern)?;
    let window = fields.size("sliding_window", 4096)?;
    fields.only("use_bidirectional_attention", false)?;
    fields.take("cache_implementation");
    Ok((windowed, window))
}

/// `Gemma2Model` and `Gemma2ForCausalLM`.
pub fn gemma2(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let mut widths = widths(
        &mut fields,
        &Defaults {
            sizes: [256_000, 2304, 9216, 26, 8, 8192],
            kv_heads: Some(4),
            head_dim: Some(256),
            theta: 1e4,
            tied: true,
        },
    )?;
    // Null means none, and absent the default.
    let cap = |fields: &mut Fields, key: &str, default: f64| -> Result<Option<f64>, String> {
        if fields.peek(key) == Some(&Value::Null) {
            return Ok(None);
        }
        fields.positive(key, default).map(Some)
    };
    widths.block.softcap = cap(&mut fields, "attn_logit_softcapping", 50.0)?;
    let logits = cap(&mut fields, "final_logit_softcapping", 30.0)?;
    let (windowed, window) = later(&mut fields, &mut widths, 2)?;
    widths.block.rotary = Some(rope::rotary(&mut fields, 1e4, widths.head_dim, widths.context)?);
    fields.finish()?;
    let block =
        |near: &bool| BlockConfig { window: near.then_some(window), ..widths.block.clone() };
    let blocks = windowed.iter().map(block).collect();
    let spec = text(&widths, blocks, embed_scale(&widths), logits, files);
    Ok(family(spec, widths.tied, files, AROUND))
}

/// `Gemma3TextModel` and `Gemma3ForCausalLM`.
pub fn gemma3(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let mut widths = widths(
        &mut fields,
        &Defaults {
            sizes: [262_208, 2304, 9216, 26, 8, 131_072],
            kv_heads: Some(4),
            head_dim: Some(256),
            theta: 1e6,
            tied: true,
        },
    )?;
    widths.block.head_norm = true;
    fields.only("attn_logit_softcapping", Value::Null)?;
    let logits = fields.maybe_number("final_logit_softcapping")?;
    let (windowed, window) = later(&mut fields, &mut widths, 6)?;
    let near_theta = fields.positive("rope_local_base_freq", 1e4)?;
    let (near, far) = rotaries(&mut fields, &widths, near_theta)?;
    fields.finish()?;
    let block = |is_near: &bool| BlockConfig {
        window: is_near.then_some(window),
        rotary: Some(if *is_near { near.clone() } else { far.clone() }),
        ..widths.block.clone()
    };
    let blocks = windowed.iter().map(block).collect();
    let spec = text(&widths, blocks, embed_scale(&widths), logits, files);
    Ok(family(spec, widths.tied, files, AROUND))
}

/// Of layers with a window, and of those without. Since transformers 5 there is a section for
/// each kind.
fn rotaries(
    fields: &mut Fields,
    widths: &Widths,
    near_theta: f64,
) -> Result<(Rotary, Rotary), String> {
    if let Some(Value::Object(map)) = fields.peek("rope_parameters")
        && map.contains_key("full_attention")
    {
        let mut sections = fields.section("rope_parameters")?;
        let mut one = |key: &str, theta: f64| {
            let mut section = sections.section(key)?;
            let rotary = rope::scaled(&mut section, theta, widths.head_dim, widths.context, None)?;
            section.finish()?;
            Ok::<_, String>(rotary)
        };
        let near = one("sliding_attention", near_theta)?;
        let far = one("full_attention", 1e6)?;
        sections.finish()?;
        return Ok((near, far));
    }
    let far = rope::rotary(fields, 1e6, widths.head_dim, widths.context)?;
    Ok((Rotary::new(near_theta), far))
}
