//! `config.json` out of the metadata.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::rope;
use super::table::Stored;
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::input::Input;

/// An architecture that is imported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
}

const FAMILIES: [(&str, Family, &str, &str); 6] = [
    ("llama", Family::Llama, "llama", "LlamaForCausalLM"),
    ("qwen2", Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ("gemma", Family::Gemma, "gemma", "GemmaForCausalLM"),
    ("gemma2", Family::Gemma2, "gemma2", "Gemma2ForCausalLM"),
    ("gemma3", Family::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
];

impl Family {
    fn row(self) -> &'static (&'static str, Family, &'static str, &'static str) {
        FAMILIES.iter().find(|row| row.1 == self).unwrap_or(&FAMILIES[0])
    }

    /// The class in transformers.
    pub(super) fn class(self) -> &'static str {
        self.row().3
    }

    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Whether heads may be wider or narrower than the width divided by their number.
    fn has_head_dim(self) -> bool {
        self != Family::Qwen2
    }
}

/// What the tensors must be like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub family: Family,
    pub layers: usize,
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub tied: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
}

/// More than any model has; each layer needs tensors of its own anyway.
const MAX_LAYERS: usize = 100_000;

/// Keys that change nothing here: of use to other programs, or said by the tensors.
const HARMLESS: [&str; 5] = [
    "tensor_data_layout",
    "expert_used_count",
    "use_parallel_residual",
    "rope.scaling.finetuned",
    "attention.key_length_swa",
];

/// Keys that may only be there with the value that means nothing.
const ZERO: [&str; 4] =
    ["expert_count", "logit_scale", "attention.clamp_kqv", "attention.max_alibi_bias"];

/// Reads `config.json`, and what the tensors must be like.
pub(super) fn read<R: Read + Seek>(
    keys: &Keys,
    stored: &BTreeMap<String, Stored>,
    input: &mut Input<R>,
) -> Result<(Value, Shape), Fault> {
    let name = keys.text("general.architecture")?;
    let name = name.ok_or_else(|| Fault::Damaged("general.architecture is missing".into()))?;
    let Some((prefix, family, model_type, class)) = FAMILIES.iter().find(|row| row.0 == name)
    else {
        return unsupported(format!(
            "its architecture is {}, which is not imported; imported are {}",
            quoted(name),
            FAMILIES.map(|row| row.0).join(", ")
        ));
    };
    let key = |rest: &str| format!("{prefix}.{rest}");
    let shape = shape(keys, &key, *family, stored)?;
    let eps = need(keys.number(&key("attention.layer_norm_rms_epsilon"))?, || {
        key("attention.layer_norm_rms_epsilon")
    })?;
    let theta = keys.number(&key("rope.freq_base"))?.unwrap_or(1e4);
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| drop(config.insert(key.into(), value));
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("vocab_size", json!(shape.vocabulary));
    set("hidden_size", json!(shape.width));
    set("intermediate_size", json!(shape.inner));
    set("num_hidden_layers", json!(shape.layers));
    set("num_attention_heads", json!(shape.heads));
    set("num_key_value_heads", json!(shape.kv_heads));
    if family.has_head_dim() {
        set("head_dim", json!(shape.head_dim));
    }
    set("max_position_embeddings", json!(shape.context));
    set("rms_norm_eps", json!(eps));
    set("rope_theta", json!(theta));
    set("tie_word_embeddings", json!(shape.tied));
    set("dtype", json!("float32"));
    if let Some(scaling) = rope::scaling(keys, &key, &shape, theta, stored, input)? {
        set("rope_scaling", scaling);
    }
    match family {
        Family::Llama => {
            set("hidden_act", json!("silu"));
            set("attention_bias", json!(shape.attention_bias));
            set("mlp_bias", json!(shape.mlp_bias));
        }
        Family::Qwen2 => {
            set("hidden_act", json!("silu"));
            set("use_sliding_window", json!(false));
        }
        Family::Qwen3 => {
            set("hidden_act", json!("silu"));
            set("attention_bias", json!(shape.attention_bias));
            set("use_sliding_window", json!(false));
        }
        Family::Gemma => {
            set("hidden_act", json!("gelu_pytorch_tanh"));
            set("hidden_activation", json!("gelu_pytorch_tanh"));
        }
        Family::Gemma2 | Family::Gemma3 => {
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("query_pre_attn_scalar", json!(query_scalar(&shape)));
            let window = key("attention.sliding_window");
            set("sliding_window", json!(need(keys.size(&window)?, || window.clone())?));
            set("layer_types", json!(windows(*family, shape.layers)));
            let cap = |rest| keys.number(&key(rest));
            let (scores, logits) =
                (cap("attn_logit_softcapping")?, cap("final_logit_softcapping")?);
            set("attn_logit_softcapping", json!(scores));
            set("final_logit_softcapping", json!(logits));
        }
    }
    if *family == Family::Gemma3 {
        let near = keys.number(&key("rope.freq_base_swa"))?.unwrap_or(1e4);
        set("rope_local_base_freq", json!(near));
    }
    for role in ["bos", "eos", "pad"] {
        if let Some(id) = super::tokenizer::id(keys, role, shape.vocabulary)? {
            set(&format!("{role}_token_id"), json!(id));
        }
    }
    harmless(keys, &key)?;
    Ok((Value::Object(config), shape))
}

