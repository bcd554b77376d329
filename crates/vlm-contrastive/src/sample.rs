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
    /// Of another caption that is a list with commas, such as tags, at most this many parts
    /// are taken, in any order; 0 takes the caption as it is.
    pub parts: usize,
    /// Probability that the first caption stands before another one.
    pub joined: f32,
}

impl Default for CaptionChoice {
    fn default() -> Self {
        CaptionChoice { first: 1.0, parts: 0, joined: 0.0 }
    }
}

impl CaptionChoice {
    /// One of `captions`, which are not empty.
    pub(crate) fn choose(&self, captions: &[String], rng: &mut ChaCha8Rng) -> String {
        let others = captions.len() - 1;
        if others == 0 || rng.random::<f32>() < self.first {
            return captions[0].clone();
        }
        let mut other = captions[1 + rng.random_range(0..others)].clone();
        if self.parts > 0 {
            let mut parts: Vec<&str> = other.split(',').map(str::trim).collect();
            let take = rng.random_range(1..=self.parts).min(parts.len());
            for i in 0..take {
                let j = rng.random_range(i..parts.len());
                parts.swap(i, j);
            }
            other = parts[..take].join(", ");
        }
        if rng.random::<f32>() < self.joined {
            other = format!("{}, {other}", captions[0]);
        }
        other
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
            // Any but the picture itself.
            let own = members.iter().position(|member| *member == index).unwrap_or_default();
            let step = rng.random_range(1..members.len());
            let path: &Path = &self.data.samples[members[(own + step) % members.len()]].image;
            Some(image::load_rgba(path)?)
        } else {
            None
        };
        let rgb = augment(&picture, other.as_ref(), &self.config.augment, rng.random());
        let caption = self.config.captions.choose(&sample.captions, &mut rng);
        let kept = (self.config.patch_keep * self.patches as f32).round() as usize;
        let keep =
            if kept < self.patches { pick(kept.max(1), self.patches, &mut rng) } else { vec![] };
        Ok(Prepared { pixels: self.images.process(&rgb)?, caption, keep })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_chosen_as_asked() {
        let captions = ["cat".to_owned(), "animal, pet, whiskers".to_owned()];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |choice: &CaptionChoice| -> std::collections::BTreeSet<String> {
            (0..200).map(|_| choice.choose(&captions, &mut rng)).collect()
        };
        let seen = draw(&CaptionChoice { first: 1.0, parts: 2, joined: 1.0 });
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["cat"]);
        let seen = draw(&CaptionChoice { first: 0.5, parts: 0, joined: 0.0 });
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["animal, pet, whiskers", "cat"]);
        let seen = draw(&CaptionChoice { first: 0.0, parts: 2, joined: 1.0 });
        // One of three, or two of three in either order.
        assert_eq!(seen.len(), 3 + 6);
        assert!(seen.iter().all(|caption| caption.starts_with("cat, ")), "{seen:?}");
    }

    #[test]
    fn a_pick_is_a_sorted_set() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let picked = pick(5, 9, &mut rng);
            assert!(picked.len() == 5 && picked.windows(2).all(|w| w[0] < w[1]));
        }
    }
}
