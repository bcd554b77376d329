//! `cargo xtask train`.

use anyhow::Result;

use crate::backend::Backend;
use crate::{build, shell};

/// The configuration that is shipped.
pub const CONFIG: &str = "configs/emoji.toml";

/// Build `vlm` and train the shipped model
///
/// The same as `vlm train configs/emoji.toml`, from the root of the workspace. Further arguments
/// are handed on (`--out runs/mine`, or `-- --help` to see all there are). Ctrl-C saves and stops.
#[derive(clap::Args)]
pub struct Args {
    /// What computes; give it before the arguments of `vlm`
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Further arguments for `vlm train`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// Builds, then becomes `vlm train`.
///
/// # Errors
/// If the build fails; what `vlm` ends with is handed on.
pub fn run(args: &Args) -> Result<()> {
    let mut vlm = build::program("vlm", args.backend)?;
    shell::become_it(vlm.args(["train", CONFIG]).args(&args.arguments))
}
