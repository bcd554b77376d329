//! Comparisons of methods, which `vlm compare` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backend::Backend;
use crate::{build, shell};

/// MeZO on all weights, as `vlm finetune --optimizer` sets it up.
pub const MEZO: &str = "full:optim.rule=mezo:train.warmup=0:train.shape=constant";

/// What runs, and on what.
#[derive(clap::Args)]
pub struct Runner {
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Runs at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// A `vlm` that was built elsewhere, in place of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The `--device` of its runs
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

impl Runner {
    /// The `vlm` that runs, built if need be.
    ///
    /// # Errors
    /// If the build fails.
    pub fn vlm(&self) -> Result<Vlm> {
        let program = match &self.program {
            Some(program) => shell::command(program),
            None => build::program("vlm", self.backend)?,
        };
        Ok(Vlm { program, device: self.device.clone(), jobs: usize::from(self.jobs) })
    }
}

/// A `vlm` that is there, and where it computes.
pub struct Vlm {
    program: Command,
    device: Option<String>,
    /// Runs at once.
    pub jobs: usize,
}

impl Vlm {
    /// A call of one of its commands.
    pub fn call(&self, command: &str) -> Command {
        let mut call = shell::again(&self.program);
        call.arg(command);
        if let Some(device) = &self.device {
            call.args(["--device", device]);
        }
        call
    }
}

/// Methods that are trained under one budget.
pub struct Comparison<'a> {
    pub model: &'a str,
    pub data: &'a str,
    pub tests: &'a [&'a str],
    /// Of models that speak, samples of each test.
    pub limits: &'a [u32],
    pub batch: u32,
    pub steps: u32,
    pub seeds: u32,
    pub settings: &'a [&'a str],
    /// Methods, with settings.
    pub entries: &'a [String],
    pub out: &'a Path,
}

impl Comparison<'_> {
    /// Makes the runs that are not there yet, and says what came out: a row an entry.
    ///
    /// # Errors
    /// If a run fails.
    pub fn run(&self, vlm: &Vlm) -> Result<Value> {
        let jobs = vlm.jobs.to_string();
        let mut vlm = vlm.call("compare");
        vlm.args(["--model", self.model, "--data", self.data, "--jobs", &jobs]);
        vlm.arg("--out").arg(self.out);
        let budget = [("--batch", self.batch), ("--steps", self.steps), ("--seeds", self.seeds)];
        for (name, value) in budget {
            vlm.args([name, &value.to_string()]);
        }
        for limit in self.limits {
            vlm.args(["--test-limit", &limit.to_string()]);
        }
        for test in self.tests {
            vlm.args(["--test", test]);
        }
        for setting in self.settings {
            vlm.args(["--set", setting]);
        }
        vlm.args(["--methods", &self.entries.join(",")]);
        shell::run(&mut vlm)?;
        let path = self.out.join("compare.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}
