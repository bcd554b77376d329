//! Resampling filters and their fixed-point weights, as Pillow defines them.
//!
//! Follows Pillow 13.0 (`src/libImaging/Resample.c`, 8-bit path): the filter is widened by the
//! downscaling factor (antialias), weights are normalised in double precision and then rounded
//! to 22 fractional bits. Equal rounding is what makes the resized pictures equal to the bit.

use super::error::ImageError;

/// Fractional bits of a weight: 32 bits of accumulator less 8 of the sample and 2 of headroom
/// for filters that overshoot.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A resampling filter, with Pillow's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// 0: the nearest source pixel, without antialias.
    Nearest,
    /// 1: Lanczos, three lobes.
    Lanczos,
    /// 2: triangle.
    Bilinear,
    /// 3: cubic with a = −0.5 (Catmull-Rom), CLIP's filter.
    Bicubic,
    /// 4: mean of the covered pixels.
    Box,
    /// 5: Hamming-windowed sinc, one lobe.
    Hamming,
}

impl Filter {
    /// The filter with this Pillow number; `None` if there is no such number.
    pub fn from_pillow(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// Pillow's number of this filter.
    pub fn pillow(self) -> i64 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// Half width of the filter at scale 1, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Box | Self::Nearest => 0.5,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bilinear if x.abs() < 1.0 => 1.0 - x.abs(),
            Self::Bicubic => cubic(x.abs()),
            // Half open, so that a pixel on the border of two windows counts once.
            Self::Box | Self::Nearest if x > -0.5 && x <= 0.5 => 1.0,
            Self::Hamming => hamming(x.abs()),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * std::f64::consts::PI;
    // Pillow writes these two in single precision.
    x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
}

/// The weights of a run of output positions along one axis.
pub(super) struct Weights {
    /// First source position of each output position.
    pub(super) starts: Vec<usize>,
    /// `taps` fixed-point weights for each output position; unused ones are 0.
    pub(super) values: Vec<i32>,
    /// Weights stored for each output position.
    pub(super) taps: usize,
    /// One past the last source position that any of them reads.
    pub(super) end: usize,
}

impl Weights {
    /// Weights for the output positions `window` of an axis resized from `source` to `target`.
    ///
    /// # Errors
    /// [`ImageError::Bound`] if the table would be absurdly large.
    pub(super) fn new(
        filter: Filter,
        source: usize,
        target: usize,
        window: std::ops::Range<usize>,
    ) -> Result<Self, ImageError> {
        let scale = source as f64 / target as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        // Never wider than the axis itself: the window is cut at both ends.
        let taps = ((support.ceil() as usize).saturating_mul(2).saturating_add(1)).min(source);
        // An even number lets the inner loop take two at once.
        let taps = taps.next_multiple_of(2);
        super::bound::check(window.len(), taps * 4)?;

        let mut starts = Vec::with_capacity(window.len());
        let mut values = vec![0; window.len() * taps];
        let mut end = 0;
        let mut exact = vec![0.0; taps];
        for (position, slots) in window.zip(values.chunks_exact_mut(taps)) {
            let center = (position as f64 + 0.5) * scale;
            let first = ((center - support + 0.5).max(0.0) as usize).min(source);
            let last = ((center + support + 0.5) as usize).min(source);
            let used = last.saturating_sub(first).min(taps);
            let mut total = 0.0;
            for (tap, weight) in exact[..used].iter_mut().enumerate() {
                // The division is done beforehand, as Pillow does: the last bit depends on it.
                *weight = filter.weight(((tap + first) as f64 - center + 0.5) * (1.0 / stretch));
                total += *weight;
            }
            for (slot, weight) in slots.iter_mut().zip(&exact[..used]) {
                *slot = fixed(if total == 0.0 { *weight } else { *weight / total });
            }
            end = end.max(first + used);
            starts.push(first);
        }
        Ok(Self { starts, values, taps, end })
    }

    /// The weights of output position `index`, counted from the start of the window.
    pub(super) fn row(&self, index: usize) -> &[i32] {
        &self.values[index * self.taps..(index + 1) * self.taps]
    }

    /// First source position that any of them reads.
    pub(super) fn begin(&self) -> usize {
        self.starts.iter().copied().min().unwrap_or(0)
    }
}

/// Rounds half away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_an_output_pixel_add_up_to_one() {
        for number in 1..=5 {
            let filter = Filter::from_pillow(number).unwrap();
            let weights = Weights::new(filter, 101, 13, 2..11).unwrap();
            for index in 0..9 {
                let sum: i32 = weights.row(index).iter().sum();
                // Each weight is rounded by at most half a step.
                assert!((sum - (1 << PRECISION_BITS)).abs() <= weights.taps as i32, "{filter:?}");
            }
        }
    }

    #[test]
    fn numbers_go_both_ways() {
        for number in 0..=5 {
            assert_eq!(Filter::from_pillow(number).unwrap().pillow(), number);
        }
        assert_eq!(Filter::from_pillow(6), None);
    }

    #[test]
    fn an_absurd_table_is_refused() {
        assert!(Weights::new(Filter::Bicubic, 1 << 20, 1 << 19, 0..1 << 40).is_err());
    }
}
