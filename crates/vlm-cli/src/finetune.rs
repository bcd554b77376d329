//! `vlm finetune`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use burn::tensor::Device;
use clap::Parser;
use vlm_fusion::GenerativeFolder;
use vlm_nn::ops::Precision;

use crate::config::{EvalConfig, RunConfig};
use crate::output::{self, Usage};
use crate::{methods, train};

/// How settings begin that are not of a method.
const SECTIONS: [&str; 8] =
    ["data.", "model.", "sample.", "batch.", "optim.", "train.", "adapter.", "eval."];

/// Arguments of `vlm finetune`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder; it stays as it is.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// How to adapt it, such as lora; `vlm methods` lists all.
    #[arg(long)]
    method: String,
    /// What to train on: conversations, questions or captions; of a dual encoder, pictures with
    /// captions or labels.
    #[arg(long, value_name = "SET")]
    data: String,
    /// What decides which weights are best.
    #[arg(long, value_name = "SET")]
    val: Option<String>,
    /// What the adapted model is measured on at the end; may be given several times.
    #[arg(long, value_name = "SET")]
    test: Vec<String>,
    /// Samples of it at most, of a model that speaks; if given again, of the next --test.
    #[arg(long, value_name = "N", value_parser = output::count)]
    test_limit: Vec<usize>,
    /// The folder of the run; the adapter goes to DIR/adapter, as peft writes and reads it, and a model
    /// all of whose weights trained to DIR/model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Linear maps that the adapter hangs on, by the last parts of their names, or a regular
    /// expression that the whole name has to match [default: what suits the method].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    targets: Vec<String>,
    /// Steps of training [default: three passes over the data].
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// How the weights learn: adamw, sgd, or, in little memory, lomo or adalomo; mezo has no backward pass
    /// and takes the memory of inference, and many more steps.
    #[arg(long, value_name = "NAME", value_parser = ["adamw", "sgd", "lomo", "adalomo", "mezo"], default_value = "adamw")]
    optimizer: String,
    /// The learning rate at its peak [default: what suits the method, or an optimizer other than adamw].
    #[arg(long)]
    lr: Option<f64>,
    /// Pictures of a step.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Change a setting of the method, such as --set r=16, or of the run, such as
    /// --set train.warmup=0.1.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Everything random derives from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Go on with the run that is in the folder.
    #[arg(long)]
    resume: bool,
}

/// Trains an adapter.
///
/// # Errors
/// If the method is not known, or the run fails.
pub fn run(
    args: &Args,
    precision: Option<Precision>,
    device_name: &str,
    device: &Device,
) -> Result<ExitCode> {
    let config = args.config()?;
    train::configured(config, (args.out.clone(), args.resume), precision, (device_name, device))
}

/// The configuration of a run with these arguments, for whoever makes it in a process of its own.
///
/// # Errors
/// If they are wrong.
pub fn configuration(arguments: &[OsString]) -> Result<RunConfig> {
    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }
    Alone::try_parse_from(arguments)?.args.config()
}

impl Args {
    fn config(&self) -> Result<RunConfig> {
        let method = methods::find(&self.method)?;
        let own = |setting: &&String| !setting.split('=').next().unwrap_or_default().contains('.');
        if method.name == methods::FULL {
            if let Some(setting) = self.set.iter().find(own) {
                let reason = format!("--set {setting}: `full` has no settings of its own");
                return Err(Usage(reason).into());
            }
            if !self.targets.is_empty() {
                return Err(Usage("--targets is of adapters; `full` trains all".into()).into());
            }
        }
        // What is no model of pictures and text is taken for a dual encoder.
        let kind = if GenerativeFolder::is_one(&self.model) { "generative." } else { "" };
        let mezo = self.optimizer == "mezo";
        let (slow_rate, probe) = method.mezo();
        let rate = match &*self.optimizer {
            "adamw" => method.lr,
            "mezo" => slow_rate,
            // Relative to the size of each weight.
            "adalomo" => 1e-3,
            // Of gradients as they are.
            _ => 1e-2,
        };
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut all = vec![
            format!("seed={}", self.seed),
            format!("data.train={}", quoted(&self.data)),
            format!("model.{}from={}", kind, quoted(&self.model.display().to_string())),
            format!("batch.size={}", self.batch),
            format!("optim.lr={}", self.lr.unwrap_or(rate)),
            format!("optim.rule={}", self.optimizer),
            "optim.weight_decay=0".to_owned(),
            "train.warmup=0.05".to_owned(),
            "train.epochs=3".to_owned(),
        ];
        // As in the paper's runs.
        if mezo {
            all.extend(["train.warmup=0".to_owned(), "train.shape=constant".to_owned()]);
            all.push(format!("optim.zo_eps={probe}"));
        }
        // Clipping by norm would run each step twice.
        if self.optimizer.ends_with("lomo") {
            all.push("optim.clip=0".to_owned());
        }
        all.extend(self.val.as_deref().map(|val| format!("data.val={}", quoted(val))));
        all.extend(self.steps.map(|steps| format!("train.steps={steps}")));
        all.extend(method.settings());
        match &self.targets[..] {
            [] => {}
            // `all-linear` among them.
            [pattern] if pattern.contains(|c: char| !(c.is_alphanumeric() || "._".contains(c))) => {
                all.push(format!("adapter.targets={}", quoted(pattern)));
            }
            names => {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                all.push(format!("adapter.targets=[{}]", names.join(", ")));
            }
        }
        // What begins with no section of a configuration is one of the method's settings.
        let place = |setting: &String| {
            let of_run = SECTIONS.iter().any(|section| setting.starts_with(section));
            if of_run || !setting.contains('=') {
                setting.clone()
            } else {
                format!("adapter.{setting}")
            }
        };
        all.extend(self.set.iter().map(place));
        let mut config = RunConfig::parse("", Path::new("vlm finetune"), &all)?;
        config.eval.extend(self.test.iter().enumerate().map(|(number, test)| EvalConfig {
            name: if number == 0 { "test".to_owned() } else { format!("test-{}", number + 1) },
            note: test.clone(),
            data: test.clone(),
            limit: self.test_limit.get(number).or(self.test_limit.last()).copied(),
        }));
        Ok(config)
    }
}
