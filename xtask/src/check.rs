//! `cargo xtask check`.

use anyhow::Result;

use crate::backend::{self, Backend};
use crate::python::Venv;
use crate::{build, shell, tidy};

/// Check everything but the tests, from cheap to costly
///
/// Format, the house rules (tidy), clippy and rustdoc with warnings as errors, and licences if
/// cargo-deny is installed.
#[derive(clap::Args)]
pub struct Args {
    /// Also type-check the other backends: wgpu, vulkan, cuda, and tch where libtorch is
    #[arg(long)]
    features: bool,
}

/// Checks.
///
/// # Errors
/// At the first check that fails.
pub fn run(args: &Args) -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    // All in release, so that what is checked and built once serves the next step too.
    let clippy = ["--all-targets", "--", "-D", "warnings"];
    shell::run(shell::cargo().arg("clippy").args(build::FLAGS).args(clippy))?;
    let mut doc = shell::cargo();
    doc.arg("doc").args(build::FLAGS).arg("--no-deps").env("RUSTDOCFLAGS", "-Dwarnings");
    shell::run(&mut doc)?;
    if shell::output(shell::cargo().args(["deny", "--version"])).is_some() {
        shell::run(shell::cargo().args(["deny", "check"]))?;
    } else {
        eprintln!("skipped: licences and advisories (`cargo install cargo-deny` to check them)");
    }
    if args.features {
        other_backends()?;
    }
    eprintln!("all checks passed");
    Ok(())
}

fn other_backends() -> Result<()> {
    for backend in [Backend::Wgpu, Backend::Vulkan, Backend::Cuda, Backend::Tch] {
        let no_libtorch =
            !backend::own_libtorch() && !Venv::existing().is_some_and(|v| v.has_libtorch());
        if backend == Backend::Tch && no_libtorch {
            eprintln!("skipped: tch (`cargo xtask setup tch` installs libtorch)");
            continue;
        }
        let mut check = shell::cargo();
        check.arg("check").args(build::FLAGS).args(backend.flags());
        backend.prepare(&mut check)?;
        if backend == Backend::Cuda {
            // Its build script would fetch a compiler, which type-checking does not need.
            check.env("DOCS_RS", "1");
        }
        shell::run(&mut check)?;
    }
    Ok(())
}
