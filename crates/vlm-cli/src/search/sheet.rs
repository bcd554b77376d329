//! The contact sheet: a grid of pictures as one PNG.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::{ImageFormat, Rgb, RgbImage};
use vlm_store::write_file;

use super::title::{self, Title};
use super::{Found, thumb};
use crate::output;
use crate::pen::Pen;

/// Pictures on a sheet: more would make one that few programs open.
const MOST: usize = 400;
/// Side of the square that a picture fits in, and what is left around it.
const PICTURE: u32 = 208;
const AROUND: u32 = 10;
/// A card is a picture and two lines of text.
const WIDTH: u32 = PICTURE + 2 * AROUND;
const HEIGHT: u32 = WIDTH + 44;
/// Between cards, and at the edges.
const GAP: u32 = 14;
/// The title's two lines.
const HEAD: u32 = 72;

const PAPER: Rgb<u8> = Rgb([240, 241, 243]);
const CARD: Rgb<u8> = Rgb([255, 255, 255]);
const LINE: Rgb<u8> = Rgb([217, 220, 225]);
const INK: [u8; 3] = [32, 36, 42];
const FAINT: [u8; 3] = [110, 116, 126];

/// Writes the pictures in rows, the best first.
///
/// # Errors
/// What the operating system reports.
pub fn write(path: &Path, title: &Title, found: &[Found]) -> Result<()> {
    if found.len() > MOST {
        output::note(&format!("{}: has the best {MOST} only", path.display()));
    }
    let sheet = draw(title, &found[..found.len().min(MOST)])?;
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).context("cannot make a PNG")?;
    Ok(write_file(path, &mut |w| w.write_all(png.get_ref()))?)
}

fn draw(title: &Title, found: &[Found]) -> Result<RgbImage> {
    let count = found.len().max(1) as u32;
    // A little wider than high, as screens are.
    let columns = ((f64::from(count) * 1.4).sqrt().round() as u32).clamp(3.min(count.max(2)), 10);
    let rows = count.div_ceil(columns);
    let mut sheet =
        RgbImage::from_pixel(GAP + columns * (WIDTH + GAP), HEAD + rows * (HEIGHT + GAP), PAPER);
    let room = sheet.width() - 2 * GAP;
    let mut pen = Pen::new(&mut sheet)?;
    let mut left = GAP;
    if let Some(like) = title.like.as_ref().and_then(|like| thumb::one(like, HEAD - 16)) {
        pen.picture(&like, left, 8, HEAD - 16);
        left += HEAD - 16 + GAP;
    }
    let room = room - (left - GAP);
    let heading = pen.fitted(&title.heading, 25.0, room);
    pen.text(&heading, left, 36, 25.0, INK);
    let below = pen.fitted(&title.below, 14.0, room);
    pen.text(&below, left, 58, 14.0, FAINT);
    if found.is_empty() {
        pen.text("no pictures", GAP, HEAD + 40, 16.0, FAINT);
    }
    let pictures = thumb::all(found, PICTURE);
    for (i, (found, picture)) in found.iter().zip(&pictures).enumerate() {
        let (column, row) = (i as u32 % columns, i as u32 / columns);
        pen.card(
            found,
            picture.as_ref(),
            GAP + column * (WIDTH + GAP),
            HEAD + row * (HEIGHT + GAP),
        );
    }
    Ok(sheet)
}

impl Pen<'_> {
    fn card(&mut self, found: &Found, picture: Option<&RgbImage>, x: u32, y: u32) {
        for (dx, dy) in (0..WIDTH).flat_map(|dx| (0..HEIGHT).map(move |dy| (dx, dy))) {
            let edge = dx == 0 || dy == 0 || dx == WIDTH - 1 || dy == HEIGHT - 1;
            self.sheet.put_pixel(x + dx, y + dy, if edge { LINE } else { CARD });
        }
        match picture {
            Some(picture) => self.picture(picture, x + AROUND, y + AROUND, PICTURE),
            None => self.centred("cannot be read", x, y + WIDTH / 2, 14.0, FAINT),
        }
        let name = self.fitted(&title::name(&found.path), 13.0, WIDTH - 2 * AROUND);
        self.centred(&name, x, y + WIDTH + 13, 13.0, INK);
        self.centred(&format!("{:.3}", found.similarity), x, y + WIDTH + 32, 13.0, FAINT);
    }

    /// A picture in the middle of a square.
    fn picture(&mut self, picture: &RgbImage, x: u32, y: u32, side: u32) {
        let left = i64::from(x + (side - picture.width()) / 2);
        let top = i64::from(y + (side - picture.height()) / 2);
        image::imageops::replace(self.sheet, picture, left, top);
    }

    fn centred(&mut self, text: &str, x: u32, baseline: u32, size: f32, ink: [u8; 3]) {
        let left = (WIDTH as f32 - self.width(text, size)).max(0.0) / 2.0;
        self.text(text, x + left as u32, baseline, size, ink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_of_nothing_and_of_lost_pictures_is_drawn() {
        let title = |heading: &str| Title {
            heading: heading.into(),
            below: "\u{1F600} below".into(),
            like: None,
        };
        assert!(draw(&title("nothing"), &[]).unwrap().width() > 200);
        let lost = |i: usize| Found {
            image: String::new(),
            similarity: 0.5,
            path: format!("/none/{i}.png").into(),
        };
        for count in [1, 2, 3, 17] {
            let found: Vec<Found> = (0..count).map(lost).collect();
            let sheet = draw(&title(&"long ".repeat(1000)), &found).unwrap();
            assert!(sheet.pixels().any(|pixel| pixel.0 == FAINT), "no text");
        }
    }
}
