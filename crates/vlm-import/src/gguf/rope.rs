//! Scaled rotary positions.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use serde_json::{Value, json};

use super::config::Shape;
use super::keys::Keys;
use super::table::Stored;
use crate::error::{Fault, damaged, quoted, unsupported};
use crate::input::Input;

/// `rope_scaling` of `config.json`: what the keys say, or the divisors of a tensor.
pub(super) fn scaling<R: Read + Seek>(
    keys: &Keys,
    key: &dyn Fn(&str) -> String,
    shape: &Shape,
    theta: f64,
    stored: &BTreeMap<String, Stored>,
    input: &mut Input<R>,
) -> Result<Option<Value>, Fault> {
    let number = |rest: &str| match keys.number(&key(rest))? {
        Some(n) if n <= 0.0 => damaged(format!("{} is {n}", key(rest))),
        found => Ok(found),
    };
    let old = number("rope.scale_linear")?.filter(|factor| *factor != 1.0);
    let factor = number("rope.scaling.factor")?;
    let original = keys.size(&key("rope.scaling.original_context_length"))?;
    let attention = number("rope.scaling.attn_factor")?;
    let kind = keys.text(&key("rope.scaling.type"))?;
    let divisors = match stored.get("rope_freqs.weight") {
        Some(tensor) => Some(divisors(tensor, shape, input)?),
        None => None,
    };
    let found = match (kind, divisors) {
        (None | Some("none"), Some(divisors)) => Some(divided(&divisors, shape, theta)),
        (Some(kind), Some(_)) => {
            return unsupported(format!(
                "it has both rope_freqs.weight and {} = {}, which is not supported",
                key("rope.scaling.type"),
                quoted(kind)
            ));
        }
        (None | Some("none"), None) => {
            old.map(|factor| json!({ "rope_type": "linear", "factor": factor }))
        }
        (Some("linear"), None) => {
            let factor = factor.or(old).ok_or_else(|| missing(key("rope.scaling.factor")))?;
            Some(json!({ "rope_type": "linear", "factor": factor }))
        }
        (Some("yarn"), None) => {
            let factor = factor.ok_or_else(|| missing(key("rope.scaling.factor")))?;
            let original =
                original.ok_or_else(|| missing(key("rope.scaling.original_context_length")))?;
            let mut scaling = json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original,
            });
            if let Some(attention) = attention.filter(|factor| *factor != 1.0) {
                // There it multiplies what YaRN's paper has; here it stands for the whole.
                scaling["attention_factor"] = json!(attention * (0.1 * factor.ln() + 1.0));
            }
            Some(scaling)
        }
        (Some(other), None) => {
            return unsupported(format!(
                "{} is {}, which is not supported; supported are none, linear and yarn",
                key("rope.scaling.type"),
                quoted(other)
            ));
        }
    };
    Ok(found)
}

fn missing(key: String) -> Fault {
    Fault::Damaged(format!("{key} is missing"))
}

/// The divisors of the frequencies, one for each pair of a head.
fn divisors<R: Read + Seek>(
    tensor: &Stored,
    shape: &Shape,
    input: &mut Input<R>,
) -> Result<Vec<f32>, Fault> {
    let stretch = &tensor.stretch;
    let mut values = Vec::new();
    if stretch.count == shape.head_dim / 2 {
        let (of, bytes) = stretch.kind.block();
        input.go(stretch.start)?;
        let raw = input.bytes((stretch.count / of * bytes) as u64)?;
        stretch.kind.decode(&raw, &mut values);
    }
    if values.is_empty() || !values.iter().all(|v| v.is_finite() && *v > 0.0) {
        return damaged(format!(
            "tensor `rope_freqs.weight` must hold {} numbers above 0",
            shape.head_dim / 2
        ));
    }
    Ok(values)
}

/// Llama 3's scaling where the divisors are those of its usual numbers, and otherwise the divisors
/// themselves, which transformers takes under the name of LongRoPE.
fn divided(divisors: &[f32], shape: &Shape, theta: f64) -> Value {
    let (low, high, original) = (1.0, 4.0, 8192);
    let factor = f64::from(divisors.last().copied().unwrap_or(1.0));
    let usual = |pair: usize| {
        let turns = f64::from(original) * theta.powf(-(2.0 * pair as f64) / shape.head_dim as f64)
            / std::f64::consts::TAU;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    let near = |(pair, divisor): (usize, &f32)| {
        (usual(pair) - f64::from(*divisor)).abs() <= 1e-4 * usual(pair)
    };
    if factor > 1.0 && divisors.iter().enumerate().all(near) {
        return json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        });
    }
    json!({
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "factor": 1.0,
        "attention_factor": 1.0,
    })
}
