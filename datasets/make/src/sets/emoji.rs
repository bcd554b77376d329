//! Makes the shipped `datasets/emoji` anew: twice the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::{ImageBuffer, Rgba, RgbaImage};
use serde_json::{Value, json};

use super::emoji_classes;
use crate::progress::Progress;
use crate::unpack::{Item, each};

/// The styles, with the number of their package and where the pictures lie in it.
const STYLES: [(&str, usize, &str); 3] = [
    ("noto", 1, "package/img/google/64/"),
    ("fluent", 2, "package/assets/"),
    ("twemoji", 3, "package/img/twitter/64/"),
];

const SIDE: u32 = 64;

/// Makes the pictures and lists of `out` anew; its page, notice and licences are left as they are.
///
/// # Errors
/// If this program was built without the feature `emoji`, a package is damaged, or something cannot
/// be written.
pub fn make(packages: &[PathBuf], out: &Path) -> Result<()> {
    if !cfg!(feature = "emoji") {
        bail!("this program was built without the feature `emoji`; use `cargo xtask data emoji`");
    }
    let [text, ..] = packages else { bail!("no packages; this is a bug") };
    let names = names(text)?;
    let mut pictures = Vec::new();
    for (_, package, folder) in STYLES {
        pictures.push(files(&packages[package], folder)?);
    }
    // A concept is in only if every style has it.
    let concepts: Vec<(&String, &Name)> = names
        .iter()
        .filter(|(code, _)| pictures.iter().all(|style| style.contains_key(*code)))
        .collect();
    eprintln!("{} concepts in all {} styles", concepts.len(), STYLES.len());
    // All before the first is written, so that a damaged picture leaves the folder as it was.
    let mut converted = Vec::new();
    let mut progress = Progress::new("converting", (STYLES.len() * concepts.len()) as u64);
    for ((style, _, _), pictures) in STYLES.iter().zip(&pictures) {
        for (code, _) in &concepts {
            let bytes = convert(&pictures[*code]).with_context(|| format!("{style} {code}"))?;
            converted.push((format!("{style}/{code}.webp"), bytes));
            progress.add(1);
        }
    }
    for (style, _, _) in STYLES {
        let dir = out.join(style);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for (name, bytes) in converted {
        fs::write(out.join(name), bytes)?;
    }
    write_lists(out, &concepts)?;
    let codes: Vec<&str> = concepts.iter().map(|(code, _)| code.as_str()).collect();
    let styles = STYLES.map(|(style, _, _)| style);
    for (name, text) in emoji_classes::lists(text, &codes, &styles)? {
        fs::write(out.join(name), text)?;
    }
    Ok(())
}

/// A code without case and variation selectors, which the packages use differently.
pub fn normal(code: &str) -> String {
    let code = code.to_ascii_lowercase();
    code.split('-').filter(|part| *part != "fe0f").collect::<Vec<_>>().join("-")
}

/// The files of a folder of a package, by normal code.
fn files(package: &Path, folder: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    each(package, &mut |name, item| {
        if let Item::File(content) = item
            && let Some((code, _)) =
                name.strip_prefix(folder).and_then(|name| name.rsplit_once('.'))
        {
            found.insert(normal(code), content.bytes()?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The table of all emoji with their English names.
pub fn table(package: &Path) -> Result<Vec<Value>> {
    let data = files(package, "package/en/")?;
    let data = data.get("data").context("package/en/data.json is missing")?;
    Ok(serde_json::from_slice(data)?)
}

struct Name {
    label: String,
    tags: Vec<String>,
}

/// Labels and tags by normal code. Codes sort as text, which fixes the order of everything.
fn names(package: &Path) -> Result<BTreeMap<String, Name>> {
    let entries = table(package)?;
    let mut names = BTreeMap::new();
    let mut taken = HashSet::new();
    for entry in entries {
        let field = |name: &str| entry[name].as_str().unwrap_or_default().trim().to_owned();
        let (code, label) = (normal(&field("hexcode")), field("label"));
        if label.is_empty() || !taken.insert(label.to_lowercase()) {
            bail!("label `{label}` of {code} is empty or taken");
        }
        let tags = entry["tags"].as_array().into_iter().flatten();
        let tags = tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        names.insert(code, Name { label, tags });
    }
    Ok(names)
}

/// Any picture to a lossless 64x64 WebP. Invisible pixels are made black, which costs nothing
/// to see and saves room.
fn convert(bytes: &[u8]) -> Result<Vec<u8>> {
    let picture = image::load_from_memory(bytes)?.into_rgba8();
    let mut picture = if picture.dimensions() == (SIDE, SIDE) { picture } else { shrink(&picture) };
    for pixel in picture.pixels_mut() {
        if pixel[3] == 0 {
            *pixel = Rgba([0; 4]);
        }
    }
    encode(&picture)
}

/// libwebp: a third smaller than what pure-Rust encoders make, and deterministic.
#[cfg(feature = "emoji")]
fn encode(picture: &RgbaImage) -> Result<Vec<u8>> {
    let encoder = webp::Encoder::from_rgba(picture.as_raw(), SIDE, SIDE);
    Ok(encoder.encode_lossless().to_vec())
}

#[cfg(not(feature = "emoji"))]
fn encode(_: &RgbaImage) -> Result<Vec<u8>> {
    bail!("libwebp is not built in")
}

/// Lanczos on colours weighted by their opacity, so that edges do not darken.
fn shrink(picture: &RgbaImage) -> RgbaImage {
    let (width, height) = picture.dimensions();
    let weighted: ImageBuffer<Rgba<f32>, Vec<f32>> = ImageBuffer::from_fn(width, height, |x, y| {
        // The resampler clamps to 0..1.
        let p = picture.get_pixel(x, y).0.map(|c| f32::from(c) / 255.0);
        Rgba([p[0] * p[3], p[1] * p[3], p[2] * p[3], p[3]])
    });
    let small =
        image::imageops::resize(&weighted, SIDE, SIDE, image::imageops::FilterType::Lanczos3);
    RgbaImage::from_fn(SIDE, SIDE, |x, y| {
        let p = small.get_pixel(x, y).0;
        let a = p[3].clamp(1e-6, 1.0);
        let byte = |c: f32| (c * 255.0).round().clamp(0.0, 255.0) as u8;
        Rgba([byte(p[0] / a), byte(p[1] / a), byte(p[2] / a), byte(p[3])])
    })
}

/// Which concepts go where, by their place in the sorted list.
fn write_lists(out: &Path, concepts: &[(&String, &Name)]) -> Result<()> {
    let mut lists: BTreeMap<&str, String> = BTreeMap::new();
    let mut labels = String::new();
    for (i, (code, name)) in concepts.iter().enumerate() {
        labels.push_str(&name.label);
        labels.push('\n');
        let unseen = i % 10 == 7;
        // For one concept in ten, one of the trained styles is kept for validation.
        let kept = (i % 10 == 3).then_some(i / 10 % 2);
        for (number, (style, _, _)) in STYLES.iter().enumerate() {
            let list = match (unseen, number) {
                (false, 2) => "test",
                (true, 2) => "test-unseen",
                (true, _) => "unseen",
                (false, _) if kept == Some(number) => "val",
                (false, _) => "train",
            };
            let mut captions = vec![name.label.clone()];
            if !name.tags.is_empty() {
                captions.push(name.tags.join(", "));
            }
            let line = json!({
                "image": format!("{style}/{code}.webp"),
                "captions": captions,
                "label": name.label,
                "group": code,
            });
            // The style that is never seen in parts: to adapt to it, and to measure that.
            let parts = ["style-train", "style-val", "style-train", "style-test"];
            let part = (list == "test").then_some(parts[i % 4]);
            for list in std::iter::once(list).chain(part) {
                let text = lists.entry(list).or_default();
                text.push_str(&line.to_string());
                text.push('\n');
            }
        }
    }
    for (name, text) in lists {
        eprintln!("{name}: {} pictures", text.lines().count());
        fs::write(out.join(format!("{name}.jsonl")), text)?;
    }
    fs::write(out.join("labels.txt"), labels)?;
    Ok(())
}
