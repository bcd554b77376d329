//! Memory and time of training all weights of a model by several update rules, one measurement a process;
//! and a page of many.
//!
//! Prints one line of JSON; `cargo xtask bench memory` runs it and makes tables.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use vlm_benches::{Noise, answer_loss, ids, memory, pairs, simd, time, write_clip};
use vlm_contrastive::{DualEncoder, Loss, loss_of_pairs};
use vlm_encoders::{ClipConfig, Float, Weights};
use vlm_fullft::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig, Mezo, MezoConfig};
use vlm_nn::{params, recompute};
use vlm_store::{TensorSpec, write_file, write_tensors};
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer, Report, Series, Sgd, keep_freed_memory};

/// Measure training steps of all weights by one rule, and print them as a line of JSON
#[derive(Parser)]
struct Args {
    /// How weights learn
    #[arg(value_enum)]
    rule: Rule,
    /// The model, with random weights: clip (ViT-B/32), or a Llama of so many million values
    #[arg(long, default_value = "135")]
    model: Size,
    /// Texts of a step, or pairs
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens of a text
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Compute blocks twice and keep only what enters them
    #[arg(long)]
    recompute: bool,
    /// Measured repetitions
    #[arg(long, default_value_t = 2)]
    repeats: usize,
    /// Where the models are kept
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    models: PathBuf,
    /// The readings that a page is made of, and the page
    #[arg(long, value_name = "FILE", num_args = 2)]
    page: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// No training
    Infer,
    /// No backward pass
    Mezo,
    /// Descent inside the backward pass
    Lomo,
    /// The same with factored moments
    Adalomo,
    /// Plain descent
    Sgd,
    /// Two moments for each value
    Adamw,
    /// Only make the model, or the page
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Clip,
    Llama(usize),
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "clip" => Ok(Size::Clip),
            _ => match text.parse() {
                Ok(millions) if shape(millions).is_some() => Ok(Size::Llama(millions)),
                _ => Err("there are clip, 10, 30, 60, 135, 250 and 500".into()),
            },
        }
    }
}

/// Layers, width, inner width, heads, heads of keys and values, vocabulary: about so many million values.
fn shape(millions: usize) -> Option<[usize; 6]> {
    Some(match millions {
        10 => [6, 256, 768, 4, 2, 16_384],
        30 => [10, 384, 1024, 6, 2, 32_000],
        60 => [12, 512, 1536, 8, 4, 49_152],
        // SmolLM2-135M's.
        135 => [30, 576, 1536, 9, 3, 49_152],
        250 => [26, 896, 2304, 14, 2, 49_152],
        500 => [28, 1152, 3072, 18, 6, 49_152],
        _ => return None,
    })
}

/// Counts what is allocated, so that bytes can be told apart by what they are for.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: everything is done by the system's allocator; numbers are noted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some([from, to]) = args.page.as_deref() {
        return page(from, to);
    }
    let dir = made(args.model, &args.models)?;
    if args.rule == Rule::Nothing {
        return Ok(());
    }
    // As `vlm` does.
    keep_freed_memory();
    let _recompute = recompute(args.recompute);
    let device = match Device::default() {
        device if args.rule != Rule::Infer => device.autodiff(),
        device => device,
    };
    let before = live();
    let weights = Weights::open(&dir, &device)?;
    match weights {
        Weights::Dual(_, model) => {
            let pairs = pairs(&ClipConfig::default(), args.batch);
            let model = DualEncoder::of(model, Loss::InfoNce);
            measure(&args, model, before, &device, &|model| {
                loss_of_pairs(&model, &pairs, Loss::InfoNce)
            })
        }
        Weights::Text(_, model) => {
            let ids = ids([args.batch, args.tokens], model.text.vocabulary(), &device);
            measure(&args, model, before, &device, &|model| {
                // The last quarter of each text is its answer.
                answer_loss(&model, ids.clone(), (args.tokens / 4).max(1))
            })
        }
        Weights::Vision(..) => bail!("{}: neither a decoder nor a CLIP model", dir.display()),
    }
}

