//! Memory-space visual prompting.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vlm_nn::Activation;
use vlm_nn::adapter::{self, Memory, Part, Place};
use vlm_nn::params::Init;

use crate::bottleneck::Narrow;
use crate::lora::{check_dropout, number};
use crate::{Error, Hook, Method, Site, Targets, Weight};

/// Pictures as keys and values of the decoder's feed-forwards, and no tokens of them among those of the text
/// (MemVP, Jie et al. 2024, arXiv 2405.05615).
///
/// Choose it where pictures take most of the tokens and answers are short: a step and the reading of a prompt
/// are those of the text alone. Each token that is written costs a little more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memvp {
    /// Rows for a picture; as many as the model sees of one if not given.
    pub slots: Option<usize>,
    /// Inner width of the map from pictures.
    pub size: usize,
    /// Factor on what that map makes: 0.01 in the paper's code, for models of some thousand values a token. Small
    /// models take what they need from pictures much sooner with 1.
    pub lambda: f64,
    /// Factor on what the rows add.
    pub scale: f64,
    /// Share of the rows' activations that is dropped in training.
    pub dropout: f64,
    /// Whether all blocks share the learned part of the rows.
    pub shared: bool,
    /// Inner width of narrow layers beside the feed-forwards of the image tower, which has to be among what
    /// trains then and is computed anew in each step; none if 0 (12 in the paper).
    pub tower_size: usize,
    /// The model that it is for.
    #[serde(skip)]
    pub sight: Option<Sight>,
}

/// How a model of pictures and text sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Values of a row of a picture.
    pub width: usize,
    /// Rows of a picture.
    pub rows: usize,
    /// Blocks of the decoder.
    pub blocks: usize,
}

impl Default for Memvp {
    fn default() -> Self {
        Memvp {
            slots: None,
            size: 128,
            lambda: 1.0,
            scale: 0.1,
            dropout: 0.1,
            shared: true,
            tower_size: 0,
            sight: None,
        }
    }
}

/// Whether it is a table of tokens.
fn is_table(site: &Site) -> bool {
    site.path.ends_with(".tokens")
}

/// Most slots: more is a mistake.
const MOST: usize = 65_536;

/// The names of the tensors, as in the official code.
const NAMES: [&str; 6] = [
    "adapter_proj.fc1.weight",
    "adapter_proj.fc1.bias",
    "adapter_proj.fc2.weight",
    "adapter_proj.fc2.bias",
    "adapter_emb1",
    "adapter_emb2",
];

impl Memvp {
    fn seen(&self) -> Result<(Sight, usize), Error> {
        let Some(sight) = self.sight else {
            let reason = "memvp needs a model of pictures and text; this one reads no pictures";
            return Err(Error::Setting(reason.to_owned()));
        };
        let slots = self.slots.unwrap_or(sight.rows);
        if slots < sight.rows {
            let reason =
                format!("slots is {slots}, but the model sees {} rows of a picture", sight.rows);
            return Err(Error::Setting(reason));
        }
        Ok((sight, slots))
    }

    fn blocks(&self, sight: Sight) -> usize {
        if self.shared { 1 } else { sight.blocks }
    }

    /// The narrow layer beside the feed-forward whose inner map this is, without its tensors.
    pub(crate) fn beside(&self, site: &Site) -> Option<Narrow> {
        (self.tower_size > 0 && !is_table(site)).then_some(Narrow {
            place: Place::Around,
            widths: [site.input; 2],
            activation: Activation::Gelu,
            scale: self.scale,
            dropout: self.dropout,
        })
    }

    /// The shapes of the tensors in a file, for a decoder of that width.
    pub(crate) fn shapes(&self, width: usize) -> Result<Vec<(&'static str, Vec<usize>)>, Error> {
        let (sight, slots) = self.seen()?;
        let rows = vec![self.blocks(sight), slots, width];
        let shapes = [
            vec![self.size, sight.width],
            vec![self.size],
            vec![width, self.size],
            vec![width],
            rows.clone(),
            rows,
        ];
        Ok(NAMES.into_iter().zip(shapes).collect())
    }

    /// The part of a file's tensors, which have these shapes.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) fn made<E>(
        &self,
        device: &Device,
        read: &dyn Fn(&str) -> Result<TensorData, E>,
    ) -> Result<Memory, E> {
        let map = |weight: &str, bias: &str| -> Result<adapter::Map, E> {
            // Lying as it did when it was written: sums of floats depend on it.
            let turned = Tensor::<2>::from_data(read(weight)?, device).transpose().into_data();
            Ok(adapter::Map {
                weight: Param::from_tensor(Tensor::from_data(turned, device)),
                bias: Param::from_tensor(Tensor::from_data(read(bias)?, device)),
            })
        };
        let rows = |name: &str| -> Result<Param<Tensor<3>>, E> {
            Ok(Param::from_tensor(Tensor::from_data(read(name)?, device)))
        };
        Ok(Memory {
            first: map(NAMES[0], NAMES[1])?,
            second: map(NAMES[2], NAMES[3])?,
            keys: rows(NAMES[4])?,
            values: rows(NAMES[5])?,
            lambda: self.lambda,
            scale: self.scale,
            dropout: self.dropout,
        })
    }
}

