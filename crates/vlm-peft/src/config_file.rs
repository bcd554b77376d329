//! Adapters in peft's `adapter_config.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use vlm_nn::adapter::NormOf;

use crate::bottleneck::{Form, Start};
use crate::files::Base;
use crate::front::{Prefix, PrefixStart, Prompt, PromptStart};
use crate::whole::Biases;
use crate::{Adapter, AnyMethod, Beside, Bottleneck, Eas, Ia3, Lora, Memvp, Sight, Targets};

/// The version of peft whose fields are written.
const PEFT: &str = "0.21.2";

/// `adapter_config.json`, its keys in order.
pub(crate) fn described(adapter: &Adapter, base: &Base) -> Map<String, Value> {
    let mut fields = Map::new();
    // As peft does: in another model, other maps might be all.
    let targets = match adapter.targets == Targets::all() {
        true => Targets::Names(adapter.sites.iter().map(|site| site.module.clone()).collect()),
        false => adapter.targets.clone(),
    };
    adapter.method.get().describe(&targets, &adapter.sites, &mut fields);
    let Beside { bias, modules_to_save } = &adapter.beside;
    if let Some(field) = fields.get_mut("bias") {
        *field = json!(bias);
    }
    let saved = if modules_to_save.is_empty() { Value::Null } else { json!(modules_to_save) };
    for (key, value) in [
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(base.model)),
        ("inference_mode", json!(true)),
        ("modules_to_save", saved),
        ("peft_version", json!(PEFT)),
        ("revision", Value::Null),
        ("task_type", json!(base.task)),
    ] {
        fields.insert(key.to_owned(), value);
    }
    match adapter.method {
        AnyMethod::Prefix(_) => {
            fields.insert("num_attention_heads".into(), json!(base.text.map(|text| text.kv_heads)));
        }
        AnyMethod::Prompt(_) => {
            fields.insert("num_attention_heads".into(), json!(base.text.map(|text| text.heads)));
            fields.insert("num_layers".into(), json!(base.text.map(|text| text.layers)));
        }
        _ => {
            fields.insert("exclude_modules".into(), Value::Null);
            fields.insert("target_modules".into(), json!(targets));
        }
    }
    let sorted: BTreeMap<String, Value> = fields.into_iter().collect();
    sorted.into_iter().collect()
}

