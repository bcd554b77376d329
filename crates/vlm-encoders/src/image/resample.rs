//! Resizing of 8-bit RGB pictures, equal to Pillow's to the bit.
//!
//! Two passes in fixed point, along rows and along columns, each rounded to 8 bits
//! (Pillow 13.0, `src/libImaging/Resample.c`). Only the part of the result that is asked for is
//! computed: CLIP crops the middle out of what it resizes, and a strip of 1 × 20,000 pixels
//! would otherwise be blown up to gigabytes to be thrown away.

use std::borrow::Cow;
use std::ops::Range;

use ::image::RgbImage;

use super::bound;
use super::error::ImageError;
use super::filter::{Filter, PRECISION_BITS, Weights};
use super::passes;

/// The part of a resized picture to compute, in its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Columns.
    pub x: Range<usize>,
    /// Rows.
    pub y: Range<usize>,
}

impl Window {
    /// All of a picture of `width` × `height`.
    pub fn full(width: usize, height: usize) -> Self {
        Self { x: 0..width, y: 0..height }
    }
}

/// Resizes `picture` to `width` × `height` and returns `window` of the result, rows of interleaved
/// RGB: `[window rows, window columns, 3]`.
///
/// An axis that keeps its length is not resampled, as in Pillow.
///
/// # Errors
/// [`ImageError::EmptyPicture`] if a side is 0, [`ImageError::Bound`] if the result, or what has to
/// be kept on the way, would take more than 256 MiB or the window lies outside of the result.
pub fn resize(
    picture: &RgbImage,
    width: usize,
    height: usize,
    window: &Window,
    filter: Filter,
) -> Result<Vec<u8>, ImageError> {
    let (source_w, source_h) = (picture.width() as usize, picture.height() as usize);
    if source_w == 0 || source_h == 0 || width == 0 || height == 0 {
        return Err(ImageError::EmptyPicture);
    }
    if window.x.start > window.x.end
        || window.y.start > window.y.end
        || window.x.end > width
        || window.y.end > height
    {
        return Err(ImageError::Bound { limit_mib: bound::MAX_BYTES >> 20 });
    }
    let out_w = window.x.len();
    bound::check(out_w * 3, window.y.len())?;
    if window.x.is_empty() || window.y.is_empty() {
        return Ok(Vec::new());
    }
    if filter == Filter::Nearest {
        return Ok(nearest(picture, width, height, window));
    }

    let columns = weights(filter, source_w, width, &window.x)?;
    let rows = weights(filter, source_h, height, &window.y)?;
    // The part of the source that the passes read.
    let band_x = columns.as_ref().map_or(window.x.clone(), |w| w.begin()..w.end);
    let band_y = rows.as_ref().map_or(window.y.clone(), |w| w.begin()..w.end);
    let source = &picture.as_raw()[band_y.start * source_w * 3..band_y.end * source_w * 3];

    if columns_first((source_w, source_h), (width, height)) {
        let source = columns_of(source, source_w, &band_x);
        let lowered = down(source, band_x.len(), band_y.start, rows.as_ref())?;
        across(&lowered, band_x.len(), band_x.start, columns.as_ref())
    } else if columns.is_some() {
        let narrowed = across(source, source_w, 0, columns.as_ref())?;
        down(Cow::Owned(narrowed), out_w, band_y.start, rows.as_ref()).map(Cow::into_owned)
    } else {
        let source = columns_of(source, source_w, &band_x);
        down(source, out_w, band_y.start, rows.as_ref()).map(Cow::into_owned)
    }
}

/// Which pass goes first decides where the rounding to bytes falls. Pillow 13 begins with the
/// columns if the height shrinks by more than twice as many pixels as the width; Pillow up to 12
/// always began with the rows, which differs by a level here and there in upright pictures.
fn columns_first(source: (usize, usize), target: (usize, usize)) -> bool {
    source.1 > target.1 && source.1 + 2 * target.0 > target.1 + 2 * source.0
}

/// The pass along rows, if there is one. Pixel 0 of a row is position `first` of its axis.
fn across(
    source: &[u8],
    width: usize,
    first: usize,
    weights: Option<&Weights>,
) -> Result<Vec<u8>, ImageError> {
    let Some(weights) = weights else { return Ok(source.to_vec()) };
    bound::check(weights.starts.len() * 3, source.len() / (width * 3))?;
    Ok(passes::along_rows(source, width, first, weights))
}

/// The pass along columns, if there is one. Row 0 is position `first` of its axis.
fn down<'a>(
    source: Cow<'a, [u8]>,
    width: usize,
    first: usize,
    weights: Option<&Weights>,
) -> Result<Cow<'a, [u8]>, ImageError> {
    let Some(weights) = weights else { return Ok(source) };
    bound::check(weights.starts.len(), width * 3)?;
    Ok(Cow::Owned(passes::along_columns(&source, width * 3, first, weights)))
}

