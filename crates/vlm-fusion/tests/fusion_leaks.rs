//! What a mask hides cannot be noticed: changing it leaves every value that may not know of it
//! exactly as it was, and changing what is seen does not.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use vlm_fusion::fuse::{
    CoAttentionConfig, Fusion, FusionConfig, GatedBlocks, GatedConfig, MergedConfig, QFormer,
    QFormerConfig,
};
use vlm_fusion::masks::{self, Sight, Token, View};
use vlm_nn::ops::MASKED;
use vlm_nn::params::{self, Init};
use vlm_nn::{BlockConfig, Stack};

const WIDTH: usize = 16;

fn random(shape: [usize; 3]) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn drawn<M: Module>(module: M) -> M {
    params::initialize(module, 5, &|path, shape| match shape.len() {
        1 if path.contains("norm") && path.ends_with("weight") => Init::Constant(1.0),
        _ => Init::Normal(0.4),
    })
}

/// The same rows with one of them changed.
fn changed(x: &Tensor<3>, row: usize, token: usize) -> Tensor<3> {
    let [rows, tokens, width] = x.dims();
    let mut values: Vec<f32> = x.to_data().iter::<f32>().collect();
    let start = (row * tokens + token) * width;
    // Not all by the same: a norm would take that out.
    values[start..start + width].iter_mut().enumerate().for_each(|(i, x)| *x += 0.5 + i as f32);
    Tensor::from_data(TensorData::new(values, [rows, tokens, width]), &x.device())
}

/// Which tokens of two outputs differ in any bit, `[rows][tokens]`.
fn differ(a: &Tensor<3>, b: &Tensor<3>) -> Vec<Vec<bool>> {
    let [_, tokens, width] = a.dims();
    assert_eq!(a.dims(), b.dims());
    let bits = |x: &Tensor<3>| x.to_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
    let (a, b) = (bits(a), bits(b));
    let tokens_differ: Vec<bool> =
        a.chunks(width).zip(b.chunks(width)).map(|(a, b)| a != b).collect();
    tokens_differ.chunks(tokens).map(<[bool]>::to_vec).collect()
}

fn stack() -> Stack {
    let config = BlockConfig { width: WIDTH, heads: 2, inner: 24, ..BlockConfig::default() };
    drawn(Stack::new(&config, 2, &Device::flex()))
}

/// Changes each token of each row, and looks who noticed.
fn hold_law(what: &str, rows: &[Vec<Token>]) {
    let stack = stack();
    let mask = Sight::among(rows).mask(&Device::flex());
    let x = random([rows.len(), rows[0].len(), WIDTH]);
    let before = stack.forward(x.clone(), mask.clone());
    for row in 0..rows.len() {
        for j in 0..rows[0].len() {
            let after = stack.forward(changed(&x, row, j), mask.clone());
            for (other, tokens) in differ(&before, &after).iter().enumerate() {
                for (i, noticed) in tokens.iter().enumerate() {
                    // Padding sees nobody, so that its attention is even: what it says is nobody's
                    // business.
                    if rows[other][i].part.is_none() {
                        continue;
                    }
                    let may = other == row && rows[row][i].sees(rows[row][j]);
                    assert_eq!(*noticed, may, "{what}: {i} of row {other} noticed {j} of {row}");
                }
            }
        }
    }
}

#[test]
fn tokens_notice_what_the_law_lets_them_see() {
    hold_law("causal", &[masks::causal(5)]);
    hold_law("prefix", &[masks::prefix(3, 6), masks::prefix(1, 6)]);
    let padded = [
        [masks::padding(2), masks::causal(3)].concat(),
        [masks::prefix(2, 4), masks::padding(1)].concat(),
        masks::causal(5),
    ];
    hold_law("padding", &padded);
    hold_law("packing", &[masks::packed(3, &[2, 3]), masks::packed(2, &[1, 2, 3])]);
    hold_law("a Q-Former apart", &[masks::q_former(View::Apart, 2, &[true, true, false])]);
}

#[test]
fn a_packed_text_gets_what_it_would_get_alone() {
    let stack = stack();
    let x = random([1, 3 + 2 + 4, WIDTH]);
    let sight = |row| Sight::among(&[row]).mask(&Device::flex());
    let packed = stack.forward(x.clone(), sight(masks::packed(3, &[2, 4])));
    for (start, len) in [(3, 2), (5, 4)] {
        let alone = vec![x.clone().narrow(1, 0, 3), x.clone().narrow(1, start, len)];
        let alone = stack.forward(Tensor::cat(alone, 1), sight(masks::causal(3 + len)));
        let gap = (alone.narrow(1, 3, len) - packed.clone().narrow(1, start, len)).abs().max();
        assert!(gap.into_scalar::<f32>() < 1e-5);
    }
}

