//! The methods of adapting a model by their names, and `vlm methods`.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;

use crate::adapter::AdapterConfig;
use crate::config::set;
use crate::folder::AnyFolder;
use crate::output::{self, Usage};
use crate::plan;

/// A method as `--method` names it.
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// Settings of `[adapter]` that it stands for.
    settings: &'static [&'static str],
    /// A learning rate that suits it.
    pub lr: f64,
    /// What it is.
    what: &'static str,
    /// What training takes in memory beside what is kept for the backward pass.
    memory: &'static str,
    /// When to use it.
    choose: &'static str,
}

const LORA: f64 = 5e-4;
/// The one that has no adapter.
pub const FULL: &str = "full";

/// All of them.
pub const ALL: [Named; 16] = [
    Named {
        name: FULL,
        settings: &[],
        lr: 2e-5,
        what: "all weights, with AdamW",
        memory: "the weights four times",
        choose: "where there is memory for it and much to learn",
    },
    Named {
        name: "lora",
        settings: &["method=\"lora\""],
        lr: LORA,
        what: "a product of two thin matrices beside each weight",
        memory: "the weights once",
        choose: "first: merges without a trace, close to full fine-tuning",
    },
    Named {
        name: "rslora",
        settings: &["method=\"lora\"", "rslora=true"],
        lr: LORA,
        what: "LoRA scaled by the root of its rank",
        memory: "the weights once",
        choose: "for ranks from about 32 up",
    },
    Named {
        name: "dora",
        settings: &["method=\"lora\"", "dora=true"],
        lr: LORA,
        what: "LoRA of directions, and a length for each output",
        memory: "the weights once; keeps more",
        choose: "where a little more accuracy is worth a slower step",
    },
    Named {
        name: "lora-plus",
        settings: &["method=\"lora-plus\""],
        lr: LORA / 2.0,
        what: "LoRA whose second factor learns faster",
        memory: "the weights once",
        choose: "for wide models and few steps",
    },
    Named {
        name: "lora-fa",
        settings: &["method=\"lora-fa\""],
        lr: LORA,
        what: "LoRA whose first factor stays",
        memory: "the weights once; keeps least",
        choose: "where kept activations fill the memory",
    },
    Named {
        name: "dylora",
        settings: &["method=\"dylora\""],
        lr: LORA,
        what: "LoRA that is good at every rank up to its own",
        memory: "the weights once",
        choose: "where the rank is to be chosen later",
    },
    Named {
        name: "qlora",
        // As in the paper's runs.
        settings: &[
            "method=\"lora\"",
            "r=64",
            "alpha=16.0",
            "targets=\"all-linear\"",
            "four_bit={ code = \"nf4\", nested = true }",
        ],
        lr: 2e-4,
        what: "LoRA on weights of four bits",
        memory: "an eighth of the weights",
        choose: "where the weights themselves fill the memory",
    },
    Named {
        name: "ia3",
        settings: &["method=\"ia3\""],
        // Factors have to move far: the paper's.
        lr: 3e-3,
        what: "a factor for each key, value and inner state",
        memory: "the weights once",
        choose: "for many tiny adapters of tasks near to the model",
    },
    Named {
        name: "prefix",
        settings: &["method=\"prefix\""],
        // Rows are far from where they have to be.
        lr: 1e-2,
        what: "learned keys and values in front, in each block",
        memory: "the weights once; keeps least",
        choose: "where no map of the model may change",
    },
    Named {
        name: "prompt",
        settings: &["method=\"prompt\""],
        lr: 3e-2,
        what: "learned tokens in front",
        memory: "the weights once; keeps least",
        choose: "for adapters of a few kilobytes on large models",
    },
    Named {
        name: "series",
        settings: &["method=\"bottleneck\"", "form=\"series\""],
        lr: LORA,
        what: "narrow layers in front of feed-forwards and behind them",
        memory: "the weights once; keeps more",
        choose: "where LoRA is too weak and answers may cost more",
    },
    Named {
        name: "pfeiffer",
        settings: &["method=\"bottleneck\"", "form=\"pfeiffer\""],
        lr: LORA,
        what: "narrow layers behind feed-forwards",
        memory: "the weights once",
        choose: "as series, with a third of the values",
    },
    Named {
        name: "parallel",
        settings: &["method=\"bottleneck\"", "form=\"parallel\""],
        lr: LORA,
        what: "narrow layers beside the maps of attention",
        memory: "the weights once; keeps more",
        choose: "as series; often a little better",
    },
    Named {
        name: "eas",
        settings: &["method=\"eas\""],
        lr: 1e-3,
        what: "ways past attentions that do little",
        memory: "the weights once; keeps less",
        choose: "where answers have to come fast",
    },
    Named {
        name: "memvp",
        settings: &["method=\"memvp\""],
        lr: 1e-3,
        what: "pictures as rows beside the feed-forwards, without tokens",
        memory: "the weights once; keeps far less of pictures",
        choose: "where pictures take most of the tokens and answers are short",
    },
];