/// Refuses keys that may change what the model computes.
fn harmless(keys: &Keys, key: &dyn Fn(&str) -> String) -> Result<(), Fault> {
    for rest in HARMLESS {
        keys.get(&key(rest));
    }
    for rest in ZERO {
        if keys.number(&key(rest))?.is_some_and(|n| n != 0.0) {
            return unsupported(format!("{} is not 0, which is not supported", key(rest)));
        }
    }
    if keys.flag(&key("attention.causal"))? == Some(false) {
        return unsupported(format!(
            "{} is false, which is not supported",
            key("attention.causal")
        ));
    }
    match keys.unknown(&key("")) {
        Some(unknown) => unsupported(format!(
            "the key {} is not known and might change what the model computes",
            quoted(unknown)
        )),
        None => Ok(()),
    }
}

fn need<T>(value: Option<T>, key: impl Fn() -> String) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::Damaged(format!("{} is missing", key())))
}

fn shape(
    keys: &Keys,
    key: &dyn Fn(&str) -> String,
    family: Family,
    stored: &BTreeMap<String, Stored>,
) -> Result<Shape, Fault> {
    let size = |rest: &str| match keys.size(&key(rest))? {
        Some(0) => damaged(format!("{} is 0", key(rest))),
        Some(n) => Ok(n),
        None => damaged(format!("{} is missing", key(rest))),
    };
    let layers = size("block_count")?;
    let width = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let kv_heads = keys.size(&key("attention.head_count_kv"))?.unwrap_or(heads);
    if layers > MAX_LAYERS || kv_heads == 0 || heads % kv_heads != 0 {
        return damaged(format!(
            "{layers} layers of {heads} heads, {kv_heads} for keys, cannot be"
        ));
    }
    let given = keys.size(&key("attention.key_length"))?;
    if given.is_none() && width % heads != 0 {
        return damaged(format!("a width of {width} does not divide among {heads} heads"));
    }
    let head_dim = given.unwrap_or(width / heads);
    if head_dim == 0 || head_dim % 2 != 0 || (!family.has_head_dim() && head_dim * heads != width) {
        return damaged(format!("heads of {head_dim} values cannot be"));
    }
    for rest in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.size(&key(rest))?.filter(|n| *n != head_dim) {
            return unsupported(format!(
                "{} is {other} where heads have {head_dim} values, which is not supported",
                key(rest)
            ));
        }
    }
    let Some(embedding) = stored.get("token_embd.weight") else {
        return damaged("tensor `token_embd.weight` is missing");
    };
    // The tensor says how many tokens there are; the key may leave out what fills it up.
    keys.get(&key("vocab_size"));
    let vocabulary = embedding.shape.first().copied().unwrap_or(0);
    let has = |name: &str| stored.contains_key(name);
    Ok(Shape {
        family,
        layers,
        width,
        inner: size("feed_forward_length")?,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        context: size("context_length")?,
        tied: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias") && family != Family::Qwen2,
        mlp_bias: has("blk.0.ffn_up.bias"),
    })
}

/// The scale of scores is one over the root of this. The files do not say it: it is the width of a
/// head, except in the largest models, which llama.cpp too knows by their number of layers.
fn query_scalar(shape: &Shape) -> usize {
    let largest = if shape.family == Family::Gemma2 { 46 } else { 62 };
    if shape.layers == largest { shape.width / shape.heads } else { shape.head_dim }
}

/// Which layers look at a window only: every other one in Gemma 2, five of six in Gemma 3.
fn windows(family: Family, layers: usize) -> Vec<&'static str> {
    let every = if family == Family::Gemma2 { 2 } else { 6 };
    let kind = |layer: usize| {
        if layer.is_multiple_of(every) { "full_attention" } else { "sliding_attention" }
    };
    (1..=layers).map(kind).collect()
}
