//! Files of a model folder that were damaged or made to do harm: they are an error of one line or
//! they work, and take neither long nor more memory than a file of their size justifies.
//!
//! `VLM_FUZZ=20000` tries that many damaged files of each sort instead of a few hundred. Alone in
//! its file, since it counts what the whole program holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use vlm_encoders::Weights;
use vlm_encoders::image::{ImageProcessor, RgbImage};
use vlm_encoders::text::{Message, Padding, Tokenizer};

/// Counts the bytes that are held, and the most that ever were.
struct Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Compiled patterns may take 10 MiB each.
const MEMORY: usize = 128 << 20;
const TIME: Duration = Duration::from_secs(10);

/// Reads what is in a folder and uses it.
type Work = fn(&Path) -> Result<(), String>;

const TEXTS: [&str; 4] =
    ["", "A red bus isn't  <s>small</s>, 中文😀!\n\n", "\u{0}\u{301}é\u{200b}", "aaaa aaa"];

/// Runs what a file leads to, and tells whether it was accepted.
fn bounded(what: &str, work: impl FnOnce() -> Result<(), String>) -> bool {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let began = Instant::now();
    let result = work();
    let (took, peak) = (began.elapsed(), PEAK.load(Relaxed).saturating_sub(before));
    assert!(took < TIME, "{what}: took {took:?}");
    assert!(peak < MEMORY, "{what}: took {} MiB", peak >> 20);
    match result {
        Ok(()) => true,
        Err(message) => {
            assert!(!message.contains('\n') && message.len() < 20_000, "{what}: {message}");
            false
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn use_tokenizer(dir: &Path) -> Result<(), String> {
    let tokenizer = Tokenizer::from_dir(dir).map_err(words)?;
    let mut failed = None;
    for text in TEXTS.map(str::to_owned).into_iter().chain(["a b ".repeat(2000)]) {
        match tokenizer.encode(&text, 1 << 20) {
            Ok(row) => {
                let all = tokenizer.decode(&row.ids);
                let mut stream = tokenizer.stream();
                let pushed = row.ids.iter().take(50).try_for_each(|id| stream.push(*id).map(drop));
                failed = failed.or(all.map(drop).and(pushed).err().map(words));
            }
            Err(error) => failed = failed.or(Some(words(error))),
        }
    }
    let batch = tokenizer.encode_batch(&TEXTS, 6, Padding::Longest);
    let chat = tokenizer.chat(&[Message::text("user", "Hi")], true);
    let (batch, chat) = (batch.err().map(words), chat.err().map(words));
    failed.or(batch).or(chat.filter(|m| !m.contains("no chat template"))).map_or(Ok(()), Err)
}

fn use_processor(dir: &Path) -> Result<(), String> {
    let processor = ImageProcessor::from_dir(dir).map_err(words)?;
    let pixels = processor.process(&RgbImage::new(9, 7)).map_err(words)?;
    if let Some(patching) = processor.patching() {
        pixels.patches(patching).map_err(words)?;
    }
    let copy = tempfile::tempdir().unwrap();
    processor.save(copy.path()).map_err(words)?;
    let again = ImageProcessor::from_dir(copy.path()).map_err(words)?;
    assert_eq!(
        (again.kind, again.resize, again.crop),
        (processor.kind, processor.resize, processor.crop)
    );
    // Reading a number can be off by one in its last binary digit.
    let numbers = |p: &ImageProcessor| p.normalize.map(|(mean, std)| [mean, std].concat());
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-15 * a.abs();
    let (old, new) = (numbers(&processor), numbers(&again));
    assert_eq!(old.is_some(), new.is_some());
    assert!(old.iter().flatten().zip(new.iter().flatten()).all(close), "{old:?} {new:?}");
    Ok(())
}

fn use_config(dir: &Path) -> Result<(), String> {
    Weights::open(dir, &Device::flex()).map(drop).map_err(words)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Bytes changed, removed, repeated, cut off.
fn damaged(whole: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let end = (at + rng.random_range(1..200)).min(bytes.len());
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => {
                bytes[at] = *b"{}[]\",:0-e\\\x00\xff".get(rng.random_range(0..13)).unwrap_or(&0)
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 if at > 0 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, *b"99999999999")),
        }
    }
    bytes
}

/// One value of a JSON file replaced by another that is or is not of its kind.
fn twisted(whole: &Value, rng: &mut ChaCha8Rng) -> Value {
    let mut twisted = whole.clone();
    for _ in 0..rng.random_range(1..4) {
        let mut place = &mut twisted;
        // Down to some depth, so that the few fields at the top are not drowned by the vocabulary.
        for _ in 0..rng.random_range(0..7) {
            let inner = match place {
                Value::Array(list) => list.len(),
                Value::Object(map) => map.len(),
                _ => 0,
            };
            if inner == 0 {
                break;
            }
            let nth = rng.random_range(0..inner);
            place = match place {
                Value::Array(list) => &mut list[nth],
                Value::Object(map) => map.values_mut().nth(nth).unwrap(),
                _ => unreachable!("nothing inside"),
            };
        }
        let other = match rng.random_range(0..13) {
            0 => Value::Null,
            1 => json!(u32::MAX),
            2 => json!(-1),
            3 => json!(1e308),
            4 => json!(u64::MAX),
            5 => json!(""),
            6 => json!("a".repeat(3000)),
            7 => json!([]),
            8 => json!({}),
            9 => json!(!place.as_bool().unwrap_or(false)),
            10 => json!([place.clone(), place.clone()]),
            11 => json!(0),
            _ => json!("(a*)*b"),
        };
        *place = other;
    }
    twisted
}

#[test]
fn damaged_and_hostile_files_do_no_harm() {
    let count = std::env::var("VLM_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let kinds = ["bert-uncased", "gpt2", "llama3", "llama2", "gemma", "t5", "siglip"];
    let sorts: Vec<(PathBuf, &str, Work)> = kinds
        .iter()
        .flat_map(|kind| {
            let folder = golden("tokenizer_kinds").join(kind);
            ["tokenizer.json", "tokenizer_config.json"]
                .map(|name| (folder.clone(), name, use_tokenizer as Work))
        })
        .chain(
            [
                "clip/quick",
                "clip/legacy",
                "encoders/bert",
                "encoders/dinov2-gated",
                "encoders/gemma3",
                "encoders/rope-longrope",
                "encoders/rope-yarn-full",
                "encoders/siglip2",
                "encoders/vit",
            ]
            .map(|name| (golden(name), "config.json", use_config as Work)),
        )
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for (from, name, work) in sorts {
        for other in ["tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
            if let Ok(bytes) = std::fs::read(from.join(other)) {
                put(other, &bytes);
            }
        }
        let whole = std::fs::read(from.join(name)).unwrap();
        try_many(&whole, count, &mut rng, |bytes, what| {
            put(name, bytes);
            bounded(&format!("{} {what}", from.join(name).display()), || work(folder.path()))
        });
    }
    let cases = std::fs::read(golden("processors/cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let whole = case["config"].to_string();
        try_many(whole.as_bytes(), count, &mut rng, |bytes, what| {
            put("preprocessor_config.json", bytes);
            bounded(&format!("{} {what}", case["name"]), || use_processor(folder.path()))
        });
    }
    hostile(folder.path());
}

/// The file as it is, then `count` damaged ones; some of those must be noticed.
fn try_many(
    whole: &[u8],
    count: usize,
    rng: &mut ChaCha8Rng,
    mut accepted: impl FnMut(&[u8], &str) -> bool,
) {
    assert!(accepted(whole, "as it is"));
    let value: Value = serde_json::from_slice(whole).unwrap();
    let mut noticed = 0;
    for number in 0..count {
        let bytes = match number % 2 {
            0 => damaged(whole, rng),
            _ => twisted(&value, rng).to_string().into_bytes(),
        };
        noticed += usize::from(!accepted(&bytes, &format!("damaged, number {number}")));
    }
    assert!(noticed * 10 > count, "only {noticed} of {count} were noticed");
}

/// What accident does not lead to.
fn hostile(folder: &Path) {
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let refused = |what: &str, words: &str, work: Work| {
        let mut message = String::new();
        assert!(!bounded(what, || work(folder).inspect_err(|m| message.clone_from(m))), "{what}");
        assert!(message.contains(words), "{what}: {message}");
    };
    for (name, work) in [
        ("config.json", use_config as Work),
        ("preprocessor_config.json", use_processor),
        ("tokenizer_config.json", use_tokenizer),
        ("tokenizer.json", use_tokenizer),
    ] {
        let good = golden("tokenizer_kinds/gpt2");
        put("tokenizer.json", &std::fs::read_to_string(good.join("tokenizer.json")).unwrap());
        put("tokenizer_config.json", "{}");
        for (what, text) in [
            ("nesting", "[".repeat(1 << 18)),
            ("objects in objects", "{\"a\":".repeat(1 << 18)),
            ("a number", format!("{{\"model_type\": 1{}}}", "0".repeat(1 << 16))),
            ("nothing", String::new()),
        ] {
            put(name, &text);
            refused(&format!("{name}: {what}"), name, work);
        }
    }
    let unknown = json!({ "model_type": "bert", "hidden\n_size": 4 }).to_string();
    put("config.json", &unknown);
    std::fs::copy(golden("encoders/bert/model.safetensors"), folder.join("model.safetensors"))
        .unwrap();
    refused("a key of two lines", "hidden _size", use_config);
    put("tokenizer_config.json", "{}");
    let kind = |kind: &str| -> Value {
        let file = golden("tokenizer_kinds").join(kind).join("tokenizer.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    };
    let growing =
        vec![json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" }); 40];
    let nested = (0..100).fold(
        json!({ "type": "NFC" }),
        |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }),
    );
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let template = |single: Value| json!({ "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {} });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    for (from, part, value, words) in [
        (
            "gpt2",
            "normalizer",
            json!({ "type": "Sequence", "normalizers": growing }),
            "256 times longer",
        ),
        (
            "gpt2",
            "normalizer",
            json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "a".repeat(999) }),
            "longer",
        ),
        (
            "gpt2",
            "normalizer",
            json!({ "type": "Precompiled", "precompiled_charsmap": "/////wAAAAA=" }),
            "cut off",
        ),
        ("gpt2", "normalizer", nested, "tokenizer.json"),
        ("gpt2", "pre_tokenizer", split(r"(a+)+(?!b)"), "might never end"),
        ("gpt2", "pre_tokenizer", split(r"(x+x+)+\1y"), "might never end"),
        ("gpt2", "pre_tokenizer", split(&"(".repeat(4000)), "might never end"),
        ("gpt2", "pre_tokenizer", split(r"\p{L}{9999}{9999}"), "tokenizer.json"),
        (
            "gpt2",
            "pre_tokenizer",
            json!({ "type": "Sequence", "pretokenizers": vec![split("a"); 99] }),
            "64 patterns",
        ),
        ("gpt2", "post_processor", template(json!([text, text])), "2 times"),
        ("gpt2", "post_processor", template(json!([])), "0 times"),
        (
            "gpt2",
            "post_processor",
            template(json!([{ "Sequence": { "id": "B", "type_id": 0 } }])),
            "second text",
        ),
        (
            "gpt2",
            "post_processor",
            template(json!([text, { "SpecialToken": { "id": "x", "type_id": 0 } }])),
            "\"x\"",
        ),
        (
            "gpt2",
            "decoder",
            json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "b".repeat(9999) }),
            "longer",
        ),
    ] {
        let mut file = kind(from);
        file[part] = value;
        put("tokenizer.json", &file.to_string());
        refused(words, words, use_tokenizer);
    }
    let mut random = kind("gpt2");
    random["model"]["dropout"] = json!(0.1);
    put("tokenizer.json", &random.to_string());
    refused("dropout", "dropout", use_tokenizer);
    let mut slow = kind("bert-uncased");
    slow["model"]["max_input_chars_per_word"] = json!(u32::MAX);
    put("tokenizer.json", &slow.to_string());
    refused("long words", "max_input_chars_per_word", use_tokenizer);

    // Odd, but no reason to refuse: tokens within tokens, and ids as large as they get.
    let mut odd = kind("llama2");
    let added = |id: u32, content: &str, normalized: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": true, "rstrip": true,
            "normalized": normalized, "special": true })
    };
    let tokens = odd["added_tokens"].as_array_mut().unwrap();
    let first = tokens.len() as u32;
    for (nth, content) in ["a", "aa", "▁a", "aaa", "<s><s>", " "].into_iter().enumerate() {
        tokens.push(added(first + nth as u32, content, nth % 2 == 0));
    }
    odd["model"]["vocab"]["bus"] = json!(u32::MAX);
    put("tokenizer.json", &odd.to_string());
    bounded("odd tokens", || use_tokenizer(folder));
    // A pipe would be waited for, and a file without end be read for ever.
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    std::fs::create_dir(folder.join("tokenizer.json")).unwrap();
    refused("a folder", "is not a file", use_tokenizer);
    std::fs::remove_dir(folder.join("tokenizer.json")).unwrap();
    std::fs::File::create(folder.join("tokenizer.json")).unwrap().set_len(1 << 33).unwrap();
    let began = Instant::now();
    assert!(Tokenizer::from_dir(folder).unwrap_err().to_string().contains("more than 256 MiB"));
    assert!(began.elapsed() < TIME);
}
