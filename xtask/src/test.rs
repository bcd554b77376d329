//! `cargo xtask test`.

use anyhow::Result;

use crate::backend::Backend;
use crate::{build, data, shell};

/// Real models, and the test that compares them with their references.
const REAL: [&str; 3] = ["minilm", "dino", "smollm2"];
const REAL_TEST: [&str; 4] = ["--test", "real", "--", "--ignored"];

/// Run all tests, in release
///
/// Without arguments the whole workspace. What follows `--` goes to `cargo test`, such as
/// `cargo xtask test -- ops::` or `cargo xtask test -- --test ops -- --nocapture`.
#[derive(clap::Args)]
pub struct Args {
    /// A backend to test besides flex, which the tests always have
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Fetch real models and compare them with their references, instead of the other tests
    #[arg(long, conflicts_with = "arguments")]
    pub real: bool,
    /// Further arguments for `cargo test`
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// Runs `cargo test` with the flags that programs are built with, and a backend's environment.
///
/// # Errors
/// If a test fails, the backend lacks something, or a real model cannot be fetched.
pub fn run(args: &Args) -> Result<()> {
    let mut cargo = shell::cargo();
    if args.real {
        for name in REAL {
            data::make(name, false)?;
        }
    }
    cargo.arg("test").args(build::FLAGS).args(args.backend.flags()).args(&args.arguments);
    if args.real {
        cargo.args(REAL_TEST);
    }
    args.backend.prepare(&mut cargo)?;
    shell::run(&mut cargo)
}
