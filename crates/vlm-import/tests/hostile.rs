//! Files that were damaged or made to do harm: they are an error of one line or they are read, and
//! take neither long nor more memory than their size justifies.
//!
//! `VLM_FUZZ=100000` tries that many damaged files of each sort instead of a few hundred.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlm_import::Plan;

/// Counts the bytes that a thread holds, and the most that it ever did; tests run side by side.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(HELD.get()));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const TIME: Duration = Duration::from_secs(10);
/// Bytes for each of the file's, beside what reading itself needs.
const MEMORY: usize = 48;
const READING: usize = 3 << 20;

/// Reads a file and all its tensors; the message if it is refused.
fn read(bytes: &[u8]) -> Result<(), String> {
    let words = |error: vlm_import::Error| error.to_string();
    let mut plan = Plan::read(Cursor::new(bytes), Path::new("file")).map_err(words)?;
    for spec in plan.specs() {
        let values = plan.values(&spec.name).map_err(|e| e.to_string())?;
        assert_eq!(values.num_elements(), spec.shape.iter().product::<usize>());
    }
    for (name, value) in &plan.files {
        assert!(!value.to_string().is_empty(), "{name}");
    }
    Ok(())
}

/// Reads within bounds, and tells the message if it was refused.
fn bounded(what: &str, bytes: &[u8]) -> Option<String> {
    let before = HELD.get();
    PEAK.set(before);
    let began = Instant::now();
    let result = read(bytes);
    let (took, peak) = (began.elapsed(), PEAK.get().saturating_sub(before));
    assert!(took < TIME, "{what}: took {took:?}");
    assert!(peak < MEMORY * bytes.len() + READING, "{what}: took {peak} for {}", bytes.len());
    let message = result.err()?;
    assert!(!message.contains('\n') && message.len() < 3000, "{what}: {message}");
    assert!(message.starts_with("file: "), "{what}: {message}");
    Some(message)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

/// Numbers that break sums.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 7, 31, 255, 1 << 16, u32::MAX as u64, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];

/// Bytes changed, removed, repeated, cut off, numbers put in their place; all before `end`, where
/// what is not just values ends.
fn damage(bytes: &mut Vec<u8>, end: usize, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..end.min(bytes.len()).max(1)).min(bytes.len());
        let some = (at + rng.random_range(1..64)).min(bytes.len());
        let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
        match rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random_range(0..=255u32) as u8,
            2 => drop(bytes.drain(at..some)),
            3 => {
                let part = bytes[at..some].to_vec();
                bytes.splice(at..at, part);
            }
            4 if rng.random_range(0..8) == 0 => bytes.truncate(at),
            5 => {
                let from = rng.random_range(0..end.min(bytes.len()).max(1)).min(bytes.len());
                let part = bytes[from..(from + some - at).min(bytes.len())].to_vec();
                let to = (at + part.len()).min(bytes.len());
                bytes.splice(at..to, part);
            }
            6 => drop(bytes.splice(at..(at + 8).min(bytes.len()), number)),
            _ => drop(bytes.splice(at..(at + 4).min(bytes.len()), number[..4].to_vec())),
        }
    }
}

