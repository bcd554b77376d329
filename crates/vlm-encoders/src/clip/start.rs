//! The values that a new model starts with.

use burn::tensor::{Device, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vlm_nn::params::{self, Init};

use super::{ClipConfig, VisionConfig};
use crate::DualModel;
use crate::families::clip_spec;

/// How a new model starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// CLIP's values, as in `_init_weights` of `modeling_clip.py`.
    #[default]
    Clip,
    /// CLIP's values, but each head of the first image block looks at patches of its own from
    /// the first step on. A small vision transformer on little data spends most of its time on
    /// finding that out (compare Trockman and Kolter 2023, arXiv 2305.09828).
    ///
    /// Needs more values a token (`hidden_size`) than there are patches.
    Located,
}

/// Replaces every value of `model`.
fn fill(model: DualModel, config: &ClipConfig, start: Start, seed: u64) -> DualModel {
    let model = params::initialize(model, seed, &|path, shape| clip(config, path, shape));
    match start {
        Start::Clip => model,
        Start::Located => locate(model, &config.vision, seed),
    }
}

impl DualModel {
    /// A CLIP model with start values, which depend on nothing but `start` and the seed.
    pub fn init(config: &ClipConfig, start: Start, seed: u64, device: &Device) -> Self {
        fill(DualModel::new(&clip_spec(config), device), config, start, seed)
    }
}

/// CLIP's start values.
fn clip(config: &ClipConfig, path: &str, shape: &[usize]) -> Init {
    let vision = path.starts_with("vision.");
    let (width, layers) = if vision {
        (config.vision.hidden_size as f64, config.vision.num_hidden_layers)
    } else {
        (config.text.hidden_size as f64, config.text.num_hidden_layers)
    };
    let deep = (2.0 * layers.max(1) as f64).powf(-0.5);
    if path == "logit_scale" {
        Init::Constant(config.logit_scale_init_value as f32)
    } else if path.contains("norm") && path.ends_with("weight") {
        Init::Constant(1.0)
    } else if path.ends_with("bias") {
        Init::Constant(0.0)
    } else if path.ends_with("projection.weight") {
        Init::Normal((shape[0] as f64).powf(-0.5))
    } else if path.contains(".attention.out.") {
        Init::Normal(width.powf(-0.5))
    } else if path.contains(".attention.") || path.contains(".down.") {
        Init::Normal(width.powf(-0.5) * deep)
    } else if path.contains(".up.") {
        Init::Normal((2.0 * width).powf(-0.5))
    } else if path == "vision.class" {
        Init::Normal(width.powf(-0.5))
    } else {
        Init::Normal(0.02)
    }
}

/// How much more a head's own patch scores than the others, in the exponent of its softmax.
const OWN_PATCH: f64 = 5.0;
/// What is left of the sub-layers that come after the first attention.
const LATER: f32 = 0.3;
/// Of the first queries and keys, what stays random.
const RANDOM: f32 = 0.1;
/// Size of the values of the first attention, in units of 1/√width.
const VALUES: f64 = 2.0;

