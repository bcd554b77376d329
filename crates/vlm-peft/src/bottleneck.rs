//! Narrow layers around linear maps.

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::Activation;
use vlm_nn::adapter::{self, Part, Place};
use vlm_nn::params::Init;

use crate::lora::{check_dropout, number};
use crate::method::known;
use crate::target::is_or_ends;
use crate::{Error, Method, Site, Targets, Weight};

/// How bottlenecks stand to their maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// One after the other (Houlsby et al. 2019): in front of the maps into a feed-forward, behind the
    /// map out of it.
    #[default]
    Series,
    /// Behind the map out of a feed-forward alone (Pfeiffer et al. 2020).
    Pfeiffer,
    /// Beside the maps into attention (He et al. 2021).
    Parallel,
}

/// How bottlenecks start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Without any effect: the second map is 0.
    #[default]
    Identity,
    /// Both maps small and random, as in LLM-Adapters: the model is no longer quite itself.
    Bert,
}

/// Adapters in LLM-Adapters' forms (Hu et al. 2023, arXiv 2304.01933).
///
/// Choose them where LoRA is too weak and something at inference may cost: they are no change of a
/// weight and stay beside the model for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bottleneck {
    /// How they stand to their maps.
    pub form: Form,
    /// Inner width.
    pub size: usize,
    /// Between the maps.
    pub activation: Activation,
    /// Factor on what they say.
    pub scale: f64,
    /// Share of what they say that is dropped in training.
    pub dropout: f64,
    /// How they start.
    pub start: Start,
}

impl Default for Bottleneck {
    fn default() -> Self {
        Bottleneck {
            form: Form::Series,
            size: 256,
            activation: Activation::Tanh,
            scale: 1.0,
            dropout: 0.0,
            start: Start::Identity,
        }
    }
}

/// Maps into feed-forwards, maps out of them, and maps into attention, by the names of the families.
const INTO: [&str; 4] = ["gate_proj", "up_proj", "fc1", "intermediate.dense"];
const OUT_OF: [&str; 3] = ["down_proj", "fc2", "output.dense"];
const NOT_OUT: &str = "attention.output.dense";
const ATTENTION: [&str; 6] = ["q_proj", "k_proj", "v_proj", "query", "key", "value"];

/// A narrow layer at a map, but for its tensors.
pub(crate) struct Narrow {
    pub place: Place,
    /// Values that come in and go out.
    pub widths: [usize; 2],
    pub activation: Activation,
    pub scale: f64,
    pub dropout: f64,
}

impl Narrow {
    /// With these tensors.
    pub fn with(&self, down: Param<Tensor<2>>, up: Param<Tensor<2>>) -> Part {
        let Narrow { place, activation, scale, dropout, .. } = *self;
        Part::Bottleneck(adapter::Bottleneck { down, up, activation, scale, place, dropout })
    }

    /// A start without any effect.
    pub fn identity(&self) -> [Init; 2] {
        [Init::Uniform((self.widths[0] as f64).powf(-0.5)), Init::Constant(0.0)]
    }

    /// So narrow, with its start.
    pub fn begun(
        &self,
        site: &Site,
        size: usize,
        [down, up]: [Init; 2],
        seed: u64,
        device: &Device,
    ) -> Part {
        let [input, output] = self.widths;
        self.with(
            site.start("down", [input, size], down, seed, device),
            site.start("up", [size, output], up, seed, device),
        )
    }
}

impl Bottleneck {
    /// What stands at a map.
    pub(crate) fn narrow(&self, site: &Site) -> Narrow {
        let out = OUT_OF.iter().any(|name| is_or_ends(&site.module, name));
        let (place, widths) = match self.form {
            Form::Parallel => (Place::Beside, [site.input, site.output]),
            Form::Series | Form::Pfeiffer if out => (Place::After, [site.output; 2]),
            Form::Series | Form::Pfeiffer => (Place::Before, [site.input; 2]),
        };
        let Bottleneck { activation, scale, dropout, .. } = *self;
        Narrow { place, widths, activation, scale, dropout }
    }
}

impl Method for Bottleneck {
    fn name(&self) -> &'static str {
        match self.form {
            Form::Series => "series",
            Form::Pfeiffer => "pfeiffer",
            Form::Parallel => "parallel",
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.size == 0 {
            return Err(Error::Setting("size is 0; a bottleneck needs at least 1".to_owned()));
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            let reason = format!("scale is {}; it must be a number other than 0", self.scale);
            return Err(Error::Setting(reason));
        }
        check_dropout(self.dropout)
    }

    fn targets(&self, sites: &[Site]) -> Targets {
        let names = match self.form {
            Form::Series => [known(&INTO, sites), known(&OUT_OF, sites)].concat(),
            Form::Pfeiffer => known(&OUT_OF, sites),
            Form::Parallel => known(&ATTENTION, sites),
        };
        // A list of last parts would catch the map behind BERT's and ViT's attention too.
        let whole = |site: &&Site| {
            names.iter().any(|name| is_or_ends(&site.module, name))
                && !is_or_ends(&site.module, NOT_OUT)
        };
        let caught = sites.iter().any(|site| is_or_ends(&site.module, NOT_OUT));
        match names[..] {
            [] => Targets::all(),
            _ if caught => {
                Targets::Names(sites.iter().filter(whole).map(|site| site.module.clone()).collect())
            }
            _ => Targets::of(&names),
        }
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let narrow = self.narrow(site);
        let start = match self.start {
            Start::Identity => narrow.identity(),
            Start::Bert => [Init::Normal(0.02); 2],
        };
        Ok(narrow.begun(site, self.size, start, seed, &weight.device()))
    }

    fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    fn describe(&self, _: &Targets, _: &[Site], fields: &mut Map<String, Value>) {
        let known = json!({
            "peft_type": "BOTTLENECK",
            "bottleneck_size": self.size,
            "non_linearity": self.activation,
            "adapter_dropout": self.dropout,
            "scaling": number(self.scale),
            "use_parallel_adapter": self.form == Form::Parallel,
            "use_adapterp": self.form == Form::Pfeiffer,
            "init_weights": if self.start == Start::Bert { "bert" } else { "mam_adapter" },
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}
