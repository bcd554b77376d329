//! Time and peak memory of a training step of an adapter on a decoder, and of all weights beside it, one
//! measurement a process.
//!
//! Prints one line of JSON; `cargo xtask bench adapt` runs it beside benches/adapt.py, which prints the
//! same, and compares.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use serde_json::json;
use vlm_benches::{memory, simd, time};
use vlm_encoders::{Encoder, FourBitConfig, TextModel};
use vlm_nn::ops::{Precision, class_cross_entropy};
use vlm_nn::params;
use vlm_peft::{
    AnyMethod, Bottleneck, Form, Ia3, Lora, LoraFa, Names, Prefix, Targets, attach, merge,
};
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer};

/// Measure training steps of one method and print them as a line of JSON
#[derive(Parser)]
struct Args {
    /// What is trained
    #[arg(value_enum)]
    task: Task,
    /// The folder of a decoder
    #[arg(long, value_name = "DIR", default_value = "datasets/.cache/smollm2")]
    model: PathBuf,
    /// Texts of a step
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
    /// Keys and values in front
    Prefix,
    /// A step without any gradient, as a base of comparison
    Infer,
    /// The same once LoRA is merged
    Merged,
}

impl Task {
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
            Task::Parallel => (
                AnyMethod::Bottleneck(Bottleneck { form: Form::Parallel, ..Default::default() }),
                None,
            ),
            Task::Prefix => (AnyMethod::Prefix(Prefix::default()), None),
        })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _precision = args.precision.scope();
    let base = memory("VmRSS");
    let device = Device::default();
    let trains = !matches!(args.task, Task::Infer | Task::Merged);
    let training = if trains { device.clone().autodiff() } else { device.clone() };
    let four_bit = (args.task == Task::Qlora).then(FourBitConfig::default);
    let Encoder::Text(folder) = Encoder::open_packed(&args.model, four_bit, &training)? else {
        bail!("{}: no decoder; give the folder of one", args.model.display());
    };
    let names = |path: &str, rank: usize| Some(folder.plan.named(path, rank).name);
    let model = adapted(args.task, args.rank, folder.model, &names)?;
    let trainable: usize = params::list(&model)
        .iter()
        .filter(|param| param.trainable)
        .map(|param| param.shape.iter().product::<usize>())
        .sum();
    let ids = ids(&args, model.text.vocabulary(), &training);
    let seconds = if trains {
        let mut rule = AdamW::new(OptimConfig { weight_decay: 0.0, ..Default::default() }, &device);
        let mut state = Some(model);
        time(1, args.repeats, &device, || {
            let Some(model) = state.take() else { return };
            let mut grads = Grads::default();
            grads.add(loss(&model, ids.clone(), args.answer).backward(), &model, 1.0);
            state = Some(rule.step(model, &mut grads, 1e-5, 1.0));
        })
    } else {
        time(1, args.repeats, &device, || drop(loss(&model, ids.clone(), args.answer).into_data()))
    };
    let line = json!({
        "program": "vlm",
        "task": args.task.to_possible_value().map(|value| value.get_name().to_owned()),
        "batch": args.batch * args.tokens,
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

fn adapted(task: Task, rank: usize, model: TextModel, names: &Names<'_>) -> Result<TextModel> {
    let Some((method, targets)) = task.method(rank) else { return Ok(model) };
    let (model, adapter) = attach(model, "bench", &method, targets.as_ref(), names, 0)?;
    Ok(if task == Task::Merged { merge(model, &adapter)? } else { model })
}

/// The same in benches/adapt.py.
fn ids(args: &Args, vocabulary: usize, device: &Device) -> Tensor<2, Int> {
    let known = vocabulary - 100;
    let ids = (0..args.batch * args.tokens).map(|i| ((i * 7919 + 13) % known + 100) as i64);
    let ids = TensorData::new(ids.collect::<Vec<_>>(), [args.batch, args.tokens]);
    Tensor::from_data(ids, device)
}

/// The mean loss of the last tokens.
fn loss(model: &TextModel, ids: Tensor<2, Int>, answer: usize) -> Tensor<1> {
    let ([batch, tokens], vocabulary) = (ids.dims(), model.text.vocabulary());
    let states = model.text.states(ids.clone(), None, None, false).last;
    let logits = model.text.logits(states.narrow(1, tokens - answer - 1, answer));
    let wanted = ids.narrow(1, tokens - answer, answer).reshape([batch * answer]);
    class_cross_entropy(logits.reshape([batch * answer, vocabulary]), wanted).mean()
}
