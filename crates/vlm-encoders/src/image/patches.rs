//! Pictures as rows of patches, for encoders that take any proportions (SigLIP 2 NaFlex).

use super::bound;
use super::error::ImageError;
use super::pixels::Pixels;

/// How a picture becomes patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Edge of a square patch, in pixels.
    pub patch_size: usize,
    /// Patches that the encoder takes; fewer are filled up with zeros.
    pub max_num_patches: usize,
}

/// One picture as patches, in reading order.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// `[max_num_patches, patch_size * patch_size * 3]`, each patch in the order row, column,
    /// channel; zeros beyond the grid.
    pub values: Vec<f32>,
    /// `[max_num_patches]`: true where there is a patch of the picture.
    pub mask: Vec<bool>,
    /// Rows and columns of patches.
    pub grid: (usize, usize),
}

impl Patching {
    /// Numbers that one patch holds.
    pub fn patch_len(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    /// Height and width that a picture of `height` × `width` is resized to: the largest in about
    /// its proportions whose sides are whole patches and that has no more than `max_num_patches`.
    ///
    /// The search is transformers' (`get_image_size_for_max_num_patches`), which stops when it
    /// knows the scale to 1e-5 and rounds each side up: another search would now and then differ
    /// by a patch. No side is larger than a hundred times the picture's, rounded up to a patch.
    pub fn fit(&self, height: usize, width: usize) -> (usize, usize) {
        const PRECISION: f64 = 1e-5;
        let patch = self.patch_size as f64;
        let patches = |scale: f64, side: usize| (side as f64 * scale / patch).ceil().max(1.0);
        let (mut low, mut high) = (PRECISION / 10.0, 100.0);
        while high - low >= PRECISION {
            let scale = (low + high) / 2.0;
            if patches(scale, height) * patches(scale, width) <= self.max_num_patches as f64 {
                low = scale;
            } else {
                high = scale;
            }
        }
        let side = |length| patches(low, length) as usize * self.patch_size;
        (side(height), side(width))
    }

    /// Checks that the values of one picture stay within the memory bound and are not none.
    ///
    /// # Errors
    /// [`ImageError::Bound`].
    pub(super) fn check(&self) -> Result<(), ImageError> {
        let side = self.patch_size.saturating_mul(self.patch_size).saturating_mul(3);
        bound::check(self.max_num_patches, side.saturating_mul(size_of::<f32>()))
    }
}

impl Pixels {
    /// The picture as patches. [`ImageProcessor::patching`](super::ImageProcessor::patching) tells
    /// which patches a model wants.
    ///
    /// # Errors
    /// [`ImageError::NotPatches`] if the sides are not whole patches or there are too many, which
    /// cannot happen to what the processor with this patching made; [`ImageError::Bound`].
    pub fn patches(&self, patching: Patching) -> Result<Patches, ImageError> {
        let (mut values, mut mask) = (Vec::new(), Vec::new());
        let grid = self.write_patches(patching, &mut values, &mut mask)?;
        Ok(Patches { values, mask, grid })
    }

    /// Appends the values and the mask of [`patches`](Self::patches), as a batch needs it, and
    /// returns the grid: rows and columns of patches.
    ///
    /// # Errors
    /// As [`patches`](Self::patches); then nothing has been appended.
    pub fn write_patches(
        &self,
        patching: Patching,
        values: &mut Vec<f32>,
        mask: &mut Vec<bool>,
    ) -> Result<(usize, usize), ImageError> {
        let (height, width) = self.size();
        let Patching { patch_size, max_num_patches } = patching;
        let whole = patch_size > 0 && height % patch_size == 0 && width % patch_size == 0;
        let grid = if whole { (height / patch_size, width / patch_size) } else { (0, 0) };
        let count = grid.0 * grid.1;
        if count == 0 || count > max_num_patches {
            return Err(ImageError::NotPatches { height, width, patch_size, max_num_patches });
        }
        patching.check()?;
        let levels = self.levels();
        let samples = self.samples();
        values.reserve(max_num_patches * patching.patch_len());
        for index in 0..count {
            let (row, column) = (index / grid.1 * patch_size, index % grid.1 * patch_size);
            for y in row..row + patch_size {
                let start = 3 * (y * width + column);
                let line = &samples[start..start + 3 * patch_size];
                values.extend(
                    line.iter().enumerate().map(|(at, level)| levels[at % 3][usize::from(*level)]),
                );
            }
        }
        let missing = max_num_patches - count;
        values.extend(std::iter::repeat_n(0.0, missing * patching.patch_len()));
        mask.extend((0..max_num_patches).map(|index| index < count));
        Ok(grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Kind, Resize, RgbImage};

    #[test]
    fn a_fitted_size_is_whole_patches_and_not_too_many() {
        for max_num_patches in [1, 2, 7, 64, 256, 1024] {
            let patching = Patching { patch_size: 16, max_num_patches };
            for (height, width) in
                [(1, 1), (1, 20_000), (20_000, 1), (480, 640), (16, 16), (3000, 17)]
            {
                let (h, w) = patching.fit(height, width);
                assert!(h % 16 == 0 && w % 16 == 0 && h * w > 0, "{h}x{w}");
                assert!(h / 16 * (w / 16) <= max_num_patches, "{height}x{width} to {h}x{w}");
            }
        }
    }

    #[test]
    fn patches_are_in_reading_order_and_the_rest_is_zero() {
        let mut processor = Kind::Siglip2.defaults();
        let patching = Patching { patch_size: 2, max_num_patches: 7 };
        processor.resize = Some(Resize::Exact { height: 4, width: 6 });
        (processor.rescale, processor.normalize) = (None, None);
        let picture = RgbImage::from_fn(6, 4, |x, y| ::image::Rgb([x as u8, y as u8, 9]));
        let pixels = processor.process(&picture).unwrap();
        let patches = pixels.patches(patching).unwrap();
        assert_eq!(patches.grid, (2, 3));
        assert_eq!(patches.mask, [true, true, true, true, true, true, false]);
        assert_eq!(patches.values.len(), 7 * 12);
        // The second patch of the second row: columns 2 and 3 of rows 2 and 3.
        let fifth = [2., 2., 9., 3., 2., 9., 2., 3., 9., 3., 3., 9.];
        assert_eq!(patches.values[4 * 12..5 * 12], fifth);
        assert!(patches.values[6 * 12..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut processor = Kind::Siglip2.defaults();
        processor.resize = Some(Resize::Exact { height: 4, width: 6 });
        let pixels = processor.process(&RgbImage::new(6, 4)).unwrap();
        for (patch_size, max_num_patches) in [(0, 9), (4, 9), (2, 5), (7, 9)] {
            let refused = pixels.patches(Patching { patch_size, max_num_patches });
            assert!(matches!(refused, Err(ImageError::NotPatches { .. })), "{patch_size}");
        }
        let refused = pixels.patches(Patching { patch_size: 2, max_num_patches: 1 << 40 });
        assert!(matches!(refused, Err(ImageError::Bound { .. })));
    }
}
