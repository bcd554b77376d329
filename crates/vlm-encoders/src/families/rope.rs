//! `rope_theta` and `rope_scaling`, and `rope_parameters`, which holds both since transformers 5.

use serde_json::Value;
use vlm_nn::{RopeScaling, Rotary};

use super::fields::Fields;

/// The rotary positions of a config.
///
/// `context` is `max_position_embeddings`; `original` is a field of that name beside it, where
/// the family has one.
pub fn rotary(
    fields: &mut Fields,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Result<Rotary, String> {
    let theta = fields.positive("rope_theta", theta)?;
    let original = fields.maybe_size("original_max_position_embeddings")?;
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(value) = fields.take(key) {
            let Value::Object(map) = value else {
                return Err(fields.bad(key, "is not an object"));
            };
            let mut section = Fields::new(map, &format!("{key}."));
            let rotary = scaled(&mut section, theta, head_dim, context, original)?;
            section.finish()?;
            return Ok(rotary);
        }
    }
    Ok(Rotary::new(theta))
}

/// From the fields of one `rope_scaling`.
pub fn scaled(
    fields: &mut Fields,
    theta: f64,
    head_dim: usize,
    context: usize,
    original: Option<usize>,
) -> Result<Rotary, String> {
    let theta = fields.positive("rope_theta", theta)?;
    let (new, old) = (fields.take("rope_type"), fields.take("type"));
    let kind = match new.or(old) {
        None => "default".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(fields.bad("rope_type", format!("is {other}"))),
    };
    let own = fields.maybe_size("original_max_position_embeddings")?;
    let scaling = match kind.as_str() {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor(fields)? },
        // transformers takes the model's own context here, whatever the section says.
        "dynamic" => {
            if head_dim < 4 {
                return Err(fields.bad("rope_type", "dynamic needs heads of at least 4 values"));
            }
            RopeScaling::Dynamic { factor: factor(fields)?, context }
        }
        "yarn" => yarn(fields, own.unwrap_or(context))?,
        "llama3" => RopeScaling::Llama3 {
            factor: factor(fields)?,
            low: positive(fields, "low_freq_factor")?,
            high: positive(fields, "high_freq_factor")?,
            context: own
                .ok_or_else(|| fields.bad("original_max_position_embeddings", "is missing"))?,
        },
        "longrope" | "su" => long(fields, head_dim, context, original)?,
        other => {
            return Err(fields.bad(
                "rope_type",
                format!(
                    "`{other}` is not supported; supported: default, linear, dynamic, yarn, llama3, longrope"
                ),
            ));
        }
    };
    Ok(Rotary { theta, scaling })
}

fn positive(fields: &mut Fields, key: &str) -> Result<f64, String> {
    match fields.maybe_number(key)? {
        Some(number) if number > 0.0 => Ok(number),
        Some(_) => Err(fields.bad(key, "must be above 0")),
        None => Err(fields.bad(key, "is missing")),
    }
}

fn factor(fields: &mut Fields) -> Result<f64, String> {
    positive(fields, "factor")
}

fn yarn(fields: &mut Fields, context: usize) -> Result<RopeScaling, String> {
    let factor = factor(fields)?;
    let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let all = fields.maybe_number("mscale_all_dim")?.filter(|m| *m != 0.0);
    let some = fields.maybe_number("mscale")?.filter(|m| *m != 0.0);
    let magnitude = match (fields.maybe_number("attention_factor")?, some, all) {
        (Some(given), ..) => given,
        (None, Some(some), Some(all)) => scale(some) / scale(all),
        _ => scale(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        context,
        fast: fields.positive("beta_fast", 32.0)?,
        slow: fields.positive("beta_slow", 1.0)?,
        magnitude,
        truncate: fields.flag("truncate", true)?,
    })
}

fn long(
    fields: &mut Fields,
    head_dim: usize,
    context: usize,
    original: Option<usize>,
) -> Result<RopeScaling, String> {
    let mut divisors = |key: &str| -> Result<Vec<f64>, String> {
        let list = match fields.take(key) {
            Some(Value::Array(list)) => list,
            _ => return Err(fields.bad(key, "is missing or no list")),
        };
        let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
        match numbers {
            Some(numbers) if numbers.len() == head_dim / 2 && numbers.iter().all(|n| *n > 0.0) => {
                Ok(numbers)
            }
            _ => Err(fields.bad(key, format!("must be {} numbers above 0", head_dim / 2))),
        }
    };
    let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
    let given = fields.maybe_number("factor")?;
    let (factor, trained) = match original {
        Some(original) => (context as f64 / original as f64, original),
        None => (given.ok_or_else(|| fields.bad("factor", "is missing"))?, context),
    };
    let magnitude = match fields.maybe_number("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (trained as f64).ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope { short, long, context: trained, magnitude })
}
