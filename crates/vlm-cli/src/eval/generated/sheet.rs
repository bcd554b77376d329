//! Pictures with the true boxes and those that were said.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use vlm_datasets::Conversation;
use vlm_encoders::image::load;
use vlm_fusion::spatial::{BBox, find};
use vlm_store::write_file;

use crate::boxes::{COLORS, Drawn, draw};
use crate::output;
use crate::pen::Pen;

/// Pictures on a sheet, in so many columns.
const MOST: usize = 24;
const COLUMNS: u32 = 6;
/// Side of the square that a picture fits in, the space around it, and the room for two lines.
const SIDE: u32 = 240;
const GAP: u32 = 12;
const LINES: u32 = 40;

const PAPER: Rgb<u8> = Rgb([244, 245, 247]);
const INK: [u8; 3] = [32, 36, 42];
const FAINT: [u8; 3] = [110, 116, 126];
const RIGHT: [u8; 3] = COLORS[2];
const SAID: [u8; 3] = COLORS[0];

/// Writes a sheet of the first samples: the true boxes green, those that were said red.
///
/// # Errors
/// If a picture cannot be read or the sheet not be written.
pub fn write(path: &Path, samples: &[&Conversation], said: &[String]) -> Result<()> {
    let shown = samples.len().min(MOST);
    if samples.len() > MOST {
        output::note(&format!("{}: has the first {MOST} only", path.display()));
    }
    let columns = COLUMNS.min(shown as u32);
    let rows = (shown as u32).div_ceil(COLUMNS);
    let (across, down) = (SIDE + GAP, SIDE + LINES + GAP);
    let mut sheet = RgbImage::from_pixel(GAP + columns * across, GAP + rows * down, PAPER);
    for (i, (sample, said)) in samples.iter().zip(said).take(shown).enumerate() {
        let (x, y) = (GAP + i as u32 % COLUMNS * across, GAP + i as u32 / COLUMNS * down);
        let Some(file) = sample.pictures.first() else { continue };
        let picture = DynamicImage::from(load(file)?).into_rgb8();
        let found: Vec<BBox> = find(said).iter().map(|located| located.bbox).collect();
        let right: Vec<BBox> =
            sample.boxes.iter().filter_map(|region| BBox::new(region.corners)).collect();
        let drawn = |bbox: &BBox, color| Drawn { bbox: *bbox, label: String::new(), color };
        let boxes: Vec<Drawn> = right
            .iter()
            .map(|bbox| drawn(bbox, RIGHT))
            .chain(found.iter().map(|bbox| drawn(bbox, SAID)))
            .collect();
        let picture = draw(&picture, &boxes)?;
        let by = f64::from(SIDE) / f64::from(picture.width().max(picture.height()));
        let [width, height] = [picture.width(), picture.height()]
            .map(|side| ((f64::from(side) * by).round() as u32).max(1));
        let picture = imageops::resize(&picture, width, height, FilterType::Triangle);
        imageops::replace(&mut sheet, &picture, i64::from(x), i64::from(y));
        let iou = match (&found[..], &right[..]) {
            ([], _) => "no box was said".to_owned(),
            ([found], [right]) => format!("IoU {:.2}", found.iou(right)),
            _ => format!("{} boxes for {}", found.len(), right.len()),
        };
        let mut pen = Pen::new(&mut sheet)?;
        let question = pen.fitted(sample.question(), 13.0, SIDE);
        pen.text(&question, x, y + SIDE + 15, 13.0, INK);
        pen.text(&iou, x, y + SIDE + 33, 13.0, FAINT);
    }
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).context("cannot make a PNG")?;
    Ok(write_file(path, &mut |w| w.write_all(png.get_ref()))?)
}
