//! Fashion-MNIST: 70,000 grey pictures of clothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use serde_json::json;

use crate::progress::Progress;
use crate::stage::Stage;
use crate::unpack::{Item, each};

/// The classes in the order of their numbers.
const LABELS: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];
const SIDE: u32 = 28;
const SPLITS: [(&str, &str); 2] = [("train", "train"), ("test", "t10k")];

/// Fills the stage from the Debian package; returns what was changed.
///
/// # Errors
/// If the package is damaged or something cannot be written.
pub fn make(package: &Path, stage: &Stage) -> Result<&'static str> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    each(package, &mut |name, item| {
        let Item::File(content) = item else { return Ok(()) };
        if name == "usr/share/doc/dataset-fashion-mnist/copyright" {
            stage.write("LICENSE", content.bytes()?)?;
        } else if let Some(name) = name.strip_prefix("usr/share/datasets/fashion-mnist/") {
            files.insert(name.to_owned(), content.bytes()?);
        }
        Ok(())
    })?;
    let read = |name: String| {
        let bytes = files.get(&name).with_context(|| format!("the package lacks {name}"))?;
        let mut plain = Vec::new();
        // The larger holds 60,000 pictures.
        GzDecoder::new(bytes.as_slice()).take(60_000_000).read_to_end(&mut plain).context(name)?;
        Ok::<_, anyhow::Error>(plain)
    };
    for (split, prefix) in SPLITS {
        let pictures = read(format!("{prefix}-images-idx3-ubyte.gz"))?;
        let labels = read(format!("{prefix}-labels-idx1-ubyte.gz"))?;
        let pictures = idx(&pictures, &[SIDE, SIDE])?;
        let labels = idx(&labels, &[])?;
        if pictures.len() != labels.len() * (SIDE * SIDE) as usize {
            bail!("{split} has not as many labels as pictures");
        }
        fs::create_dir_all(stage.made().join(split))?;
        let mut list = String::new();
        let mut progress = Progress::new(format!("writing {split}"), labels.len() as u64);
        for (i, (pixels, label)) in
            pictures.chunks_exact((SIDE * SIDE) as usize).zip(labels).enumerate()
        {
            let label = LABELS.get(usize::from(*label)).context("a label is not below 10")?;
            let name = format!("{split}/{i:05}.png");
            fs::write(stage.made().join(&name), png(pixels)?)?;
            list += &format!("{}\n", json!({"image": name, "label": label}));
            progress.add(1);
        }
        stage.write(&format!("{split}.jsonl"), list)?;
    }
    stage.write("labels.txt", LABELS.join("\n") + "\n")?;
    Ok("the pictures as PNG files; the pixels are as packaged.")
}

/// The bytes of an IDX file of bytes, whose items have this shape.
fn idx<'a>(file: &'a [u8], item: &[u32]) -> Result<&'a [u8]> {
    let number = |at: usize| {
        let bytes = file.get(at..at + 4).context("an IDX file is cut short")?;
        Ok::<_, anyhow::Error>(bytes.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte)))
    };
    // Two zeros, 8 for bytes, the number of dimensions.
    if number(0)? != 0x0800 + 1 + item.len() as u32 {
        bail!("not an IDX file of bytes with {} dimensions", 1 + item.len());
    }
    let mut expected = number(4)? as usize;
    for (i, side) in item.iter().enumerate() {
        if number(8 + 4 * i)? != *side {
            bail!("the pictures of an IDX file are not {SIDE} x {SIDE}");
        }
        expected = expected.saturating_mul(*side as usize);
    }
    let content = &file[8 + 4 * item.len()..];
    if content.len() != expected {
        bail!("an IDX file has {} bytes instead of {expected}", content.len());
    }
    Ok(content)
}

fn png(pixels: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::NoFilter);
    encoder.write_image(pixels, SIDE, SIDE, ExtendedColorType::L8)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idx_files_are_checked() {
        let labels = [0, 0, 8, 1, 0, 0, 0, 2, 5, 9];
        assert_eq!(idx(&labels, &[]).unwrap(), [5, 9]);
        let mut pictures = vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28];
        pictures.extend([7; 784]);
        assert_eq!(idx(&pictures, &[28, 28]).unwrap(), [7; 784]);
        assert!(idx(&pictures, &[]).is_err());
        assert!(idx(&pictures, &[28, 27]).is_err());
        for cut in [0, 3, 9, 15, 100, 799] {
            assert!(idx(&pictures[..cut], &[28, 28]).is_err(), "{cut}");
        }
        pictures[4] = 0xff;
        assert!(idx(&pictures, &[28, 28]).unwrap_err().to_string().contains("instead of"));
    }

    #[test]
    fn pixels_survive() {
        let pixels: Vec<u8> = (0..784).map(|i| (i * 7 % 256) as u8).collect();
        let back = image::load_from_memory(&png(&pixels).unwrap()).unwrap();
        assert_eq!(back.into_luma8().into_raw(), pixels);
    }
}
