//! `preprocessor_config.json`, old and new spellings.
//!
//! What transformers is known to write is understood or, where it has no effect here, passed over
//! by name. All else is an error: an option that is silently ignored shows up as a model that is
//! a little worse than it should be.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::{ImageError, one_line};
use super::filter::Filter;
use super::kind::Kind;
use super::patches::Patching;
use super::processor::{ImageProcessor, Resize};
use super::tiles::Tiling;

pub(super) const FILE: &str = "preprocessor_config.json";
const COMBINED: &str = "processor_config.json";
/// Bytes that a file of settings may have: 1 MiB. Real ones have less than 10 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Written by transformers, without effect on what a picture becomes.
const NO_EFFECT: [&str; 11] = [
    "processor_class",
    "_valid_processor_keys",
    "_processor_class",
    "auto_map",
    "device",
    "disable_grouping",
    "return_tensors",
    // The input is RGB whatever this says.
    "do_convert_rgb",
    "default_to_square",
    "image_seq_length",
    "transformers_version",
];

/// Sizes above this are a mistake in the file.
const MAX_SIZE: u64 = 16_384;

/// Reads the processor of a model folder.
///
/// # Errors
/// See [`ImageProcessor::from_dir`].
pub(super) fn read(dir: &Path) -> Result<ImageProcessor, ImageError> {
    for (name, combined) in [(FILE, false), (COMBINED, true)] {
        let file = dir.join(name);
        if !file.exists() {
            continue;
        }
        let fail = |detail: String| ImageError::Config { file: file.clone(), detail };
        let mut value = json(&file)?;
        if combined {
            match value.get_mut("image_processor") {
                Some(part) => value = part.take(),
                None => continue,
            }
        }
        let Value::Object(fields) = value else {
            return Err(fail("is not a JSON object; copy the file again".into()));
        };
        let kind = kind(&fields, dir).map_err(fail)?;
        return parse(kind, fields).map_err(fail);
    }
    Err(ImageError::NoConfig { dir: dir.to_owned() })
}

/// The content of a file of settings.
fn json(file: &Path) -> Result<Value, ImageError> {
    let io = |source| ImageError::Io { name: file.display().to_string(), source };
    let fail = |detail: String| ImageError::Config { file: file.to_owned(), detail };
    // Opening a pipe without a writer would wait for ever, so look first.
    if !std::fs::metadata(file).map_err(io)?.is_file() {
        return Err(fail("is not a file; copy it from the model's repository".into()));
    }
    let mut bytes = Vec::new();
    File::open(file).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail("has more than 1 MiB; copy the file again".into()));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("not valid JSON ({}); copy the file again", one_line(e))))
}

/// The class that the file names, or that transformers would take where it names none.
fn kind(fields: &Map<String, Value>, dir: &Path) -> Result<Kind, String> {
    let classes = || Kind::ALL.map(Kind::class).join(", ");
    let named =
        ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| fields.get(*key));
    if let Some(name) = named {
        let name = name.as_str().unwrap_or("");
        return Kind::of_class(name).ok_or_else(|| {
            format!("image processor {name:?} is not supported; supported are {}", classes())
        });
    }
    let processor = fields.get("processor_class").and_then(Value::as_str);
    if let Some(kind) = processor.and_then(Kind::of_processor) {
        return Ok(kind);
    }
    let model = json(&dir.join("config.json")).ok();
    let model = model.as_ref().and_then(|value| value.get("model_type")?.as_str());
    model
        .and_then(Kind::of_model)
        .ok_or_else(|| format!("names no `image_processor_type`; add one of {}", classes()))
}

