//! The centre crop, as transformers' `center_crop` places it.

use std::ops::Range;

/// One axis of a centre crop: which part of the resized picture is seen, and where it stands in
/// the cropped one. What is not covered is padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Positions taken from the resized picture.
    pub(super) from: Range<usize>,
    /// Position of the first of them in the result.
    pub(super) at: usize,
}

/// Cuts or pads an axis of `have` pixels to `want`: a surplus of an odd number leaves the smaller
/// half before the crop, a lack of an odd number the larger half before the picture.
pub(super) fn centre(have: usize, want: usize) -> Placed {
    if have >= want {
        let start = (have - want) / 2;
        Placed { from: start..start + want, at: 0 }
    } else {
        Placed { from: 0..have, at: (want - have).div_ceil(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_surplus_and_lack() {
        assert_eq!(centre(7, 4), Placed { from: 1..5, at: 0 });
        assert_eq!(centre(4, 7), Placed { from: 0..4, at: 2 });
        assert_eq!(centre(5, 5), Placed { from: 0..5, at: 0 });
    }
}
