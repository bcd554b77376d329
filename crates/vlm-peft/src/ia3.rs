//! (IA)³: a factor for each key, value and inner state.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::adapter::{Part, Scale, Side};
use vlm_nn::params::Init;

use crate::method::known;
use crate::target::is_or_ends;
use crate::{Error, Method, Site, Targets, Weight};

/// Learned factors (Liu et al. 2022, arXiv 2205.05638): of keys and values behind their maps, and of the
/// feed-forward's inner states before the last map.
///
/// Choose it where an adapter has to be tiny and many of them are kept: a few vectors a block. It needs
/// a learning rate ten times LoRA's (1e-3 to 5e-3), and cannot learn what is far from the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ia3 {
    /// Maps whose inputs are multiplied; of all others the outputs are.
    pub feedforward: Targets,
}

/// Keys and values, by the names of the families.
const KEYS_AND_VALUES: [&str; 6] = ["k_proj", "v_proj", "key", "value", "k", "v"];
/// Last maps of feed-forwards.
const LAST: [&str; 5] = ["down_proj", "fc2", "wo", "output.dense", "mlp.c_proj"];
/// What ends like one of the last maps and is none: the map behind attention.
const NOT_LAST: &str = "attention.output.dense";

impl Default for Ia3 {
    fn default() -> Self {
        Ia3 { feedforward: Targets::of(&LAST) }
    }
}

impl Ia3 {
    /// Whether the inputs of a map are multiplied.
    pub(crate) fn is_inner(&self, site: &Site) -> bool {
        self.side(site) == Side::Input
    }

    fn side(&self, site: &Site) -> Side {
        let inner = self.feedforward.fits(site);
        // Among names of last parts only: who asks for more means it.
        let other = self.feedforward == Targets::of(&LAST) && is_or_ends(&site.module, NOT_LAST);
        if inner && !other { Side::Input } else { Side::Output }
    }
}

impl Method for Ia3 {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn check(&self) -> Result<(), Error> {
        self.feedforward.check()
    }

    fn targets(&self, sites: &[Site]) -> Targets {
        let names = [known(&KEYS_AND_VALUES, sites), known(&LAST, sites)].concat();
        if names.is_empty() { Targets::all() } else { Targets::of(&names) }
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let side = self.side(site);
        let width = if side == Side::Input { site.input } else { site.output };
        let device = weight.device();
        let factors = site.start("factors", [width], Init::Constant(1.0), seed, &device);
        Ok(Part::Scale(Scale { factors, side }))
    }

    fn describe(&self, targets: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        let inner = |site: &&Site| self.side(site) == Side::Input;
        // peft wants the list to be among the targets.
        let inner = match (targets, &self.feedforward) {
            (Targets::Pattern(_), Targets::Pattern(pattern)) => json!(pattern),
            (Targets::Pattern(_), _) => {
                let names = chosen.iter().filter(inner).map(|site| site.module.as_str());
                json!(names.collect::<Vec<_>>())
            }
            (Targets::Names(names), _) => {
                let has = |name: &&String| {
                    chosen.iter().filter(inner).any(|site| is_or_ends(&site.module, name))
                };
                json!(names.iter().filter(has).collect::<Vec<_>>())
            }
        };
        fields.insert("peft_type".into(), json!("IA3"));
        fields.insert("feedforward_modules".into(), inner);
        fields.insert("fan_in_fan_out".into(), json!(false));
        fields.insert("init_ia3_weights".into(), json!(true));
    }
}
