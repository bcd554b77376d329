//! The way back, for people to look at.

use image::{Rgb, RgbImage};

use super::{ImageProcessor, Pixels};

impl ImageProcessor {
    /// The picture that [`process`](Self::process) made these pixels of, rounded to 8 bits.
    pub fn unprocess(&self, pixels: &Pixels) -> RgbImage {
        let (h, w) = (pixels.height, pixels.width);
        RgbImage::from_fn(w as u32, h as u32, |x, y| {
            Rgb(std::array::from_fn(|c| {
                let value = f64::from(pixels.data[(c * h + y as usize) * w + x as usize]);
                let value = match self.normalize {
                    Some((mean, std)) => value * std[c] + mean[c],
                    None => value,
                };
                (value / self.rescale.unwrap_or(1.0)).round().clamp(0.0, 255.0) as u8
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{CLIP_MEAN, CLIP_STD};

    #[test]
    fn there_and_back() {
        let picture = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 31, y as u8 * 31, 77]));
        let processor = ImageProcessor::clip(8, CLIP_MEAN, CLIP_STD);
        assert_eq!(processor.unprocess(&processor.process(&picture).unwrap()), picture);
    }
}