fn parse(kind: Kind, mut fields: Map<String, Value>) -> Result<ImageProcessor, String> {
    for key in ["image_processor_type", "feature_extractor_type"].iter().chain(&NO_EFFECT) {
        fields.remove(*key);
    }
    if kind.defaults().tiling().is_some() {
        // All tiles are of one size, so that nothing is filled up; and what is of videos.
        for key in ["do_pad", "return_row_col_info", "video_sampling", "crop_size"] {
            fields.remove(key);
        }
    }
    for key in [
        "do_pad",
        "pad_size",
        "use_square_size",
        "data_format",
        "input_data_format",
        "size_divisor",
    ] {
        // Null, false and the layout that is produced anyway are what transformers writes for "not used".
        match fields.remove(key) {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::String(s)) if key == "data_format" && s == "channels_first" => {}
            Some(Value::String(s)) if key == "input_data_format" && s == "channels_last" => {}
            Some(other) => {
                return Err(format!(
                    "`{key}` = {other} is not supported; remove it or prepare the pictures beforehand"
                ));
            }
        }
    }
    // Null is how transformers writes what it takes from the class.
    for key in ["size", "crop_size", "image_mean", "image_std", "patch_size", "max_num_patches"] {
        if fields.get(key).is_some_and(Value::is_null) {
            fields.remove(key);
        }
    }
    let usual = kind.defaults();
    let on = flags(kind, &mut fields)?;
    let resize = match usual.resize {
        Some(Resize::Patches(patching)) => Some(Resize::Patches(patches(&mut fields, patching)?)),
        Some(Resize::Tiles(tiling)) => Some(Resize::Tiles(tiles(&mut fields, tiling, on[0])?)),
        usual => fields.remove("size").map(|v| resize_of(kind, &v)).transpose()?.or(usual),
    };
    // Whether tiles are resized before is one of their choices.
    let on = if usual.tiling().is_some() { [true, on[1], on[2], on[3]] } else { on };
    if usual.patching().is_some() && !on[0] {
        return Err(format!(
            "`do_resize` = false is not supported for {}; remove it",
            kind.class()
        ));
    }
    let crop = fields.remove("crop_size").map(|v| crop_of(&v)).transpose()?.or(usual.crop);
    let filter = match fields.remove("resample") {
        None => usual.filter,
        Some(v) => v
            .as_i64()
            .and_then(Filter::from_pillow)
            .ok_or_else(|| format!("`resample` = {v}: must be a Pillow filter, 0 to 5"))?,
    };
    let factor = match fields.remove("rescale_factor") {
        None => 1.0 / 255.0,
        Some(v) => v
            .as_f64()
            .filter(|f| f.is_finite())
            .ok_or_else(|| format!("`rescale_factor` = {v}: must be a number"))?,
    };
    let (mean, std) = usual.normalize.unwrap_or_default();
    let mean = channels(&mut fields, "image_mean", mean)?;
    let std = channels(&mut fields, "image_std", std)?;
    if std.iter().any(|s| *s <= 0.0) {
        return Err(format!("`image_std` = {std:?}: must be above 0"));
    }
    if !fields.is_empty() {
        let names: Vec<_> = fields.keys().map(|k| format!("`{k}`")).collect();
        return Err(format!(
            "unknown fields {}; remove them if they have no effect",
            names.join(", ")
        ));
    }
    Ok(ImageProcessor {
        kind,
        resize: resize.filter(|_| on[0]),
        filter,
        crop: crop.filter(|_| on[1]),
        rescale: on[2].then_some(factor),
        normalize: on[3].then_some((mean, std)),
        letterbox: None,
    })
}

fn patches(fields: &mut Map<String, Value>, usual: Patching) -> Result<Patching, String> {
    let mut number = |key: &str, usual: usize| match fields.remove(key) {
        None => Ok(usual),
        Some(v) => pixels(&v).ok_or_else(|| format!("`{key}` = {v}: must be 1 to {MAX_SIZE}")),
    };
    let patching = Patching {
        patch_size: number("patch_size", usual.patch_size)?,
        max_num_patches: number("max_num_patches", usual.max_num_patches)?,
    };
    patching.check().map_err(|_| {
        let Patching { patch_size, max_num_patches } = patching;
        format!("{max_num_patches} patches (`max_num_patches`) of {patch_size} pixels (`patch_size`) take too much memory; lower one of them")
    })?;
    Ok(patching)
}