/// `None` if the axis keeps its length.
fn weights(
    filter: Filter,
    source: usize,
    target: usize,
    window: &Range<usize>,
) -> Result<Option<Weights>, ImageError> {
    if source == target {
        return Ok(None);
    }
    Weights::new(filter, source, target, window.clone()).map(Some)
}

fn columns_of<'a>(source: &'a [u8], width: usize, columns: &Range<usize>) -> Cow<'a, [u8]> {
    if columns.len() == width {
        return Cow::Borrowed(source);
    }
    let rows = source.chunks_exact(width * 3);
    let mut out = Vec::with_capacity(rows.len() * columns.len() * 3);
    rows.for_each(|row| out.extend_from_slice(&row[columns.start * 3..columns.end * 3]));
    Cow::Owned(out)
}

fn nearest(picture: &RgbImage, width: usize, height: usize, window: &Window) -> Vec<u8> {
    let (source_w, source_h) = (picture.width() as usize, picture.height() as usize);
    let xs = nearest_positions(source_w, width, &window.x);
    let ys = nearest_positions(source_h, height, &window.y);
    let raw = picture.as_raw();
    let mut out = Vec::with_capacity(xs.len() * ys.len() * 3);
    for y in ys {
        let row = &raw[y * source_w * 3..(y + 1) * source_w * 3];
        for &x in &xs {
            out.extend_from_slice(&row[x * 3..x * 3 + 3]);
        }
    }
    out
}

/// Pillow adds the step again and again instead of multiplying, and so do we: the sums decide
/// between neighbours where a position falls on the border of two pixels.
fn nearest_positions(source: usize, target: usize, window: &Range<usize>) -> Vec<usize> {
    let step = source as f64 / target as f64;
    let mut at = step * 0.5;
    let mut positions = Vec::with_capacity(window.len());
    for position in 0..window.end {
        if position >= window.start {
            positions.push((at as usize).min(source - 1));
        }
        at += step;
    }
    positions
}

/// The 8-bit value of an accumulator, which holds half a step already.
#[inline(always)]
pub(super) fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut state = 1u32;
        RgbImage::from_fn(width, height, |_, _| {
            ::image::Rgb([0; 3].map(|_: u8| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        })
    }

    #[test]
    fn a_window_is_the_same_part_of_the_whole() {
        let picture = noise(53, 37);
        for number in 0..=5 {
            let filter = Filter::from_pillow(number).unwrap();
            for (width, height) in [(20, 14), (91, 80), (53, 20), (20, 37), (53, 37)] {
                let whole =
                    resize(&picture, width, height, &Window::full(width, height), filter).unwrap();
                let window = Window { x: 3..15, y: 2..13 };
                let part = resize(&picture, width, height, &window, filter).unwrap();
                for (row, y) in part.chunks_exact(12 * 3).zip(2..13) {
                    let at = (y * width + 3) * 3;
                    assert_eq!(row, &whole[at..at + 36], "{filter:?} {width}x{height} row {y}");
                }
            }
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = noise(9, 4);
        for number in 0..=5 {
            let filter = Filter::from_pillow(number).unwrap();
            let out = resize(&picture, 9, 4, &Window::full(9, 4), filter).unwrap();
            assert_eq!(&out, picture.as_raw());
        }
    }

    #[test]
    fn a_strip_costs_only_its_window() {
        let strip = noise(1, 20_000);
        let window = Window { x: 0..224, y: 2_239_888..2_240_112 };
        let out = resize(&strip, 224, 4_480_000, &window, Filter::Bicubic).unwrap();
        assert_eq!(out.len(), 224 * 224 * 3);
        let whole = resize(&strip, 224, 4_480_000, &Window::full(224, 4_480_000), Filter::Bicubic);
        assert!(matches!(whole, Err(ImageError::Bound { .. })));
    }

    #[test]
    fn nothing_in_or_out_is_an_error_not_a_panic() {
        let none = RgbImage::new(0, 3);
        let full = Window::full(2, 2);
        assert!(matches!(
            resize(&none, 2, 2, &full, Filter::Bicubic),
            Err(ImageError::EmptyPicture)
        ));
        let outside = Window { x: 0..9, y: 0..2 };
        assert!(resize(&noise(3, 3), 2, 2, &outside, Filter::Bilinear).is_err());
        let empty = Window { x: 1..1, y: 0..2 };
        assert!(resize(&noise(3, 3), 2, 2, &empty, Filter::Bilinear).unwrap().is_empty());
    }
}