#[test]
fn damaged_and_hostile_files_do_no_harm() {
    let count = std::env::var("VLM_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut reasons = std::collections::BTreeMap::<String, usize>::new();
    for name in [
        "gguf_files/llama.gguf",
        "gguf_files/llama-tied.gguf",
        "gguf_files/llama-divided.gguf",
        "gguf_files/llama-pieces.gguf",
        "gguf_files/qwen2.gguf",
        "gguf_files/gemma2.gguf",
        "onnx_files/headed.onnx",
        "onnx_files/same.onnx",
        "onnx_files/alone.onnx",
    ] {
        let whole = golden(name);
        assert_eq!(bounded(name, &whole), None);
        // The table of tensors ends a GGUF file's head; in ONNX it is all mixed.
        let last = whole.windows(7).rposition(|seven| seven == b".weight").unwrap();
        let end = if name.ends_with("gguf") { last + 64 } else { whole.len() };
        let mut noticed = 0;
        let mut bytes = Vec::with_capacity(2 * whole.len());
        for number in 0..count {
            bytes.clear();
            bytes.extend(&whole);
            damage(&mut bytes, end, &mut rng);
            if let Some(message) = bounded(&format!("{name}, damaged, number {number}"), &bytes) {
                noticed += 1;
                let reason: String =
                    message.chars().filter(|c| c.is_alphabetic() || *c == ' ').collect();
                *reasons.entry(reason.chars().take(30).collect()).or_default() += 1;
            }
        }
        let (least, most) = (count / 10, count - count / 100);
        assert!((least..=most).contains(&noticed), "{name}: {noticed} of {count} were noticed");
    }
    // Damage that all stops at the first check would test little.
    assert!(reasons.len() >= 15, "{reasons:#?}");
}

/// What accident does not lead to.
mod hostile {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&text(key)[..], &kind.to_le_bytes(), value].concat()
    }

    fn list(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes(), &count.to_le_bytes()[..], values].concat()
    }

    fn texts(all: &[String]) -> Vec<u8> {
        list(8, all.len() as u64, &all.iter().flat_map(|one| text(one)).collect::<Vec<u8>>())
    }

    fn gguf(tensors: u64, pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
        let head = [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
        [&head[..], &rest.concat()].concat()
    }

    fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let sides: Vec<u8> = dims.iter().flat_map(|side| side.to_le_bytes()).collect();
        let rank = (dims.len() as u32).to_le_bytes();
        [&text(name)[..], &rank, &sides, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
    }

    fn refused(what: &str, bytes: &[u8], words: &str) {
        let message = bounded(what, bytes).unwrap_or_default();
        assert!(message.contains(words), "{what}: {message:?}");
    }

    #[test]
    fn lies_of_gguf_are_refused() {
        let max = u64::MAX;
        refused("old", b"GGUF\x01\0\0\0", "version 1");
        refused("big-endian", b"GGUF\0\0\0\x03", "big-endian");
        refused("tensors", &gguf(max, 0, &[]), "claimed");
        refused("pairs", &gguf(0, max, &[]), "claimed");
        refused("a key", &gguf(0, 1, &[&max.to_le_bytes()]), "a key claims");
        refused("a text", &gguf(0, 1, &[&pair("a", 8, &max.to_le_bytes())]), "claimed");
        refused("a list", &gguf(0, 1, &[&pair("a", 9, &list(12, max, &[]))]), "claimed");
        refused("texts", &gguf(0, 1, &[&pair("a", 9, &list(8, max / 8, &[]))]), "claimed");
        refused("a type", &gguf(0, 1, &[&pair("a\nb", 13, &[0; 99])]), "unknown type 13");
        let deep = list(9, 1, &[]).repeat(1 << 16);
        refused("nesting", &gguf(0, 1, &[&pair("a", 9, &deep)]), "nested");
        let twice = [pair("a", 7, &[1]), pair("a", 7, &[0])].concat();
        refused("a key twice", &gguf(0, 2, &[&twice]), "twice");
        for alignment in [0u32, 3, u32::MAX] {
            let pair = pair("general.alignment", 4, &alignment.to_le_bytes());
            refused("alignment", &gguf(0, 1, &[&pair]), "power of two");
        }
        let large = pair("general.alignment", 4, &(1u32 << 31).to_le_bytes());
        refused("far", &gguf(1, 1, &[&large, &tensor("a", &[1], 0, 0)]), "claims bytes");
        for (what, dims, offset) in [
            ("a product", vec![1 << 33; 4], 0),
            ("a side", vec![max], 0),
            ("an empty side", vec![0], 0),
            ("an end", vec![4096], 0),
            ("a start", vec![4], max - 31),
            ("between", vec![1], 8),
        ] {
            let bytes = gguf(1, 0, &[&tensor("a", &dims, 0, offset), &[0; 256]]);
            refused(what, &bytes, "tensor `a`");
        }
        refused("rank", &gguf(1, 0, &[&tensor("a", &[1; 9], 0, 0)]), "9 dimensions");
        refused("rows", &gguf(1, 0, &[&tensor("a", &[33], 8, 0), &[0; 99]]), "blocks of 32");
        refused("kind", &gguf(1, 0, &[&tensor("a", &[256], 10, 0), &[0; 999]]), "type Q2_K");
        let same = tensor("a", &[1], 0, 0);
        refused("a name twice", &gguf(2, 0, &[&same, &same, &[0; 99]]), "twice");
        let over = [tensor("a", &[16], 0, 0), tensor("b", &[16], 0, 32)].concat();
        refused("overlap", &gguf(2, 0, &[&over, &[0; 256]]), "overlap");
        let falcon = pair("general.architecture", 8, &text("falcon"));
        refused("another", &gguf(0, 1, &[&falcon]), "imported are llama");
    }

    /// A good file, with its tokens replaced.
    fn with_tokens(name: &str, tokens: &[String], more: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let width = 32u64;
        let mut pairs = vec![
            pair("general.architecture", 8, &text("llama")),
            pair("tokenizer.ggml.model", 8, &text(name)),
            pair("tokenizer.ggml.tokens", 9, &texts(tokens)),
            pair("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()),
        ];
        for (key, n) in [
            ("block_count", 1u32),
            ("embedding_length", 32),
            ("attention.head_count", 2),
            ("feed_forward_length", 32),
            ("context_length", 8),
        ] {
            pairs.push(pair(&format!("llama.{key}"), 4, &n.to_le_bytes()));
        }
        pairs.extend(
            more.iter().map(|(key, value)| pair(&format!("tokenizer.ggml.{key}"), 9, value)),
        );
        let rows = tokens.len() as u64;
        let mut wanted = vec![("token_embd.weight".to_owned(), vec![width, rows], width * rows)];
        wanted.push(("output_norm.weight".into(), vec![width], width));
        for norm in ["attn_norm", "ffn_norm"] {
            wanted.push((format!("blk.0.{norm}.weight"), vec![width], width));
        }
        for map in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
            wanted.push((format!("blk.0.{map}.weight"), vec![width, width], width * width));
        }
        let (mut table, mut offset) = (Vec::new(), 0);
        for (name, dims, values) in &wanted {
            table.extend(tensor(name, dims, 0, offset));
            offset += values * 4;
        }
        let mut bytes = gguf(wanted.len() as u64, pairs.len() as u64, &[&pairs.concat(), &table]);
        bytes.resize(bytes.len().next_multiple_of(32) + offset as usize, 0);
        bytes
    }

    #[test]
    fn lies_of_tokenizers_are_refused() {
        let letters = |n: usize| (1..=n).map(|n| "a".repeat(n)).collect::<Vec<String>>();
        let merges = |all: &[&str]| {
            ("merges", texts(&all.iter().map(|m| (*m).to_owned()).collect::<Vec<String>>()))
        };
        let good = with_tokens("gpt2", &letters(3), &[merges(&["a a", "aa a"])]);
        assert_eq!(bounded("good", &good), None);
        let file = |more: &[(&str, Vec<u8>)]| with_tokens("gpt2", &letters(3), more);
        refused("none", &file(&[]), "merges is missing");
        refused("no token", &file(&[merges(&["b c"])]), "merge 0 needs `b`");
        refused("no whole", &file(&[merges(&["aa aa"])]), "needs `aaaa`");
        refused("one", &file(&[merges(&["aa"])]), "not two tokens");
        let types = ("token_type", list(5, 1, &[0; 4]));
        refused("types", &file(&[merges(&[]), types]), "3 tokens and 1 types");
        let twice = vec!["a".to_owned(); 2];
        refused("twice", &with_tokens("gpt2", &twice, &[merges(&[])]), "`a` is there twice");
        refused("kind", &with_tokens("bert", &letters(1), &[]), "`bert`");
        let scored = |tokens: &[String], score: f32| {
            let scores: Vec<u8> = score.to_le_bytes().repeat(tokens.len());
            with_tokens("llama", tokens, &[("scores", list(6, tokens.len() as u64, &scores))])
        };
        refused("scores", &scored(&letters(3), f32::NAN), "not a list of numbers");
        refused("ways", &scored(&letters(250), 0.0), "ways each");
        refused("length", &scored(&letters(300)[290..], 0.0), "291 signs");
        assert_eq!(bounded("pieces", &scored(&letters(9), 0.0)), None);
        let many: Vec<String> = (0..60_000).map(|n| format!("{n:x}")).collect();
        assert_eq!(bounded("many", &with_tokens("gpt2", &many, &[merges(&[])])), None);
    }

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = bytes.len();
        while len > 127 {
            out.push(len as u8 | 128);
            len >>= 7;
        }
        out.push(len as u8);
        [&out[..], bytes].concat()
    }

    fn onnx(graph: &[u8]) -> Vec<u8> {
        [&[0x08, 0x07][..], &field(7, graph)].concat()
    }

    fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
        let inputs: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
        let rest = [field(2, output.as_bytes()), field(4, op.as_bytes())].concat();
        field(1, &[inputs, rest].concat())
    }

    fn weight(name: &str) -> Vec<u8> {
        field(5, &[&field(8, name.as_bytes())[..], &[0x10, 1], &field(9, &[0; 4])].concat())
    }

    #[test]
    fn lies_of_onnx_are_refused() {
        refused("nothing", &[], "neither");
        refused("a beginning", &[0x08, 0x07, 0x3a, 5], "longer than");
        refused("no graph", &[0x08, 0x07, 0x10, 1], "no graph");
        refused("empty", &onnx(&[]), "no tensor is called");
        refused("two", &[onnx(&[]), field(7, &[])].concat(), "two graphs");
        let endless = [&[0x08, 0x07][..], &[0xff; 99]].concat();
        refused("a number", &endless, "no end");
        let long = [&[0x08, 0x07, 0x3a][..], &[0xff; 9], &[1], &[0; 99]].concat();
        refused("a length", &long, "longer than");
        refused("a type", &[0x08, 0x07, 0x0b, 0], "type 3");
        refused("within", &onnx(&[0x0a, 0x09, 0]), "longer than");
        let twice = [weight("a"), weight("a")].concat();
        refused("a tensor twice", &onnx(&twice), "twice");
        refused("made twice", &onnx(&[node("A", &[], "x"), node("B", &[], "x")].concat()), "make");
        let projection = "embeddings.patch_embeddings.projection.weight";
        refused("no shape", &onnx(&weight(projection)), "`embeddings");
        // Circles, long chains, and a node that takes everything.
        let circle = [node("Identity", &["x"], "y"), node("Identity", &["y"], "x")].concat();
        refused("a circle", &onnx(&[weight(projection), circle].concat()), "embeddings");
        let mut chain = weight(projection);
        let names: Vec<String> = (0..40_000).map(|n| format!("v{n}")).collect();
        let (mut last, mut all) = (projection, Vec::new());
        for name in &names {
            chain.extend(node(
                if all.len() % 2 == 0 { "Identity" } else { "Reshape" },
                &[last],
                name,
            ));
            chain.extend(node("MatMul", &[name, projection], &format!("{name}m")));
            all.push(format!("{name}m"));
            last = name;
        }
        let inputs: Vec<&str> = all.iter().map(String::as_str).collect();
        chain.extend(node("Add", &inputs, "sum"));
        refused("a chain", &onnx(&chain), "embeddings");
    }
}
