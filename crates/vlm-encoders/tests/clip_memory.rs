//! Opening a model takes its own size in memory, not twice. Alone in its file, since it counts
//! what the whole program holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::Device;
use vlm_encoders::{
    Blueprint, ClipConfig, DualModel, Float, Start, TextConfig, VisionConfig, Weights,
};

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

#[test]
fn loading_holds_the_model_once() {
    let device = Device::flex();
    let config = ClipConfig {
        vision: VisionConfig {
            hidden_size: 256,
            intermediate_size: 1024,
            num_hidden_layers: 5,
            num_attention_heads: 4,
            ..VisionConfig::default()
        },
        text: TextConfig {
            hidden_size: 256,
            intermediate_size: 1024,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            vocab_size: 8192,
            ..TextConfig::default()
        },
        ..ClipConfig::default()
    };
    for (float, max) in [(Float::F32, usize::MAX), (Float::F32, 4 << 20), (Float::Bf16, usize::MAX)]
    {
        let dir = tempfile::tempdir().unwrap();
        let model = DualModel::init(&config, Start::Clip, 1, &device);
        let plan = Blueprint::clip(&config).unwrap();
        plan.save_sharded(&model, dir.path(), float, max).unwrap();
        drop(model);
        let before = HELD.load(Relaxed);
        PEAK.store(before, Relaxed);
        let Weights::Dual(_, model) = Weights::open(dir.path(), &device).unwrap() else {
            panic!("not a dual encoder");
        };
        let peak = (PEAK.load(Relaxed) - before) as f64;
        let values: usize = vlm_nn::params::list(&model).iter().map(|param| param.len()).sum();
        let ratio = peak / (4 * values) as f64;
        assert!((1.0..1.15).contains(&ratio), "{float:?} {max}: {ratio} times the model");
    }
}
