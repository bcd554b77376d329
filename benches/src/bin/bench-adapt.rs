//! Time and peak memory of a training step of an adapter on a decoder or a CLIP model, and of all weights
//! beside it, one measurement a process.
//!
//! Prints one line of JSON; `cargo xtask bench adapt` runs it beside benches/adapt.py, which prints the
//! same, and compares.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use serde_json::json;
use vlm_benches::{answer_loss, ids, memory, pairs, simd, time, write_clip};
use vlm_contrastive::{DualEncoder, Loss, gradients};
use vlm_encoders::{ClipConfig, Encoder, FourBitConfig, TextModel, Weights, batch_pixels};
use vlm_nn::ops::Precision;
use vlm_nn::params;
use vlm_peft::{
    AnyMethod, Bottleneck, Form, Ia3, Lora, LoraFa, Names, Prefix, Prompt, Targets, attach, merge,
};
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer, keep_freed_memory};

/// Measure training steps of one method and print them as a line of JSON
#[derive(Parser)]
struct Args {
    /// What is trained
    #[arg(value_enum)]
    task: Task,
    /// The folder of a decoder
    #[arg(long, value_name = "DIR", default_value = "datasets/.cache/smollm2")]
    model: PathBuf,
    /// Take a CLIP model of ViT-B/32 size with random weights instead; it is made in this folder if it is
    /// not there
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    clip: Option<PathBuf>,
    /// Texts of a step, or pairs
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Tokens of a text
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Tokens at its end that are learned
    #[arg(long, default_value_t = 16)]
    answer: usize,
    /// Rank of LoRA and its kin
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Measured repetitions
    #[arg(long, default_value_t = 4)]
    repeats: usize,
    /// How exactly matrices are multiplied: highest, high or medium
    #[arg(long, default_value = "highest")]
    precision: Precision,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// All weights, with AdamW
    Full,
    /// LoRA on queries and values
    Lora,
    /// LoRA on all linear maps
    LoraAll,
    /// LoRA-FA on all linear maps
    LoraFa,
    /// DoRA on queries and values
    Dora,
    /// LoRA on all linear maps of four bits
    Qlora,
    /// Factors
    Ia3,
    /// Bottlenecks beside the maps of attention
    Parallel,
    /// Bottlenecks in front of feed-forwards and behind them
    Series,
    /// Bottlenecks behind feed-forwards
    Pfeiffer,
    /// Keys and values in front
    Prefix,
    /// Tokens in front
    Prompt,
    /// A step without any gradient, as a base of comparison
    Infer,
    /// The same once LoRA is merged
    Merged,
}

impl Task {
    fn trains(self) -> bool {
        !matches!(self, Task::Infer | Task::Merged)
    }

    fn method(self, rank: usize) -> Option<(AnyMethod, Option<Targets>)> {
        let lora = Lora { r: rank, ..Default::default() };
        let all = Some(Targets::all());
        Some(match self {
            Task::Full | Task::Infer => return None,
            Task::Lora | Task::Merged => (AnyMethod::Lora(lora), None),
            Task::LoraAll | Task::Qlora => (AnyMethod::Lora(lora), all),
            Task::LoraFa => (AnyMethod::LoraFa(LoraFa { lora }), all),
            Task::Dora => (AnyMethod::Lora(Lora { dora: true, ..lora }), None),
            Task::Ia3 => (AnyMethod::Ia3(Ia3::default()), None),
            Task::Parallel => (bottleneck(Form::Parallel), None),
            Task::Series => (bottleneck(Form::Series), None),
            Task::Pfeiffer => (bottleneck(Form::Pfeiffer), None),
            Task::Prefix => (AnyMethod::Prefix(Prefix::default()), None),
            Task::Prompt => (AnyMethod::Prompt(Prompt::default()), None),
        })
    }
}

