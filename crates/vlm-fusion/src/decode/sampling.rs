//! How tokens are chosen.

use serde::{Deserialize, Serialize};

use crate::Error;

/// How the next token is chosen, and when an answer ends.
///
/// The settings work in the order of transformers' logits processors: repetition penalty,
/// temperature, top-k, top-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Tokens of an answer at most; 256 unless given.
    pub max_tokens: usize,
    /// Logits are divided by it: below 1 the likely tokens become likelier. 0, the default, always
    /// takes the likeliest, and the next two are then without effect.
    pub temperature: f64,
    /// Only so many of the likeliest tokens (and those that tie with the last of them); `None` for
    /// all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability; `None` for all (nucleus
    /// sampling, Holtzman et al. 2020, arXiv 1904.09751).
    pub top_p: Option<f64>,
    /// Makes tokens of prompt and answer less likely: positive logits are divided by it, negative
    /// ones multiplied (Keskar et al. 2019, arXiv 1909.05858). 1 changes nothing.
    pub repetition_penalty: f64,
    /// The same seed gives the same answer on one device.
    pub seed: u64,
    /// Tokens that end an answer.
    pub eos: Vec<i64>,
    /// Whether keys and values are kept. Without them every token costs the whole text again; it is
    /// there to compare with.
    pub cached: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            max_tokens: 256,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            repetition_penalty: 1.0,
            seed: 0,
            eos: Vec::new(),
            cached: true,
        }
    }
}

impl Sampling {
    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that does not.
    pub fn validate(&self) -> Result<(), Error> {
        let bad = |name, value: String, remedy| Err(Error::Setting { name, value, remedy });
        if self.max_tokens == 0 {
            return bad("max_tokens", "0".into(), "ask for at least 1 token");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let remedy = "it must be 0 (always the likeliest token) or above";
            return bad("temperature", self.temperature.to_string(), remedy);
        }
        if self.top_k == Some(0) {
            return bad("top_k", "0".into(), "it must be at least 1; leave it out for all tokens");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return bad("top_p", p.to_string(), "it must be above 0 and at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let remedy = "it must be above 0; 1 changes nothing";
            return bad("repetition_penalty", self.repetition_penalty.to_string(), remedy);
        }
        Ok(())
    }
}
