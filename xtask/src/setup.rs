//! `cargo xtask setup`.

use anyhow::Result;
use clap::Subcommand;

use crate::python::{TORCH, Venv};

/// Install what a backend needs into the workspace
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Install libtorch (from PyPI's torch, about 7 GB) into .venv
    ///
    /// Makes .venv with `python3 -m venv`, installs torch and numpy with pip, and writes
    /// .venv/tch.env. After that `--backend tch` works; nothing outside .venv is touched.
    Tch,
}

/// Installs.
///
/// # Errors
/// If Python or pip fail.
pub fn run(args: &Args) -> Result<()> {
    match args.what {
        What::Tch => {
            let venv = Venv::with(&[TORCH, "numpy"])?;
            let file = venv.write_libtorch_environment()?;
            println!(
                "libtorch is ready: cargo xtask train --backend tch\n\
                 for cargo and vlm without xtask: source {}",
                file.display()
            );
            Ok(())
        }
    }
}
