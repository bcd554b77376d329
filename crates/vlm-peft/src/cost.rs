//! What training takes in memory, told without training.

use std::collections::BTreeMap;

use vlm_nn::BlockConfig;

use crate::{AnyMethod, Form, Site};

/// Bytes of a value.
const VALUE: f64 = 4.0;
/// What is kept beside the values that are counted here: row statistics, masks, what the allocator leaves
/// unused. Measured (`cargo xtask bench adapt`).
const BESIDE: f64 = 1.07;

/// A stack of blocks that training runs through.
#[derive(Clone, Debug)]
pub struct Load {
    /// The beginning of the paths of its blocks, such as `text.stack.blocks.`.
    pub stack: String,
    /// Its blocks.
    pub blocks: Vec<BlockConfig>,
    /// Tokens of a step, all rows together.
    pub tokens: usize,
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub enum Trained<'a> {
    /// All weights.
    Full,
    /// An adapter on these maps.
    Adapter(&'a AnyMethod, &'a [Site]),
}

impl Load {
    /// Bytes that a step keeps for its backward pass.
    pub fn kept(&self, trained: Trained<'_>) -> f64 {
        // A tower in which nothing learns keeps nothing.
        if let Trained::Adapter(_, sites) = trained {
            let tower = self.stack.split_once('.').map_or(&*self.stack, |(tower, _)| tower);
            let inside = |site: &Site| site.path.split('.').next() == Some(tower);
            if !sites.iter().any(inside) {
                return 0.0;
            }
        }
        let blocks = self.blocks.iter().enumerate();
        let values: usize = blocks.map(|(i, block)| self.of_block(i, block, trained)).sum();
        (values * self.tokens) as f64 * VALUE * BESIDE
    }

    /// Values of a token that a block keeps.
    fn of_block(&self, number: usize, block: &BlockConfig, trained: Trained<'_>) -> usize {
        let head = block.head_dim.unwrap_or(block.width / block.heads);
        let (queries, keys) = (block.heads * head, block.kv_heads.unwrap_or(block.heads) * head);
        let (width, inner) = (block.width, block.inner);
        // Both norms' inputs, what attention takes and gives, what the activation takes.
        let always =
            2 * width + 2 * queries + 2 * keys + if block.gated { 2 * inner } else { inner };
        // Inputs of maps, which are kept once each if something of the map learns from them. That of the
        // map behind attention is what attention gives.
        let mut inputs: BTreeMap<&str, usize> = BTreeMap::new();
        let mut more = 0;
        let input_of = |map: &str| match map {
            "q" | "k" | "v" => Some(("norm1", width)),
            "up" | "gate" => Some(("norm2", width)),
            "down" => Some(("inner", inner)),
            _ => None,
        };
        match trained {
            Trained::Full => {
                inputs.extend(["q", "up", "down"].into_iter().filter_map(input_of));
            }
            // Each block finds the rows, and keeps what it found.
            Trained::Adapter(AnyMethod::Memvp(memvp), _) => {
                let rows = memvp.sight.map_or(0, |sight| sight.rows);
                more += width
                    + match self.stack.starts_with("vision.") {
                        true => 2 * memvp.tower_size,
                        false => 3 * memvp.slots.unwrap_or(rows),
                    };
            }
            Trained::Adapter(method, sites) => {
                let start = format!("{}{number}.", self.stack);
                for site in sites.iter().filter(|site| site.path.starts_with(&start)) {
                    let map = site.path.strip_suffix(".weight").unwrap_or(&site.path);
                    let map = map.rsplit('.').next().unwrap_or_default();
                    let (learns, values) = of_map(method, site);
                    more += values;
                    if learns {
                        inputs.extend(input_of(map));
                    }
                }
            }
        }
        always + more + inputs.values().sum::<usize>()
    }
}

/// Whether a map's input is kept, and how many values of a token are kept beside it.
fn of_map(method: &AnyMethod, site: &Site) -> (bool, usize) {
    match method {
        AnyMethod::Lora(lora) => (true, lora.r + if lora.dora { site.output } else { 0 }),
        AnyMethod::LoraPlus(method) => (true, method.lora.r),
        AnyMethod::Dylora(method) => (true, method.lora.r),
        AnyMethod::LoraFa(method) => (false, method.lora.r),
        // What is multiplied by the factors: outputs, or the input of the last map.
        AnyMethod::Ia3(ia3) => (false, if ia3.is_inner(site) { site.input } else { site.output }),
        AnyMethod::Bottleneck(method) => (
            method.form == Form::Parallel,
            2 * method.size + {
                // In series, what the narrow layer sees is kept by itself.
                match method.form {
                    Form::Parallel => 0,
                    Form::Series | Form::Pfeiffer => method.narrow(site).widths[0],
                }
            },
        ),
        AnyMethod::Prefix(_) | AnyMethod::Prompt(_) | AnyMethod::Memvp(_) => (false, 0),
        // While it searches, each block has one of two.
        AnyMethod::Eas(eas) => {
            let [wide, narrow] = eas.inner();
            (true, site.input + 3 * (wide + narrow) / 2)
        }
    }
}

/// What a training run takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The weights, those of the adapter among them.
    pub weights: f64,
    /// Gradients and the optimiser's two averages.
    pub learned: f64,
    /// What is kept for the backward pass, the logits of the answers among it.
    pub kept: f64,
    /// The most of all at one time.
    pub peak: f64,
}

/// A process before it does anything, and the buffers of a forward pass.
const PROCESS: f64 = 40e6;

/// The cost of a run: `weights` bytes of the model, so many trained values, stacks, and logits
/// `[answers, vocabulary]`.
pub fn cost(
    weights: f64,
    trained: usize,
    loads: &[Load],
    how: Trained<'_>,
    [answers, vocabulary]: [usize; 2],
) -> Cost {
    // The logits, whose place their gradient takes.
    let logits = VALUE * (answers * vocabulary) as f64;
    let kept = logits + loads.iter().map(|load| load.kept(how)).sum::<f64>();
    let gradients = VALUE * trained as f64;
    let own = match how {
        Trained::Full => 0.0,
        Trained::Adapter(..) => gradients,
    };
    // What is kept goes as the gradients come.
    let peak = PROCESS + weights + own + 2.0 * gradients + kept.max(gradients);
    Cost { weights: weights + own, learned: 3.0 * gradients, kept, peak }
}
