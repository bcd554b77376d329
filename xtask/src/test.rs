//! `cargo xtask test`.

use anyhow::Result;

use crate::backend::Backend;
use crate::{build, shell};

/// Run all tests, in release
///
/// Without arguments the whole workspace. What follows `--` goes to `cargo test`, such as
/// `cargo xtask test -- ops::` or `cargo xtask test -- --test ops -- --nocapture`.
#[derive(clap::Args)]
pub struct Args {
    /// A backend to test besides flex, which the tests always have
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Further arguments for `cargo test`
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// Runs `cargo test` with the flags that programs are built with, and a backend's environment.
///
/// # Errors
/// If a test fails, or the backend lacks something.
pub fn run(args: &Args) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.arg("test").args(build::FLAGS).args(args.backend.flags()).args(&args.arguments);
    args.backend.prepare(&mut cargo)?;
    shell::run(&mut cargo)
}
