//! `vlm merge`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;
use vlm_peft::{Adapter, Error, Names, load, merge_weighted};
use vlm_store::StagedDir;

use crate::folder::{AnyFolder, Change};
use crate::output::{self, Stored, Usage};

/// Arguments of `vlm merge`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder; it stays as it is.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter for it, as peft writes it; may be given several times.
    #[arg(long = "adapter", value_name = "DIR", required = true)]
    adapters: Vec<PathBuf>,
    /// How much of each adapter's change is taken, in their order [default: 1 of each].
    #[arg(long, value_name = "X", value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,
    /// The new model's folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type to store weights in.
    #[arg(long, value_enum, value_name = "FLOAT", default_value_t = Stored::F32)]
    float: Stored,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

/// Writes a model that has taken up adapters.
///
/// # Errors
/// If an adapter does not fit the model or is no change of weights, or the folder cannot be written.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    if args.out.exists() && !args.force {
        bail!("{} exists; give --force to replace it", args.out.display());
    }
    let weights = match &args.weights[..] {
        [] => vec![1.0; args.adapters.len()],
        weights => weights.to_vec(),
    };
    if weights.len() != args.adapters.len() || weights.iter().any(|x| !x.is_finite()) {
        let reason = format!("--weights wants {} numbers, one an adapter", args.adapters.len());
        return Err(Usage(reason).into());
    }
    let mut folder = AnyFolder::open(&args.model, None, device)?;
    folder.change(&mut Merging { adapters: &args.adapters, weights: &weights, device })?;
    let staged = StagedDir::new(&args.out).with_context(|| args.out.display().to_string())?;
    folder.save(staged.path(), args.float.into())?;
    staged.commit().with_context(|| args.out.display().to_string())?;
    output::line(&format!("written to {}", args.out.display()))
}

struct Merging<'a> {
    adapters: &'a [PathBuf],
    weights: &'a [f64],
    device: &'a Device,
}

impl Change for Merging<'_> {
    fn change<M: Module + ModuleDisplay>(
        &mut self,
        mut model: M,
        names: &Names<'_>,
    ) -> Result<M, Error> {
        let mut all: Vec<Adapter> = Vec::new();
        for (i, dir) in self.adapters.iter().enumerate() {
            let (with, adapter) = load(model, &format!("{i}"), Path::new(dir), names, self.device)?;
            model = with;
            all.push(adapter);
        }
        let all: Vec<(&Adapter, f64)> = all.iter().zip(self.weights.iter().copied()).collect();
        merge_weighted(model, &all)
    }
}
