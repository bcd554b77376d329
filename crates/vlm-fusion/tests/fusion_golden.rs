//! Each fusion strategy against its reference module: outputs, and gradients of every parameter
//! and input (the files are made by xtask/golden/fusion.py).

mod reference;

use burn::tensor::Tensor;
use reference::{Case, Golden};
use vlm_encoders::{Layout, Named};
use vlm_fusion::fuse::names::{
    FLAMINGO_RESAMPLER, GATED, IDEFICS2_RESAMPLER, METER, Q_FORMER, VILT,
};
use vlm_fusion::fuse::{
    CoAttention, CoAttentionConfig, CoStyle, GatedBlocks, GatedConfig, Merged, MergedConfig,
    MergedFusion, QFormer, QFormerConfig, Resampler, ResamplerConfig, ResamplerStyle,
};
use vlm_fusion::masks::{self, Sight, View};

#[test]
fn q_former_is_that_of_blip_2() {
    let golden = Golden::open("q_former");
    let config = QFormerConfig {
        queries: 3,
        width: 8,
        layers: 3,
        heads: 2,
        inner: 12,
        cross_every: 2,
        text: true,
    };
    let seen = golden.seen("seen");
    let patches = golden.padding("patches");
    let view = |view| {
        let rows: Vec<_> = seen.iter().map(|seen| masks::q_former(view, 3, seen)).collect();
        Sight::among(&rows).mask(golden.device())
    };
    golden.hold(&Case {
        blank: QFormer::new(&config, 6, true, golden.device()),
        table: &Q_FORMER.under("qformer."),
        inputs: &["picture", "text"],
        run: &|former, inputs| {
            let [picture, text] = inputs else { panic!("two inputs") };
            let states = |text: Option<&Tensor<3>>, mask| {
                former.forward(picture.clone(), Some(patches.clone()), text.cloned(), mask)
            };
            vec![
                ("alone", states(None, None)),
                ("together", states(Some(text), view(View::Together))),
                ("apart", states(Some(text), view(View::Apart))),
                ("caption", states(Some(text), view(View::Caption))),
            ]
        },
    });
}

#[test]
fn resampler_is_that_of_flamingo() {
    let golden = Golden::open("resampler");
    let config = ResamplerConfig {
        latents: 3,
        layers: 2,
        heads: 2,
        head_dim: 4,
        inner: 2,
        ..ResamplerConfig::default()
    };
    golden.hold(&Case {
        blank: Resampler::new(&config, 8, golden.device()),
        table: &FLAMINGO_RESAMPLER.under(""),
        inputs: &["picture"],
        run: &|module, inputs| vec![("latents", module.forward(inputs[0].clone(), None))],
    });
}

#[test]
fn resampler_is_that_of_idefics2() {
    let golden = Golden::open("idefics2");
    let config = ResamplerConfig {
        latents: 3,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        head_dim: 4,
        inner: 4,
        style: ResamplerStyle::Idefics2,
    };
    let patches = golden.padding("patches");
    golden.hold(&Case {
        blank: Resampler::new(&config, 8, golden.device()),
        table: &IDEFICS2_RESAMPLER.under(""),
        inputs: &["picture"],
        run: &|module, inputs| {
            vec![("latents", module.forward(inputs[0].clone(), Some(patches.clone())))]
        },
    });
}

#[test]
fn gated_blocks_are_those_of_flamingo() {
    let golden = Golden::open("gated");
    let config =
        GatedConfig { every: 2, heads: 2, head_dim: 4, inner: 2, ..GatedConfig::default() };
    let blocks = GatedBlocks::new(&config, 6, 8, 4, golden.device()).unwrap();
    let numbers: Vec<usize> = (0..2).map(|i| blocks.layer(i)).collect();
    let so_far = vec![masks::pictures_so_far(&[1, 4], 0..7), masks::pictures_so_far(&[2], 0..7)];
    golden.hold(&Case {
        blank: blocks,
        table: &GATED.numbered("", |block| numbers[block]),
        inputs: &["memories", "text"],
        run: &|blocks, inputs| {
            let [memories, text] = inputs else { panic!("two inputs") };
            let memory = blocks.remember(memories.clone(), &[2, 1]);
            let recent = memory.recent(&so_far, golden.device());
            let x = (0..4).fold(text.clone(), |x, layer| blocks.before(layer, x, &memory, &recent));
            vec![("text", x)]
        },
    });
}

fn co_attention(name: &str, layers: usize, style: CoStyle, table: &dyn Fn(&str, usize) -> Named) {
    let golden = Golden::open(name);
    let config = CoAttentionConfig { width: 8, layers, heads: 2, inner: 12, style, pool: 1 };
    let (patches, seen) = (golden.padding("patches"), golden.padding("seen"));
    golden.hold(&Case {
        blank: CoAttention::new(&config, true, golden.device()),
        table,
        inputs: &["picture", "text"],
        run: &|streams, inputs| {
            let [picture, text] = inputs else { panic!("two inputs") };
            let picture = (picture.clone(), Some(patches.clone()));
            let text = (text.clone(), Some(seen.clone()));
            let (picture, text) = streams.forward(picture, Some(text));
            vec![("picture", picture), ("text", text.unwrap())]
        },
    });
}

#[test]
fn co_attention_is_that_of_meter() {
    co_attention("meter", 2, CoStyle::Meter, &METER.under(""));
}

/// Our names, PyTorch's layout; in the file each sub-layer of a connection has a name of its own.
fn ours(path: &str, rank: usize) -> Named {
    let matrix = rank == 2 && path.ends_with(".weight");
    let layout = if matrix { Layout::Transposed } else { Layout::Same };
    Named {
        name: path.replace("connections.0.cross.", "connections.0.attention."),
        layout,
        part: None,
    }
}

#[test]
fn co_attention_is_that_of_vilbert() {
    co_attention("vilbert", 1, CoStyle::Vilbert, &ours);
}

#[test]
fn merged_attention_is_that_of_vilt() {
    let golden = Golden::open("merged");
    let config = MergedConfig { width: 8, layers: 2, heads: 2, inner: 12, pool: 2 };
    let seen = golden.padding("seen");
    let vilt = VILT.under("merged.");
    golden.hold(&Case {
        blank: MergedFusion::new(&config, 6, 10, golden.device()),
        table: &|path, rank| match path.strip_prefix("merged.") {
            Some(path) => vilt(path, rank),
            None => ours(path, rank),
        },
        inputs: &["picture", "text"],
        run: &|module, inputs| {
            let [picture, text] = inputs else { panic!("two inputs") };
            let question = (text.clone(), Some(seen.clone()));
            vec![("rows", module.forward(picture.clone(), (3, 4), Some(question)))]
        },
    });
    // Without a question there is a way too.
    let alone = Merged::new(&config, golden.device());
    assert_eq!(alone.forward(Tensor::zeros([1, 5, 8], golden.device()), None).dims(), [1, 5, 8]);
}