/// The method of a name.
///
/// # Errors
/// With the names that there are.
pub fn find(name: &str) -> Result<&'static Named> {
    ALL.iter().find(|method| method.name == name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|method| method.name).collect();
        let known = known.join(", ");
        Usage(format!("--method {name}: no such method; there are {known}")).into()
    })
}

impl Named {
    /// A learning rate that suits it without gradients, and how far weights are then probed: those of MeZO's
    /// paper for all weights, LoRA and prefixes.
    pub fn mezo(&self) -> (f64, f64) {
        match self.name {
            FULL => (1e-6, 1e-3),
            "prefix" | "prompt" => (1e-2, 1e-1),
            _ => (1e-4, 1e-2),
        }
    }

    /// The settings of a configuration that it stands for.
    pub fn settings(&self) -> impl Iterator<Item = String> {
        self.settings.iter().map(|setting| format!("adapter.{setting}"))
    }

    /// The `[adapter]` that it stands for; `None` if there is none.
    ///
    /// # Errors
    /// Never, as the tests see to.
    pub fn config(&self) -> Result<Option<AdapterConfig>> {
        if self.settings.is_empty() {
            return Ok(None);
        }
        let mut table = toml::Table::new();
        for setting in self.settings {
            set(&mut table, setting)?;
        }
        Ok(Some(table.try_into()?))
    }
}

/// Arguments of `vlm methods`.
#[derive(clap::Args)]
pub struct Args {
    /// A model folder: how many values each method would train of it, and in how much memory.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    what: &'static str,
    memory: &'static str,
    choose: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trained: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<f64>,
}

/// Prints what there is.
///
/// # Errors
/// If the model cannot be read.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    // Only there is something trained.
    let device = device.clone().autodiff();
    let planned = match &args.model {
        None => ALL.iter().map(|_| None).collect(),
        Some(dir) => {
            let step = plan::Step { batch: 8, tokens: None, answer: 16 };
            plan::rows(&mut AnyFolder::open_weights(dir, &device)?, &step)?
        }
    };
    let rows = ALL.iter().zip(planned).map(|(method, planned)| {
        let Named { name, what, memory, choose, .. } = method;
        let planned = planned.as_ref();
        Row {
            name,
            what,
            memory,
            choose,
            trained: planned.map(|row| row.trained_values),
            values: planned.map(|row| row.values),
            peak_bytes: planned.map(|row| row.peak_bytes),
        }
    });
    let rows: Vec<Row> = rows.collect();
    if args.json {
        return output::json(&rows);
    }
    let planned = if args.model.is_some() {
        format!("{:>10} {:>8} {:>10}  ", "trains", "share", "peak")
    } else {
        String::new()
    };
    output::line(&format!("{:<10} {planned}what it is; memory; choose it", "method"))?;
    for row in rows {
        let planned = match (row.trained, row.values, row.peak_bytes) {
            (Some(trained), Some(all), Some(peak)) => {
                let share = 100.0 * trained as f64 / all.max(1) as f64;
                format!("{trained:>10} {share:>6.2} % {:>10}  ", output::size(peak as u64))
            }
            _ if args.model.is_some() => format!("{:>30}  ", "does not fit"),
            _ => String::new(),
        };
        let Row { name, what, memory, choose, .. } = row;
        output::line(&format!("{name:<10} {planned}{what}; {memory}; {choose}"))?;
    }
    if args.model.is_some() {
        output::line("peak: of steps of 8 rows, as `vlm plan` tells it for other sizes")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_a_method() {
        for method in &ALL {
            let Some(config) = method.config().unwrap() else {
                assert_eq!(method.name, FULL);
                continue;
            };
            config.method.get().check().unwrap();
            assert_eq!(config.four_bit.is_some(), method.name == "qlora");
            // QLoRA is LoRA on another base.
            if method.name != "qlora" {
                assert_eq!(config.method.get().name(), method.name);
            }
        }
        assert!(find("lorra").is_err());
    }
}
