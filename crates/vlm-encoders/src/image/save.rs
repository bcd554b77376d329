//! Writing `preprocessor_config.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::config::FILE;
use super::error::ImageError;
use super::processor::{ImageProcessor, Resize};

/// Writes the processor as transformers does: keys sorted, two spaces, a newline at the end.
///
/// # Errors
/// See [`ImageProcessor::save`].
pub(super) fn write(processor: &ImageProcessor, dir: &Path) -> Result<(), ImageError> {
    let value = fields(processor)?;
    let file = dir.join(FILE);
    std::fs::write(&file, format!("{value:#}\n"))
        .map_err(|source| ImageError::Io { name: file.display().to_string(), source })
}

/// The fields that the class writes. A step that is off keeps the class's usual numbers.
fn fields(processor: &ImageProcessor) -> Result<Value, ImageError> {
    let kind = processor.kind;
    let fail = |detail| Err(ImageError::NotOfKind { class: kind.class(), detail });
    let usual = kind.defaults();
    let (mean, std) = processor.normalize.or(usual.normalize).unwrap_or_default();
    let mut value = json!({
        "do_convert_rgb": true,
        "do_normalize": processor.normalize.is_some(),
        "do_rescale": processor.rescale.is_some(),
        "do_resize": processor.resize.is_some(),
        "image_mean": mean,
        "image_processor_type": kind.class(),
        "image_std": std,
        "resample": processor.filter.pillow(),
        "rescale_factor": processor.rescale.unwrap_or(1.0 / 255.0),
    });
    match processor.resize.or(usual.resize) {
        Some(Resize::ShortestEdge(_)) if !kind.crops() => {
            return fail("it has no resizing of the shorter edge");
        }
        Some(Resize::Patches(_)) if usual.patching().is_none() => return fail("it has no patches"),
        Some(Resize::Exact { .. }) if usual.patching().is_some() || usual.tiling().is_some() => {
            return fail("it has no resizing to an exact size");
        }
        Some(Resize::Tiles(_)) if usual.tiling().is_none() => return fail("it has no tiles"),
        _ if processor.resize.is_none()
            && (usual.patching().is_some() || usual.tiling().is_some()) =>
        {
            return fail("it cannot do without resizing");
        }
        Some(Resize::Tiles(tiling)) => {
            value["do_resize"] = json!(tiling.longest_edge.is_some());
            value["do_image_splitting"] = json!(tiling.split);
            value["do_pad"] = json!(true);
            value["max_image_size"] = json!({ "longest_edge": tiling.tile });
            let usual = usual.tiling().and_then(|tiling| tiling.longest_edge);
            value["size"] = json!({ "longest_edge": tiling.longest_edge.or(usual) });
        }
        Some(Resize::ShortestEdge(edge)) => value["size"] = json!({ "shortest_edge": edge }),
        Some(Resize::Exact { height, width }) => {
            value["size"] = json!({ "height": height, "width": width });
        }
        Some(Resize::Patches(patching)) => {
            value["patch_size"] = json!(patching.patch_size);
            value["max_num_patches"] = json!(patching.max_num_patches);
        }
        None => {}
    }
    if kind.crops() {
        let (height, width) = processor.crop.or(usual.crop).unwrap_or_default();
        value["crop_size"] = json!({ "height": height, "width": width });
        value["do_center_crop"] = json!(processor.crop.is_some());
    } else if processor.crop.is_some() {
        return fail("it has no centre crop");
    }
    Ok(value)
}