/// Runs steps and prints what they took.
fn measure<M: Module>(
    args: &Args,
    model: M,
    before: usize,
    device: &Device,
    loss: &dyn Fn(M) -> Tensor<1>,
) -> Result<()> {
    let weights = live().saturating_sub(before);
    let trains = !matches!(args.rule, Rule::Infer | Rule::Mezo);
    let all = params::list(&model).into_iter().filter(|param| param.trainable);
    let values: usize = all.map(|param| param.len()).sum();
    let begin = live();
    PEAK.store(begin, Ordering::Relaxed);
    // The most that the process has held is forgotten: loading takes more than the weights.
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let largest = Cell::new(0);
    let steps = |step: &mut dyn FnMut(M) -> M, model: M| {
        let mut state = Some(model);
        let seconds = time(1, args.repeats, device, || state = state.take().map(&mut *step));
        (state, seconds)
    };
    let whole = |model: M| Ok::<_, ()>(loss(model));
    let config = OptimConfig { weight_decay: 0.0, ..Default::default() };
    const LR: f64 = 1e-5;
    let mut ada = AdaLomo::new(AdaLomoConfig::default());
    let (model, seconds) = match args.rule {
        Rule::Nothing | Rule::Infer => steps(
            &mut |model| {
                drop(loss(model.clone()).into_data());
                model
            },
            model,
        ),
        Rule::Mezo => {
            let mut rule = Mezo::new(MezoConfig::default());
            let value = |model: M| Ok::<_, ()>(f64::from(loss(model).into_scalar::<f32>()));
            steps(&mut |model| rule.step(model, &value, LR).0, model)
        }
        Rule::Lomo => {
            let mut rule = Lomo::new(LomoConfig::default());
            let mut step = |model| {
                let (model, passed) = rule.step(model, &whole, LR);
                largest.set(passed.map_or(0, |passed| passed.held));
                model
            };
            steps(&mut step, model)
        }
        Rule::Adalomo => {
            let mut step = |model| {
                let (model, passed) = ada.step(model, &whole, LR);
                largest.set(passed.map_or(0, |passed| passed.held));
                model
            };
            steps(&mut step, model)
        }
        Rule::Sgd => {
            largest.set(4 * values);
            let mut rule = Sgd::new(config);
            steps(&mut |model| stepped(&mut rule, model, loss, LR), model)
        }
        Rule::Adamw => {
            largest.set(4 * values);
            let mut rule = AdamW::new(config, &Device::default());
            steps(&mut |model| stepped(&mut rule, model, loss, LR), model)
        }
    };
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(begin) + weights;
    let resident = memory("VmHWM").filter(|_| reset);
    let state = if args.rule == Rule::Adamw { 8 * values } else { ada.bytes() };
    let mut activations = 0;
    if let (true, Some(model)) = (trains, model) {
        // What waits for a backward pass that does not come.
        let begin = live();
        let waiting = loss(model.clone());
        activations = live().saturating_sub(begin);
        drop((waiting, model));
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let name = match args.model {
        Size::Clip => "clip".to_owned(),
        Size::Llama(millions) => millions.to_string(),
    };
    let line = json!({
        "program": "vlm",
        "task": args.rule.to_possible_value().map(|value| value.get_name().to_owned()),
        "model": name,
        "batch": args.batch,
        "seconds": seconds,
        "weights_mib": mib(weights),
        "gradients_mib": mib(largest.get()),
        "state_mib": mib(state),
        "activations_mib": mib(activations),
        "live_mib": mib(peak),
        "peak_mib": resident,
        "simd": simd(),
        "threads": std::thread::available_parallelism()?.get(),
    });
    println!("{line}");
    Ok(())
}

/// A step by way of all gradients.
fn stepped<M: Module>(
    rule: &mut impl Optimizer,
    model: M,
    loss: &dyn Fn(M) -> Tensor<1>,
    lr: f64,
) -> M {
    let mut grads = Grads::default();
    grads.add(loss(model.clone()).backward(), &model, 1.0);
    rule.step(model, &mut grads, lr, 1.0)
}

/// The folder of a model, which is made if it is not there.
fn made(size: Size, models: &Path) -> Result<PathBuf> {
    let (dir, millions) = match size {
        Size::Clip => (models.join("clip"), None),
        Size::Llama(millions) => (models.join(format!("llama-{millions}")), Some(millions)),
    };
    if dir.join("model.safetensors").exists() {
        return Ok(dir);
    }
    let Some([layers, width, inner, heads, kv, vocabulary]) = millions.and_then(shape) else {
        write_clip(&dir, &Device::default())?;
        return Ok(dir);
    };
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocabulary,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    });
    std::fs::create_dir_all(&dir)?;
    write_file(&dir.join("config.json"), &mut |w| {
        serde_json::to_writer_pretty(w, &config).map_err(std::io::Error::from)
    })?;
    let narrow = width / heads * kv;
    let mut specs = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, width])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            specs.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[width]);
        add("post_attention_layernorm", &[width]);
        for (name, out, into) in [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", narrow, width),
            ("self_attn.v_proj", narrow, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ] {
            add(name, &[out, into]);
        }
    }
    specs.push(("model.norm.weight".to_owned(), vec![width]));
    let specs: Vec<TensorSpec> =
        specs.into_iter().map(|(name, shape)| TensorSpec { name, shape }).collect();
    let mut noise = Noise(millions.unwrap_or_default() as u64);
    let find =
        |name: &str| specs.iter().find(|spec| spec.name == name).map(|spec| spec.shape.clone());
    write_tensors(&dir.join("model.safetensors"), Float::Bf16, &[], &specs, &mut |name| {
        let shape = find(name).unwrap_or_default();
        let len = shape.iter().product();
        let values: Vec<f32> = match shape.len() {
            1 => vec![1.0; len],
            _ => (0..len).map(|_| noise.next() * 0.04).collect(),
        };
        TensorData::new(values, shape)
    })?;
    Ok(dir)
}

