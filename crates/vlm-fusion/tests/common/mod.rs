//! Small decoders with random weights, one of each kind that keeps keys in a way of its own.

use burn::tensor::{Device, Tensor};
use vlm_encoders::{HeadSpec, TextPool, TextSpec, TextTower};
use vlm_nn::params::{Init, initialize};
use vlm_nn::{Activation, BlockConfig, NormKind, NormPlace, RopeScaling, Rotary};

pub const VOCABULARY: usize = 97;
pub const CONTEXT: usize = 128;

fn tower(
    shape: BlockConfig,
    blocks: Vec<BlockConfig>,
    more: impl FnOnce(&mut TextSpec),
) -> TextTower {
    let mut spec = TextSpec {
        vocabulary: VOCABULARY,
        context: CONTEXT,
        positions: false,
        segments: 0,
        embed_norm: false,
        embed_scale: None,
        blocks,
        shape,
        final_norm: true,
        pool: TextPool::Absent,
        dense: None,
        dense_tanh: false,
        head: Some(HeadSpec { tied: true, softcap: None }),
    };
    more(&mut spec);
    initialize(TextTower::new(&spec, &Device::default()), 11, &|path, _| match path {
        _ if path.contains("norm") => Init::Uniform(1.0),
        "tokens" => Init::Normal(0.4),
        _ => Init::Normal(0.4),
    })
}

fn block(rotary: Rotary) -> BlockConfig {
    BlockConfig {
        width: 48,
        heads: 6,
        kv_heads: Some(2),
        head_dim: Some(8),
        inner: 64,
        activation: Activation::Silu,
        gated: true,
        qkv_bias: false,
        out_bias: false,
        bias: false,
        norm: NormKind::Rms,
        causal: true,
        rotary: Some(rotary),
        ..BlockConfig::default()
    }
}

fn gemma(window: Option<usize>, theta: f64) -> BlockConfig {
    BlockConfig {
        norm: NormKind::RmsFromOne,
        place: NormPlace::Around,
        activation: Activation::GeluTanh,
        window,
        ..block(Rotary::new(theta))
    }
}

/// Grouped heads and a tied head.
pub fn llama() -> TextTower {
    let block = block(Rotary::new(1e4));
    tower(block.clone(), vec![block; 3], |_| {})
}

/// All kinds, by name.
pub fn towers() -> Vec<(&'static str, TextTower)> {
    let second =
        |window| BlockConfig { softcap: Some(5.0), scale: Some(0.3), ..gemma(window, 1e4) };
    let third = |window| BlockConfig {
        head_norm: true,
        ..gemma(window, if window.is_some() { 1e4 } else { 1e6 })
    };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        context: 32,
        fast: 32.0,
        slow: 1.0,
        magnitude: 1.1,
        truncate: true,
    };
    let stretched = block(Rotary { theta: 1e4, scaling: yarn });
    let learned = BlockConfig { rotary: None, ..block(Rotary::new(1e4)) };
    vec![
        ("llama", llama()),
        (
            "gemma 2",
            tower(second(None), vec![second(Some(5)), second(None), second(Some(3))], |spec| {
                spec.embed_scale = Some(2.0);
                spec.head = Some(HeadSpec { tied: true, softcap: Some(10.0) });
            }),
        ),
        (
            "gemma 3",
            tower(third(None), vec![third(Some(4)), third(Some(4)), third(None)], |spec| {
                spec.embed_scale = Some(2.0);
            }),
        ),
        (
            "stretched, own head",
            tower(stretched.clone(), vec![stretched; 2], |spec| {
                spec.head = Some(HeadSpec { tied: false, softcap: None });
            }),
        ),
        (
            "learned positions",
            tower(learned.clone(), vec![learned; 2], |spec| spec.positions = true),
        ),
    ]
}

/// Tokens that look random.
pub fn tokens(count: usize, seed: usize) -> Vec<i64> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 2003 % VOCABULARY) as i64).collect()
}

pub fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

/// The largest difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
