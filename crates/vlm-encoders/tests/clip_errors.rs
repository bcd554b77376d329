//! Folders whose tensors and `config.json` do not fit each other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use vlm_encoders::{Error, Float, Mismatch, Weights};
use vlm_store::{TensorFiles, TensorSpec, write_tensors};

/// Counts the bytes that each thread asked for, since tests run side by side.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get().saturating_add(layout.size()));
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get().saturating_add(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip/quick")
}

/// A copy of the golden model with other tensors.
struct Copy {
    dir: tempfile::TempDir,
    tensors: Vec<(String, TensorData)>,
}

impl Copy {
    fn new() -> Self {
        let files = TensorFiles::open_dir(&golden(), "model").unwrap();
        let tensors =
            files.names().map(|name| (name.to_owned(), files.read(name).unwrap())).collect();
        Copy { dir: tempfile::tempdir().unwrap(), tensors }
    }

    fn remove(&mut self, name: &str) -> TensorData {
        let at = self.tensors.iter().position(|(n, _)| n == name).unwrap();
        self.tensors.remove(at).1
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        let values = vec![0f32; shape.iter().product()];
        self.tensors.push((name.to_owned(), TensorData::new(values, shape.to_vec())));
    }

    fn load(&self) -> Result<Weights, Error> {
        let path = self.dir.path().join("model.safetensors");
        let spec = |(name, data): &(String, TensorData)| TensorSpec {
            name: name.clone(),
            shape: data.shape().to_vec(),
        };
        let specs: Vec<TensorSpec> = self.tensors.iter().map(spec).collect();
        write_tensors(&path, Float::F32, &[], &specs, &mut |name| {
            self.tensors.iter().find(|(n, _)| n == name).unwrap().1.clone()
        })
        .unwrap();
        let config = self.dir.path().join("config.json");
        std::fs::copy(golden().join("config.json"), config).unwrap();
        Weights::open(self.dir.path(), &Device::flex())
    }

