//! LoRA: a product of two thin matrices beside each weight.

use burn::module::Param;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::adapter::{LowRank, Part, Ranks, Scaling};
use vlm_nn::params::Init;

use crate::method::known;
use crate::{Error, Method, Site, Targets, Weight};

/// Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685), rank-stabilised (rsLoRA, Kalajdzievski
/// 2023, arXiv 2312.03732) and weight-decomposed (DoRA, Liu et al. 2024, arXiv 2402.09353) if asked.
///
/// Choose it first: it is merged without a trace, travels in a few megabytes, and comes close to full
/// fine-tuning where the task is near to what the model knows. rsLoRA from about rank 32 up; DoRA
/// where a few points are worth a slower step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank of the term.
    pub r: usize,
    /// The term is scaled by `alpha / r`.
    pub alpha: f64,
    /// Share of the inputs that the term does not see in training.
    pub dropout: f64,
    /// Scale by `alpha / √r` in its place.
    pub rslora: bool,
    /// Learn the length of each output's weights apart from their direction.
    pub dora: bool,
}

impl Default for Lora {
    fn default() -> Self {
        Lora { r: 8, alpha: 8.0, dropout: 0.0, rslora: false, dora: false }
    }
}

/// Where LoRA hangs by default: the queries and values of attention, as the paper has it, by the names
/// of the families.
const QUERIES_AND_VALUES: [&str; 4] = ["q_proj", "v_proj", "query", "value"];

impl Lora {
    pub(crate) fn term(
        &self,
        site: &Site,
        weight: &Weight,
        seed: u64,
        ranks: Option<Ranks>,
    ) -> Result<Part, Error> {
        let (r, most) = (self.r, site.input.min(site.output));
        if r > most {
            return Err(Error::Setting(format!(
                "r is {r}, but `{}` has only {most} ranks ({} values in, {} out)",
                site.module, site.input, site.output
            )));
        }
        let device = weight.device();
        let a = Init::Uniform((site.input as f64).powf(-0.5));
        Ok(Part::LowRank(LowRank {
            a: site.start("a", [site.input, r], a, seed, &device),
            b: site.start("b", [r, site.output], Init::Constant(0.0), seed, &device),
            magnitude: self.dora.then(|| {
                let rests = LowRank::resting_magnitude(weight.values()).into_data();
                Param::from_data(rests, &device)
            }),
            scaling: Scaling { alpha: self.alpha, rooted: self.rslora },
            ranks,
            dropout: self.dropout,
        }))
    }
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        match (self.dora, self.rslora) {
            (true, _) => "dora",
            (false, true) => "rslora",
            (false, false) => "lora",
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Setting(reason));
        if self.r == 0 {
            return wrong("r is 0; the rank must be at least 1".to_owned());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong(format!("alpha is {}; it must be above 0, such as r or 2 r", self.alpha));
        }
        check_dropout(self.dropout)
    }

    fn targets(&self, sites: &[Site]) -> Targets {
        match known(&QUERIES_AND_VALUES, sites)[..] {
            [] => Targets::all(),
            ref names => Targets::of(names),
        }
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        self.term(site, weight, seed, None)
    }

    fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    fn describe(&self, _: &Targets, _: &[Site], fields: &mut Map<String, Value>) {
        let known = json!({
            "peft_type": "LORA",
            "r": self.r,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "alora_invocation_tokens": null,
            "alpha_pattern": {},
            "arrow_config": null,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_bias": false,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "monteclora_config": null,
            "qalora_group_size": 16,
            "rank_pattern": {},
            "target_parameters": null,
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_qalora": false,
            "velora_config": null,
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}

/// A whole number as Python writes it.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

pub(crate) fn check_dropout(dropout: f64) -> Result<(), Error> {
    if (0.0..1.0).contains(&dropout) {
        return Ok(());
    }
    Err(Error::Setting(format!("dropout is {dropout}; it must be from 0 up to, not including, 1")))
}
