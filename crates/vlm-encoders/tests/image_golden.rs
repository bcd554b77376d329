//! Pictures against transformers' `CLIPImageProcessor` and Pillow (made by xtask/golden/image.py).

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;
use vlm_encoders::image::{ImageProcessor, load, load_rgba};

struct Golden {
    dir: PathBuf,
    data: Vec<u8>,
    about: Value,
}

impl Golden {
    fn open() -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image");
        let data = std::fs::read(dir.join("expected.safetensors")).unwrap();
        let about =
            serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
        Self { dir, data, about }
    }

    /// Shape and bytes.
    fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.data).unwrap();
        let view = tensors.tensor(name).unwrap();
        (view.shape().to_vec(), view.data().to_vec())
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        let (_, bytes) = self.bytes(name);
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

fn processor(config: &Value) -> ImageProcessor {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    ImageProcessor::from_dir(dir.path()).unwrap()
}

#[test]
fn resized_and_cropped_bytes_are_pillows() {
    let golden = Golden::open();
    let cases = golden.about["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let picture = load(&golden.dir.join(case["file"].as_str().unwrap())).unwrap();
        let (height, width, bytes) =
            processor(&case["config"]).resized_and_cropped(&picture).unwrap();
        let (shape, expected) = golden.bytes(name);
        assert_eq!([height, width, 3], shape[..], "{name}");
        let wrong = bytes.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "{name}: {wrong} of {} bytes differ", bytes.len());
    }
}

#[test]
fn decoded_pictures_are_pillows() {
    let golden = Golden::open();
    for file in golden.about["decoded"].as_array().unwrap() {
        let file = file.as_str().unwrap();
        let picture = load(&golden.dir.join(file)).unwrap();
        let (shape, expected) = golden.bytes(&format!("decoded/{file}"));
        assert_eq!([picture.height() as usize, picture.width() as usize], shape[..2], "{file}");
        let worst = picture.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        // The cosine transforms of two JPEG decoders round differently.
        let allowed = if file.ends_with("jpg") { 3 } else { 0 };
        assert!(worst <= Some(allowed), "{file}: differs by {worst:?} levels");
    }
}

#[test]
fn alpha_is_kept_or_laid_on_white() {
    let golden = Golden::open();
    let file = golden.dir.join("alpha.png");
    assert_eq!(load_rgba(&file).unwrap().into_raw(), golden.bytes("rgba/alpha.png").1);
    assert_eq!(load(&file).unwrap().into_raw(), golden.bytes("white/alpha.png").1);
}

#[test]
fn numbers_are_transformers() {
    let golden = Golden::open();
    let file = golden.dir.join("wide.png");
    let clip = |edge| {
        use vlm_encoders::image::{CLIP_MEAN, CLIP_STD};
        ImageProcessor::clip(edge, CLIP_MEAN, CLIP_STD)
    };
    let close = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp);
        assert!(worst.is_some_and(|worst| worst <= 1e-6), "differs by {worst:?}");
    };
    close(&clip(16).process_path(&file).unwrap().values(), &golden.numbers("normalised-16"));

    let large = clip(224).process_path(&file).unwrap();
    let row: Vec<f32> = large
        .values()
        .chunks_exact(224 * 224)
        .flat_map(|channel| &channel[100 * 224..101 * 224])
        .copied()
        .collect();
    close(&row, &golden.numbers("normalised-224-row100"));

    let (_, _, bytes) = clip(224).resized_and_cropped(&load(&file).unwrap()).unwrap();
    let sum: u64 =
        bytes.iter().zip((0..65_521u64).cycle()).map(|(b, i)| u64::from(*b) * (i + 1)).sum();
    assert_eq!(Some(sum), golden.about["sum_224"].as_u64());
}
