//! `cargo xtask bench`.

use anyhow::Result;
use clap::ValueEnum;

use crate::backend::Backend;
use crate::python::Venv;
use crate::{build, golden, shell};

/// Measure speed, and the same in PyTorch
///
/// Builds and runs benches/ on this machine, then the Python script beside it with .venv, which
/// is made first where it is missing (some 8 GB; `--rust-only` does without). Close other
/// programs: a busy machine measures itself.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// What computes on our side
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Leave PyTorch out
    #[arg(long)]
    rust_only: bool,
    /// Arguments for both programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// Training steps of a CLIP model
    Clip,
}

/// Measures.
///
/// # Errors
/// If a build fails, or one of the programs.
pub fn run(args: &Args) -> Result<()> {
    let (program, script) = match args.name {
        Name::Clip => ("bench-clip", "benches/clip.py"),
    };
    // Before anything is measured: an installation would disturb it.
    let venv = if args.rust_only { None } else { Some(Venv::with(&golden::PACKAGES)?) };
    shell::run(build::program(program, args.backend)?.args(&args.arguments))?;
    if let Some(venv) = venv {
        // Without it OpenMP's threads wander between cores, and now and then PyTorch takes twice
        // as long: that comparison would flatter us.
        let mut python = venv.python();
        shell::run(python.arg(script).args(&args.arguments).env("OMP_PROC_BIND", "true"))?;
    }
    Ok(())
}
