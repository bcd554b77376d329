//! Efficient attention skipping.

mod bandit;
pub(crate) mod files;
mod fold;
mod search;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::adapter::{self, Bypass, Grouped, NormOf, Part, Propagation};
use vlm_nn::params::Init;

use crate::lora::{check_dropout, number};
use crate::{Error, Method, Site, Targets, Weight};

pub use bandit::Bandit;
pub use fold::fold;
pub use search::Search;

/// How many times as wide what stands in place of an attention is as what stands in front of one.
const WIDER: usize = 4;
/// The groups of the maps back to the width.
const GROUPS: usize = 2;
/// Of how many attentions one is skipped if nothing else is said.
const ONE_OF: usize = 3;

/// Attentions that do little for the task are left out, and a narrow way to hear of other tokens stands in
/// their place; in front of those that stay stands a narrow layer (EAS, Wu et al. 2024, arXiv 2403.15226).
///
/// Choose it where answers have to come fast: what is skipped is neither computed nor remembered. Which
/// attentions go is found by trying in the first steps, or given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Eas {
    /// Attentions to skip; a third of them if not given.
    pub skip: Option<usize>,
    /// Which they are, counted from 0 by the blocks that read text, and on by those that look at something else
    /// between them or before; found by trying if none are given.
    pub layers: Vec<usize>,
    /// Inner width of the layers in front of attentions; that in place of one is four times as wide.
    pub size: usize,
    /// Factor on what they say.
    pub scale: f64,
    /// Whether each mixes two maps, weighed by what was seen.
    pub router: bool,
    /// What the logits of the weights are divided by.
    pub temperature: f64,
    /// Share of the inner values that is dropped in training.
    pub dropout: f64,
    /// Which norm makes the rows that what stands in place of an attention sees.
    pub norm: NormOf,
    /// Steps of trying.
    pub search: u64,
    /// The share of them in which nothing is learned of which to skip.
    pub search_warmup: f64,
    /// Every so many steps some sets are compared.
    pub search_every: u64,
    /// How many.
    pub search_sets: usize,
    /// How fast scores change; a search of few steps wants more, up to 2.
    pub search_rate: f64,
    /// What has been found.
    #[serde(skip)]
    pub found: Search,
}

impl Default for Eas {
    fn default() -> Self {
        Eas {
            skip: None,
            layers: Vec::new(),
            size: 8,
            scale: 1.0,
            router: true,
            temperature: 10.0,
            dropout: 0.1,
            norm: NormOf::default(),
            search: 200,
            search_warmup: 0.3,
            search_every: 10,
            search_sets: 3,
            search_rate: 0.5,
            found: Search::default(),
        }
    }
}

/// An attention that can be skipped: that of a block of a stack to its own rows, or to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arm<'a> {
    stack: &'a str,
    block: usize,
    cross: bool,
}

impl<'a> Arm<'a> {
    /// That whose queries a map makes.
    fn of(site: &'a Site) -> Option<Self> {
        let own = site.path.strip_suffix(".attention.q.weight");
        let other = site.path.strip_suffix(".cross.q.weight");
        let (stack, block) = own.or(other)?.rsplit_once('.')?;
        Some(Arm { stack, block: block.parse().ok()?, cross: own.is_none() })
    }
}

/// The maps for queries of all blocks in whose stacks some are chosen: of attentions to own rows, to others, or of
/// both, as those are.
pub(crate) fn beside(chosen: &[Site], all: &[Site]) -> Vec<Site> {
    let kinds: BTreeSet<(&str, bool)> =
        chosen.iter().filter_map(Arm::of).map(|arm| (arm.stack, arm.cross)).collect();
    let is_one =
        |site: &&Site| Arm::of(site).is_some_and(|arm| kinds.contains(&(arm.stack, arm.cross)));
    all.iter().filter(is_one).cloned().collect()
}

/// The stack that reads text, or the first one.
fn stack_of_text(sites: &[Site]) -> Targets {
    Targets::stack_of_text(sites, |site| Arm::of(site).map(|arm| arm.stack))
}

/// The paths of the maps whose attentions may be skipped, in the order in which these are counted: first those of
/// the stack that reads text, then those of others; by blocks, a block's own before that to others.
fn order(chosen: &[Site]) -> Vec<String> {
    let first = stack_of_text(chosen);
    let (text, others): (Vec<&Site>, Vec<&Site>) = chosen.iter().partition(|site| first.fits(site));
    text.into_iter().chain(others).map(|site| site.path.clone()).collect()
}

impl Eas {
    /// Whether it is still open which attentions are skipped.
    pub fn searches(&self) -> bool {
        self.layers.is_empty()
    }

    /// How many of so many are skipped.
    fn count(&self, attentions: usize) -> usize {
        match self.layers.len() {
            0 => self.skip.unwrap_or(attentions / ONE_OF),
            named => named,
        }
    }

    /// Those that are skipped, as far as is known.
    pub fn skipped(&self) -> Vec<usize> {
        if self.searches() { self.found.best() } else { self.layers.clone() }
    }

