//! The methods of adapting a model by their names, and `vlm methods`.

use std::path::PathBuf;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use vlm_nn::params::{self, ParamInfo};
use vlm_peft::{Adapter, Error, Names};

use crate::adapter::AdapterConfig;
use crate::config::set;
use crate::folder::{AnyFolder, Change};
use crate::output::{self, Usage};

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
    /// When to use it.
    choose: &'static str,
}

const LORA: f64 = 5e-4;
/// The one that has no adapter.
pub const FULL: &str = "full";

/// All of them.
pub const ALL: [Named; 14] = [
    Named {
        name: FULL,
        settings: &[],
        lr: 2e-5,
        what: "all weights, with AdamW",
        choose: "where there is memory for it and much to learn",
    },
    Named {
        name: "lora",
        settings: &["method=\"lora\""],
        lr: LORA,
        what: "a product of two thin matrices beside each weight",
        choose: "first: merges without a trace, close to full fine-tuning",
    },
    Named {
        name: "rslora",
        settings: &["method=\"lora\"", "rslora=true"],
        lr: LORA,
        what: "LoRA scaled by the root of its rank",
        choose: "for ranks from about 32 up",
    },
    Named {
        name: "dora",
        settings: &["method=\"lora\"", "dora=true"],
        lr: LORA,
        what: "LoRA of directions, and a length for each output",
        choose: "where a little more accuracy is worth a slower step",
    },
    Named {
        name: "lora-plus",
        settings: &["method=\"lora-plus\""],
        lr: LORA / 2.0,
        what: "LoRA whose second factor learns faster",
        choose: "for wide models and few steps",
    },
    Named {
        name: "lora-fa",
        settings: &["method=\"lora-fa\""],
        lr: LORA,
        what: "LoRA whose first factor stays",
        choose: "where kept activations fill the memory",
    },
    Named {
        name: "dylora",
        settings: &["method=\"dylora\""],
        lr: LORA,
        what: "LoRA that is good at every rank up to its own",
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
        choose: "where the weights themselves fill the memory",
    },
    Named {
        name: "ia3",
        settings: &["method=\"ia3\""],
        // Factors have to move far: the paper's.
        lr: 3e-3,
        what: "a factor for each key, value and inner state",
        choose: "for many tiny adapters of tasks near to the model",
    },
    Named {
        name: "prefix",
        settings: &["method=\"prefix\""],
        // Rows are far from where they have to be.
        lr: 1e-2,
        what: "learned keys and values in front, in each block",
        choose: "where no map of the model may change",
    },
    Named {
        name: "prompt",
        settings: &["method=\"prompt\""],
        lr: 3e-2,
        what: "learned tokens in front",
        choose: "for adapters of a few kilobytes on large models",
    },
    Named {
        name: "series",
        settings: &["method=\"bottleneck\"", "form=\"series\""],
        lr: LORA,
        what: "narrow layers in front of feed-forwards and behind them",
        choose: "where LoRA is too weak and answers may cost more",
    },
    Named {
        name: "pfeiffer",
        settings: &["method=\"bottleneck\"", "form=\"pfeiffer\""],
        lr: LORA,
        what: "narrow layers behind feed-forwards",
        choose: "as series, with a third of the values",
    },
    Named {
        name: "parallel",
        settings: &["method=\"bottleneck\"", "form=\"parallel\""],
        lr: LORA,
        what: "narrow layers beside the maps of attention",
        choose: "as series; often a little better",
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
    /// A model folder: how many values each method would train of it.
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
    choose: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trained: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<usize>,
}

/// Prints what there is.
///
/// # Errors
/// If the model cannot be read.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    // Only there is something trained.
    let device = device.clone().autodiff();
    let open = |dir: &PathBuf| AnyFolder::open_weights(dir, &device);
    let mut folder = args.model.as_ref().map(open).transpose()?;
    let mut rows = Vec::new();
    for method in &ALL {
        let Named { name, what, choose, .. } = method;
        let mut row = Row { name, what, choose, trained: None, values: None };
        if let Some(folder) = &mut folder {
            // As `vlm finetune` does, the image tower of a model that speaks is left as it is.
            let locked = matches!(folder, AnyFolder::Generative(_)).then_some("vision.");
            let mut counting = Counting { config: method.config()?, locked, counted: None };
            folder.change(&mut counting)?;
            (row.trained, row.values) = counting.counted.unzip();
        }
        rows.push(row);
    }
    if args.json {
        return output::json(&rows);
    }
    let counts = if args.model.is_some() {
        format!("{:>10} {:>8}  ", "trains", "share")
    } else {
        String::new()
    };
    output::line(&format!("{:<10} {counts}what it is; choose it", "method"))?;
    for row in rows {
        let share = match (row.trained, row.values) {
            (Some(trained), Some(all)) => {
                format!("{trained:>10} {:>6.2} %  ", 100.0 * trained as f64 / all.max(1) as f64)
            }
            _ if args.model.is_some() => format!("{:>19}  ", "does not fit"),
            _ => String::new(),
        };
        output::line(&format!("{:<10} {share}{}; {}", row.name, row.what, row.choose))?;
    }
    Ok(())
}

/// Counts what a method would train.
struct Counting {
    config: Option<AdapterConfig>,
    /// The beginning of the paths that nothing is hung on.
    locked: Option<&'static str>,
    counted: Option<(usize, usize)>,
}

impl Change for Counting {
    fn change<M: Module>(&mut self, model: M, names: &Names<'_>) -> Result<M, Error> {
        let locked = |path: &str| self.locked.is_some_and(|start| path.starts_with(start));
        let trained = match &self.config {
            None => Some(values(&model, &|param| !locked(&param.path))),
            Some(config) => tried(config, &model, names, self.locked)?
                .map(|(adapted, _)| values(&adapted, &|param| param.trainable)),
        };
        self.counted = trained.map(|trained| (trained, values(&model, &|_| true)));
        Ok(model)
    }
}

/// A model with an adapter on it, but not where paths begin with what is locked; `None` if the model has
/// no place for it, as one without texts has none for rows in front of them.
///
/// # Errors
/// As [`AdapterConfig::hung`].
pub fn tried<M: Module>(
    config: &AdapterConfig,
    model: &M,
    names: &Names<'_>,
    locked: Option<&str>,
) -> Result<Option<(M, Adapter)>, Error> {
    let locked = |path: &str| locked.is_some_and(|start| path.starts_with(start));
    let names = |path: &str, rank: usize| names(path, rank).filter(|_| !locked(path));
    match config.hung(model.clone(), "tried", &names, 0) {
        Ok(both) => Ok(Some(both)),
        Err(Error::NoTarget { .. } | Error::Setting(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many values the chosen parameters have.
pub fn values<M: Module>(model: &M, chosen: &dyn Fn(&ParamInfo) -> bool) -> usize {
    let all = params::list(model).into_iter().filter(|param| chosen(param));
    all.map(|param| param.shape.iter().product::<usize>()).sum()
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
