//! Pictures in tiles, each as large as the encoder takes them (Idefics 3, SmolVLM).
//!
//! Sizes are those of transformers' `Idefics3ImageProcessor`, whose arithmetic in floating point is
//! repeated: another would now and then differ by a pixel, and so by a row of tiles.

use ::image::RgbImage;

use super::bound;
use super::error::ImageError;
use super::filter::Filter;
use super::pixels::Pixels;
use super::resample::{Window, resize};

/// No edge is resized to more, whatever a file says.
const MAX_EDGE: usize = 4096;
/// Tiles that a picture may have. A published model has 17 or 25 at most.
const MAX_TILES: usize = 1024;

/// How a picture becomes tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Pixels that the longer edge is resized to before, up or down, the other in proportion;
    /// `None` leaves the size alone.
    pub longest_edge: Option<usize>,
    /// Edge of a square tile, in pixels.
    pub tile: usize,
    /// Whether a picture larger than a tile is cut up; otherwise it is squeezed into one.
    pub split: bool,
}

/// One picture in tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// Row by row, and the whole picture last.
    pub tiles: Vec<Pixels>,
    /// Rows and columns of tiles; 0 and 0 if there is only the whole.
    pub grid: (usize, usize),
}

/// Rows of interleaved RGB.
pub(super) struct Frames {
    /// Squares of `tile` pixels, row by row, and the whole picture last.
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) grid: (usize, usize),
}

impl Tiling {
    /// Cuts a picture of at least one pixel.
    ///
    /// # Errors
    /// [`ImageError::Bound`] if a step would take too much memory, or there would be too many tiles.
    pub(super) fn cut(&self, picture: &RgbImage, filter: Filter) -> Result<Frames, ImageError> {
        let tile = self.tile;
        let fitted = match self.longest_edge {
            Some(edge) => Some(resized(picture, self.fitted(size(picture), edge), filter)?),
            None => None,
        };
        let picture = fitted.as_ref().unwrap_or(picture);
        if !self.split {
            let whole = resized(picture, (tile, tile), filter)?.into_raw();
            return Ok(Frames { frames: vec![whole], grid: (0, 0) });
        }
        let (height, width) = self.whole_tiles(size(picture));
        let (rows, columns) = self.rows_and_columns((height, width))?;
        let picture = resized(picture, (height, width), filter)?;
        if (rows, columns) == (0, 0) {
            return Ok(Frames { frames: vec![picture.into_raw()], grid: (0, 0) });
        }
        let mut frames = Vec::with_capacity(rows * columns + 1);
        for index in 0..rows * columns {
            let (top, left) = (index / columns * tile, index % columns * tile);
            frames.push(part(&picture, top, left, tile));
        }
        frames.push(resized(&picture, (tile, tile), filter)?.into_raw());
        Ok(Frames { frames, grid: (rows, columns) })
    }

    /// Rows and columns of tiles of a picture of this height and width.
    ///
    /// # Errors
    /// [`ImageError::Bound`] if there would be too many.
    pub(super) fn grid(&self, size: (usize, usize)) -> Result<(usize, usize), ImageError> {
        if !self.split {
            return Ok((0, 0));
        }
        let fitted = self.longest_edge.map_or(size, |edge| self.fitted(size, edge));
        self.rows_and_columns(self.whole_tiles(fitted))
    }

    /// Of a size of whole tiles; 0 and 0 if it is one tile, which is the whole.
    fn rows_and_columns(
        &self,
        (height, width): (usize, usize),
    ) -> Result<(usize, usize), ImageError> {
        match (height / self.tile, width / self.tile) {
            (1, 1) => Ok((0, 0)),
            (rows, columns) if rows.saturating_mul(columns) > MAX_TILES => {
                Err(ImageError::Bound { limit_mib: bound::MAX_BYTES >> 20 })
            }
            grid => Ok(grid),
        }
    }

    /// The size with a longer edge of `edge` pixels; the other is made even.
    fn fitted(&self, (height, width): (usize, usize), edge: usize) -> (usize, usize) {
        let even = |side: f64| (side as usize).next_multiple_of(2).max(1);
        let ratio = width as f64 / height as f64;
        let (height, width) = if width >= height {
            (even(edge as f64 / ratio), edge)
        } else {
            (edge, even(edge as f64 * ratio))
        };
        // A side that was 0 has become 1 here, so that the proportions are others.
        let ratio = width as f64 / height as f64;
        let side = |side: f64| (side as usize).max(1);
        if width >= height && width > MAX_EDGE {
            (side(MAX_EDGE as f64 / ratio), MAX_EDGE)
        } else if height > width && height > MAX_EDGE {
            (MAX_EDGE, side(MAX_EDGE as f64 * ratio))
        } else {
            (height, width)
        }
    }

    /// The next larger size of whole tiles.
    fn whole_tiles(&self, (height, width): (usize, usize)) -> (usize, usize) {
        let whole = |side: usize| side.max(1).next_multiple_of(self.tile);
        let ratio = width as f64 / height as f64;
        if width >= height {
            let width = whole(width);
            (whole((width as f64 / ratio) as usize), width)
        } else {
            let height = whole(height);
            (height, whole((height as f64 * ratio) as usize))
        }
    }
}

fn size(picture: &RgbImage) -> (usize, usize) {
    (picture.height() as usize, picture.width() as usize)
}

fn resized(
    picture: &RgbImage,
    (height, width): (usize, usize),
    filter: Filter,
) -> Result<RgbImage, ImageError> {
    let bytes = resize(picture, width, height, &Window::full(width, height), filter)?;
    let sized = u32::try_from(width).ok().zip(u32::try_from(height).ok());
    sized
        .and_then(|(width, height)| RgbImage::from_raw(width, height, bytes))
        .ok_or(ImageError::Bound { limit_mib: bound::MAX_BYTES >> 20 })
}

/// The square of `side` pixels at a place.
fn part(picture: &RgbImage, top: usize, left: usize, side: usize) -> Vec<u8> {
    let stride = picture.width() as usize * 3;
    let rows = picture.as_raw().chunks_exact(stride).skip(top).take(side);
    rows.flat_map(|row| row[left * 3..(left + side) * 3].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILING: Tiling = Tiling { longest_edge: Some(32), tile: 16, split: true };

    #[test]
    fn sizes_are_even_and_within_bounds() {
        assert_eq!(TILING.fitted((22, 37), 32), (20, 32));
        assert_eq!(TILING.fitted((33, 19), 32), (32, 18));
        assert_eq!(TILING.fitted((1, 900), 32), (1, 32));
        assert_eq!(TILING.fitted((30, 40), 8192), (3072, 4096));
        assert_eq!(TILING.whole_tiles((20, 32)), (32, 32));
        assert_eq!(TILING.whole_tiles((1, 33)), (16, 48));
        assert_eq!(TILING.whole_tiles((16, 16)), (16, 16));
    }

    #[test]
    fn too_many_tiles_are_refused() {
        let picture = RgbImage::new(4000, 4000);
        let tiling = Tiling { longest_edge: None, tile: 8, split: true };
        let refused = tiling.cut(&picture, Filter::Nearest);
        assert!(matches!(refused, Err(ImageError::Bound { .. })));
    }
}
