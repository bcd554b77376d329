//! What becomes of a sample before it enters a batch.

use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vlm_datasets::{Augment, Dataset, augment};
use vlm_encoders::image::{self, ImageProcessor, Pixels};
use vlm_train::BoxError;

/// How a caption is chosen when there are several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionChoice {
    /// Probability of the first caption alone; otherwise one of the others.
    pub first: f32,
}

impl Default for CaptionChoice {
    fn default() -> Self {
        CaptionChoice { first: 1.0 }
    }
}

/// How samples are prepared; the `[sample]` section of a run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// Which caption.
    pub captions: CaptionChoice,
    /// Share of the patches that are looked at in training (FLIP, arXiv 2212.00794).
    pub patch_keep: f32,
    /// Changes to the pictures.
    pub augment: Augment,
}

impl Default for SampleConfig {
    fn default() -> Self {
        SampleConfig {
            captions: CaptionChoice::default(),
            patch_keep: 1.0,
            augment: Augment::default(),
        }
    }
}

/// A sample, ready.
pub(crate) struct Prepared {
    pub pixels: Pixels,
    pub caption: String,
    pub keep: Vec<i64>,
}

/// Prepares samples of one epoch.
pub(crate) struct Preparer {
    pub data: Arc<Dataset>,
    /// The samples of each group.
    pub members: Arc<Vec<Vec<usize>>>,
    pub groups: Arc<Vec<u32>>,
    pub images: ImageProcessor,
    pub config: SampleConfig,
    pub patches: usize,
    pub seed: u64,
    pub epoch: u64,
}

impl Preparer {
    /// The sample as this epoch sees it, always the same for the same seed.
    pub fn prepare(&self, index: usize) -> Result<Prepared, BoxError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.epoch << 32 | index as u64);
        let sample = &self.data.samples[index];
        let picture = image::load_rgba(&sample.image)?;
        let members = &self.members[self.groups[index] as usize];
        let other = if self.config.augment.blend > 0.0 && members.len() > 1 {
            let pick = members[rng.random_range(0..members.len())];
            let path: &Path = &self.data.samples[pick].image;
            (pick != index).then(|| image::load_rgba(path)).transpose()?
        } else {
            None
        };
        let rgb = augment(&picture, other.as_ref(), &self.config.augment, rng.random());
        let others = sample.captions.len() - 1;
        let caption = if others == 0 || rng.random::<f32>() < self.config.captions.first {
            &sample.captions[0]
        } else {
            &sample.captions[1 + rng.random_range(0..others)]
        };
        let kept = (self.config.patch_keep * self.patches as f32).round() as usize;
        let keep =
            if kept < self.patches { pick(kept.max(1), self.patches, &mut rng) } else { vec![] };
        Ok(Prepared { pixels: self.images.process(&rgb)?, caption: caption.clone(), keep })
    }
}

/// `count` of `0..of` without repetition, in rising order.
fn pick(count: usize, of: usize, rng: &mut ChaCha8Rng) -> Vec<i64> {
    let mut all: Vec<i64> = (0..of as i64).collect();
    for i in 0..count {
        let j = rng.random_range(i..of);
        all.swap(i, j);
    }
    all.truncate(count);
    all.sort_unstable();
    all
}
