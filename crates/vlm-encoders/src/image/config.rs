//! `preprocessor_config.json`, old and new spellings.
//!
//! What transformers is known to write is understood or, where it has no effect here, passed over
//! by name. All else is an error: an option that is silently ignored shows up as a model that is
//! a little worse than it should be.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::{ImageError, one_line};
use super::filter::Filter;
use super::processor::{CLIP_MEAN, CLIP_STD, ImageProcessor, Resize};

const FILE: &str = "preprocessor_config.json";
const COMBINED: &str = "processor_config.json";

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

const KINDS: [&str; 4] = [
    "CLIPImageProcessor",
    "CLIPFeatureExtractor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
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
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ImageError::Io { name: file.display().to_string(), source })?;
        let mut value: Value = serde_json::from_str(&text)
            .map_err(|e| fail(format!("not valid JSON ({}); copy the file again", one_line(e))))?;
        if combined {
            match value.get_mut("image_processor") {
                Some(part) => value = part.take(),
                None => continue,
            }
        }
        let Value::Object(fields) = value else {
            return Err(fail("is not a JSON object; copy the file again".into()));
        };
        return parse(fields).map_err(fail);
    }
    Err(ImageError::NoConfig { dir: dir.to_owned() })
}

/// Writes the processor as transformers does: keys sorted, two spaces, a newline at the end.
///
/// # Errors
/// [`ImageError::Io`].
pub(super) fn write(processor: &ImageProcessor, dir: &Path) -> Result<(), ImageError> {
    let (mean, std) = processor.normalize.unwrap_or((CLIP_MEAN, CLIP_STD));
    let (crop_h, crop_w) = processor.crop.unwrap_or((224, 224));
    let size = match processor.resize.unwrap_or(Resize::ShortestEdge(224)) {
        Resize::ShortestEdge(edge) => json!({ "shortest_edge": edge }),
        Resize::Exact { height, width } => json!({ "height": height, "width": width }),
    };
    let value = json!({
        "crop_size": { "height": crop_h, "width": crop_w },
        "do_center_crop": processor.crop.is_some(),
        "do_convert_rgb": true,
        "do_normalize": processor.normalize.is_some(),
        "do_rescale": processor.rescale.is_some(),
        "do_resize": processor.resize.is_some(),
        "image_mean": mean,
        "image_processor_type": KINDS[0],
        "image_std": std,
        "resample": processor.filter.pillow(),
        "rescale_factor": processor.rescale.unwrap_or(1.0 / 255.0),
        "size": size,
    });
    let file = dir.join(FILE);
    std::fs::write(&file, format!("{value:#}\n"))
        .map_err(|source| ImageError::Io { name: file.display().to_string(), source })
}

fn parse(mut fields: Map<String, Value>) -> Result<ImageProcessor, String> {
    check_kind(&fields)?;
    for key in ["image_processor_type", "feature_extractor_type"].iter().chain(&NO_EFFECT) {
        fields.remove(*key);
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
    let on = flags(&mut fields)?;
    let size = fields.remove("size").map(|v| resize_of(&v)).transpose()?;
    let crop = fields.remove("crop_size").map(|v| crop_of(&v)).transpose()?;
    let filter = match fields.remove("resample") {
        None => Filter::Bicubic,
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
    let mean = channels(&mut fields, "image_mean", CLIP_MEAN)?;
    let std = channels(&mut fields, "image_std", CLIP_STD)?;
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
        resize: on[0].then_some(size.unwrap_or(Resize::ShortestEdge(224))),
        filter,
        crop: on[1].then_some(crop.unwrap_or((224, 224))),
        rescale: on[2].then_some(factor),
        normalize: on[3].then_some((mean, std)),
    })
}

fn check_kind(fields: &Map<String, Value>) -> Result<(), String> {
    let kind = ["image_processor_type", "feature_extractor_type"]
        .iter()
        .find_map(|key| fields.get(*key))
        .map(|v| v.as_str().unwrap_or("").to_owned());
    match kind {
        Some(kind) if KINDS.contains(&kind.as_str()) => Ok(()),
        Some(kind) => Err(format!(
            "image processor {kind:?} is not supported; supported are {}",
            KINDS.join(", ")
        )),
        None if fields.get("processor_class").and_then(Value::as_str) == Some("CLIPProcessor") => {
            Ok(())
        }
        None => Err(format!("names no `image_processor_type`; add one of {}", KINDS.join(", "))),
    }
}

/// Resize, crop, rescale, normalise; absent means true.
fn flags(fields: &mut Map<String, Value>) -> Result<[bool; 4], String> {
    let mut on = [true; 4];
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

fn resize_of(value: &Value) -> Result<Resize, String> {
    let edge = match value {
        Value::Object(map) if map.len() == 1 => map.get("shortest_edge").and_then(pixels),
        other => pixels(other),
    };
    edge.map(Resize::ShortestEdge)
        .or_else(|| height_width(value).map(|(height, width)| Resize::Exact { height, width }))
        .ok_or_else(|| format!("`size` = {value} is not supported; use {{\"shortest_edge\": n}} or {{\"height\": n, \"width\": m}} with 1 to {MAX_SIZE}"))
}

fn crop_of(value: &Value) -> Result<(usize, usize), String> {
    pixels(value)
        .map(|edge| (edge, edge))
        .or_else(|| height_width(value))
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
