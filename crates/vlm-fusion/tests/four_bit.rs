//! Folders whose weights have four bits, against bitsandbytes (xtask/golden/four_bit.py).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use vlm_fusion::GenerativeFolder;
use vlm_fusion::decode::Decode;
use vlm_nn::four_bit::{Code, FourBitConfig};
use vlm_nn::{Pass, adapter};
use vlm_store::{Float, TensorFiles};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn ids(dir: &Path) -> Vec<i64> {
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("input_ids").unwrap();
    view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

fn logits(folder: &GenerativeFolder, ids: &[i64], pixels: Tensor<4>) -> Vec<f32> {
    let model = &folder.model;
    let pictures = model.fuse(model.look_at(pixels), (16, 16), None);
    let [_, rows, width] = pictures.dims();
    let x = model.rows(ids, Some(pictures.reshape([rows, width]))).unwrap();
    let states = model.extend(x.unsqueeze::<3>(), &mut Pass::new());
    floats(Decode::logits(model, states))
}

/// All tensors as they lie in the file, with their types.
fn tensors(dir: &Path) -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let files = TensorFiles::open_dir(dir, "model").unwrap();
    let one = |name: &str| {
        let (dtype, shape) = (files.dtype(name).unwrap(), files.shape(name).unwrap());
        let bytes = match dtype {
            "U8" => files.read_bytes(name).unwrap(),
            _ => files.read(name).unwrap().iter::<f32>().flat_map(f32::to_le_bytes).collect(),
        };
        (name.to_owned(), dtype.to_owned(), shape.to_vec(), bytes)
    };
    files.names().map(one).collect()
}

#[test]
fn what_bitsandbytes_wrote_is_opened_and_written_again_to_the_bit() {
    for (name, nested) in [("four_bit/nf4", true), ("four_bit/fp4", false)] {
        let dir = golden(name);
        let folder = GenerativeFolder::open(&dir, &Device::flex()).unwrap();
        let expected = TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap();
        let pixels = Tensor::from_data(expected.read("pixel_values").unwrap(), &Device::flex());
        let ours = logits(&folder, &ids(&dir), pixels);
        let theirs: Vec<f32> = expected.read("logits").unwrap().iter().collect();
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: {worst}");

        let all = adapter::all(&folder.model);
        let packed = all["text.stack.blocks.0.feed_forward.down.weight"].packed.as_ref().unwrap();
        let map = "model.language_model.layers.0.mlp.down_proj.unpacked";
        let known: Vec<f32> = expected.read(map).unwrap().iter().collect();
        assert_eq!(floats(packed.values().transpose()), known, "{name}");
        assert_eq!(packed.config().nested, nested);

        let out = tempfile::tempdir().unwrap();
        folder.save(out.path(), Float::F32).unwrap();
        for (ours, theirs) in tensors(out.path()).iter().zip(&tensors(&dir)) {
            assert_eq!(ours, theirs, "{name}");
        }
        assert_eq!(tensors(out.path()).len(), tensors(&dir).len(), "{name}");
        let config = vlm_encoders::read_object(&out.path().join("config.json")).unwrap();
        assert_eq!(config["quantization_config"]["bnb_4bit_use_double_quant"], nested, "{name}");
    }
}

#[test]
fn packing_while_opening_gives_what_bitsandbytes_gives() {
    let config = FourBitConfig { code: Code::Nf4, nested: true };
    let whole = golden("four_bit/whole");
    let folder = GenerativeFolder::open_packed(&whole, Some(config), &Device::flex()).unwrap();
    let out = tempfile::tempdir().unwrap();
    folder.save(out.path(), Float::F32).unwrap();
    let (ours, theirs) = (tensors(out.path()), tensors(&golden("four_bit/nf4")));
    let of_text = |name: &str| name.contains("language_model") && name.contains("proj");
    let mut compared = 0;
    for (name, dtype, shape, bytes) in theirs.iter().filter(|(name, ..)| of_text(name)) {
        // PyTorch's sum may differ in its last bit from ours, and it is part of this text.
        if name.contains("quant_state") {
            continue;
        }
        let found = ours.iter().find(|(other, ..)| other == name).unwrap();
        assert_eq!((&found.1, &found.2), (dtype, shape), "{name}");
        compared += 1;
        assert_eq!(&found.3, bytes, "{name}");
    }
    assert_eq!(compared, 7 * 5);
    // The rest is as it was, and what is not to be packed is named.
    assert!(ours.iter().any(|(name, dtype, ..)| name.contains("vision") && dtype == "F32"));
    let config = vlm_encoders::read_object(&out.path().join("config.json")).unwrap();
    let left = config["quantization_config"]["llm_int8_skip_modules"].as_array().unwrap();
    assert!(left.iter().any(|name| name == "model.multi_modal_projector.linear_1"), "{left:?}");
    assert!(left.iter().all(|name| !name.as_str().unwrap().contains("language_model")), "{left:?}");
    // Opened again, it says the same.
    let again = GenerativeFolder::open(out.path(), &Device::flex()).unwrap();
    let ids = ids(&golden("four_bit/nf4"));
    let pixels = || Tensor::<4>::ones([1, 3, 16, 16], &Device::flex());
    assert_eq!(logits(&again, &ids, pixels()), logits(&folder, &ids, pixels()));
}

#[test]
fn a_weight_that_does_not_fit_its_state_is_refused() {
    let dir = golden("four_bit/nf4");
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let out = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), out.path().join(file.file_name())).unwrap();
    }
    let refused = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        std::fs::write(out.path().join("model.safetensors"), bytes).unwrap();
        GenerativeFolder::open(out.path(), &Device::flex()).unwrap_err().to_string()
    };
    for (from, to) in [
        ("\"shape\": [64", "\"shape\": [46"),
        ("\"blocksize\": 64", "\"blocksize\": 46"),
        ("\"blocksize\": 64", "\"blocksize\": 00"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\": 652"),
        ("\"quant_type\": \"nf4\"", "\"quant_type\": \"xf4\""),
        ("\"shape\": [64, 64]", "\"shape\": [9999]  "),
    ] {
        let error = refused(from, to);
        assert!(error.contains("model.safetensors"), "{to}: {error}");
    }
}
