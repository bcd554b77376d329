//! A picture ready for an encoder.

use ::image::{Rgb, RgbImage};

/// How samples become numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaling {
    /// What the samples 0…255 are multiplied by; `None` leaves them.
    pub rescale: Option<f64>,
    /// Mean and standard deviation per channel; `None` leaves the numbers.
    pub normalize: Option<([f64; 3], [f64; 3])>,
}

/// A picture ready for an encoder: the samples, and how they become numbers.
///
/// Samples take a quarter of the memory, and a large batch waits in memory as pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// `[height, width, 3]`.
    samples: Vec<u8>,
    height: usize,
    width: usize,
    scaling: Scaling,
}

impl Pixels {
    pub(super) fn new(samples: Vec<u8>, height: usize, width: usize, scaling: Scaling) -> Self {
        Pixels { samples, height, width, scaling }
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// What the encoder sees: `[3, height, width]`.
    pub fn values(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.samples.len());
        self.write(&mut values);
        values
    }

    /// Appends [`values`](Self::values).
    pub fn write(&self, values: &mut Vec<f32>) {
        let (pixels, _) = self.samples.as_chunks::<3>();
        for (channel, levels) in self.scaling.levels().iter().enumerate() {
            values.extend(pixels.iter().map(|pixel| levels[usize::from(pixel[channel])]));
        }
    }

    /// `[height, width, 3]` levels.
    pub(super) fn samples(&self) -> &[u8] {
        &self.samples
    }

    /// The number that each level becomes, per channel.
    pub(super) fn levels(&self) -> [[f32; 256]; 3] {
        self.scaling.levels()
    }

    /// The picture for people to look at.
    pub fn picture(&self) -> RgbImage {
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let at = 3 * (y as usize * self.width + x as usize);
            Rgb([self.samples[at], self.samples[at + 1], self.samples[at + 2]])
        })
    }
}

impl Scaling {
    /// The number that each of the 256 levels becomes, per channel: in double precision up to the
    /// rescaling and in single precision from there, as numpy does it for transformers.
    fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let value =
                    self.rescale.map_or(level as f32, |factor| (level as f64 * factor) as f32);
                self.normalize.map_or(value, |(mean, std)| {
                    (value - mean[channel] as f32) / std[channel] as f32
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageProcessor;

    #[test]
    fn there_and_back() {
        let picture = RgbImage::from_fn(8, 4, |x, y| Rgb([x as u8 * 31, y as u8 * 31, 77]));
        let mut processor = ImageProcessor::clip(4, [0.0, 0.5, 0.0], [1.0, 1.0, 0.5]);
        processor.crop = None;
        let pixels = processor.process(&picture).unwrap();
        assert_eq!((pixels.picture(), pixels.size()), (picture, (4, 8)));
        let values = pixels.values();
        // The second pixel of the first row in each channel.
        assert_eq!(values[1], 31.0 / 255.0);
        assert_eq!(values[32 + 1], -0.5);
        assert_eq!(values[64 + 1], 77.0 / 255.0 / 0.5);
    }
}
