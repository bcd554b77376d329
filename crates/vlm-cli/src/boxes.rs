//! Boxes with labels on a picture.

use anyhow::Result;
use image::imageops::FilterType;
use image::{Rgb, RgbImage, imageops};
use vlm_fusion::spatial::BBox;

use crate::pen::Pen;

/// Colours for boxes, each well apart from the next; white letters can be read on all.
pub const COLORS: [[u8; 3]; 6] =
    [[200, 30, 45], [20, 105, 205], [20, 130, 60], [140, 50, 160], [190, 85, 0], [0, 125, 135]];

/// A smaller side would have no room for labels.
const LEAST: u32 = 400;

/// A box to be drawn.
pub struct Drawn {
    /// Where it is.
    pub bbox: BBox,
    /// What is written on it, if anything.
    pub label: String,
    /// Its colour.
    pub color: [u8; 3],
}

/// The picture with boxes on it. A small one is enlarged, so that labels can be read.
///
/// # Errors
/// If the font in the program is damaged.
pub fn draw(picture: &RgbImage, boxes: &[Drawn]) -> Result<RgbImage> {
    let shorter = picture.width().min(picture.height()).max(1);
    let by = LEAST.div_ceil(shorter).clamp(1, 8);
    let mut sheet = match by {
        1 => picture.clone(),
        by => imageops::resize(
            picture,
            picture.width() * by,
            picture.height() * by,
            FilterType::CatmullRom,
        ),
    };
    let size = sheet.dimensions();
    let longer = size.0.max(size.1);
    let (line, letters) = ((longer / 160).max(2), (longer as f32 / 40.0).max(13.0));
    for drawn in boxes {
        frame(&mut sheet, drawn, line);
    }
    // Labels last, so that no line crosses them.
    let mut pen = Pen::new(&mut sheet)?;
    for drawn in boxes.iter().filter(|drawn| !drawn.label.is_empty()) {
        label(&mut pen, drawn, line, letters);
    }
    Ok(sheet)
}

/// Left, top, right, bottom in whole pixels within the picture.
fn pixels(sheet: &RgbImage, bbox: &BBox) -> [u32; 4] {
    let (width, height) = sheet.dimensions();
    let [left, top, right, bottom] = bbox.pixels((width, height)).map(|edge| edge.round() as u32);
    [left.min(width - 1), top.min(height - 1), right.min(width - 1), bottom.min(height - 1)]
}

/// The four lines of a box, on the inside of its edges.
fn frame(sheet: &mut RgbImage, drawn: &Drawn, line: u32) {
    let [left, top, right, bottom] = pixels(sheet, &drawn.bbox);
    for y in top..=bottom {
        for x in left..=right {
            let from_edge = (x - left).min(right - x).min(y - top).min(bottom - y);
            if from_edge < line {
                sheet.put_pixel(x, y, Rgb(drawn.color));
            }
        }
    }
}

/// A label above its box, or within it where there is no room above.
fn label(pen: &mut Pen, drawn: &Drawn, line: u32, letters: f32) {
    let (width, height) = pen.sheet.dimensions();
    let [left, top, ..] = pixels(pen.sheet, &drawn.bbox);
    let around = line * 2;
    let text = pen.fitted(&drawn.label, letters, width.saturating_sub(2 * around));
    let room = (pen.width(&text, letters).ceil() as u32 + 2 * around).min(width);
    let high = (letters * 1.3).ceil() as u32 + line;
    let left = left.min(width - room);
    let top = if top >= high { top - high } else { top.min(height.saturating_sub(high)) };
    for y in top..(top + high).min(height) {
        for x in left..left + room {
            pen.sheet.put_pixel(x, y, Rgb(drawn.color));
        }
    }
    let baseline = top + (letters * 1.03).round() as u32 + line / 2;
    pen.text(&text, left + around, baseline, letters, [255; 3]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(corners: [f64; 4], label: &str) -> Drawn {
        Drawn { bbox: BBox::new(corners).unwrap(), label: label.into(), color: COLORS[0] }
    }

    #[test]
    fn lines_are_on_the_edges_and_the_inside_is_left_alone() {
        let picture = RgbImage::from_pixel(800, 500, Rgb([9, 9, 9]));
        let out = draw(&picture, &[drawn([0.25, 0.2, 0.75, 0.8], "")]).unwrap();
        assert_eq!(out.dimensions(), (800, 500));
        for (x, y) in [(200, 100), (600, 250), (400, 400), (201, 300)] {
            assert_eq!(out.get_pixel(x, y).0, COLORS[0], "{x} {y}");
        }
        for (x, y) in [(400, 250), (198, 250), (400, 98)] {
            assert_eq!(out.get_pixel(x, y).0, [9, 9, 9], "{x} {y}");
        }
    }

    #[test]
    fn any_box_on_any_picture_is_drawn() {
        for size in [(1, 1), (1, 900), (96, 96), (640, 480)] {
            let picture = RgbImage::new(size.0, size.1);
            for corners in [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.4, 0.99, 0.4, 1.0]] {
                let long = "a very long label ".repeat(30);
                draw(&picture, &[drawn(corners, "cat"), drawn(corners, &long)]).unwrap();
            }
        }
        let small = draw(&RgbImage::new(96, 96), &[]).unwrap();
        assert_eq!(small.dimensions(), (480, 480));
    }
}
