//! From a prompt to tokens, one after another.
//!
//! [`generate`] takes a [`Prompt`], which is rows of tokens with those of pictures among them, and
//! chooses tokens as [`Sampling`] says. What it needs of a model is [`Decode`], which a text tower
//! is, and which whatever wraps one can be. Keys and values are kept ([`vlm_nn::Cache`]), so that a
//! further token costs one row. [`Speech`] turns tokens into text as they come and ends it at stop
//! strings.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use burn::tensor::Device;
//! use vlm_encoders::{Encoder, text::Message};
//! use vlm_fusion::decode::{GenerationConfig, Prompt, Sampling, generate};
//!
//! let dir = "models/SmolLM2-135M-Instruct".as_ref();
//! let Encoder::Text(folder) = Encoder::open(dir, &Device::flex())? else { panic!("no decoder") };
//! let chat = folder.tokenizer.chat(&[Message::text("user", "Say hello.")], true).unwrap();
//! let ids = folder.tokenizer.encode_bare(&chat, 8192).unwrap().ids;
//! let prompt = Prompt::of_ids(&folder.model.text, vec![ids])?;
//! let sampling = Sampling { eos: GenerationConfig::read(dir)?.eos, ..Sampling::default() };
//! let said = generate(&folder.model.text, &prompt, &sampling, &mut |_, _| ControlFlow::Continue(()))?;
//! println!("{}", folder.tokenizer.decode(&said[0].ids).unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choose;
mod generate;
mod prompt;
mod sampling;
mod settings;
mod speech;

pub use choose::{Chooser, probabilities};
pub use generate::{Generation, Reason, generate, go_on};
pub use prompt::Prompt;
pub use sampling::Sampling;
pub use settings::GenerationConfig;
pub use speech::{Speech, cut};

use burn::tensor::{Device, Int, Tensor};
use vlm_encoders::TextTower;
use vlm_nn::{Cache, Pass};

/// What [`generate`] needs of a model.
pub trait Decode {
    /// The rows of tokens: ids `[batch, tokens]` to `[batch, tokens, width]`.
    fn look_up(&self, ids: Tensor<2, Int>) -> Tensor<3>;

    /// What the model says of rows `[batch, tokens, width]` that follow what the pass has in its
    /// cache: states `[batch, tokens, width]`.
    fn extend(&self, rows: Tensor<3>, pass: &mut Pass) -> Tensor<3>;

    /// Logits `[batch, tokens, vocabulary]` of states.
    fn logits(&self, states: Tensor<3>) -> Tensor<3>;

    /// The longest text in tokens, prompt and answer together.
    fn context(&self) -> usize;

    /// Tokens that there are.
    fn vocabulary(&self) -> usize;

    /// Where it computes.
    fn device(&self) -> Device;

    /// An empty cache for it.
    fn new_cache(&self) -> Cache {
        Cache::new()
    }
}

impl Decode for TextTower {
    fn look_up(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        TextTower::look_up(self, ids)
    }

    fn extend(&self, rows: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        TextTower::extend(self, rows, pass)
    }

    fn logits(&self, states: Tensor<3>) -> Tensor<3> {
        TextTower::logits(self, states)
    }

    fn context(&self) -> usize {
        TextTower::context(self)
    }

    fn vocabulary(&self) -> usize {
        TextTower::vocabulary(self)
    }

    fn device(&self) -> Device {
        self.tokens.device()
    }
}
