//! Letters on pictures.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use anyhow::Result;
use image::{Rgb, RgbImage};

/// DejaVu Sans with Latin, Greek and Cyrillic letters; its licence lies beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans.ttf");

/// ab_glyph scales by the height of a line, which in this font is so many ems.
const EM: f32 = 1.164;

/// Writes on a picture.
pub struct Pen<'a> {
    font: FontRef<'a>,
    /// What is written on.
    pub sheet: &'a mut RgbImage,
}

impl<'a> Pen<'a> {
    /// For this picture.
    ///
    /// # Errors
    /// If the font in the program is damaged.
    pub fn new(sheet: &'a mut RgbImage) -> Result<Self> {
        Ok(Pen { font: FontRef::try_from_slice(FONT)?, sheet })
    }

    /// The width of a line in pixels.
    pub fn width(&self, text: &str, size: f32) -> f32 {
        let font = self.font.as_scaled(PxScale::from(size * EM));
        text.chars().map(|c| font.h_advance(self.font.glyph_id(c))).sum()
    }

    /// A line that is cut in its middle to fit; the end of a file's name says much.
    pub fn fitted(&self, text: &str, size: f32, room: u32) -> String {
        // No line that fits has more letters than pixels.
        let letters: Vec<char> = text.chars().collect();
        if letters.len() <= room as usize && self.width(text, size) <= room as f32 {
            return text.to_owned();
        }
        let mut kept = letters.len().min(room as usize);
        loop {
            let tail = kept / 3;
            let (head, tail) = (&letters[..kept - tail], &letters[letters.len() - tail..]);
            let cut = [head, &['…'], tail].concat().into_iter().collect::<String>();
            if kept == 0 || self.width(&cut, size) <= room as f32 {
                return cut;
            }
            kept -= 1;
        }
    }

    /// A line from a point on its baseline.
    pub fn text(&mut self, text: &str, x: u32, baseline: u32, size: f32, ink: [u8; 3]) {
        let scale = PxScale::from(size * EM);
        let mut at = x as f32;
        for letter in text.chars() {
            let id = self.font.glyph_id(letter);
            let glyph = id.with_scale_and_position(scale, point(at, baseline as f32));
            at += self.font.as_scaled(scale).h_advance(id);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            let sheet = &mut *self.sheet;
            outline.draw(|dx, dy, cover| {
                let (x, y) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
                let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
                if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
                    let cover = cover.min(1.0);
                    let mix = |paper: u8, ink: u8| {
                        (f32::from(paper) * (1.0 - cover) + f32::from(ink) * cover).round() as u8
                    };
                    *pixel = Rgb(std::array::from_fn(|i| mix(pixel.0[i], ink[i])));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_the_middle_and_fit() {
        let mut sheet = RgbImage::new(1, 1);
        let pen = Pen::new(&mut sheet).unwrap();
        assert_eq!(pen.fitted("a.png", 13.0, 200), "a.png");
        for name in ["W".repeat(300) + ".jpeg", "я".repeat(100_000), "\u{4e2d}".repeat(60)] {
            let cut = pen.fitted(&name, 13.0, 200);
            assert!(cut.contains('…') && pen.width(&cut, 13.0) <= 200.0, "{cut}");
            assert_eq!(cut.chars().last(), name.chars().last());
        }
        assert_eq!(pen.fitted("abc", 13.0, 0), "…");
    }
}
