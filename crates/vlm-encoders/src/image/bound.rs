//! How much memory one step of image processing may take.

use super::error::ImageError;

/// Bytes that one table or picture of the resampler may take: 256 MiB. A picture of 8,000 × 8,000
/// fits; a strip of 1 × 20,000 blown up to a shorter edge of 224 without a crop does not.
pub(super) const MAX_BYTES: usize = 256 << 20;

/// Checks that `count` items of `bytes` each stay within [`MAX_BYTES`].
///
/// # Errors
/// [`ImageError::Bound`] with the size asked for.
pub(super) fn check(count: usize, bytes: usize) -> Result<(), ImageError> {
    match count.checked_mul(bytes) {
        Some(total) if total <= MAX_BYTES => Ok(()),
        _ => Err(ImageError::Bound { limit_mib: MAX_BYTES >> 20 }),
    }
}
