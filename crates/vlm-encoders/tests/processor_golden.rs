//! Each class of image processor against transformers (made by xtask/golden/processors.py).

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use vlm_encoders::image::{
    CLIP_MEAN, CLIP_STD, Filter, ImageError, ImageProcessor, Kind, Patching, Resize, RgbImage, load,
};

const PICTURES: [&str; 7] = ["landscape", "portrait", "tiny", "line", "post", "same", "small"];

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/processors")
}

fn about() -> Value {
    serde_json::from_slice(&std::fs::read(dir().join("cases.json")).unwrap()).unwrap()
}

fn picture(name: &str) -> RgbImage {
    load(&dir().join(format!("{name}.png"))).unwrap()
}

fn from_config(config: &Value) -> Result<ImageProcessor, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    ImageProcessor::from_dir(dir.path())
}

/// Levels as the reference gives them: `[height, width, 3]`, or patches.
fn levels(processor: &ImageProcessor, picture: &RgbImage) -> (Vec<u8>, Option<(usize, usize)>) {
    match processor.patching() {
        None => (processor.resized_and_cropped(picture).unwrap().2, None),
        Some(patching) => {
            let plain = ImageProcessor { rescale: None, normalize: None, ..processor.clone() };
            let patches = plain.process(picture).unwrap().patches(patching).unwrap();
            let full = patches.mask.iter().take_while(|m| **m).count();
            assert_eq!(full, patches.grid.0 * patches.grid.1);
            assert!(patches.mask[full..].iter().all(|m| !m));
            (patches.values.iter().map(|v| *v as u8).collect(), Some(patches.grid))
        }
    }
}

#[test]
fn levels_are_equal_to_the_bit() {
    let data = std::fs::read(dir().join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&data).unwrap();
    let about = about();
    let cases = about["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let processor = from_config(&case["config"]).unwrap();
        for file in PICTURES {
            let (got, grid) = levels(&processor, &picture(file));
            let expected = tensors.tensor(&format!("{name}/{file}")).unwrap();
            assert_eq!(got.len(), expected.data().len(), "{name} {file}");
            let wrong = got.iter().zip(expected.data()).filter(|(a, b)| a != b).count();
            assert_eq!(wrong, 0, "{name} {file}: {wrong} of {} levels differ", got.len());
            let expected = case["grids"].get(file).map(|g| (g[0].as_u64(), g[1].as_u64()));
            assert_eq!(grid.map(|(r, c)| (Some(r as u64), Some(c as u64))), expected, "{name}");
        }
    }
}

