//! What the programs of this package share: inputs, timing, and what the system says about the
//! process and the machine.

use std::path::Path;
use std::time::Instant;

use anyhow::{Error, Result};
use burn::tensor::{Device, Int, Tensor, TensorData};
use image::{Rgb, RgbImage};
use vlm_contrastive::PairBatch;
use vlm_encoders::image::{CLIP_MEAN, CLIP_STD, ImageProcessor};
use vlm_encoders::text::Batch;
use vlm_encoders::{Blueprint, ClipConfig, DualModel, Float, Start, TextModel, Weights};
use vlm_nn::ops::class_cross_entropy;

/// `count` pairs in the sizes of `config`, each a positive of its own; texts fill the context.
pub fn pairs(config: &ClipConfig, count: usize) -> PairBatch {
    let (image, text) = (&config.vision, &config.text);
    let mut noise = Noise(count as u64);
    let size = image.image_size;
    let processor = ImageProcessor::clip(size, CLIP_MEAN, CLIP_STD);
    let pictures = (0..count).map(|_| {
        let mut sample = || (noise.next() * 127.0 + 128.0) as u8;
        let picture =
            RgbImage::from_fn(size as u32, size as u32, |_, _| Rgb([sample(), sample(), sample()]));
        processor.process(&picture).expect("a picture of the right size")
    });
    let pictures = pictures.collect();
    let cols = text.max_position_embeddings;
    let ids = (0..count * cols).map(|i| match i % cols {
        0 => text.bos_token_id,
        place if place == cols - 1 => text.eos_token_id,
        _ => (noise.next().abs() * (text.bos_token_id - 1) as f32) as i64,
    });
    let ids = ids.collect();
    PairBatch {
        pictures,
        keep: Vec::new(),
        texts: Batch {
            ids,
            mask: vec![true; count * cols],
            types: vec![0; count * cols],
            rows: count,
            cols,
            truncated: 0,
        },
        ends: vec![cols as i64 - 1; count],
        picture_groups: (0..count as u32).collect(),
        text_groups: (0..count as u32).collect(),
    }
}

/// Texts of so many tokens that a vocabulary has; the same in benches/adapt.py.
pub fn ids([batch, tokens]: [usize; 2], vocabulary: usize, device: &Device) -> Tensor<2, Int> {
    let known = vocabulary - 100;
    let ids = (0..batch * tokens).map(|i| ((i * 7919 + 13) % known + 100) as i64);
    let ids = TensorData::new(ids.collect::<Vec<_>>(), [batch, tokens]);
    Tensor::from_data(ids, device)
}

/// The mean loss of the last tokens of texts.
pub fn answer_loss(model: &TextModel, ids: Tensor<2, Int>, answer: usize) -> Tensor<1> {
    let ([batch, tokens], vocabulary) = (ids.dims(), model.text.vocabulary());
    let states = model.text.states(ids.clone(), None, None, false).last;
    let logits = model.text.logits(states.narrow(1, tokens - answer - 1, answer));
    let wanted = ids.narrow(1, tokens - answer, answer).reshape([batch * answer]);
    class_cross_entropy(logits.reshape([batch * answer, vocabulary]), wanted).mean()
}

/// Writes a CLIP model of ViT-B/32 size with random weights.
///
/// # Errors
/// What the operating system reports.
pub fn write_clip(dir: &Path, device: &Device) -> Result<()> {
    let config = ClipConfig::default();
    let plan = Blueprint::clip(&config).map_err(Error::msg)?;
    let model = DualModel::init(&config, Start::Clip, 0, device);
    Ok(Weights::Dual(plan, model).save(dir, Float::F32)?)
}

/// Values in −1…1 without a pattern (xorshift).
pub struct Noise(pub u64);

impl Noise {
    /// The next value.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> f32 {
        // A state of 0 would stay 0.
        let mut x = self.0 ^ 0x9e37_79b9_7f4a_7c15;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0 = x ^ 0x9e37_79b9_7f4a_7c15;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Runs `step` `warm` times unmeasured, then `repeats` times; returns the seconds of each.
pub fn time(warm: usize, repeats: usize, device: &Device, mut step: impl FnMut()) -> Vec<f64> {
    (0..warm + repeats)
        .map(|_| {
            let start = Instant::now();
            step();
            // A GPU backend only queues; what is not finished was not measured.
            let _ = device.sync();
            start.elapsed().as_secs_f64()
        })
        .skip(warm)
        .collect()
}

/// The middle value; the mean of the middle two of an even number; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// A field of `/proc/self/status` in MiB, such as `VmHWM`, the most memory that this process
/// ever held; `None` where there is no such file.
pub fn memory(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// The widest vectors that the kernels use on this processor.
pub fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            "AVX-512"
        } else if std::is_x86_feature_detected!("avx2") {
            "AVX2"
        } else {
            "SSE2"
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        if cfg!(target_arch = "aarch64") { "NEON" } else { "none" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn noise_is_bounded_and_spread() {
        let mut noise = Noise(0);
        let values: Vec<f32> = (0..1000).map(|_| noise.next()).collect();
        assert!(values.iter().all(|x| (-1.0..=1.0).contains(x)));
        let mean = values.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
    }

    #[test]
    fn pairs_have_the_sizes_of_the_model() {
        let config = ClipConfig::default();
        let batch = pairs(&config, 2);
        assert_eq!(batch.pictures[1].size(), (224, 224));
        assert_eq!(batch.texts.ids.len(), 2 * 77);
        assert!(batch.texts.ids.iter().all(|id| (0..49408).contains(id)));
        assert_eq!(batch.texts.ids[76], 49407);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_how_much_memory_was_held() {
        assert!(memory("VmHWM").unwrap() >= memory("VmRSS").unwrap() * 0.5);
        assert_eq!(memory("VmNothing"), None);
    }
}