    fn propagation(
        &self,
        site: &Site,
        weight: &Weight,
        seed: u64,
        (name, inner): (&str, usize),
    ) -> Propagation {
        let (width, device) = (site.input, weight.device());
        let start = |name: &str, shape: [usize; 2], init: Init| {
            site.start::<2>(name, shape, init, seed, &device)
        };
        let vector =
            |name: &str, len: usize, init: Init| site.start::<1>(name, [len], init, seed, &device);
        let zero = Init::Constant(0.0);
        let map = |map: &str, input: usize, out: usize, bias: Init| {
            // The router's map is as PyTorch draws one, the others are Xavier's.
            let init = match bias {
                Init::Constant(_) => Init::Uniform((6.0 / (input + out) as f64).sqrt()),
                usual => usual,
            };
            adapter::Map {
                weight: start(&format!("{name}.{map}.weight"), [input, out], init),
                bias: vector(&format!("{name}.{map}.bias"), out, bias),
            }
        };
        let up = |map: &str| Grouped {
            weight: site.start::<3>(
                &format!("{name}.{map}.weight"),
                [GROUPS, inner / GROUPS, width / GROUPS],
                zero,
                seed,
                &device,
            ),
            bias: vector(&format!("{name}.{map}.bias"), width, zero),
        };
        let usual = Init::Uniform((width as f64).powf(-0.5));
        Propagation {
            global: (name == "bypass").then(|| map("global", site.context, inner, zero)),
            local: map("local", width, inner, zero),
            up: up("up"),
            other: self.router.then(|| up("other")),
            router: self.router.then(|| map("router", width, 2, usual)),
            scale: self.scale,
            temperature: self.temperature,
            dropout: self.dropout,
            norm: self.norm,
        }
    }

    /// Inner widths in place of an attention and in front of one.
    pub(crate) fn inner(&self) -> [usize; 2] {
        [WIDER * self.size, self.size]
    }
}

impl Method for Eas {
    fn name(&self) -> &'static str {
        "eas"
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Setting(reason));
        if self.size == 0 || !self.size.is_multiple_of(GROUPS) {
            return wrong(format!("size is {}; it must be even, such as 8", self.size));
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            return wrong(format!("scale is {}; it must be a number other than 0", self.scale));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(format!("temperature is {}; it must be above 0", self.temperature));
        }
        if let (Some(skip), false) = (self.skip, self.layers.is_empty())
            && skip != self.layers.len()
        {
            return wrong(format!("skip is {skip}, but layers names {}", self.layers.len()));
        }
        if self.skip == Some(0) {
            return wrong("skip is 0; skip at least 1, or take parallel".to_owned());
        }
        let mut layers = self.layers.clone();
        layers.sort_unstable();
        if let Some(pair) = layers.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("layers names {} twice", pair[0]));
        }
        if !(0.0..1.0).contains(&self.search_warmup) {
            return wrong(format!(
                "search_warmup is {}; it must be from 0 to below 1",
                self.search_warmup
            ));
        }
        if self.search_every == 0 || self.search_sets < 2 {
            return wrong(
                "search_every must be at least 1, and search_sets 2: sets are compared".to_owned(),
            );
        }
        if !(self.search_rate.is_finite() && self.search_rate > 0.0) {
            return wrong(format!("search_rate is {}; it must be above 0", self.search_rate));
        }
        check_dropout(self.dropout)
    }

    /// The maps for queries of the stack that reads text, or of the first one; and of those that look at
    /// something else.
    fn targets(&self, sites: &[Site]) -> Targets {
        let crossing: BTreeSet<&str> =
            sites.iter().filter_map(Arm::of).filter(|arm| arm.cross).map(|arm| arm.stack).collect();
        let text = stack_of_text(sites);
        let is_one = |site: &&Site| {
            Arm::of(site).is_some_and(|arm| crossing.contains(arm.stack)) || text.fits(site)
        };
        Targets::Names(sites.iter().filter(is_one).map(|site| site.module.clone()).collect())
    }

    fn fits(&self, chosen: &[Site], all: &[Site]) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Setting(reason));
        if let Some(odd) = chosen.iter().find(|site| Arm::of(site).is_none()) {
            return wrong(format!(
                "eas hangs on the maps for queries of all blocks of a stack; `{}` makes none",
                odd.module
            ));
        }
        if let Some(odd) = beside(chosen, all).iter().find(|site| !chosen.contains(site)) {
            return wrong(format!(
                "eas hangs on the maps for queries of all blocks of a stack; `{}` is left out",
                odd.module
            ));
        }
        let attentions = chosen.len();
        if let Some(layer) = self.layers.iter().find(|layer| **layer >= attentions) {
            return wrong(format!(
                "layers names {layer}, but the model has {attentions} attentions, 0 to {}",
                attentions - 1
            ));
        }
        let skip = self.count(attentions);
        if skip > attentions {
            return wrong(format!("skip is {skip}, but the model has {attentions} attentions"));
        }
        if skip == 0 {
            return wrong(format!("of {attentions} attentions a third is none; give skip"));
        }
        if let Some(site) = chosen.iter().find(|site| !site.input.is_multiple_of(GROUPS)) {
            return wrong(format!("`{}` is {} wide, which is odd", site.module, site.input));
        }
        self.found.begin(order(chosen), skip, self.search_rate);
        Ok(())
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let Some(layer) = self.found.number(&site.path) else {
            return Err(Error::Setting(format!("`{}` makes no queries", site.module)));
        };
        let [wide, narrow] = self.inner();
        let is_skipped = self.layers.contains(&layer);
        let instead = self.searches() || is_skipped;
        let front = self.searches() || !is_skipped;
        Ok(Part::Bypass(Bypass {
            instead: instead.then(|| self.propagation(site, weight, seed, ("bypass", wide))),
            front: front.then(|| self.propagation(site, weight, seed, ("front", narrow))),
            folded: None,
            layer,
            skips: self.searches().then(|| self.found.skips()),
        }))
    }

    fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    fn describe(&self, _: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        let known = json!({
            "peft_type": "EAS",
            "num_layers": chosen.len(),
            "skipped_layers": self.skipped(),
            "scores": self.searches().then(|| self.found.scores()),
            "adapter_dim": self.size,
            "scaling": number(self.scale),
            "use_router": self.router,
            "temperature": number(self.temperature),
            "adapter_dropout": self.dropout,
            "norm": self.norm,
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}