/// Ties the heads of the first block to patches.
///
/// Positions are orthogonal codes; the key of head `h` adds a direction `u` to the tokens that
/// carry the codes of its patches, and its query is that direction, whatever asks. The patch
/// map keeps the low frequencies of a patch, in the directions grey, red-green and yellow-blue.
fn locate(model: DualModel, vision: &VisionConfig, seed: u64) -> DualModel {
    let (width, heads) = (vision.hidden_size, vision.num_attention_heads);
    let head = width / heads;
    let grid = vision.image_size / vision.patch_size;
    let patches = grid * grid;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(1);
    let codes = orthonormal(width, &mut rng);
    let spread = orthonormal(width, &mut rng);
    let mix = orthonormal(width, &mut rng);
    let directions: Vec<Vec<f64>> = (0..heads).map(|_| unit(head, &mut rng)).collect();
    // After the norm a token is half code, half content: its code has length √(width / 2).
    let reach = (OWN_PATCH * (head as f64).sqrt() / (width as f64 / 2.0).sqrt()).sqrt();

    let first = |name: &str| format!("vision.stack.blocks.0.attention.{name}");
    let mut keys = values(&model, &first("k.weight"));
    let mut query_bias = vec![0.0; width];
    keys.iter_mut().for_each(|x| *x *= RANDOM);
    for (h, u) in directions.iter().enumerate() {
        for (j, u) in u.iter().enumerate() {
            query_bias[h * head + j] = (reach * u) as f32;
        }
        // As many heads as patches: one each; otherwise heads share patches, or patches heads.
        let own = (0..patches).filter(|p| {
            if patches >= heads { p * heads / patches == h } else { h % patches == *p }
        });
        for patch in own {
            for (i, code) in codes[patch + 1].iter().enumerate() {
                for (j, u) in u.iter().enumerate() {
                    keys[i * width + h * head + j] += (reach * u * code) as f32;
                }
            }
        }
    }

    let long = (width as f64).sqrt();
    let deep = (2.0 * vision.num_hidden_layers.max(1) as f64).sqrt();
    let filters = filters(vision, width / 2);
    let change = &mut |path: &str, shape: &[usize]| {
        let scaled = |by: f32| values(&model, path).into_iter().map(|x| x * by).collect();
        let later = path.strip_prefix("vision.stack.blocks.");
        let new: Option<Vec<f32>> = if path == "vision.positions" {
            // The class token has no place: its row is 0.
            let rows = codes[1..=patches].iter().flatten().map(|x| (x * long) as f32);
            Some(std::iter::repeat_n(0.0, width).chain(rows).collect())
        } else if path == "vision.class" {
            Some(vec![0.0; width])
        } else if path == "vision.patches.weight" {
            // [pixels, width]: each filter in one direction of the width.
            let rows = shape[0];
            let mut map = vec![0.0; rows * width];
            for (filter, direction) in filters.iter().zip(&spread) {
                for (row, f) in map.chunks_mut(width).zip(filter) {
                    row.iter_mut().zip(direction).for_each(|(x, d)| *x += (f * d) as f32);
                }
            }
            Some(map)
        } else if path == first("k.weight") {
            Some(keys.clone())
        } else if path == first("q.weight") {
            Some(scaled(RANDOM))
        } else if path == first("q.bias") {
            Some(query_bias.clone())
        } else if path == first("v.weight") {
            // CLIP's start divides the values by the depth; not here.
            Some(scaled((VALUES * deep) as f32))
        } else if path == first("out.weight") {
            Some(mix.iter().flatten().map(|x| *x as f32).collect())
        } else if later.is_some_and(|path| {
            path.ends_with("down.weight")
                || !path.starts_with("0.") && path.ends_with("attention.out.weight")
        }) {
            Some(scaled(LATER))
        } else {
            None
        };
        Ok::<_, std::convert::Infallible>(new.map(|x| TensorData::new(x, shape.to_vec())))
    };
    match params::replace(model.clone(), change) {
        Ok(model) => model,
        Err(never) => match never {},
    }
}

fn values(model: &DualModel, path: &str) -> Vec<f32> {
    params::read_one(model, path).iter::<f32>().collect()
}