#[test]
fn numbers_are_equal() {
    let data = std::fs::read(dir().join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&data).unwrap();
    for case in about()["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let processor = from_config(&case["config"]).unwrap();
        let pixels = processor.process_path(&dir().join("portrait.png")).unwrap();
        let got = match processor.patching() {
            None => pixels.values(),
            Some(patching) => pixels.patches(patching).unwrap().values,
        };
        let view = tensors.tensor(&format!("{name}/numbers")).unwrap();
        let expected: Vec<f32> =
            view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(got.len(), expected.len(), "{name}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp);
        assert!(worst.is_some_and(|worst| worst <= 1e-6), "{name} differs by {worst:?}");
    }
}

#[test]
fn what_a_file_leaves_out_is_the_class_of_transformers() {
    for case in about()["defaults"].as_array().unwrap() {
        let class = case["class"].as_str().unwrap();
        for name in [class.to_owned(), format!("{class}Fast"), format!("{class}Pil")] {
            let bare = from_config(&json!({ "image_processor_type": name })).unwrap();
            assert_eq!(bare, from_config(&case["config"]).unwrap(), "{name}");
        }
        let processor = from_config(&json!({ "image_processor_type": class })).unwrap();
        assert_eq!(processor, processor.kind.defaults());
        for file in ["landscape", "tiny"] {
            let (got, _) = levels(&processor, &picture(file));
            let sum: u64 =
                got.iter().zip((0..65_521u64).cycle()).map(|(b, i)| u64::from(*b) * (i + 1)).sum();
            assert_eq!(Some(sum), case["sums"][file].as_u64(), "{class} {file}");
        }
    }
}

#[test]
fn tiles_are_equal_to_the_bit() {
    let about = about();
    let cases = about["tiled"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let name = &case["name"];
        let processor = from_config(&case["config"]).unwrap();
        let plain = ImageProcessor { rescale: None, normalize: None, ..processor.clone() };
        for file in PICTURES {
            let tiles = plain.tiles(&picture(file)).unwrap();
            let grid = json!([tiles.grid.0, tiles.grid.1]);
            assert_eq!(grid, case["grids"][file], "{name} {file}");
            let sum = |tile: &vlm_encoders::image::Pixels| -> u64 {
                let picture = tile.picture().into_raw();
                picture
                    .iter()
                    .zip((0..65_521u64).cycle())
                    .map(|(b, i)| u64::from(*b) * (i + 1))
                    .sum()
            };
            let sums: Vec<u64> = tiles.tiles.iter().map(sum).collect();
            assert_eq!(json!(sums), case["sums"][file], "{name} {file}");
            assert_eq!(plain.process(&picture(file)).unwrap(), tiles.tiles[tiles.tiles.len() - 1]);
        }
        let dir = tempfile::tempdir().unwrap();
        processor.save(dir.path()).unwrap();
        assert_eq!(ImageProcessor::from_dir(dir.path()).unwrap(), processor, "{name}");
    }
}

#[test]
fn sizes_of_siglip2_are_found_alike() {
    for case in about()["fits"].as_array().unwrap() {
        let n: Vec<usize> =
            case.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let patching = Patching { patch_size: n[2], max_num_patches: n[3] };
        assert_eq!(patching.fit(n[0], n[1]), (n[4], n[5]), "{n:?}");
    }
}

#[test]
fn every_class_is_saved_as_itself() {
    for case in about()["cases"].as_array().unwrap() {
        let processor = from_config(&case["config"]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        processor.save(dir.path()).unwrap();
        assert_eq!(ImageProcessor::from_dir(dir.path()).unwrap(), processor);
        let saved = std::fs::read(dir.path().join("preprocessor_config.json")).unwrap();
        let mut saved: Value = serde_json::from_slice(&saved).unwrap();
        // Pictures are always RGB here, and the slow class alone writes this list.
        saved["do_convert_rgb"] = case["config"]["do_convert_rgb"].clone();
        let mut expected = case["config"].clone();
        expected.as_object_mut().unwrap().remove("_valid_processor_keys");
        assert_eq!(saved, expected);
    }
    let dir = tempfile::tempdir().unwrap();
    let exact = Some(Resize::Exact { height: 9, width: 9 });
    for (processor, words) in [
        (ImageProcessor { crop: Some((9, 9)), ..Kind::Vit.defaults() }, "no centre crop"),
        (
            ImageProcessor { resize: Some(Resize::ShortestEdge(9)), ..Kind::Siglip.defaults() },
            "shorter",
        ),
        (ImageProcessor { resize: exact, ..Kind::Siglip2.defaults() }, "exact size"),
        (ImageProcessor { resize: None, ..Kind::Siglip2.defaults() }, "without resizing"),
        (
            ImageProcessor { resize: Kind::Siglip2.defaults().resize, ..Kind::Bit.defaults() },
            "no patches",
        ),
    ] {
        let message = processor.save(dir.path()).unwrap_err().to_string();
        assert!(
            message.starts_with(processor.kind.class()) && message.contains(words),
            "{message}"
        );
    }
}

#[test]
fn old_files_of_every_class_are_read() {
    let vit = from_config(&json!({
        "feature_extractor_type": "ViTFeatureExtractor", "size": 384, "resample": 3,
        "do_resize": true, "do_normalize": true, "image_mean": 0.5, "image_std": [0.5, 0.5, 0.5],
    }));
    let usual = Kind::Vit.defaults();
    let resize = Some(Resize::Exact { height: 384, width: 384 });
    assert_eq!(vit.unwrap(), ImageProcessor { resize, filter: Filter::Bicubic, ..usual });
    let fast = from_config(&json!({
        "image_processor_type": "SiglipImageProcessorFast", "crop_size": null, "do_center_crop": null,
        "do_convert_rgb": null, "default_to_square": false, "size": { "height": 32, "width": 64 },
        "image_mean": null, "do_pad": null, "pad_size": null, "data_format": "channels_first",
    }));
    assert_eq!(fast.unwrap().output_size(), Some((32, 64)));
    let listed = from_config(&json!({
        "image_processor_type": "BitImageProcessor", "size": [40, 50], "crop_size": [7, 8],
    }));
    assert_eq!(listed.unwrap().output_size(), Some((7, 8)));
}

#[test]
fn files_without_a_class_go_by_their_model() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    write("preprocessor_config.json", json!({ "do_resize": true, "size": 224 }));
    let message = ImageProcessor::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("names no `image_processor_type`; add one of CLIP"), "{message}");
    for (model, kind) in [("vit", Kind::Vit), ("dinov2", Kind::Bit), ("clip", Kind::Clip)] {
        write("config.json", json!({ "model_type": model }));
        assert_eq!(ImageProcessor::from_dir(dir.path()).unwrap().kind, kind);
    }
    write("preprocessor_config.json", json!({ "processor_class": "SiglipProcessor" }));
    assert_eq!(ImageProcessor::from_dir(dir.path()).unwrap(), Kind::Siglip.defaults());
}

#[test]
fn what_a_class_lacks_is_refused_by_name() {
    for (class, field, value, words) in [
        (
            "SiglipImageProcessor",
            "size",
            json!(224),
            "`size` = 224 is not supported; use {\"height",
        ),
        (
            "ViTImageProcessor",
            "size",
            json!({ "shortest_edge": 9 }),
            "`size` = {\"shortest_edge\":9}",
        ),
        ("ViTImageProcessor", "do_center_crop", json!(true), "`do_center_crop` = true"),
        ("Siglip2ImageProcessor", "do_center_crop", json!(true), "`do_center_crop` = true"),
        (
            "Siglip2ImageProcessor",
            "size",
            json!({ "height": 9, "width": 9 }),
            "unknown fields `size`",
        ),
        ("Siglip2ImageProcessor", "do_resize", json!(false), "`do_resize` = false"),
        ("Siglip2ImageProcessor", "patch_size", json!(0), "`patch_size` = 0"),
        ("Siglip2ImageProcessor", "max_num_patches", json!(1u64 << 40), "`max_num_patches` = 109"),
        ("Siglip2ImageProcessor", "patch_size", json!(16_384), "too much memory"),
        ("BitImageProcessor", "patch_size", json!(14), "unknown fields `patch_size`"),
        ("BitImageProcessor", "do_pad", json!(true), "`do_pad` = true"),
        ("DPTImageProcessor", "size", json!(9), "\"DPTImageProcessor\" is not supported"),
    ] {
        let message = from_config(&json!({ "image_processor_type": class, field: value }))
            .unwrap_err()
            .to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
    let long = json!({ "image_processor_type": "x".repeat(2 << 20) });
    assert!(from_config(&long).unwrap_err().to_string().contains("more than 1 MiB"));
    assert_eq!(Kind::Bit.defaults().normalize, Some((CLIP_MEAN, CLIP_STD)));
}
