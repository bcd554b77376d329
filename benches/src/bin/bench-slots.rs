//! What skipped attentions (EAS) and remembered pictures (MemVP) save, one measurement a process; and a page of
//! many.
//!
//! Prints one line of JSON; `cargo xtask bench slots` runs it and makes tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Distribution, Tensor};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use vlm_benches::{ids, memory, simd, time};
use vlm_encoders::{Blueprint, TextModel, TextSpec, Weights};
use vlm_nn::adapter::{self, Entries};
use vlm_nn::ops::class_cross_entropy;
use vlm_nn::{Cache, Pass};
use vlm_peft::{AnyMethod, Bottleneck, Eas, Form, Lora, Memvp, Sight, attach, fold, merge};
use vlm_store::write_file;
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer, Report, Series, keep_freed_memory};

/// Measure one thing and print it as a line of JSON
#[derive(Parser)]
struct Args {
    /// What the decoder wears
    #[arg(value_enum, default_value = "lora")]
    method: Method,
    /// What it does
    #[arg(value_enum, default_value = "answer")]
    task: Task,
    /// The folder of a decoder
    #[arg(long, value_name = "DIR", default_value = "datasets/.cache/smollm2")]
    model: PathBuf,
    /// Rows of a picture; 0 for text alone
    #[arg(long, default_value_t = 0)]
    picture: usize,
    /// Tokens of the text
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Tokens of the answer
    #[arg(long, default_value_t = 8)]
    answer: usize,
    /// Texts of a training step
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Measured repetitions
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Only make a page: the readings, a line of JSON each, and the page
    #[arg(long, value_name = "FILE", num_args = 2)]
    page: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// LoRA, merged for answers; pictures as tokens
    Lora,
    /// Narrow layers beside the maps into attention, which stay there for answers
    Parallel,
    /// A third of the attentions skipped, folded for answers
    Eas,
    /// Pictures beside the feed-forwards
    Memvp,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// A step of training
    Step,
    /// Reading a prompt
    Prompt,
    /// Reading a prompt and writing an answer
    Answer,
}

/// Values of a row of a picture, as DINOv2's small tower has them.
const SEEN: usize = 384;
/// Tokens that any of the decoders knows.
const KNOWN: usize = 40_100;

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some([from, to]) = args.page.as_deref() {
        return page(from, to);
    }
    keep_freed_memory();
    let device = match Device::default() {
        device if args.task == Task::Step => device.autodiff(),
        device => device,
    };
    let Weights::Text(plan, model) = Weights::open(&args.model, &device)? else {
        bail!("{}: no decoder; give the folder of one", args.model.display());
    };
    let model = worn(&args, &plan, model)?;
    let mut cache_bytes = 0;
    let seconds = match args.task {
        Task::Step => steps(&args, model, &device),
        task => {
            let batch = 1;
            let entries = entries(&args, &model, batch, &device);
            let answer = if task == Task::Prompt { 1 } else { args.answer };
            time(1, args.repeats, &device, || {
                cache_bytes = answered(&args, &model, entries.as_ref(), answer, &device);
            })
        }
    };
    let line = json!({
        "program": "vlm",
        "task": args.task.to_possible_value().map(|value| value.get_name().to_owned()),
        "method": args.method.to_possible_value().map(|value| value.get_name().to_owned()),
        "batch": args.batch,
        "picture": args.picture,
        "tokens": args.tokens,
        "answer": args.answer,
        "seconds": seconds,
        "cache_bytes": cache_bytes,
        "peak_mib": memory("VmHWM"),
        "simd": simd(),
        "threads": std::thread::available_parallelism()?.get(),
    });
    println!("{line}");
    Ok(())
}

/// The model with an adapter, ready for the task.
fn worn(args: &Args, plan: &Blueprint<TextSpec>, model: TextModel) -> Result<TextModel> {
    let names = |path: &str, rank: usize| plan.in_memory(path, rank);
    let blocks = plan.spec.blocks.len();
    let method = match args.method {
        Method::Lora => AnyMethod::Lora(Lora::default()),
        Method::Parallel => AnyMethod::Bottleneck(Bottleneck {
            form: Form::Parallel,
            size: 8,
            ..Bottleneck::default()
        }),
        Method::Eas => AnyMethod::Eas(Eas {
            layers: (blocks - blocks / 3..blocks).collect(),
            router: false,
            ..Eas::default()
        }),
        Method::Memvp => AnyMethod::Memvp(Memvp {
            sight: Some(Sight { width: SEEN, rows: args.picture.max(1), blocks }),
            ..Memvp::default()
        }),
    };
    let (model, adapter) = attach(model, "bench", &method, None, &names, 0)?;
    Ok(match (args.task, args.method) {
        (Task::Step, _) | (_, Method::Parallel | Method::Memvp) => model,
        (_, Method::Lora) => merge(model, &adapter)?,
        (_, Method::Eas) => fold(model, &adapter, &plan.spec.blocks[0])?,
    })
}

/// What the feed-forwards find of a picture.
fn entries(args: &Args, model: &TextModel, batch: usize, device: &Device) -> Option<Entries> {
    let memory = adapter::memory(&model.text.tokens)?;
    let shape = [args.picture.max(1), SEEN];
    let picture = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    Some(memory.entries(&vec![Some(picture); batch], device))
}