fn bottleneck(form: Form) -> AnyMethod {
    AnyMethod::Bottleneck(Bottleneck { form, ..Default::default() })
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _precision = args.precision.scope();
    // As `vlm` does.
    keep_freed_memory();
    let base = memory("VmRSS");
    let device = match Device::default() {
        device if args.task.trains() => device.autodiff(),
        device => device,
    };
    let four_bit = (args.task == Task::Qlora).then(FourBitConfig::default);
    let (batch, (trainable, seconds)) = match &args.clip {
        None => (args.batch * args.tokens, decoder(&args, four_bit, &device)?),
        Some(dir) => (args.batch, clip(&args, dir, four_bit, &device)?),
    };
    let line = json!({
        "program": "vlm",
        "task": args.task.to_possible_value().map(|value| value.get_name().to_owned()),
        "batch": batch,
        "trainable": trainable,
        "seconds": seconds,
        "peak_mib": memory("VmHWM"),
        "base_mib": base,
        "simd": simd(),
        "threads": std::thread::available_parallelism()?.get(),
    });
    println!("{line}");
    Ok(())
}

/// How many values are trained, and the seconds of each step.
type Measured = (usize, Vec<f64>);

fn decoder(args: &Args, four_bit: Option<FourBitConfig>, device: &Device) -> Result<Measured> {
    let Encoder::Text(folder) = Encoder::open_packed(&args.model, four_bit, device)? else {
        bail!("{}: no decoder; give the folder of one", args.model.display());
    };
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    let ids = ids([args.batch, args.tokens], folder.model.text.vocabulary(), device);
    let loss = |model: &TextModel| answer_loss(model, ids.clone(), args.answer);
    let gradients =
        |model: &TextModel, grads: &mut Grads| grads.add(loss(model).backward(), model, 1.0);
    measured(args, folder.model, &names, &|model| drop(loss(model).into_data()), &gradients, device)
}

fn clip(
    args: &Args,
    dir: &Path,
    four_bit: Option<FourBitConfig>,
    device: &Device,
) -> Result<Measured> {
    let config = ClipConfig::default();
    if !dir.exists() {
        write_clip(dir, device)?;
    }
    let Weights::Dual(plan, model) = Weights::open_packed(dir, four_bit, device)? else {
        bail!("{}: no CLIP model; remove it", dir.display());
    };
    let names = |path: &str, rank: usize| plan.in_memory(path.strip_prefix("clip.")?, rank);
    let pairs = pairs(&config, args.batch);
    let pixels = batch_pixels(&pairs.pictures, device);
    let ids = Tensor::from_data(
        TensorData::new(pairs.texts.ids.clone(), [pairs.texts.rows, pairs.texts.cols]),
        device,
    );
    let forward = |model: &DualEncoder| {
        drop(model.clip.encode_images(pixels.clone()).into_data());
        let ends = Tensor::from_data(TensorData::new(pairs.ends.clone(), [args.batch]), device);
        drop(model.clip.text_features(ids.clone(), ends, None).into_data());
    };
    let gradients = |model: &DualEncoder, grads: &mut Grads| {
        gradients(model, &pairs, Loss::InfoNce, 0, 1.0, grads);
    };
    measured(args, DualEncoder::of(model, Loss::InfoNce), &names, &forward, &gradients, device)
}

/// Steps of what is to be measured: `forward` alone, or `gradients` and the update.
fn measured<M: Module>(
    args: &Args,
    model: M,
    names: &Names<'_>,
    forward: &dyn Fn(&M),
    gradients: &dyn Fn(&M, &mut Grads),
    device: &Device,
) -> Result<Measured> {
    let model = adapted(args.task, args.rank, model, names)?;
    let trained = params::list(&model).into_iter().filter(|param| param.trainable);
    let trainable = trained.map(|param| param.shape.iter().product::<usize>()).sum();
    if !args.task.trains() {
        return Ok((trainable, time(1, args.repeats, device, || forward(&model))));
    }
    let config = OptimConfig { weight_decay: 0.0, ..Default::default() };
    let mut rule = AdamW::new(config, &Device::default());
    let mut state = Some(model);
    let seconds = time(1, args.repeats, device, || {
        let Some(model) = state.take() else { return };
        let mut grads = Grads::default();
        gradients(&model, &mut grads);
        state = Some(rule.step(model, &mut grads, 1e-5, 1.0));
    });
    Ok((trainable, seconds))
}

fn adapted<M: Module>(task: Task, rank: usize, model: M, names: &Names<'_>) -> Result<M> {
    let Some((method, targets)) = task.method(rank) else { return Ok(model) };
    let (model, adapter) = attach(model, "bench", &method, targets.as_ref(), names, 0)?;
    Ok(if task == Task::Merged { merge(model, &adapter)? } else { model })
}
