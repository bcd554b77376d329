//! A language model that has yet to learn everything.

use std::path::Path;

use burn::tensor::{Device, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::params::{Init, drawn};
use vlm_store::{Float, TensorSpec, write_tensors};

use crate::text::train_chat_bpe;
use crate::{Encoder, Error, TextFolder, write_config};

/// The shape of a new decoder: Llama's, with one table for the words that come in and go out.
///
/// Choose one where the language is small (questions of a few forms, boxes, codes): a few million weights learn
/// it in minutes on a processor, where a pretrained decoder of hundreds of millions takes hours to learn to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDecoder {
    /// Width of its states.
    pub width: usize,
    /// Its blocks.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Inner width of the feed-forwards; three times the width if not given.
    #[serde(default)]
    pub inner: Option<usize>,
    /// Tokens at most, which are learned from the texts.
    #[serde(default = "vocabulary")]
    pub vocabulary: usize,
    /// The longest text in tokens, pictures included.
    #[serde(default = "context")]
    pub context: usize,
}

fn vocabulary() -> usize {
    1024
}

fn context() -> usize {
    1024
}

/// Standard deviation of the start values, as transformers has it.
const SPREAD: f64 = 0.02;
/// More of anything is a mistake.
const MOST: usize = 1 << 20;

impl NewDecoder {
    /// Looks for numbers that make no decoder.
    ///
    /// # Errors
    /// The first, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let all = [
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("inner", self.inner()),
            ("vocabulary", self.vocabulary),
            ("context", self.context),
        ];
        if let Some((name, value)) = all.iter().find(|(_, value)| !(1..=MOST).contains(value)) {
            return Err(format!("{name} is {value}; it must be from 1 to {MOST}"));
        }
        if !self.width.is_multiple_of(2 * self.heads) {
            return Err(format!(
                "width is {} and heads {}; each head needs an even share of the width",
                self.width, self.heads
            ));
        }
        Ok(())
    }

    fn inner(&self) -> usize {
        self.inner.unwrap_or(3 * self.width)
    }

    /// A decoder whose tokens are those of the texts; its start values depend on the seed alone.
    ///
    /// # Errors
    /// If the numbers make no decoder or there are no texts.
    pub fn begin(
        &self,
        texts: impl Iterator<Item = String>,
        seed: u64,
        device: &Device,
    ) -> Result<TextFolder, Error> {
        let io = |source| Error::Io { path: std::env::temp_dir(), source };
        let dir = tempfile::tempdir().map_err(io)?;
        self.write(dir.path(), texts, seed)?;
        match Encoder::open(dir.path(), device)? {
            Encoder::Text(folder) => Ok(folder),
            _ => unreachable!("a Llama is written"),
        }
    }

    /// Writes such a decoder as a `LlamaForCausalLM` folder.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and what the operating system reports.
    pub fn write(
        &self,
        dir: &Path,
        texts: impl Iterator<Item = String>,
        seed: u64,
    ) -> Result<(), Error> {
        let path = dir.join("config.json");
        self.check().map_err(|reason| Error::Config { path: path.clone(), reason })?;
        let tokenizer = train_chat_bpe(texts, self.vocabulary, self.context)?;
        tokenizer.save(dir)?;
        let vocabulary = tokenizer.vocab_size();
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": null,
            "eos_token_id": tokenizer.eos_id(),
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": SPREAD,
            "intermediate_size": self.inner(),
            "max_position_embeddings": self.context,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.heads,
            "pad_token_id": tokenizer.pad_id(),
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "vocab_size": vocabulary,
        });
        let config: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
        write_config(&path, &config, Float::F32, None)?;
        let specs = self.tensors(vocabulary);
        let mut values = |name: &str| -> TensorData {
            let init = match name.ends_with("norm.weight") {
                true => Init::Constant(1.0),
                false => Init::Normal(SPREAD),
            };
            let shape = specs.iter().find(|spec| spec.name == name).map(|spec| &spec.shape[..]);
            drawn(init, shape.unwrap_or_default(), seed, name)
        };
        Ok(write_tensors(&dir.join("model.safetensors"), Float::F32, &[], &specs, &mut values)?)
    }

    /// The tensors of a file, as PyTorch has them.
    fn tensors(&self, vocabulary: usize) -> Vec<TensorSpec> {
        let (width, inner) = (self.width, self.inner());
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            specs.push(TensorSpec { name: format!("model.{name}.weight"), shape: shape.to_vec() });
        };
        add("embed_tokens".into(), &[vocabulary, width]);
        for layer in 0..self.layers {
            let mut of = |name: &str, shape: &[usize]| add(format!("layers.{layer}.{name}"), shape);
            for map in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                of(&format!("self_attn.{map}"), &[width, width]);
            }
            of("mlp.gate_proj", &[inner, width]);
            of("mlp.up_proj", &[inner, width]);
            of("mlp.down_proj", &[width, inner]);
            of("input_layernorm", &[width]);
            of("post_attention_layernorm", &[width]);
        }
        add("norm".into(), &[width]);
        specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> NewDecoder {
        NewDecoder { width: 16, layers: 2, heads: 2, inner: None, vocabulary: 280, context: 64 }
    }

    fn texts() -> impl Iterator<Item = String> {
        ["Where is it?", "It is there, where it was."].iter().map(ToString::to_string)
    }

    #[test]
    fn it_opens_as_a_decoder_and_depends_on_the_seed_alone() {
        let begin = |seed| small().begin(texts(), seed, &Device::flex()).unwrap();
        let values = |folder: &TextFolder| -> Vec<f32> {
            folder.model.text.tokens.val().into_data().iter().collect()
        };
        let folder = begin(1);
        assert_eq!(folder.plan.spec.blocks.len(), 2);
        assert!(folder.plan.spec.head.is_some_and(|head| head.tied));
        assert_eq!(folder.plan.spec.vocabulary, folder.tokenizer.vocab_size());
        assert_eq!(values(&folder), values(&begin(1)));
        assert_ne!(values(&folder), values(&begin(2)));
        let rms = values(&folder).iter().map(|x| x * x).sum::<f32>() / values(&folder).len() as f32;
        assert!((rms.sqrt() - 0.02).abs() < 0.001, "{rms}");
    }

    #[test]
    fn what_makes_no_decoder_is_said() {
        let refused = |decoder: NewDecoder, word: &str| {
            let error = decoder.begin(texts(), 1, &Device::flex()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(NewDecoder { heads: 3, ..small() }, "each head needs an even share");
        refused(NewDecoder { layers: 0, ..small() }, "layers is 0");
        refused(NewDecoder { vocabulary: 100, ..small() }, "at least 260");
        let none = small().begin(std::iter::empty(), 1, &Device::flex()).unwrap_err();
        assert!(none.to_string().contains("no text"), "{none}");
    }
}
