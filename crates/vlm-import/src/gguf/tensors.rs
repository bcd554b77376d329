//! Where each tensor of a file goes.

use std::collections::BTreeMap;

use super::config::{Family, Shape};
use super::table::Stored;
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::plan::{Change, Planned};

/// Takes every tensor of the file to its place; all must be there, and none be left.
pub(super) fn place(
    shape: &Shape,
    mut stored: BTreeMap<String, Stored>,
) -> Result<BTreeMap<String, Planned>, Fault> {
    let mut planned = BTreeMap::new();
    let mut take = |from: String, to: String, wanted: Vec<usize>, change: Change| {
        let Some(tensor) = stored.remove(&from) else {
            return damaged(format!("tensor `{from}` is missing"));
        };
        if tensor.shape != wanted {
            let is = &tensor.shape;
            return damaged(format!("tensor `{from}` is {is:?}; the metadata wants {wanted:?}"));
        }
        planned.insert(to, Planned { shape: wanted, from: vec![tensor.stretch], change });
        Ok(())
    };
    let norm = if shape.family.is_gemma() { Change::OneMore } else { Change::Nothing };
    let table = vec![shape.vocabulary, shape.width];
    let own = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let (from, to) = own("token_embd.weight", "model.embed_tokens.weight");
    take(from, to, table.clone(), Change::Nothing)?;
    let (from, to) = own("output_norm.weight", "model.norm.weight");
    take(from, to, vec![shape.width], norm)?;
    if !shape.tied {
        let (from, to) = own("output.weight", "lm_head.weight");
        take(from, to, table, Change::Nothing)?;
    }
    for layer in 0..shape.layers {
        let from = |name: &str| format!("blk.{layer}.{name}");
        let to = |name: &str| format!("model.layers.{layer}.{name}");
        for (name, hf) in norms(shape.family) {
            take(from(name), to(hf), vec![shape.width], norm)?;
        }
        if matches!(shape.family, Family::Qwen3 | Family::Gemma3) {
            for (name, hf) in HEAD_NORMS {
                take(from(name), to(hf), vec![shape.head_dim], norm)?;
            }
        }
        for (name, hf, rows, columns, change) in maps(shape) {
            let biased = match name {
                "attn_output" => shape.attention_bias,
                _ if name.starts_with("attn") => {
                    shape.attention_bias || shape.family == Family::Qwen2
                }
                _ => shape.mlp_bias,
            };
            let weight = |name: &str| format!("{name}.weight");
            take(from(&weight(name)), to(&weight(hf)), vec![rows, columns], change)?;
            if biased {
                let bias = |name: &str| format!("{name}.bias");
                take(from(&bias(name)), to(&bias(hf)), vec![rows], change)?;
            }
        }
    }
    // Old files carry the frequencies of rotary positions, which follow from the metadata.
    stored.retain(|name, _| !name.ends_with(".attn_rot_embd"));
    match stored.keys().next() {
        Some(name) => {
            unsupported(format!("tensor {} has no place in {}", quoted(name), shape.family.class()))
        }
        None => Ok(planned),
    }
}

const HEAD_NORMS: [(&str, &str); 2] = [
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
];

fn norms(family: Family) -> &'static [(&'static str, &'static str)] {
    match family {
        Family::Gemma2 | Family::Gemma3 => &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("post_attention_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        ],
        _ => &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("ffn_norm.weight", "post_attention_layernorm.weight"),
        ],
    }
}

/// Names, rows, columns, and what is done to them.
fn maps(shape: &Shape) -> [(&'static str, &'static str, usize, usize, Change); 7] {
    let (width, inner) = (shape.width, shape.inner);
    let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let paired = |heads: usize| match shape.family {
        Family::Llama => Change::Paired { heads },
        _ => Change::Nothing,
    };
    let plain = Change::Nothing;
    [
        ("attn_q", "self_attn.q_proj", queries, width, paired(shape.heads)),
        ("attn_k", "self_attn.k_proj", keys, width, paired(shape.kv_heads)),
        ("attn_v", "self_attn.v_proj", keys, width, plain),
        ("attn_output", "self_attn.o_proj", width, queries, plain),
        ("ffn_gate", "mlp.gate_proj", inner, width, plain),
        ("ffn_up", "mlp.up_proj", inner, width, plain),
        ("ffn_down", "mlp.down_proj", width, inner, plain),
    ]
}