/// Cosine filters over a patch, the lowest frequencies first, each in three colours; `[pixels]`
/// in the order channel, row, column, and of the length that a random patch map would have.
fn filters(vision: &VisionConfig, count: usize) -> Vec<Vec<f64>> {
    let (side, channels) = (vision.patch_size, vision.num_channels);
    let mut frequencies: Vec<(usize, usize)> =
        (0..side * side).map(|i| (i / side, i % side)).collect();
    frequencies.sort_by_key(|(v, u)| (u * u + v * v, *v));
    let colours: Vec<Vec<f64>> = if channels == 3 {
        vec![vec![1.0, 1.0, 1.0], vec![1.0, -1.0, 0.0], vec![1.0, 1.0, -2.0]]
    } else {
        (0..channels)
            .map(|c| (0..channels).map(|d| f64::from(u8::from(c == d))).collect())
            .collect()
    };
    let wave = |frequency: usize, i: usize| {
        (std::f64::consts::PI * frequency as f64 * (i as f64 + 0.5) / side as f64).cos()
    };
    let mut filters = Vec::new();
    for (v, u) in frequencies {
        for colour in &colours {
            let mut filter = Vec::with_capacity(channels * side * side);
            for c in colour {
                for y in 0..side {
                    filter.extend((0..side).map(|x| c * wave(v, y) * wave(u, x)));
                }
            }
            let length = filter.iter().map(|x| x * x).sum::<f64>().sqrt();
            filters.push(filter.into_iter().map(|x| x / length).collect());
            if filters.len() == count {
                return filters;
            }
        }
    }
    filters
}

/// `size` orthonormal rows of a random rotation (Gram and Schmidt).
fn orthonormal(size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(size);
    while rows.len() < size {
        let mut row = unit(size, rng);
        // Twice, since once leaves rounding errors that grow with the number of rows.
        for _ in 0..2 {
            for done in &rows {
                let along: f64 = row.iter().zip(done).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(done).for_each(|(a, b)| *a -= along * b);
            }
        }
        if scale_to_unit(&mut row) {
            rows.push(row);
        }
    }
    rows
}

/// A random direction.
fn unit(size: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    loop {
        // Sums of uniform numbers are near enough to normal for a direction.
        let mut row: Vec<f64> =
            (0..size).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0)).sum()).collect();
        if scale_to_unit(&mut row) {
            return row;
        }
    }
}

/// Whether there was enough length to scale.
fn scale_to_unit(row: &mut [f64]) -> bool {
    let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    row.iter_mut().for_each(|x| *x /= length.max(1e-12));
    length > 1e-9
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::TextConfig;

    fn config() -> ClipConfig {
        let vision = VisionConfig {
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            image_size: 16,
            patch_size: 8,
            ..VisionConfig::default()
        };
        let text = TextConfig {
            vocab_size: 50,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            ..TextConfig::default()
        };
        ClipConfig { vision, text, projection_dim: 16, ..ClipConfig::default() }
    }

    #[test]
    fn rotations_are_rotations() {
        let rows = orthonormal(40, &mut ChaCha8Rng::seed_from_u64(3));
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_located_head_looks_at_its_patch() {
        let model = DualModel::init(&config(), Start::Located, 1, &Device::flex());
        let pixels = burn::tensor::Tensor::random(
            [2, 3, 16, 16],
            burn::tensor::Distribution::Normal(0.0, 1.0),
            &Device::flex(),
        );
        let block = &model.vision.stack.blocks[0];
        let x = block.norm1.forward(model.vision.embed(pixels, None));
        let dots =
            |x: &burn::tensor::Tensor<3>| x.clone().into_data().iter::<f32>().collect::<Vec<f32>>();
        let (q, k) =
            (dots(&block.attention.q.forward(x.clone())), dots(&block.attention.k.forward(x)));
        for picture in 0..2 {
            for head in 0..4 {
                let score = |token: usize| -> f32 {
                    let at = |token: usize| (picture * 5 + token) * 48 + head * 12;
                    (0..12).map(|j| q[at(0) + j] * k[at(token) + j]).sum::<f32>() / 12f32.sqrt()
                };
                let own = score(head + 1).exp();
                let all: f32 = (0..5).map(|token| score(token).exp()).sum();
                assert!(own / all > 0.7, "head {head}: {}", own / all);
            }
        }
    }

    #[test]
    fn starts_depend_on_the_seed_only() {
        let first = |seed| {
            values(
                &DualModel::init(&config(), Start::Located, seed, &Device::flex()),
                "vision.positions",
            )
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