/// The method that a configuration speaks of.
pub(crate) fn method_of(fields: &Map<String, Value>) -> Result<AnyMethod, String> {
    let kind = fields.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    let is = |key: &str| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
    let number =
        |key: &str, default: f64| fields.get(key).and_then(Value::as_f64).unwrap_or(default);
    for key in ["use_qalora", "use_bdlora", "arrow_config"] {
        let value = fields.get(key).unwrap_or(&Value::Null);
        if !(value.is_null() || *value == json!(false)) {
            return Err(format!("`{key}` is {value}, which is not supported"));
        }
    }
    match kind {
        "LORA" => Ok(AnyMethod::Lora(Lora {
            r: number("r", 8.0) as usize,
            alpha: number("lora_alpha", 8.0),
            dropout: number("lora_dropout", 0.0),
            rslora: is("use_rslora"),
            dora: is("use_dora"),
        })),
        "IA3" => {
            let inner = fields.get("feedforward_modules").filter(|value| !value.is_null());
            let inner = inner.cloned().unwrap_or(json!([]));
            let wrong =
                |_| format!("`feedforward_modules` is {inner}, neither names nor a pattern");
            let feedforward = serde_json::from_value(inner.clone()).map_err(wrong)?;
            Ok(AnyMethod::Ia3(Ia3 { feedforward }))
        }
        "BOTTLENECK" => {
            let activation = fields.get("non_linearity").cloned().unwrap_or(json!("tanh"));
            Ok(AnyMethod::Bottleneck(Bottleneck {
                form: match (is("use_parallel_adapter"), is("use_adapterp")) {
                    (true, _) => Form::Parallel,
                    (false, true) => Form::Pfeiffer,
                    (false, false) => Form::Series,
                },
                size: number("bottleneck_size", 256.0) as usize,
                activation: serde_json::from_value(activation).map_err(|e| e.to_string())?,
                scale: number("scaling", 1.0),
                dropout: number("adapter_dropout", 0.0),
                start: Start::default(),
            }))
        }
        "EAS" => {
            let layers = fields.get("skipped_layers").cloned().unwrap_or(json!([]));
            let wrong = |_| format!("`skipped_layers` is {layers}, which is no list of numbers");
            let layers: Vec<usize> = serde_json::from_value(layers.clone()).map_err(wrong)?;
            if layers.is_empty() {
                return Err("`skipped_layers` names none".to_owned());
            }
            // Files that do not say are older than the choice.
            let norm = fields.get("norm").cloned().unwrap_or(json!(NormOf::Attention));
            let wrong = |_| format!("`norm` is {norm}; attention and feed-forward are known");
            let norm: NormOf = serde_json::from_value(norm.clone()).map_err(wrong)?;
            Ok(AnyMethod::Eas(Eas {
                layers,
                norm,
                size: number("adapter_dim", 8.0) as usize,
                scale: number("scaling", 1.0),
                router: fields.get("use_router").and_then(Value::as_bool).unwrap_or(true),
                temperature: number("temperature", 10.0),
                dropout: number("adapter_dropout", 0.1),
                ..Eas::default()
            }))
        }
        "MEMVP" => {
            let count = |key: &str| fields.get(key).and_then(Value::as_u64).map(|x| x as usize);
            let sight = count("vision_width").zip(count("vision_rows")).zip(count("num_layers"));
            let Some(((width, rows), blocks)) = sight else {
                return Err(
                    "`vision_width`, `vision_rows` and `num_layers` are to be numbers".into()
                );
            };
            Ok(AnyMethod::Memvp(Memvp {
                slots: count("slots"),
                size: number("proj_dim", 128.0) as usize,
                lambda: number("proj_scaling", 0.01),
                scale: number("scaling", 0.1),
                dropout: number("adapter_dropout", 0.1),
                shared: fields.get("shared").and_then(Value::as_bool).unwrap_or(true),
                tower_size: number("tower_dim", 0.0) as usize,
                sight: Some(Sight { width, rows, blocks }),
            }))
        }
        "PREFIX_TUNING" => {
            let zero = fields.get("init_weights") == Some(&json!("zero"));
            let start = if zero { PrefixStart::Zero } else { PrefixStart::Random };
            Ok(AnyMethod::Prefix(Prefix {
                tokens: number("num_virtual_tokens", 0.0) as usize,
                start,
            }))
        }
        "PROMPT_TUNING" => {
            let random = fields.get("prompt_tuning_init") == Some(&json!("RANDOM"));
            let start = if random { PromptStart::Random } else { PromptStart::Vocabulary };
            Ok(AnyMethod::Prompt(Prompt {
                tokens: number("num_virtual_tokens", 0.0) as usize,
                start,
            }))
        }
        other => Err(format!(
            "peft_type is `{other}`; LORA, IA3, PREFIX_TUNING, PROMPT_TUNING, BOTTLENECK, EAS and MEMVP are known"
        )),
    }
}

/// What trained beside the adapter that a configuration speaks of.
pub(crate) fn beside_of(fields: &Map<String, Value>) -> Result<Beside, String> {
    let given = |key: &str| fields.get(key).filter(|value| !value.is_null()).cloned();
    let wrong = |key: &str, value: &Value| format!("`{key}` is {value}, which is not known");
    let bias = given("bias").map_or(Ok(Biases::None), |value| {
        serde_json::from_value(value.clone()).map_err(|_| wrong("bias", &value))
    })?;
    let modules_to_save = given("modules_to_save").map_or(Ok(Vec::new()), |value| {
        serde_json::from_value(value.clone()).map_err(|_| wrong("modules_to_save", &value))
    })?;
    Ok(Beside { bias, modules_to_save })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_that_name_no_norm_are_older_than_the_choice() {
        let read = |norm: Option<&str>| {
            let mut fields = Map::new();
            fields.insert("peft_type".into(), json!("EAS"));
            fields.insert("skipped_layers".into(), json!([1]));
            fields.extend(norm.map(|norm| ("norm".to_owned(), json!(norm))));
            match method_of(&fields)? {
                AnyMethod::Eas(eas) => Ok(eas.norm),
                _ => Err("no eas".to_owned()),
            }
        };
        assert_eq!(read(None), Ok(NormOf::Attention));
        assert_eq!(read(Some("feed-forward")), Ok(NormOf::FeedForward));
        assert!(read(Some("last")).unwrap_err().contains("attention and feed-forward are known"));
    }
}
