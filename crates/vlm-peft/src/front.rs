//! Rows in front: prefix tuning and prompt tuning.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::adapter::{Part, Rows};
use vlm_nn::params::{self, Init};

use crate::{Error, Hook, Method, Site, Targets, Weight};

/// How learned keys and values start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefixStart {
    /// All zero: attention is thinned out a little and the rest is as before.
    #[default]
    Zero,
    /// Normal with variance 1, peft's default: the model is out of itself at first.
    Random,
}

/// Learned keys and values in front of those of the tokens, in each block (prefix tuning, Li and Liang
/// 2021, arXiv 2101.00190), without a map that makes them.
///
/// Choose it where nothing of the model's own maps may change. It needs a learning rate far above
/// LoRA's (1e-3 to 3e-2), is sensitive to it, and costs so many tokens of context in each answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prefix {
    /// Rows in front.
    pub tokens: usize,
    /// How they start.
    pub start: PrefixStart,
}

impl Default for Prefix {
    fn default() -> Self {
        Prefix { tokens: 30, start: PrefixStart::Zero }
    }
}

/// How learned tokens start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStart {
    /// As rows of tokens drawn from the vocabulary.
    #[default]
    Vocabulary,
    /// Normal with variance 1, peft's default: far from what the model has ever seen.
    Random,
}

/// Learned tokens in front of each text (prompt tuning, Lester et al. 2021, arXiv 2104.08691).
///
/// The smallest of all adapters, and the weakest on models below some billion parameters. It needs a
/// large learning rate (1e-2 to 3e-1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prompt {
    /// Tokens in front.
    pub tokens: usize,
    /// How they start.
    pub start: PromptStart,
}

impl Default for Prompt {
    fn default() -> Self {
        Prompt { tokens: 20, start: PromptStart::Vocabulary }
    }
}

/// Most rows in front: more is a mistake.
const MOST: usize = 4096;

fn check(tokens: usize) -> Result<(), Error> {
    if (1..=MOST).contains(&tokens) {
        return Ok(());
    }
    Err(Error::Setting(format!("tokens is {tokens}; it must be from 1 to {MOST}")))
}

/// The stack and block that a map makes keys or values for.
fn place(site: &Site) -> Option<(&str, usize, bool)> {
    let map = site.path.strip_suffix(".weight")?;
    let (rest, value) = match map.strip_suffix(".attention.k") {
        Some(rest) => (rest, false),
        None => (map.strip_suffix(".attention.v")?, true),
    };
    let (stack, block) = rest.rsplit_once('.')?;
    Some((stack, block.parse().ok()?, value))
}

/// The maps for keys and values of the blocks of one stack: keys and values of the first block, of the
/// second, and so on.
fn blocks<'a>(chosen: &'a [Site], all: &[Site]) -> Result<Vec<&'a Site>, Error> {
    let wrong = |what: &str| {
        let reason = "a prefix hangs on the maps for keys and values of all blocks of one stack";
        Err(Error::Setting(format!("{reason}; {what}")))
    };
    let mut places = Vec::new();
    for site in chosen {
        match place(site) {
            Some((stack, block, value)) => places.push((stack, block, value, site)),
            None => return wrong(&format!("`{}` is none of them", site.module)),
        }
    }
    places.sort_by_key(|(stack, block, value, _)| (*stack, *block, *value));
    let Some(&(stack, ..)) = places.first() else { return wrong("there are none") };
    let of_stack = all.iter().filter(|site| place(site).is_some_and(|(name, ..)| name == stack));
    if places.iter().any(|(name, ..)| *name != stack) || of_stack.count() != places.len() {
        return wrong("targets of other kinds are not possible");
    }
    Ok(places.into_iter().map(|(.., site)| site).collect())
}

impl Method for Prefix {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn check(&self) -> Result<(), Error> {
        check(self.tokens)
    }

    /// Of the stack that reads text, or the first one.
    fn targets(&self, sites: &[Site]) -> Targets {
        Targets::stack_of_text(sites, |site| place(site).map(|(stack, ..)| stack))
    }

    fn fits(&self, chosen: &[Site], all: &[Site]) -> Result<(), Error> {
        blocks(chosen, all).map(|_| ())
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let init = match self.start {
            PrefixStart::Zero => Init::Constant(0.0),
            PrefixStart::Random => Init::Normal(1.0),
        };
        let shape = [self.tokens, site.output];
        Ok(Part::Rows(Rows { rows: site.start("rows", shape, init, seed, &weight.device()) }))
    }

