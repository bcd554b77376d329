//! `vlm quantize`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use vlm_encoders::FourBitConfig;
use vlm_nn::four_bit::Code;
use vlm_store::StagedDir;

use crate::folder::AnyFolder;
use crate::output::{self, Stored};

/// Arguments of `vlm quantize`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder; it stays as it is.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The 16 values that a weight may have, times the largest of its block of 64: nf4 for trained
    /// weights, fp4 as bitsandbytes has it by default.
    #[arg(long, value_enum, default_value_t = Values::Nf4)]
    code: Values,
    /// Keep the largest value of each block as it is: 4.5 bits a weight in place of 4.127.
    #[arg(long)]
    plain: bool,
    /// The type that all other weights are stored in.
    #[arg(long, value_enum, value_name = "FLOAT", default_value_t = Stored::F32)]
    float: Stored,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Values {
    Nf4,
    Fp4,
}

/// Writes a model with weights of four bits.
///
/// # Errors
/// If the model cannot be read or the folder not be written.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    if args.out.exists() && !args.force {
        bail!("{} exists; give --force to replace it", args.out.display());
    }
    let code = match args.code {
        Values::Nf4 => Code::Nf4,
        Values::Fp4 => Code::Fp4,
    };
    let config = FourBitConfig { code, nested: !args.plain };
    let folder = AnyFolder::open(&args.model, Some(config), device)?;
    let staged = StagedDir::new(&args.out).with_context(|| args.out.display().to_string())?;
    folder.save(staged.path(), args.float.into())?;
    staged.commit().with_context(|| args.out.display().to_string())?;
    let size = |dir: &PathBuf| std::fs::metadata(dir.join("model.safetensors")).map(|m| m.len());
    let mut line = format!("written to {}", args.out.display());
    if let (Ok(before), Ok(after)) = (size(&args.model), size(&args.out)) {
        line += &format!(", {} where it was {}", output::size(after), output::size(before));
    }
    output::line(&line)
}