#[test]
fn a_q_former_keeps_picture_and_text_apart_as_its_view_says() {
    let config = QFormerConfig {
        queries: 2,
        width: WIDTH,
        layers: 3,
        heads: 2,
        inner: 24,
        cross_every: 2,
        text: true,
    };
    let former = drawn(QFormer::new(&config, 6, true, &Device::flex()));
    let (picture, text) = (random([1, 4, 6]), random([1, 3, WIDTH]));
    let seen = [true, true, false];
    // Who notices a change of the picture, of the first token of the text, of the second, and of
    // padding: the two queries and the three tokens; nobody asks what padding says.
    let all = [true; 5];
    let queries = [true, true, false, false, false];
    let texts = [false, false, true, true, false];
    let nobody = [false; 5];
    let last = [false, false, false, true, false];
    for (view, expected) in [
        (View::Apart, [queries, texts, texts, nobody]),
        (View::Together, [all, all, all, nobody]),
        (View::Caption, [all, texts, last, nobody]),
    ] {
        let mask = Sight::among(&[masks::q_former(view, 2, &seen)]).mask(&Device::flex());
        let run = |picture: Tensor<3>, text: Tensor<3>| {
            former.forward(picture, None, Some(text), mask.clone())
        };
        let before = run(picture.clone(), text.clone());
        let after = [
            run(changed(&picture, 0, 1), text.clone()),
            run(picture.clone(), changed(&text, 0, 0)),
            run(picture.clone(), changed(&text, 0, 1)),
            run(picture.clone(), changed(&text, 0, 2)),
        ];
        for (what, (after, expected)) in after.iter().zip(expected).enumerate() {
            let noticed = &differ(&before, after)[0];
            assert_eq!(noticed[..4], expected[..4], "{view:?}, change {what}");
        }
    }
}

#[test]
fn a_text_sees_the_last_picture_only() {
    let config =
        GatedConfig { every: 1, heads: 2, head_dim: 4, inner: 2, ..GatedConfig::default() };
    let blocks = drawn(GatedBlocks::new(&config, 6, WIDTH, 2, &Device::flex()).unwrap());
    // The first text has two pictures, before its tokens 1 and 3; the second one, before token 2.
    let so_far = [masks::pictures_so_far(&[1, 3], 0..5), masks::pictures_so_far(&[2], 0..5)];
    let (text, memories) = (random([2, 5, WIDTH]), random([3, 2, 6]));
    let run = |memories: Tensor<3>| {
        let memory = blocks.remember(memories, &[2, 1]);
        let recent = memory.recent(&so_far, &Device::flex());
        (0..2).fold(text.clone(), |x, layer| blocks.before(layer, x, &memory, &recent))
    };
    let before = run(memories.clone());
    for (picture, expected) in [
        (0, [[false, true, true, false, false], [false; 5]]),
        (1, [[false, false, false, true, true], [false; 5]]),
        (2, [[false; 5], [false, false, true, true, true]]),
    ] {
        let after = run(changed(&memories, picture, 1));
        assert_eq!(differ(&before, &after), expected, "picture {picture}");
    }
}

#[test]
fn no_fusion_reads_padding_of_a_question() {
    let co = CoAttentionConfig {
        width: WIDTH,
        layers: 2,
        heads: 2,
        inner: 24,
        ..CoAttentionConfig::default()
    };
    let merged = MergedConfig { width: WIDTH, layers: 2, heads: 2, inner: 24, pool: 1 };
    let former = QFormerConfig {
        queries: 2,
        width: WIDTH,
        layers: 2,
        heads: 2,
        inner: 24,
        cross_every: 2,
        text: true,
    };
    for config in
        [FusionConfig::CoAttention(co), FusionConfig::Merged(merged), FusionConfig::QFormer(former)]
    {
        let fusion = drawn(Fusion::new(&config, 6, 10, 4, &Device::flex()).unwrap());
        let (picture, text) = (random([2, 4, 6]), random([2, 3, 10]));
        let padding = Tensor::from_data([[[0.0, 0.0, 0.0]], [[MASKED, 0.0, 0.0]]], &Device::flex());
        let run = |text: Tensor<3>| {
            fusion.fuse(picture.clone(), (2, 2), Some((text, Some(padding.clone()))))
        };
        let before = run(text.clone());
        let rows = before.dims()[1];
        let noticed = |row, token| differ(&before, &run(changed(&text, row, token)));
        assert_eq!(noticed(1, 0), vec![vec![false; rows]; 2], "{}", config.kind());
        assert_eq!(noticed(1, 1), [vec![false; rows], vec![true; rows]], "{}", config.kind());
        assert_eq!(noticed(0, 0), [vec![true; rows], vec![false; rows]], "{}", config.kind());
    }
}
