//! Llama (Touvron et al. 2023, arXiv 2302.13971) and its near kin.

use vlm_nn::{Activation, BlockConfig, NormKind};
use vlm_store::TensorFiles;

use super::fields::{Fields, heads_divide};
use super::names::{Entry, How, Names};
use super::{Family, Spec, root, rope};
use crate::towers::{HeadSpec, TextPool, TextSpec};

const INNER: &[Entry] = &[
    ("norm1.", "input_layernorm.", How::Plain),
    ("norm2.", "post_attention_layernorm.", How::Plain),
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

const OUTER: &[Entry] = &[
    ("text.tokens", "embed_tokens.weight", How::Plain),
    ("text.final_norm.", "norm.", How::Plain),
    ("text.head.", "/lm_head.", How::Plain),
];

/// The table of Llama's names; Gemma's blocks have further norms.
pub fn names(files: &TensorFiles, inner: &'static [Entry]) -> Names {
    Names {
        roots: [String::new(), root(files, "model.")],
        blocks: ["", "layers."],
        inner,
        outer: OUTER,
        patches: None,
    }
}

/// What the defaults of a family are.
pub struct Defaults {
    pub sizes: [usize; 6],
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub theta: f64,
    pub tied: bool,
}

/// The widths of a decoder.
pub struct Widths {
    pub vocabulary: usize,
    pub context: usize,
    pub layers: usize,
    pub head_dim: usize,
    pub block: BlockConfig,
    pub tied: bool,
}

/// Reads what all decoders have. `sizes` are vocabulary, width, inner width, layers, heads and
/// context.
pub fn widths(fields: &mut Fields, defaults: &Defaults) -> Result<Widths, String> {
    let [vocabulary, width, inner, layers, heads, context] = defaults.sizes;
    let (width, heads) =
        (fields.size("hidden_size", width)?, fields.size("num_attention_heads", heads)?);
    let kv_heads = fields.size("num_key_value_heads", defaults.kv_heads.unwrap_or(heads))?;
    if heads % kv_heads != 0 {
        return Err(format!(
            "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        ));
    }
    let given = fields.maybe_size("head_dim")?.or(defaults.head_dim);
    if given.is_none() {
        heads_divide(width, heads)?;
    }
    let head_dim = given.unwrap_or(width / heads);
    if head_dim % 2 != 0 {
        return Err(fields.bad("head_dim", format!("is {head_dim}; rotary positions need pairs")));
    }
    Ok(Widths {
        vocabulary: fields.size("vocab_size", vocabulary)?,
        context: fields.size("max_position_embeddings", context)?,
        layers: fields.layers(layers)?,
        head_dim,
        block: BlockConfig {
            width,
            heads,
            kv_heads: Some(kv_heads),
            head_dim: Some(head_dim),
            inner: fields.size("intermediate_size", inner)?,
            gated: true,
            qkv_bias: false,
            out_bias: false,
            bias: false,
            norm: NormKind::Rms,
            eps: fields.positive("rms_norm_eps", 1e-6)?,
            causal: true,
            ..BlockConfig::default()
        },
        tied: fields.flag("tie_word_embeddings", defaults.tied)?,
    })
}

/// The text tower of a decoder whose blocks are these.
pub fn text(
    widths: &Widths,
    blocks: Vec<BlockConfig>,
    embed_scale: Option<f64>,
    softcap: Option<f64>,
    files: &TensorFiles,
) -> TextSpec {
    // A bare model has no head, unless it is tied, which costs nothing.
    let head = (widths.tied || files.shape("lm_head.weight").is_some())
        .then_some(HeadSpec { tied: widths.tied, softcap });
    TextSpec {
        vocabulary: widths.vocabulary,
        context: widths.context,
        positions: false,
        segments: 0,
        embed_norm: false,
        embed_scale,
        blocks,
        shape: widths.block.clone(),
        final_norm: true,
        pool: TextPool::Absent,
        dense: None,
        dense_tanh: false,
        head,
    }
}

/// What a decoder's file may hold beside its tensors.
pub fn surplus(tied: bool) -> &'static [&'static str] {
    if tied { &[".rotary_emb.inv_freq", "lm_head.weight"] } else { &[".rotary_emb.inv_freq"] }
}

fn family(
    mut fields: Fields,
    files: &TensorFiles,
    mut widths: Widths,
    theta: f64,
) -> Result<Family, String> {
    let rotary = rope::rotary(&mut fields, theta, widths.head_dim, widths.context)?;
    widths.block.rotary = Some(rotary);
    fields.finish()?;
    let blocks = vec![widths.block.clone(); widths.layers];
    Ok(Family {
        spec: Spec::Text(text(&widths, blocks, None, None, files), None),
        names: names(files, INNER),
        carried: &[],
        surplus: surplus(widths.tied),
    })
}

/// `LlamaModel` and `LlamaForCausalLM`.
pub fn llama(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let defaults = Defaults {
        sizes: [32000, 4096, 11008, 32, 32, 2048],
        kv_heads: None,
        head_dim: None,
        theta: 1e4,
        tied: false,
    };
    let mut widths = widths(&mut fields, &defaults)?;
    widths.block.activation = fields.activation("hidden_act", Activation::Silu)?;
    let bias = fields.flag("attention_bias", false)?;
    (widths.block.qkv_bias, widths.block.out_bias) = (bias, bias);
    widths.block.bias = fields.flag("mlp_bias", false)?;
    // How training was split; inference is the same.
    fields.take("pretraining_tp");
    // Of exporters; whether pairs are neighbours in memory, which they are in no Llama folder.
    fields.only("rope_interleaved", false)?;
    fields.take("is_llama_config");
    family(fields, files, widths, defaults.theta)
}

/// `Qwen2Model` and `Qwen2ForCausalLM` (arXiv 2407.10671).
pub fn qwen2(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let defaults = Defaults {
        sizes: [151_936, 4096, 22016, 32, 32, 32768],
        kv_heads: Some(32),
        head_dim: None,
        theta: 1e4,
        tied: false,
    };
    let mut widths = widths(&mut fields, &defaults)?;
    widths.block.activation = fields.activation("hidden_act", Activation::Silu)?;
    widths.block.qkv_bias = true;
    no_window(&mut fields)?;
    family(fields, files, widths, defaults.theta)
}

/// `Qwen3Model` and `Qwen3ForCausalLM` (arXiv 2505.09388).
pub fn qwen3(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let defaults = Defaults {
        sizes: [151_936, 4096, 22016, 32, 32, 32768],
        kv_heads: Some(32),
        head_dim: Some(128),
        theta: 1e4,
        tied: false,
    };
    let mut widths = widths(&mut fields, &defaults)?;
    widths.block.activation = fields.activation("hidden_act", Activation::Silu)?;
    let bias = fields.flag("attention_bias", false)?;
    (widths.block.qkv_bias, widths.block.out_bias) = (bias, bias);
    widths.block.head_norm = true;
    no_window(&mut fields)?;
    family(fields, files, widths, defaults.theta)
}

/// Qwen's configs speak of a window that none of the published models uses.
fn no_window(fields: &mut Fields) -> Result<(), String> {
    fields.only("use_sliding_window", false)?;
    fields.take("sliding_window");
    fields.take("max_window_layers");
    if let Some(kinds) = fields.take("layer_types") {
        let full = |kind: &serde_json::Value| kind == "full_attention";
        if !kinds.as_array().is_some_and(|kinds| kinds.iter().all(full)) {
            return Err(fields.bad("layer_types", "may hold full_attention only"));
        }
    }
    Ok(())
}