/// A page with curves of readings, a line of JSON each.
fn page(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| from.display().to_string())?;
    let readings: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let rules: Vec<(Rule, String)> = Rule::value_variants()
        .iter()
        .filter_map(|rule| Some((*rule, rule.to_possible_value()?.get_name().to_owned())))
        .collect();
    let curves = |batch: u64, key: &str, scale: f64| -> Vec<Series> {
        let points = |name: &str| {
            let own = readings.iter().filter(|r| r["task"] == *name && r["batch"] == batch);
            let mut points: Vec<(f64, f64)> = own
                .filter_map(|r| {
                    let millions = r["model"].as_str()?.parse().ok()?;
                    let value = match &r[key] {
                        Value::Array(all) => vlm_benches::median(
                            &all.iter().filter_map(Value::as_f64).collect::<Vec<_>>(),
                        ),
                        value => value.as_f64()?,
                    };
                    Some((millions, value * scale))
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let series =
            rules.iter().map(|(_, name)| Series { name: name.clone(), points: points(name) });
        series.filter(|series| !series.points.is_empty()).collect()
    };
    let mut report = Report::new("Training all weights: memory by update rule");
    for batch in [1, 16] {
        let with = |what: &str| format!("{what}, batch {batch}");
        let sizes = "million values";
        for (title, unit, key, scale) in [
            ("Peak resident memory", "GiB", "peak_mib", 1.0 / 1024.0),
            ("Peak of live bytes", "GiB", "live_mib", 1.0 / 1024.0),
            ("A step", "seconds", "seconds", 1.0),
        ] {
            let series = curves(batch, key, scale);
            if !series.is_empty() {
                report.curve(&with(title), sizes, unit, &series);
            }
        }
    }
    let header =
        ["model", "batch", "rule", "weights", "gradients", "state", "activations", "live", "peak"];
    let keys =
        ["weights_mib", "gradients_mib", "state_mib", "activations_mib", "live_mib", "peak_mib"];
    let rows: Vec<Vec<String>> =
        readings
            .iter()
            .map(|r| {
                let text = |key: &str| r[key].as_str().unwrap_or_default().to_owned();
                let mut row = vec![text("model"), r["batch"].to_string(), text("task")];
                row.extend(keys.iter().map(|key| {
                    r[*key].as_f64().map_or_else(|| "–".into(), |mib| format!("{mib:.0}"))
                }));
                row
            })
            .collect();
    let note = "MiB. Gradients: all that are alive together; activations: what waits for the backward \
                pass; live: the most that was allocated at once; peak: as the system counts it.";
    report.table("Bytes by kind", &header, &rows, note);
    write_file(to, &mut |w| std::io::Write::write_all(w, report.render().as_bytes()))?;
    Ok(())
}
