//! Time and peak memory of a CLIP model the size of ViT-B/32, one measurement a process.
//!
//! Prints one line of JSON; `cargo xtask bench` runs it beside benches/clip.py, which prints the
//! same, and compares.

use anyhow::Result;
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use serde_json::json;
use vlm_benches::{median, memory, pairs, simd, time};
use vlm_contrastive::{DualEncoder, Loss, gradients};
use vlm_encoders::{ClipConfig, Start, batch_pixels};
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer};

/// Measure one thing about a CLIP model and print it as a line of JSON
#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum)]
    task: Task,
    /// Pairs or pictures in a batch [default: 32, embed 16]
    #[arg(long)]
    batch: Option<usize>,
    /// Pairs in a graph at a time (GradCache); 0 for all
    #[arg(long, default_value_t = 0)]
    chunk: usize,
    /// Measured repetitions [default: train 5, embed 15, gradients 1]
    #[arg(long)]
    repeats: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Training steps: forward, loss, backward, AdamW
    Train,
    /// Embedding pictures, without gradients
    Embed,
    /// Gradients of a batch, without an optimiser
    Gradients,
}

fn main() -> Result<()> {
    let args = Args::parse();
    vlm_train::keep_freed_memory();
    let base = memory("VmRSS");
    let (name, batch, warm, repeats) = match args.task {
        Task::Train => ("train", 32, 2, 5),
        Task::Embed => ("embed", 16, 3, 15),
        Task::Gradients => ("gradients", 32, 0, 1),
    };
    let batch = args.batch.unwrap_or(batch);
    let repeats = args.repeats.unwrap_or(repeats);
    let device = Device::default();
    let seconds = match args.task {
        Task::Train => train(batch, args.chunk, warm, repeats, &device),
        Task::Embed => embed(batch, warm, repeats, &device),
        Task::Gradients => gradient(batch, args.chunk, repeats, &device),
    };
    let line = json!({
        "program": "vlm",
        "task": name,
        "batch": batch,
        "chunk": args.chunk,
        "seconds": seconds,
        "images_per_second": batch as f64 / median(&seconds),
        "peak_mib": memory("VmHWM"),
        "base_mib": base,
        "simd": simd(),
        "threads": std::thread::available_parallelism()?.get(),
    });
    println!("{line}");
    Ok(())
}

fn model(device: &Device) -> DualEncoder {
    DualEncoder::init(&ClipConfig::default(), Start::Clip, Loss::InfoNce, 0, device)
}

fn train(batch: usize, chunk: usize, warm: usize, repeats: usize, device: &Device) -> Vec<f64> {
    let pairs = pairs(&ClipConfig::default(), batch);
    let mut state = Some(model(&device.clone().autodiff()));
    let mut rule = AdamW::new(OptimConfig::default(), device);
    time(warm, repeats, device, || {
        let Some(model) = state.take() else { return };
        let mut grads = Grads::default();
        gradients(&model, &pairs, Loss::InfoNce, chunk, 1.0, &mut grads);
        state = Some(rule.step(model, &mut grads, 1e-5, 1.0));
    })
}

fn embed(batch: usize, warm: usize, repeats: usize, device: &Device) -> Vec<f64> {
    let pixels = batch_pixels(&pairs(&ClipConfig::default(), batch).pictures, device);
    let clip = model(device).clip;
    time(warm, repeats, device, || {
        drop(clip.encode_images(pixels.clone()).into_data());
    })
}

fn gradient(batch: usize, chunk: usize, repeats: usize, device: &Device) -> Vec<f64> {
    let pairs = pairs(&ClipConfig::default(), batch);
    let model = model(&device.clone().autodiff());
    time(0, repeats, device, || {
        let mut grads = Grads::default();
        gradients(&model, &pairs, Loss::InfoNce, chunk, 1.0, &mut grads);
    })
}
