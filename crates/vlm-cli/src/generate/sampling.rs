//! How the next token is chosen, from the command line.

use std::path::Path;

use anyhow::Result;
use vlm_fusion::decode::{GenerationConfig, Sampling};

use crate::output::{self, Usage};

/// How the next token is chosen, and when an answer ends.
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Tokens of the answer at most.
    #[arg(long, value_name = "N", default_value = "256", value_parser = output::count)]
    pub max_tokens: usize,
    /// Draw tokens, after dividing their logits by this: below 1 the likely ones become likelier.
    /// 0 always takes the likeliest.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw among the K likeliest only.
    #[arg(long, value_name = "K", value_parser = output::count)]
    pub top_k: Option<usize>,
    /// Draw among the likeliest that together have this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Make tokens that have come before less likely: above 1. Unless given, as the model's
    /// generation_config.json says, or 1.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// Texts that end the answer; it holds none of them.
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub stop: Vec<String>,
    /// The same seed draws the same answer.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// With the tokens that end an answer of the model in a folder.
    ///
    /// # Errors
    /// If a number makes no sense, or a file of the folder is damaged.
    pub fn read(&self, model: &Path) -> Result<Sampling> {
        let own = GenerationConfig::read(model)?;
        let penalty = self.repetition_penalty.or(own.repetition_penalty).unwrap_or(1.0);
        let sampling = Sampling {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: penalty,
            seed: self.seed,
            eos: own.eos,
            cached: true,
        };
        sampling.validate().map_err(|error| Usage(error.to_string()))?;
        Ok(sampling)
    }
}
