//! LoRA's kin: the same parts, trained in other ways.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vlm_nn::adapter::{Part, Ranks};

use crate::{Error, Lora, Method, Site, Targets, Weight};

/// LoRA whose second factor learns faster (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
///
/// Choose it for wide models, where LoRA's second factor lags; same cost, one more setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraPlus {
    /// How many times as fast.
    pub ratio: f64,
    /// LoRA's settings.
    #[serde(flatten)]
    pub lora: Lora,
}

impl Default for LoraPlus {
    fn default() -> Self {
        LoraPlus { ratio: 16.0, lora: Lora::default() }
    }
}

/// LoRA with its first factor as it began (LoRA-FA, Zhang et al. 2023, arXiv 2308.03303).
///
/// Choose it where activations are what fills the memory: of a map's input it keeps `r` values for each
/// token in place of all. That pays only if nothing else has to keep the input: target all maps of a
/// block.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LoraFa {
    /// LoRA's settings.
    pub lora: Lora,
}

/// LoRA that is good at every rank up to `r` (DyLoRA, Valipour et al. 2022, arXiv 2210.07558): each step
/// trains with the first ranks only, as many as chance has it.
///
/// Choose it where the rank is not known beforehand: one run takes the place of one for each rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DyLora {
    /// Whether of the ranks in use only the last learns, as in the paper's scripts; all of them if not.
    pub frozen: bool,
    /// LoRA's settings; `r` is the largest rank.
    #[serde(flatten)]
    pub lora: Lora,
    /// The ranks in use, of all parts that this method and its clones make: to be changed before each
    /// step.
    #[serde(skip)]
    pub ranks: Ranks,
}

impl Default for DyLora {
    fn default() -> Self {
        DyLora { frozen: true, lora: Lora::default(), ranks: Ranks::default() }
    }
}

impl DyLora {
    /// How many ranks a step trains with: each as likely, the same for the same seed.
    pub fn rank_at(&self, seed: u64, step: u64) -> usize {
        // SplitMix64.
        let mut x = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        1 + ((x ^ x >> 31) % self.lora.r as u64) as usize
    }
}

impl Method for LoraPlus {
    fn name(&self) -> &'static str {
        "lora-plus"
    }

    fn check(&self) -> Result<(), Error> {
        if !(self.ratio.is_finite() && self.ratio >= 1.0) {
            let reason = format!("ratio is {}; it must be at least 1, such as 16", self.ratio);
            return Err(Error::Setting(reason));
        }
        self.lora.check()
    }

    fn targets(&self, sites: &[Site]) -> Targets {
        self.lora.targets(sites)
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        self.lora.part(site, weight, seed)
    }

    fn rate(&self, param: &str) -> f64 {
        // As in peft, what has one dimension learns like the second factor.
        if param == "a" { 1.0 } else { self.ratio }
    }

    fn drops(&self) -> bool {
        self.lora.dropout > 0.0
    }

    fn describe(&self, targets: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        self.lora.describe(targets, chosen, fields);
    }
}

impl Method for LoraFa {
    fn name(&self) -> &'static str {
        "lora-fa"
    }

    fn check(&self) -> Result<(), Error> {
        self.lora.check()
    }

    fn targets(&self, _: &[Site]) -> Targets {
        Targets::all()
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        self.lora.part(site, weight, seed)
    }

    fn trains(&self, param: &str) -> bool {
        param != "a"
    }

    fn drops(&self) -> bool {
        self.lora.dropout > 0.0
    }

    fn describe(&self, targets: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        self.lora.describe(targets, chosen, fields);
    }
}

impl Method for DyLora {
    fn name(&self) -> &'static str {
        "dylora"
    }

    fn check(&self) -> Result<(), Error> {
        if self.lora.dora {
            let reason = "dora is on; DyLoRA has no magnitudes, since they would be of one rank";
            return Err(Error::Setting(reason.to_owned()));
        }
        self.lora.check()
    }

    fn targets(&self, sites: &[Site]) -> Targets {
        self.lora.targets(sites)
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        self.lora.term(site, weight, seed, Some(self.ranks.last_learning(self.frozen)))
    }

    fn drops(&self) -> bool {
        self.lora.dropout > 0.0
    }

    fn describe(&self, targets: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        self.lora.describe(targets, chosen, fields);
    }
}
