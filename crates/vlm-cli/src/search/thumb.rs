//! Pictures in small.

use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};
use rayon::prelude::*;
use vlm_encoders::image::load;

use super::Found;

/// How much a small picture is magnified at most.
const MAGNIFY: u32 = 2;

/// The pictures that were found, each to fit in a square of `side` pixels in its proportions and on
/// white; `None` of one that cannot be read any more.
pub fn all(found: &[Found], side: u32) -> Vec<Option<RgbImage>> {
    found.par_iter().map(|found| one(&found.path, side)).collect()
}

/// One of them.
pub fn one(path: &Path, side: u32) -> Option<RgbImage> {
    let picture = DynamicImage::from(load(path).ok()?);
    let longest = picture.width().max(picture.height());
    Some(if longest > side {
        picture.thumbnail(side, side).into_rgb8()
    } else {
        let side = side.min(longest * MAGNIFY);
        picture.resize(side, side, FilterType::CatmullRom).into_rgb8()
    })
}