    fn mismatch(&self) -> (Mismatch, String) {
        let error = self.load().err().unwrap();
        let message = error.to_string();
        assert!(message.contains("model.safetensors") && !message.contains('\n'), "{message}");
        match error {
            Error::Tensors { mismatch, .. } => (mismatch, message),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn old_position_ids_are_let_pass_and_nothing_else() {
    let mut copy = Copy::new();
    copy.add("text_model.embeddings.position_ids", &[1, 9]);
    copy.add("vision_model.embeddings.position_ids", &[1, 17]);
    copy.load().unwrap();
    copy.add("my_position_ids", &[1]);
    assert_eq!(copy.mismatch().0.surplus, ["my_position_ids"]);
}

#[test]
fn all_that_does_not_fit_is_listed() {
    const MISSING: &str = "vision_model.encoder.layers.1.self_attn.q_proj.bias";
    const TURNED: &str = "visual_projection.weight";
    const FLAT: &str = "vision_model.embeddings.patch_embedding.weight";
    let mut copy = Copy::new();
    copy.remove(MISSING);
    copy.remove("logit_scale");
    copy.remove(TURNED);
    copy.remove(FLAT);
    copy.add("logit_scale", &[1]);
    copy.add(TURNED, &[24, 12]);
    copy.add(FLAT, &[24, 48]);
    copy.add("logit_bias", &[1]);
    copy.add("vision_model.encoder.layers.2.layer_norm1.bias", &[24]);
    let (mismatch, message) = copy.mismatch();
    assert_eq!(
        mismatch,
        Mismatch {
            missing: vec![MISSING.into()],
            surplus: vec![
                "logit_bias".into(),
                "vision_model.encoder.layers.2.layer_norm1.bias".into()
            ],
            misshapen: vec![
                (FLAT.into(), vec![24, 3, 4, 4], vec![24, 48]),
                (TURNED.into(), vec![12, 24], vec![24, 12]),
                ("logit_scale".into(), vec![], vec![1]),
            ],
        }
    );
    for part in [
        &format!("1 missing: {MISSING};"),
        "2 surplus: logit_bias, vision_model.encoder.layers.2.layer_norm1.bias;",
        "3 of the wrong shape: ",
        "visual_projection.weight is [24, 12] and should be [12, 24]",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn a_long_list_is_cut_in_the_message_only() {
    let mut copy = Copy::new();
    for i in 0..100 {
        copy.add(&format!("extra.{i:03}"), &[1]);
    }
    let (mismatch, message) = copy.mismatch();
    assert_eq!(mismatch.surplus.len(), 100);
    assert!(message.contains("100 surplus: extra.000, "), "{message}");
    assert!(message.contains("extra.031 and 68 more"), "{message}");
}

/// The message for the golden file under a `config.json` with one number changed.
fn lie(section: &str, key: &str, value: Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read(golden().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    match section {
        "" => config[key] = value,
        section => config[section][key] = value,
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let file = "model.safetensors";
    std::fs::copy(golden().join(file), dir.path().join(file)).unwrap();
    let before = ASKED.get();
    let error = Weights::open(dir.path(), &Device::flex())
        .err()
        .unwrap_or_else(|| panic!("accepted {section}.{key}"));
    let asked = ASKED.get() - before;
    let message = error.to_string();
    assert!(asked < 4 << 20, "asked for {asked} bytes: {message}");
    assert!(message.len() < 10_000 && !message.contains('\n'), "{message}");
    message
}

#[test]
fn a_lying_config_costs_no_memory() {
    for (section, key, value, part) in [
        // 24 is a multiple of 3 heads, and so is this: 3 · 2^18.
        ("vision_config", "hidden_size", json!(786_432), "of the wrong shape"),
        ("vision_config", "hidden_size", json!(1u64 << 40), "which no model has"),
        ("vision_config", "intermediate_size", json!(1 << 20), "of the wrong shape"),
        ("vision_config", "image_size", json!(1 << 20), "position_embedding"),
        ("vision_config", "num_channels", json!(1 << 20), "patch_embedding"),
        ("vision_config", "num_channels", json!(0), "num_channels is 0"),
        ("vision_config", "patch_size", json!(17), "larger than image_size"),
        (
            "vision_config",
            "num_hidden_layers",
            json!(3),
            "16 missing: vision_model.encoder.layers.2",
        ),
        (
            "vision_config",
            "num_hidden_layers",
            json!(1),
            "16 surplus: vision_model.encoder.layers.1",
        ),
        (
            "vision_config",
            "num_hidden_layers",
            json!(9_999),
            "has 2 in vision_model.encoder.layers",
        ),
        ("text_config", "num_hidden_layers", json!(10_000), "10000 layers are wanted"),
        ("text_config", "num_hidden_layers", json!(1u64 << 60), "which no model has"),
        ("text_config", "num_hidden_layers", json!(-1), "text_config"),
        (
            "text_config",
            "vocab_size",
            json!(1 << 20),
            "token_embedding.weight is [60, 16] and should be [1048576, 16]",
        ),
        ("text_config", "max_position_embeddings", json!(77), "position_embedding"),
        ("text_config", "num_attention_heads", json!(5), "not a multiple"),
        ("text_config", "layer_norm_eps", json!(0), "layer_norm_eps"),
        ("text_config", "hidden_act", json!("mish"), "mish"),
        ("text_config", "use_rotary", json!(true), "use_rotary"),
        ("", "projection_dim", json!(1 << 20), "text_projection.weight"),
        ("", "projection_dim", json!("wide"), "projection_dim"),
        (
            "",
            "model_type",
            json!("blip"),
            "model_type `blip` is not supported; supported: bert, clip,",
        ),
    ] {
        let message = lie(section, key, value);
        assert!(message.contains(part), "{key}: {part} in {message}");
    }
}
