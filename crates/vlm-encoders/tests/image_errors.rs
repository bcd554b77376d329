//! Files that are no pictures, or not whole ones, and processor files that are not understood.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vlm_encoders::image::{ImageError, ImageProcessor, RgbImage, load, load_bytes};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image").join(name))
        .unwrap()
}

/// One line that begins with the file and goes on to the words.
fn says(error: &ImageError, name: &str, words: &str) {
    let message = error.to_string();
    assert!(message.starts_with(name) && message.contains(words), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn what_is_no_picture_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    std::fs::write(path("empty.png"), "").unwrap();
    std::fs::write(path("text.jpg"), "hello\nworld, this is a caption").unwrap();
    std::fs::write(path("bytes.png"), [0u8, 1, 2, 250]).unwrap();
    for (name, words) in [
        ("missing.png", "No such file"),
        ("", "is a folder"),
        ("empty.png", "the file is empty"),
        ("text.jpg", r#"text that begins with "hello\nworld"#),
        ("bytes.png", "begins with the bytes 000102fa"),
    ] {
        let path = path(name);
        says(&load(&path).unwrap_err(), path.to_str().unwrap(), words);
    }
}

#[test]
fn a_cut_off_picture_is_an_error() {
    for (name, frames) in [
        ("wide.png", 1),
        ("cmyk.jpg", 1),
        ("turned.jpg", 1),
        ("moving.gif", 2),
        ("lossless.webp", 1),
        ("plain.bmp", 1),
        ("packed.tiff", 1),
    ] {
        let mut whole = golden(name);
        assert!(load_bytes(&whole, name).is_ok(), "{name}");
        // Only the first frame is read, so only a cut in there can be noticed.
        whole.truncate(whole.len() / frames);
        // The middle of the picture, the end of it, and the header.
        for length in [whole.len() / 2, whole.len() * 9 / 10, 30] {
            let error = load_bytes(&whole[..length], name).expect_err(name);
            says(&error, name, "fetch or export it again");
        }
    }
    let jpeg = golden("turned.jpg");
    assert!(load_bytes(&jpeg[..jpeg.len() - 2], "x").is_err(), "without its end marker");
}

#[test]
fn content_decides_and_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("really.jpg");
    std::fs::write(&path, golden("dot.png")).unwrap();
    let picture = load(&path).unwrap();
    assert_eq!((picture.width(), picture.height()), (1, 1));
}

#[test]
fn declared_dimensions_are_checked_before_decoding() {
    // A PNG of 60,000 x 60,000 that has a header and nothing else.
    let mut png = golden("dot.png");
    png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = png[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 }
        })
    });
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    let start = Instant::now();
    let error = load_bytes(&png, "bomb.png").unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(200));
    says(&error, "bomb.png", "declares 60000x60000 pixels, over the limit of 128 megapixels");
}

#[test]
fn flipped_bytes_never_panic() {
    for name in [
        "dot.png",
        "grey16.png",
        "turned.jpg",
        "cmyk.jpg",
        "moving.gif",
        "moving.webp",
        "plain.bmp",
        "packed.tiff",
    ] {
        let whole = golden(name);
        for at in 0..whole.len().min(600) {
            let mut broken = whole.clone();
            broken[at] ^= 0x5A;
            // An error or some picture; what matters is to come back.
            if let Err(error) = load_bytes(&broken, name) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}

fn from_config(text: &str) -> Result<ImageProcessor, ImageError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), text).unwrap();
    ImageProcessor::from_dir(folder.path())
}

#[test]
fn old_and_new_spellings_mean_the_same() {
    use vlm_encoders::image::{CLIP_MEAN, CLIP_STD};
    let clip = ImageProcessor::clip(64, CLIP_MEAN, CLIP_STD);
    for text in [
        r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64, "resample": 3,
            "do_resize": true, "do_center_crop": true, "do_normalize": true}"#,
        r#"{"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 64}, "data_format": "channels_first",
            "crop_size": {"height": 64, "width": 64}, "device": null, "do_pad": null, "disable_grouping": null}"#,
    ] {
        assert_eq!(from_config(text).unwrap(), clip);
    }
    let folder = tempfile::tempdir().unwrap();
    clip.save(folder.path()).unwrap();
    assert_eq!(ImageProcessor::from_dir(folder.path()).unwrap(), clip);
    // The file of transformers 5, which holds the processor as a part.
    let saved = std::fs::read_to_string(folder.path().join("preprocessor_config.json")).unwrap();
    assert!(saved.contains("0.26130258") && saved.ends_with("}\n"), "{saved}");
    std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    let combined = format!(r#"{{"image_processor": {saved}, "processor_class": "CLIPProcessor"}}"#);
    std::fs::write(folder.path().join("processor_config.json"), combined).unwrap();
    assert_eq!(ImageProcessor::from_dir(folder.path()).unwrap(), clip);
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (text, words) in [
        (r#"{}"#, "names no `image_processor_type`"),
        (r#"[]"#, "not a JSON object"),
        (r#"{"#, "not valid JSON"),
        (
            r#"{"image_processor_type": "DPTImageProcessor"}"#,
            r#""DPTImageProcessor" is not supported"#,
        ),
        (
            r#"{"image_processor_type": "CLIPImageProcessor", "sharpen": 1, "blur": 2}"#,
            "unknown fields `blur`, `sharpen`",
        ),
        (
            r#"{"image_processor_type": "CLIPImageProcessor", "do_pad": true}"#,
            "`do_pad` = true is not supported",
        ),
        (
            r#"{"image_processor_type": "CLIPImageProcessor", "size": {"longest_edge": 9}}"#,
            "`size`",
        ),
        (r#"{"image_processor_type": "CLIPImageProcessor", "size": 0}"#, "`size` = 0"),
        (r#"{"image_processor_type": "CLIPImageProcessor", "crop_size": "x"}"#, "`crop_size`"),
        (r#"{"image_processor_type": "CLIPImageProcessor", "resample": 9}"#, "`resample` = 9"),
        (r#"{"image_processor_type": "CLIPImageProcessor", "image_mean": [1, 2]}"#, "`image_mean`"),
        (
            r#"{"image_processor_type": "CLIPImageProcessor", "image_std": [1, 0, 1]}"#,
            "`image_std`",
        ),
        (r#"{"image_processor_type": "CLIPImageProcessor", "do_resize": 1}"#, "`do_resize` = 1"),
    ] {
        let message = from_config(text).unwrap_err().to_string();
        assert!(
            message.contains("preprocessor_config.json: ") && message.contains(words),
            "{message}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ImageProcessor::from_dir(folder.path()), Err(ImageError::NoConfig { .. })));
}

#[test]
fn long_strips_are_cropped_or_refused() {
    use vlm_encoders::image::{CLIP_MEAN, CLIP_STD};
    let mut clip = ImageProcessor::clip(224, CLIP_MEAN, CLIP_STD);
    let strip = RgbImage::new(1, 20_000);
    assert_eq!(clip.process(&strip).unwrap().values().len(), 3 * 224 * 224);
    clip.crop = None;
    assert!(matches!(clip.process(&strip), Err(ImageError::Bound { .. })));
    assert!(matches!(clip.process(&RgbImage::new(0, 5)), Err(ImageError::EmptyPicture)));
}
