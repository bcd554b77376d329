//! The methods, behind one face.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vlm_nn::adapter::Part;

use crate::bottleneck::Narrow;
use crate::{
    Bottleneck, DyLora, Eas, Error, Ia3, Lora, LoraFa, LoraPlus, Memvp, Prefix, Prompt, Site,
    Targets, Weight,
};

/// What of a model a method hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Linear maps.
    Maps,
    /// Tables of tokens.
    Tokens,
    /// These, and the inner maps of the feed-forwards of an image tower.
    Sight,
}

/// A way to tune a model with few parameters: what hangs on a linear map, and what of it trains.
pub trait Method {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Looks for settings that make no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first and what is allowed.
    fn check(&self) -> Result<(), Error>;

    /// What it hangs on.
    fn hook(&self) -> Hook {
        Hook::Maps
    }

    /// Looks whether it can hang on these of all there are.
    ///
    /// # Errors
    /// [`Error::Setting`] if not.
    fn fits(&self, _chosen: &[Site], _all: &[Site]) -> Result<(), Error> {
        Ok(())
    }

    /// Where it hangs on a family of models whose maps have these names, if nothing else is said.
    fn targets(&self, sites: &[Site]) -> Targets;

    /// What hangs on a map, with its start values.
    ///
    /// # Errors
    /// [`Error::Setting`] if it does not fit the map.
    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error>;

    /// Whether a parameter of its parts trains, by its name there, such as `a`.
    fn trains(&self, _param: &str) -> bool {
        true
    }

    /// Factor on the learning rate of a parameter of its parts.
    fn rate(&self, _param: &str) -> f64 {
        1.0
    }

    /// Whether its parts leave things out by chance in training.
    fn drops(&self) -> bool {
        false
    }

    /// Says what it is in the fields of peft's `adapter_config.json`. `targets` are as they are written
    /// there, `chosen` the maps that it hangs on.
    fn describe(&self, targets: &Targets, chosen: &[Site], fields: &mut Map<String, Value>);
}

/// A method with its settings, as a configuration names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum AnyMethod {
    /// Low-rank adaptation.
    Lora(Lora),
    /// The same with another learning rate for the second factor.
    LoraPlus(LoraPlus),
    /// The same with a fixed first factor.
    LoraFa(LoraFa),
    /// The same for all ranks at once.
    Dylora(DyLora),
    /// Learned factors of keys, values and inner states.
    Ia3(Ia3),
    /// Narrow layers.
    Bottleneck(Bottleneck),
    /// Learned keys and values in front.
    Prefix(Prefix),
    /// Learned tokens in front.
    Prompt(Prompt),
    /// Ways past attentions.
    Eas(Eas),
    /// Pictures beside the feed-forwards.
    Memvp(Memvp),
}

impl AnyMethod {
    /// What it is.
    pub fn get(&self) -> &dyn Method {
        match self {
            AnyMethod::Lora(method) => method,
            AnyMethod::LoraPlus(method) => method,
            AnyMethod::LoraFa(method) => method,
            AnyMethod::Dylora(method) => method,
            AnyMethod::Ia3(method) => method,
            AnyMethod::Bottleneck(method) => method,
            AnyMethod::Prefix(method) => method,
            AnyMethod::Prompt(method) => method,
            AnyMethod::Eas(method) => method,
            AnyMethod::Memvp(method) => method,
        }
    }

    /// The narrow layer that it has at a map.
    pub(crate) fn narrow(&self, site: &Site) -> Option<Narrow> {
        match self {
            AnyMethod::Bottleneck(method) => Some(method.narrow(site)),
            AnyMethod::Memvp(method) => method.beside(site),
            _ => None,
        }
    }
}

/// The names among `names` that the maps of a model have.
pub(crate) fn known<'a>(names: &[&'a str], sites: &[Site]) -> Vec<&'a str> {
    let has = |name: &&&str| sites.iter().any(|site| crate::target::is_or_ends(&site.module, name));
    names.iter().filter(has).copied().collect()
}
