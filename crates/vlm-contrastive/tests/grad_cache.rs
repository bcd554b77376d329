//! Gradients in chunks are those of the whole batch (GradCache).
#![cfg(feature = "train")]

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use image::{Rgb, RgbImage};
use vlm_contrastive::{DualEncoder, Loss, PairBatch, gradients};
use vlm_encoders::image::{CLIP_MEAN, CLIP_STD, ImageProcessor};
use vlm_encoders::{ClipConfig, Start, TextConfig, VisionConfig, text};
use vlm_nn::params::PathStack;
use vlm_train::Grads;

const COLS: usize = 9;

/// Values by parameter path.
type Values = BTreeMap<String, Vec<f32>>;

fn config() -> ClipConfig {
    ClipConfig {
        vision: VisionConfig {
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            image_size: 24,
            patch_size: 8,
            ..Default::default()
        },
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 24,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            max_position_embeddings: COLS,
            bos_token_id: 38,
            eos_token_id: 39,
            ..Default::default()
        },
        projection_dim: 16,
        ..Default::default()
    }
}

/// A number in 0…`below` that looks random.
fn some(i: usize, below: usize) -> usize {
    (i * 7919 + 104_729) % 2003 % below
}

/// `pictures` pairs and `extra` texts; every third pair shares the group of the one before it.
fn batch(pictures: usize, extra: usize, keep: bool) -> PairBatch {
    let rows = pictures + extra;
    let processor = ImageProcessor::clip(24, CLIP_MEAN, CLIP_STD);
    let image = |p: usize| {
        let sample = |i: usize| (some(p * 1728 + i, 200) + (p % 5) * 10) as u8;
        let picture = RgbImage::from_fn(24, 24, |x, y| {
            let at = 3 * (24 * y + x) as usize;
            Rgb([sample(at), sample(at + 1), sample(at + 2)])
        });
        processor.process(&picture).unwrap()
    };
    // Of different lengths, so that chunks differ in the tokens they need.
    let ends: Vec<i64> = (0..rows).map(|r| 2 + some(r, COLS - 2) as i64).collect();
    let ids = ends.iter().enumerate().flat_map(|(r, &end)| {
        (0..COLS as i64).map(move |c| match c {
            0 => 38,
            c if c == end => 39,
            c if c > end => 0,
            c => some(r * COLS + c as usize, 38) as i64,
        })
    });
    let groups: Vec<u32> = (0..rows as u32).map(|i| if i % 3 == 2 { i - 1 } else { i }).collect();
    PairBatch {
        pictures: (0..pictures).map(image).collect(),
        keep: (0..if keep { pictures } else { 0 })
            .map(|p| (0..9).filter(|patch| (patch + p as i64) % 3 != 0).collect())
            .collect(),
        texts: text::Batch {
            ids: ids.collect(),
            mask: vec![true; rows * COLS],
            types: vec![0; rows * COLS],
            rows,
            cols: COLS,
            truncated: 0,
        },
        ends,
        picture_groups: groups[..pictures].to_vec(),
        text_groups: groups,
    }
}

/// Loss and gradients.
fn run(batch: &PairBatch, loss: Loss, chunk: usize, weight: f32) -> (f64, Values) {
    struct Reader<'a>(PathStack, &'a Grads, Values);
    impl ModuleVisitor for Reader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.0.path();
            let grad = self.1.get::<D>(param.id).unwrap_or_else(|| panic!("{path}: no gradient"));
            self.2.insert(path, grad.into_data().try_to_vec().unwrap());
        }
    }
    let device = Device::flex().autodiff();
    let model = DualEncoder::init(&config(), Start::Clip, loss, 3, &device);
    let mut grads = Grads::default();
    let value = gradients(&model, batch, loss, chunk, weight, &mut grads);
    let mut reader = Reader(PathStack::default(), &grads, Values::new());
    model.visit(&mut reader);
    (value, reader.2)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |a, x| a.max(x.abs()))
}

/// The largest difference, relative to the largest value of its tensor, and where it is.
fn difference(got: &Values, want: &Values) -> (f32, String) {
    assert!(got.keys().eq(want.keys()));
    let all = want.values().map(|x| largest(x)).fold(0.0, f32::max);
    let of = |(path, want): (&String, &Vec<f32>)| {
        // A bias of the keys shifts all scores of a query alike, which softmax does not see: its
        // gradient is 0 but for rounding, and has no size to compare with.
        let size = if path.ends_with(".k.bias") { all } else { largest(want) };
        assert!(size > 0.0, "{path}: the gradient is zero, so this compares nothing");
        let apart: Vec<f32> = got[path].iter().zip(want).map(|(g, w)| g - w).collect();
        (largest(&apart) / size, path.clone())
    };
    want.iter().map(of).fold((0.0, String::new()), |a, b| if b.0 > a.0 { b } else { a })
}

#[test]
fn chunks_have_the_gradient_of_the_whole_batch() {
    for loss in [Loss::InfoNce, Loss::Sigmoid] {
        // Pictures, extra texts, chunk (even, uneven, texts only, single), patches dropped, weight.
        for (pictures, extra, chunk, keep, weight) in [
            (12, 0, 4, false, 1.0),
            (13, 5, 4, true, 1.0),
            (13, 5, 17, false, 0.5),
            (6, 3, 1, true, 1.0),
        ] {
            let batch = batch(pictures, extra, keep);
            let (whole_loss, whole) = run(&batch, loss, 0, weight);
            let (chunked_loss, chunked) = run(&batch, loss, chunk, weight);
            let what = format!("{loss:?}, {pictures} + {extra} in chunks of {chunk}");
            assert!((chunked_loss - whole_loss).abs() < 1e-5 * whole_loss, "{what}: loss");
            let (apart, path) = difference(&chunked, &whole);
            assert!(apart < 1e-5, "{what}: {path} is {apart:e} apart");
        }
    }
}

#[test]
fn a_wrong_gradient_would_be_seen() {
    // What a careless accumulation computes: each half with a loss of its own. If that passed for
    // the whole batch's gradient, the test above would prove nothing.
    let batch = batch(12, 0, false);
    let (_, whole) = run(&batch, Loss::InfoNce, 0, 1.0);
    let half = |from: usize, to: usize| PairBatch {
        pictures: batch.pictures[from..to].to_vec(),
        keep: Vec::new(),
        texts: text::Batch {
            ids: batch.texts.ids[from * COLS..to * COLS].to_vec(),
            rows: to - from,
            ..batch.texts.clone()
        },
        ends: batch.ends[from..to].to_vec(),
        picture_groups: batch.picture_groups[from..to].to_vec(),
        text_groups: batch.text_groups[from..to].to_vec(),
    };
    let (_, mut sum) = run(&half(0, 6), Loss::InfoNce, 0, 0.5);
    let (_, second) = run(&half(6, 12), Loss::InfoNce, 0, 0.5);
    for (path, values) in &mut sum {
        for (a, b) in values.iter_mut().zip(&second[path]) {
            *a += b;
        }
    }
    let (apart, path) = difference(&sum, &whole);
    assert!(apart > 0.1, "{path} is only {apart:e} apart");
}