/// The rows of a prompt: of a picture, unless that is remembered, and of the text.
fn rows(args: &Args, model: &TextModel, batch: usize, device: &Device) -> Tensor<3> {
    let text = model.text.look_up(ids([batch, args.tokens], KNOWN, device));
    let width = text.dims()[2];
    if args.picture == 0 || args.method == Method::Memvp {
        return text;
    }
    let shape = [batch, args.picture, width];
    Tensor::cat(vec![Tensor::random(shape, Distribution::Normal(0.0, 1.0), device), text], 1)
}

/// Reads a prompt and writes so many tokens; returns the bytes of the cache.
fn answered(
    args: &Args,
    model: &TextModel,
    entries: Option<&Entries>,
    answer: usize,
    device: &Device,
) -> usize {
    let mut cache = Cache::new();
    let mut x = rows(args, model, 1, device);
    for number in 0..answer {
        let mut pass = Pass::new().with_memory(entries).with_cache(&mut cache);
        let states = model.text.extend(x, &mut pass);
        let last = states.dims()[1] - 1;
        let logits = model.text.logits(states.narrow(1, last, 1));
        let token = logits.argmax(2).reshape([1, 1]);
        x = model.text.look_up(token);
        if number + 1 == answer {
            drop(x.clone().into_data());
        }
    }
    cache.bytes()
}

/// Training steps on the answers at the ends of texts.
fn steps(args: &Args, model: TextModel, device: &Device) -> Vec<f64> {
    let vocabulary = model.text.vocabulary();
    let wanted = ids([args.batch, args.answer], KNOWN, device).reshape([args.batch * args.answer]);
    let mut rule = AdamW::new(OptimConfig::default(), &Device::default());
    let mut state = Some(model);
    time(1, args.repeats, device, || {
        let Some(model) = state.take() else { return };
        let entries = entries(args, &model, args.batch, device);
        let x = rows(args, &model, args.batch, device);
        let last = x.dims()[1] - args.answer;
        let states = model.text.extend(x, &mut Pass::new().with_memory(entries.as_ref()));
        let logits = model.text.logits(states.narrow(1, last, args.answer));
        let logits = logits.reshape([args.batch * args.answer, vocabulary]);
        let mut grads = Grads::default();
        grads.add(class_cross_entropy(logits, wanted.clone()).mean().backward(), &model, 1.0);
        state = Some(rule.step(model, &mut grads, 1e-5, 1.0));
    })
}

/// A page with curves of readings, a line of JSON each; of those of one thing the fastest counts.
fn page(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| from.display().to_string())?;
    let readings: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let curve =
        |method: &str, pictures: bool, over: &str, value: &dyn Fn(&Value) -> Option<f64>| {
            let own = readings.iter().filter(|r| {
                r["method"] == method && r["task"] == "answer" && (r["picture"] != 0) == pictures
            });
            let mut points = BTreeMap::new();
            for (at, value) in own.filter_map(|r| Some((r[over].as_u64()?, value(r)?))) {
                let least = points.entry(at).or_insert(f64::INFINITY);
                *least = value.min(*least);
            }
            points.into_iter().map(|(at, value)| (at as f64, value)).collect::<Vec<_>>()
        };
    let seconds = |r: &Value| {
        r["seconds"].as_array()?.iter().filter_map(Value::as_f64).min_by(f64::total_cmp)
    };
    let megabytes = |r: &Value| Some(r["cache_bytes"].as_f64()? / 1e6);
    let of_text = |method: &str| curve(method, false, "tokens", &seconds);
    let of_pictures = |method: &str| curve(method, true, "answer", &seconds);
    let times = |slow: Vec<(f64, f64)>, fast: &[(f64, f64)]| {
        slow.iter().zip(fast).map(|(slow, fast)| (slow.0, slow.1 / fast.1)).collect::<Vec<_>>()
    };
    let series = |name: &str, points| Series { name: name.into(), points };
    let (skipped, memory) = (of_text("eas"), of_pictures("memvp"));
    let (prompt, answer) = ("tokens of the prompt", "tokens of the answer");
    let mut report = Report::new("Skipped attentions and remembered pictures");
    report
        .curve(
            "A third of the attentions skipped: times as fast, end to end",
            prompt,
            "times",
            &[
                series("as the model alone or with LoRA merged", times(of_text("lora"), &skipped)),
                series("as with parallel adapters", times(of_text("parallel"), &skipped)),
            ],
        )
        .curve(
            "Keys and values that are kept for the next token",
            prompt,
            "MB",
            &[
                series("all attentions", curve("lora", false, "tokens", &megabytes)),
                series("a third skipped", curve("eas", false, "tokens", &megabytes)),
            ],
        )
        .curve(
            "Pictures remembered (MemVP): times as fast as pictures as tokens, end to end",
            answer,
            "times",
            &[series("prompt and answer", times(of_pictures("lora"), &memory))],
        );
    write_file(to, &mut |w| std::io::Write::write_all(w, report.render().as_bytes()))?;
    Ok(())
}