fn tiles(fields: &mut Map<String, Value>, usual: Tiling, resizes: bool) -> Result<Tiling, String> {
    let mut edge = |key: &str, usual: Option<usize>| {
        match fields.remove(key) {
        None | Some(Value::Null) => Ok(usual),
        Some(value) => match value.as_object().filter(|map| map.len() == 1) {
            Some(map) => map.get("longest_edge").and_then(pixels).map(Some),
            None => None,
        }
        .ok_or_else(|| {
            format!("`{key}` = {value} is not supported; use {{\"longest_edge\": n}} with 1 to {MAX_SIZE}")
        }),
    }
    };
    let longest_edge = edge("size", usual.longest_edge)?.filter(|_| resizes);
    let tile = edge("max_image_size", Some(usual.tile))?.unwrap_or(usual.tile);
    let split = match fields.remove("do_image_splitting") {
        None | Some(Value::Null) => usual.split,
        Some(Value::Bool(split)) => split,
        Some(other) => {
            return Err(format!("`do_image_splitting` = {other}: must be true or false"));
        }
    };
    Ok(Tiling { longest_edge, tile, split })
}

/// Resize, crop, rescale, normalise; absent means true, for the crop if the kind has one.
fn flags(kind: Kind, fields: &mut Map<String, Value>) -> Result<[bool; 4], String> {
    let mut on = [true, kind.crops(), true, true];
    if !kind.crops() {
        match fields.remove("do_center_crop") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(other) => {
                return Err(format!(
                    "`do_center_crop` = {other} is not supported for {}; remove it",
                    kind.class()
                ));
            }
        }
    }
    for (on, key) in
        on.iter_mut().zip(["do_resize", "do_center_crop", "do_rescale", "do_normalize"])
    {
        match fields.remove(key) {
            None => {}
            Some(Value::Bool(flag)) => *on = flag,
            Some(other) => return Err(format!("`{key}` = {other}: must be true or false")),
        }
    }
    Ok(on)
}

fn pixels(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)).map(|n| n as usize)
}

/// Height and width of a dictionary that holds just these.
fn height_width(value: &Value) -> Option<(usize, usize)> {
    let map = value.as_object().filter(|m| m.len() == 2)?;
    Some((pixels(map.get("height")?)?, pixels(map.get("width")?)?))
}

/// Two numbers in a list are height and width, as in a dictionary.
fn listed(value: &Value) -> Option<(usize, usize)> {
    match value.as_array()?.as_slice() {
        [height, width] => Some((pixels(height)?, pixels(width)?)),
        _ => None,
    }
}

fn resize_of(kind: Kind, value: &Value) -> Result<Resize, String> {
    let exact = height_width(value).or_else(|| listed(value));
    if let Some((height, width)) = exact {
        return Ok(Resize::Exact { height, width });
    }
    let edge = match value {
        Value::Object(map) if map.len() == 1 && kind.crops() => {
            map.get("shortest_edge").and_then(pixels)
        }
        other => pixels(other),
    };
    // A lone number means another thing to each class; to SigLIP's it is an error.
    match (kind, edge) {
        (Kind::Clip | Kind::Bit, Some(edge)) => Ok(Resize::ShortestEdge(edge)),
        (Kind::Vit, Some(edge)) => Ok(Resize::Exact { height: edge, width: edge }),
        _ => {
            let shortest = if kind.crops() { "{\"shortest_edge\": n} or " } else { "" };
            Err(format!(
                "`size` = {value} is not supported; use {shortest}{{\"height\": n, \"width\": m}} with 1 to {MAX_SIZE}"
            ))
        }
    }
}

fn crop_of(value: &Value) -> Result<(usize, usize), String> {
    pixels(value)
        .map(|edge| (edge, edge))
        .or_else(|| height_width(value))
        .or_else(|| listed(value))
        .ok_or_else(|| format!("`crop_size` = {value} is not supported; use {{\"height\": n, \"width\": m}} with 1 to {MAX_SIZE}"))
}

/// One number for each channel, or one for all.
fn channels(
    fields: &mut Map<String, Value>,
    key: &str,
    default: [f64; 3],
) -> Result<[f64; 3], String> {
    let Some(value) = fields.remove(key) else { return Ok(default) };
    let numbers: Option<Vec<f64>> = match &value {
        Value::Array(list) => list.iter().map(Value::as_f64).collect(),
        other => other.as_f64().map(|f| vec![f; 3]),
    };
    numbers
        .filter(|n| n.iter().all(|f| f.is_finite()))
        .and_then(|n| <[f64; 3]>::try_from(n).ok())
        .ok_or_else(|| format!("`{key}` = {value}: must be three numbers, one for each channel"))
}