/// The tensors of a part in a file.
pub(crate) fn stored(part: &Memory) -> Vec<(String, TensorData)> {
    let turned = |param: &Param<Tensor<2>>| param.val().transpose().into_data();
    let all = [
        turned(&part.first.weight),
        part.first.bias.val().into_data(),
        turned(&part.second.weight),
        part.second.bias.val().into_data(),
        part.keys.val().into_data(),
        part.values.val().into_data(),
    ];
    NAMES.iter().map(|name| (*name).to_owned()).zip(all).collect()
}

impl Method for Memvp {
    fn name(&self) -> &'static str {
        "memvp"
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Setting(reason));
        if self.slots.is_some_and(|slots| !(1..=MOST).contains(&slots)) {
            let slots = self.slots.unwrap_or_default();
            return wrong(format!("slots is {slots}; it must be from 1 to {MOST}"));
        }
        if self.size == 0 {
            return wrong("size is 0; the map from pictures needs at least 1".to_owned());
        }
        for (name, value) in [("lambda", self.lambda), ("scale", self.scale)] {
            if !value.is_finite() || value == 0.0 {
                return wrong(format!("{name} is {value}; it must be a number other than 0"));
            }
        }
        check_dropout(self.dropout)
    }

    fn hook(&self) -> Hook {
        if self.tower_size > 0 { Hook::Sight } else { Hook::Tokens }
    }

    /// The table of the part that reads text, or the first one, and the feed-forwards of the image tower.
    fn targets(&self, sites: &[Site]) -> Targets {
        let (tables, tower): (Vec<Site>, Vec<Site>) = sites.iter().cloned().partition(is_table);
        match Targets::table_of_text(&tables) {
            Targets::Names(mut names) => {
                names.extend(tower.into_iter().map(|site| site.module));
                Targets::Names(names)
            }
            pattern => pattern,
        }
    }

    fn fits(&self, chosen: &[Site], _: &[Site]) -> Result<(), Error> {
        self.seen()?;
        let (tables, tower): (Vec<&Site>, Vec<&Site>) =
            chosen.iter().partition(|site| is_table(site));
        if tables.len() != 1 {
            return Err(Error::Setting(
                "memvp hangs on one table of tokens; choose one".to_owned(),
            ));
        }
        if self.tower_size > 0 && tower.is_empty() {
            let reason = format!(
                "tower_size is {}, but no feed-forward of an image tower is among what trains",
                self.tower_size
            );
            return Err(Error::Setting(reason));
        }
        Ok(())
    }

    fn part(&self, site: &Site, weight: &Weight, seed: u64) -> Result<Part, Error> {
        let ((sight, slots), device) = (self.seen()?, weight.device());
        if let Some(beside) = self.beside(site) {
            return Ok(beside.begun(site, self.tower_size, beside.identity(), seed, &device));
        }
        let width = site.output;
        let map = |name: &str, into: usize, out: usize| adapter::Map {
            weight: site.start::<2>(
                &format!("{name}.weight"),
                [into, out],
                Init::Uniform((6.0 / (into + out) as f64).sqrt()),
                seed,
                &device,
            ),
            bias: site.start::<1>(
                &format!("{name}.bias"),
                [out],
                Init::Constant(0.0),
                seed,
                &device,
            ),
        };
        let rows = |name: &str, init: Init| {
            let shape = [self.blocks(sight), slots, width];
            site.start::<3>(name, shape, init, seed, &device)
        };
        Ok(Part::Memory(Memory {
            first: map("first", sight.width, self.size),
            second: map("second", self.size, width),
            keys: rows("keys", Init::Normal(0.02)),
            values: rows("values", Init::Constant(0.0)),
            lambda: self.lambda,
            scale: self.scale,
            dropout: self.dropout,
        }))
    }

    fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    fn describe(&self, _: &Targets, _: &[Site], fields: &mut Map<String, Value>) {
        let sight = self.sight;
        let known = json!({
            "peft_type": "MEMVP",
            "slots": self.seen().ok().map(|(_, slots)| slots),
            "vision_width": sight.map(|sight| sight.width),
            "vision_rows": sight.map(|sight| sight.rows),
            "num_layers": sight.map(|sight| sight.blocks),
            "proj_dim": self.size,
            "proj_scaling": number(self.lambda),
            "scaling": number(self.scale),
            "adapter_dropout": self.dropout,
            "shared": self.shared,
            "tower_dim": self.tower_size,
        });
        if let Value::Object(known) = known {
            fields.extend(known);
        }
    }
}
