//! Comparisons of methods, which `vlm compare` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backend::Backend;
use crate::{build, shell};

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
    /// A command that runs `vlm`, built if need be.
    ///
    /// # Errors
    /// If the build fails.
    pub fn vlm(&self) -> Result<Command> {
        match &self.program {
            Some(program) => Ok(shell::command(program)),
            None => build::program("vlm", self.backend),
        }
    }

    /// Tells a `vlm` where to compute; behind its other arguments.
    pub fn place(&self, vlm: &mut Command) {
        if let Some(device) = &self.device {
            vlm.args(["--device", device]);
        }
    }

    /// Runs at once.
    pub fn jobs(&self) -> usize {
        usize::from(self.jobs)
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
    /// Learning rates of entries, if not the usual ones.
    pub rates: &'a [String],
    pub out: &'a Path,
}

impl Comparison<'_> {
    /// Makes the runs that are not there yet, and says what came out: a row an entry.
    ///
    /// # Errors
    /// If the build or a run fails.
    pub fn run(&self, runner: &Runner) -> Result<Value> {
        let mut vlm = runner.vlm()?;
        vlm.args(["compare", "--model", self.model, "--data", self.data]);
        vlm.arg("--out").arg(self.out);
        let budget = [("--batch", self.batch), ("--steps", self.steps), ("--seeds", self.seeds)];
        for (name, value) in budget {
            vlm.args([name, &value.to_string()]);
        }
        for limit in self.limits {
            vlm.args(["--test-limit", &limit.to_string()]);
        }
        vlm.args(["--jobs", &runner.jobs().to_string()]);
        for test in self.tests {
            vlm.args(["--test", test]);
        }
        for setting in self.settings {
            vlm.args(["--set", setting]);
        }
        vlm.args(["--methods", &self.entries.join(",")]);
        for rate in self.rates {
            vlm.args(["--lr", rate]);
        }
        runner.place(&mut vlm);
        shell::run(&mut vlm)?;
        let path = self.out.join("compare.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}
