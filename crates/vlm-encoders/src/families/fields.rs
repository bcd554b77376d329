//! Reading `config.json` field by field: what is not understood is refused by name.

use serde_json::{Map, Value};
use vlm_nn::Activation;

/// Beyond any model, and small enough that no product of three overflows.
const LIMIT: usize = 1 << 20;

/// What transformers writes into any config and what does not change the computation here.
pub const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "drop_path_rate",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_stride",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// The fields of a `config.json` that have not been understood yet: each is taken once, and what is
/// left at the [end](Self::finish) is refused.
///
/// Errors are sentences that name the field.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Before a field's name in messages, such as `vision_config.`.
    place: String,
}

impl Fields {
    /// All of an object.
    pub fn new(map: Map<String, Value>, place: &str) -> Self {
        Fields { map, place: place.to_owned() }
    }

    /// What a field is where the file is silent.
    pub fn usually(&mut self, key: &str, value: impl Into<Value>) {
        if self.map.get(key).is_none_or(Value::is_null) {
            self.map.insert(key.to_owned(), value.into());
        }
    }

    /// A field; a null is the same as none, as in the files that transformers writes.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// What is left.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// A field that is left where it is.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// What is wrong with a field.
    pub fn bad(&self, key: &str, reason: impl std::fmt::Display) -> String {
        format!("{}{key} {reason}", self.place)
    }

    /// An object within.
    pub fn section(&mut self, key: &str) -> Result<Fields, String> {
        match self.take(key) {
            None => Ok(Fields::new(Map::new(), &format!("{}{key}.", self.place))),
            Some(Value::Object(map)) => Ok(Fields::new(map, &format!("{}{key}.", self.place))),
            Some(_) => Err(self.bad(key, "is not an object")),
        }
    }

    /// A number of things, at least one.
    pub fn size(&mut self, key: &str, default: usize) -> Result<usize, String> {
        Ok(self.maybe_size(key)?.unwrap_or(default))
    }

    /// The same where there may be none.
    pub fn maybe_size(&mut self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        match size.filter(|n| (1..=LIMIT).contains(n)) {
            Some(size) => Ok(Some(size)),
            None => Err(self.bad(key, format!("is {value}; no model has that"))),
        }
    }

    /// Layers.
    pub fn layers(&mut self, default: usize) -> Result<usize, String> {
        match self.take("num_hidden_layers") {
            None => Ok(default),
            // A model may be without any layer: a head on embeddings.
            Some(value) => match value.as_u64().filter(|n| *n <= 10_000) {
                Some(n) => Ok(n as usize),
                None => {
                    Err(self.bad("num_hidden_layers", format!("is {value}; no model has that")))
                }
            },
        }
    }

    /// A number.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64, String> {
        Ok(self.maybe_number(key)?.unwrap_or(default))
    }

    /// The same where there may be none.
    pub fn maybe_number(&mut self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.bad(key, format!("is {value}; it must be a number"))),
        }
    }

    /// A number above 0.
    pub fn positive(&mut self, key: &str, default: f64) -> Result<f64, String> {
        let number = self.number(key, default)?;
        if number > 0.0 { Ok(number) } else { Err(self.bad(key, "must be above 0")) }
    }

    /// A switch.
    pub fn flag(&mut self, key: &str, default: bool) -> Result<bool, String> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(value) => Err(self.bad(key, format!("is {value}; it must be true or false"))),
        }
    }

    /// An activation under Hugging Face's name.
    pub fn activation(&mut self, key: &str, default: Activation) -> Result<Activation, String> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| self.bad(key, format!("is {value}, which is not supported"))),
        }
    }

    /// Height and width: one number for both, or two.
    pub fn pair(&mut self, key: &str, default: usize) -> Result<(usize, usize), String> {
        let Some(value) = self.take(key) else { return Ok((default, default)) };
        let one = |value: &Value| {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
            n.filter(|n| (1..=LIMIT).contains(n))
        };
        let pair = match &value {
            Value::Array(list) if list.len() == 2 => one(&list[0]).zip(one(&list[1])),
            other => one(other).map(|n| (n, n)),
        };
        pair.ok_or_else(|| self.bad(key, format!("is {value}; no model has that")))
    }

    /// A field that may only have one value.
    pub fn only(&mut self, key: &str, value: impl Into<Value>) -> Result<(), String> {
        let value = value.into();
        match self.take(key) {
            Some(other) if other != value => {
                Err(self.bad(key, format!("is {other}; only {value} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), String> {
        let unknown: Vec<String> = self
            .map
            .iter()
            .filter(|(key, value)| !value.is_null() && !HARMLESS.contains(&key.as_str()))
            .map(|(key, _)| format!("{}{key}", self.place))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(format!("unknown key: {}", unknown.join(", ")))
    }
}

/// Heads have to divide the width where nobody says how wide one is.
pub fn heads_divide(width: usize, heads: usize) -> Result<(), String> {
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(format!("hidden_size {width} is not a multiple of num_attention_heads {heads}"))
}
