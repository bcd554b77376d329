//! Damaged safetensors files and indices of shards: an error of one line or tensors that can be
//! read, without a panic and without memory that the files do not justify.
//!
//! `VLM_FUZZ=100000` tries that many of each sort instead of a few thousand.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use burn::tensor::TensorData;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlm_store::{Float, TensorFiles, TensorSpec, write_sharded};

/// Notes the largest allocation of each thread, since tests run side by side.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

/// Opens the folder and reads all of it; whether that worked.
fn read(dir: &Path, what: &str) -> bool {
    LARGEST.set(0);
    let attempt = || {
        let files = TensorFiles::open_dir(dir, "model")?;
        for name in files.names() {
            let data = files.read(name)?;
            assert_eq!(data.num_elements(), files.shape(name).unwrap().iter().product::<usize>());
            if files.shape(name).unwrap().first().is_some_and(|rows| *rows > 1) {
                files.read_rows(name, 1, 1)?;
            }
            assert!(files.read_rows(name, usize::MAX, 2).is_err());
        }
        Ok::<(), vlm_store::Error>(())
    };
    let result = attempt();
    assert!(LARGEST.get() < 1 << 17, "{what}: allocated {}", LARGEST.get());
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(!message.contains('\n') && message.len() < 2000, "{what}: {message}");
    }
    result.is_ok()
}

/// Bytes changed, removed, repeated or replaced by what means something in JSON.
fn damaged(whole: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let end = (at + rng.random_range(1..40)).min(bytes.len());
        match rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = b"{}[]\",:0-e\\"[rng.random_range(0..11)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 if rng.random_range(0..8) == 0 => bytes.truncate(at),
            5 if at < bytes.len() && bytes[at].is_ascii_digit() => {
                drop(bytes.splice(at..=at, *b"18446744073709551615"))
            }
            _ if at < bytes.len() => bytes[at] = rng.random_range(b'0'..=b'9'),
            _ => {}
        }
    }
    bytes
}

#[test]
fn damaged_files_do_no_harm() {
    let count = std::env::var("VLM_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let dir = tempfile::tempdir().unwrap();
    let spec =
        |name: &str, shape: &[usize]| TensorSpec { name: name.into(), shape: shape.to_vec() };
    let specs = [spec("a", &[2, 3]), spec("b.weight", &[4]), spec("c", &[]), spec("d", &[3, 1])];
    let mut values = |name: &str| {
        let shape = specs.iter().find(|spec| spec.name == name).unwrap().shape.clone();
        TensorData::zeros::<f32, _>(shape)
    };
    for (most, names) in [
        (1 << 20, vec!["model.safetensors"]),
        (16, vec!["model.safetensors.index.json", "model-00001-of-00002.safetensors"]),
    ] {
        write_sharded(dir.path(), "model", Float::F16, most, &specs, &mut values).unwrap();
        assert!(read(dir.path(), "as it is"));
        for name in names {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let mut noticed = 0;
            for number in 0..count {
                std::fs::write(&path, damaged(&whole, &mut rng)).unwrap();
                noticed += usize::from(!read(dir.path(), &format!("{name}, number {number}")));
            }
            std::fs::write(&path, &whole).unwrap();
            assert!((count / 4..count).contains(&noticed), "{name}: {noticed} of {count}");
        }
    }
}