    fn describe(&self, _: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        let width = chosen.first().map_or(0, |site| site.output);
        let start = (self.start == PrefixStart::Zero).then_some("zero");
        let known = json!({
            "peft_type": "PREFIX_TUNING",
            "encoder_hidden_size": width,
            "init_weights": start,
            "num_layers": chosen.len() / 2,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.tokens,
            "prefix_projection": false,
            "token_dim": width,
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}

impl Method for Prompt {
    fn name(&self) -> &'static str {
        "prompt"
    }

    fn check(&self) -> Result<(), Error> {
        check(self.tokens)
    }

    fn hook(&self) -> Hook {
        Hook::Tokens
    }

    /// The table of the part that reads text, or the first one.
    fn targets(&self, sites: &[Site]) -> Targets {
        Targets::table_of_text(sites)
    }

    fn fits(&self, chosen: &[Site], _: &[Site]) -> Result<(), Error> {
        match chosen {
            [_] => Ok(()),
            _ => {
                Err(Error::Setting("a prompt hangs on one table of tokens; choose one".to_owned()))
            }
        }
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let (shape, device) = ([self.tokens, site.output], weight.device());
        let rows = match self.start {
            PromptStart::Random => site.start("rows", shape, Init::Normal(1.0), seed, &device),
            PromptStart::Vocabulary => {
                let path = format!("{}.rows", site.path);
                let drawn = params::drawn(Init::Uniform(1.0), &[self.tokens], seed, &path);
                let words = site.input;
                let id = |x: f32| ((f64::from(x) + 1.0) / 2.0 * words as f64) as usize;
                let ids: Vec<i64> =
                    drawn.iter::<f32>().map(|x| id(x).min(words - 1) as i64).collect();
                let ids = Tensor::from_data(TensorData::new(ids, [self.tokens]), &device);
                let rows = weight.values().detach().select(0, ids).into_data();
                Param::from_data(rows, &device)
            }
        };
        Ok(Part::Rows(Rows { rows }))
    }

    fn describe(&self, _: &Targets, chosen: &[Site], fields: &mut Map<String, Value>) {
        let known = json!({
            "peft_type": "PROMPT_TUNING",
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.tokens,
            "prompt_tuning_init": match self.start {
                PromptStart::Vocabulary => "SAMPLE_VOCAB",
                PromptStart::Random => "RANDOM",
            },
            "prompt_tuning_init_text": null,
            "token_dim": chosen.first().map_or(0, |site| site.output),
            "tokenizer_kwargs": null,
            "tokenizer_name_or_path": null,
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}

/// The one tensor of an adapter of rows, `[tokens, ...]`: what hangs at each of the sites.
pub(crate) fn joined<'a>(
    sites: &[Site],
    part: impl Fn(&Site) -> Option<&'a Part>,
) -> Option<TensorData> {
    let sites: Vec<&Site> = match blocks(sites, sites) {
        Ok(blocks) => blocks,
        Err(_) => sites.iter().collect(),
    };
    let rows: Vec<Tensor<2>> = sites
        .into_iter()
        .filter_map(|site| match part(site)? {
            Part::Rows(part) => Some(part.rows.val()),
            _ => None,
        })
        .collect();
    (!rows.is_empty()).then(|| Tensor::cat(rows, 1).into_data())
}

/// What hangs at each of the sites, of the one tensor, if it has as many values as they take.
pub(crate) fn split(
    sites: &[Site],
    joined: TensorData,
    device: &Device,
) -> Result<Vec<(String, Part)>, String> {
    let ordered: Vec<&Site> = match blocks(sites, sites) {
        Ok(blocks) => blocks,
        Err(_) => sites.iter().collect(),
    };
    let width: usize = ordered.iter().map(|site| site.output).sum();
    let [tokens, found] = joined.shape()[..] else {
        return Err(format!("is {:?}, not a matrix", joined.shape()));
    };
    if found != width {
        return Err(format!("is [{tokens}, {found}], the model has [tokens, {width}]"));
    }
    let joined = Tensor::<2>::from_data(joined, device);
    let mut at = 0;
    let part = |site: &Site| {
        let rows = joined.clone().narrow(1, at, site.output).into_data();
        at += site.output;
        let rows = Tensor::from_data(rows, device);
        (site.path.clone(), Part::Rows(Rows { rows: Param::from_tensor(rows) }))
    };
    Ok(ordered.into_iter().map(part).collect())
}
