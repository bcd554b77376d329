//! How exactly matrix products are computed.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// How exactly f32 matrices are multiplied, under PyTorch's names for it
/// (`set_float32_matmul_precision`). Sums are f32 always, and so is all that is stored.
///
/// Less than `Highest` counts where the processor multiplies bfloat16 faster than f32: on the
/// pure-Rust CPU backend (`flex`) those with AMX (Sapphire Rapids and later), and for `Medium` those whose vectors
/// know bfloat16 (Zen 4 and later), in the products of [`linear`](super::linear) maps and most of
/// [`attention`](super::attention). Everywhere else it changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32: 24 bits.
    #[default]
    Highest,
    /// Each factor as the sum of two bfloat16 numbers: 16 bits, three times the work of `Medium`.
    /// Infinite factors become NaN.
    High,
    /// Each factor as one bfloat16 number: 8 bits, as in mixed-precision training.
    Medium,
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Precision, String> {
        match name {
            "highest" => Ok(Precision::Highest),
            "high" => Ok(Precision::High),
            "medium" => Ok(Precision::Medium),
            other => Err(format!("`{other}` is none of highest, high, medium")),
        }
    }
}

static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Precision {
    const ALL: [Precision; 3] = [Precision::Highest, Precision::High, Precision::Medium];

    /// What counts in this process now.
    pub fn current() -> Precision {
        Self::ALL[usize::from(CURRENT.load(Ordering::Relaxed))]
    }

    /// Makes this one count, in the whole process, until the answer is dropped.
    #[must_use = "what was before counts again as soon as this is dropped"]
    pub fn scope(self) -> PrecisionScope {
        let before = Self::current();
        CURRENT.store(self as u8, Ordering::Relaxed);
        PrecisionScope(before)
    }
}

/// Holds a [`Precision`] in place; see [`Precision::scope`].
#[derive(Debug)]
pub struct PrecisionScope(Precision);

impl Drop for PrecisionScope {
    fn drop(&mut self) {
        CURRENT.store(self.0 as u8, Ordering::Relaxed);
    }
}
