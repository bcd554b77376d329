//! What all fusion strategies have in common: configurations, start values, rows, and that a
//! decoder behind new gates says what it said.

use std::ops::ControlFlow;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use vlm_encoders::{HeadSpec, TextPool, TextSpec, TextTower};
use vlm_fusion::decode::{Prompt, Sampling, generate};
use vlm_fusion::fuse::{Beside, Fusion, FusionConfig, GatedBlocks, GatedConfig};
use vlm_fusion::masks::{self, Sight, Token};
use vlm_nn::params::{self, Init, PathStack};
use vlm_nn::{Activation, BlockConfig, NormKind, Pass, Rotary};

/// Small ones of each kind.
const KINDS: [&str; 12] = [
    r#"{"kind": "linear"}"#,
    r#"{"kind": "linear", "bias": false, "pool": 3}"#,
    r#"{"kind": "mlp", "pool": 2}"#,
    r#"{"kind": "pixel-shuffle", "factor": 2}"#,
    r#"{"kind": "resampler", "latents": 3, "layers": 2, "heads": 2, "head_dim": 4}"#,
    r#"{"kind": "resampler", "latents": 5, "layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 4, "style": "idefics2"}"#,
    r#"{"kind": "q-former", "queries": 3, "width": 8, "layers": 2, "heads": 2, "inner": 12}"#,
    r#"{"kind": "q-former", "queries": 3, "width": 8, "layers": 2, "heads": 2, "inner": 12, "text": true}"#,
    r#"{"kind": "gated", "resampler": {"latents": 3, "layers": 1, "heads": 2, "head_dim": 4}, "every": 2, "heads": 2, "head_dim": 4}"#,
    r#"{"kind": "co-attention", "width": 8, "layers": 2, "heads": 2, "inner": 12, "pool": 2}"#,
    r#"{"kind": "co-attention", "width": 8, "layers": 1, "heads": 2, "inner": 12, "style": "vilbert"}"#,
    r#"{"kind": "merged", "width": 8, "layers": 2, "heads": 2, "inner": 12}"#,
];

fn config(json: &str) -> FusionConfig {
    serde_json::from_str(json).unwrap()
}

fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Paths of parameters without a gradient.
fn without_gradient<M: Module>(module: &M, gradients: &Gradients) -> Vec<String> {
    struct Finder<'a>(PathStack, &'a Gradients, Vec<String>);
    impl ModuleVisitor for Finder<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().grad(self.1).is_none() {
                self.2.push(self.0.path());
            }
        }
    }
    let mut finder = Finder(PathStack::default(), gradients, Vec::new());
    module.visit(&mut finder);
    finder.2
}

#[test]
fn a_configuration_says_its_kind_and_leaves_the_rest() {
    for json in KINDS {
        let read = config(json);
        let again: FusionConfig =
            serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(read, again);
        assert!(json.contains(&format!("\"kind\": \"{}\"", read.kind())), "{json}");
    }
    // Published sizes, as the reference modules count theirs, and what stands around them here.
    let count = |json, vision| {
        let config: FusionConfig = serde_json::from_str(json).unwrap();
        Fusion::new(&config, vision, 576, 30, &Device::flex()).unwrap().parameters()
    };
    let map = |from: usize, to: usize| from * to + to;
    let entry = |vision| map(vision, 768) + map(576, 768) + 4 * 768 + 2 * 768;
    assert_eq!(count(r#"{"kind": "resampler"}"#, 1024), 63_019_008 + map(1024, 576));
    assert_eq!(count(r#"{"kind": "q-former"}"#, 1408), 105_162_240 + map(768, 576));
    let layers = 11 * 9_451_776;
    assert_eq!(count(r#"{"kind": "co-attention"}"#, 1024), layers + entry(1024) + map(768, 576));
    assert_eq!(count(r#"{"kind": "merged"}"#, 1024), 85_056_000 + entry(1024) + map(768, 576));
}

#[test]
fn a_configuration_that_fits_no_module_is_refused_in_one_line() {
    for (json, message) in [
        (
            r#"{"kind": "q-former", "width": 10, "heads": 4}"#,
            "fusion `q-former`: width = 10 is no multiple of heads = 4; change one of them",
        ),
        (
            r#"{"kind": "resampler", "latents": 0}"#,
            "fusion `resampler`: latents is 0; give 1 or more",
        ),
        (
            r#"{"kind": "resampler", "kv_heads": 3}"#,
            "fusion `resampler`: heads = 8 is no multiple of kv_heads = 3; change one of them",
        ),
        (r#"{"kind": "mlp", "pool": 0}"#, "fusion `mlp`: pool is 0; give 1 or more"),
        (
            r#"{"kind": "pixel-shuffle", "factor": 0}"#,
            "fusion `pixel-shuffle`: factor is 0; give 1 or more",
        ),
        (r#"{"kind": "gated", "every": 0}"#, "fusion `gated`: every is 0; give 1 or more"),
        (
            r#"{"kind": "co-attention", "pool": 0}"#,
            "fusion `co-attention`: pool is 0; give 1 or more",
        ),
        (r#"{"kind": "merged", "heads": 0}"#, "fusion `merged`: heads is 0; give 1 or more"),
    ] {
        let error = Fusion::new(&config(json), 8, 8, 4, &Device::flex()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let error = serde_json::from_str::<FusionConfig>(r#"{"kind": "merged", "depth": 2}"#);
    assert!(error.unwrap_err().to_string().contains("unknown field `depth`"));
    let config = GatedConfig::default();
    let error = GatedBlocks::new(&config, 8, 8, 3, &Device::flex()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "fusion `gated`: every = 4 leaves no gated block in a decoder of 3 blocks; lower it"
    );
}

#[test]
fn every_kind_has_one_face() {
    let device = Device::flex().autodiff();
    for json in KINDS {
        let config = config(json);
        let fusion = Fusion::init(&config, 6, 10, 4, 1, &device).unwrap();
        let picture = random([2, 12, 6], &device);
        let question = (random([2, 4, 10], &device), None);
        let rows = fusion.fuse(picture.clone(), (2, 6), Some(question.clone()));
        if matches!(fusion, Fusion::Gated(_)) {
            assert_eq!((config.rows(12, (2, 6)), rows.dims()), (1, [2, 3, 6]));
        } else {
            assert_eq!(rows.dims(), [2, config.rows(12, (2, 6)), 10], "{json}");
        }
        let gradients = rows.clone().powf_scalar(2.0).sum().backward();
        let mut without = without_gradient(&fusion, &gradients);
        // Gates look at memories later, in the decoder.
        without.retain(|path| !path.starts_with("Gated.gates."));
        assert_eq!(without, Vec::<String>::new(), "{json}");

        let alone = fusion.fuse(picture.clone(), (2, 6), None);
        let differs = alone.into_data() != rows.clone().into_data();
        assert_eq!(differs, config.reads_question(), "{json}");

        let same = Fusion::init(&config, 6, 10, 4, 1, &device).unwrap();
        let same = same.fuse(picture.clone(), (2, 6), Some(question.clone()));
        assert_eq!(same.into_data(), rows.clone().into_data(), "{json}");
        let other = Fusion::init(&config, 6, 10, 4, 2, &device).unwrap();
        let other = other.fuse(picture, (2, 6), Some(question));
        assert_ne!(other.into_data(), rows.into_data(), "{json}");
    }
}

/// A small Llama.
fn decoder(device: &Device) -> TextTower {
    let shape = BlockConfig {
        width: 16,
        heads: 2,
        inner: 24,
        activation: Activation::Silu,
        gated: true,
        qkv_bias: false,
        out_bias: false,
        bias: false,
        norm: NormKind::Rms,
        causal: true,
        rotary: Some(Rotary::new(10_000.0)),
        ..BlockConfig::default()
    };
    let spec = TextSpec {
        vocabulary: VOCABULARY,
        context: 32,
        positions: false,
        segments: 0,
        embed_norm: false,
        embed_scale: None,
        blocks: vec![shape.clone(); 4],
        shape,
        final_norm: true,
        pool: TextPool::Absent,
        dense: None,
        dense_tanh: false,
        head: Some(HeadSpec { tied: false, softcap: None }),
    };
    params::initialize(TextTower::new(&spec, device), 3, &|path, shape| match shape.len() {
        1 if path.contains("norm") => Init::Constant(1.0),
        _ => Init::Normal(0.3),
    })
}

/// All logits of these texts, as bits.
fn bits(model: &TextTower, ids: &[Vec<i64>], beside: Option<Beside>) -> Vec<u32> {
    let mut prompt = Prompt::of_ids(model, ids.to_vec()).unwrap();
    prompt.beside = beside;
    let tokens = prompt.rows.dims()[1];
    let mut pass = prompt.pass(0, tokens, model.context());
    let logits = model.logits(model.extend(prompt.rows.clone(), &mut pass));
    logits.into_data().iter::<f32>().map(f32::to_bits).collect()
}

fn gates(device: &Device) -> GatedBlocks {
    let FusionConfig::Gated(config) = config(KINDS[8]) else { panic!("gated") };
    GatedBlocks::init(&config, 6, 16, 4, 1, device).unwrap()
}

fn opened(gates: &GatedBlocks) -> GatedBlocks {
    let open = params::replace(gates.clone(), &mut |path, _| {
        let opened = path.contains("gate") && !path.contains("weight");
        Ok::<_, std::convert::Infallible>(opened.then(|| [0.5f32].into()))
    });
    let Ok(open) = open;
    open
}

const VOCABULARY: usize = 30;

#[test]
fn a_decoder_behind_new_gates_says_what_it_said_to_the_bit() {
    let device = Device::flex();
    let text = decoder(&device);
    let gates = gates(&device);
    assert_eq!(gates.blocks.len(), 2);
    let ids = [vec![3, 9, 4, 7, 1], vec![5, 5, 2, 8, 29]];
    let plain = bits(&text, &ids, None);
    let through = |gates: &GatedBlocks, memories: &Tensor<3>| {
        let places = vec![vec![1], vec![0]];
        bits(&text, &ids, Some(Beside::new(gates, memories.clone(), places)))
    };
    let (some, other) = (random([2, 3, 6], &device), random([2, 3, 6], &device));
    assert_eq!(through(&gates, &some), plain);
    assert_eq!(through(&gates, &other), plain);

    // Trained, they look at pictures; but for the first token of the first text, which comes before
    // its picture.
    let open = opened(&gates);
    let (some, other) = (through(&open, &some), through(&open, &other));
    assert_eq!(some[..VOCABULARY], other[..VOCABULARY]);
    for (token, (a, b)) in some.chunks(VOCABULARY).zip(other.chunks(VOCABULARY)).enumerate() {
        assert_eq!(a == b, token == 0, "token {token}");
    }

    // Texts without any picture go through too.
    let none = Tensor::zeros([0, 3, 6], &device);
    let none = Beside::new(&gates, none, vec![vec![], vec![]]);
    assert_eq!(bits(&text, &ids, Some(none)), plain);
}

#[test]
fn a_gated_decoder_speaks_alike_with_and_without_cache_alone_and_in_a_batch() {
    let device = Device::flex();
    let text = decoder(&device);
    let gates = opened(&gates(&device));
    let memories = random([3, 3, 6], &device);
    let ids = [vec![3, 9, 4, 7, 1], vec![5, 2, 8]];
    let places = [vec![0, 3], vec![1]];
    let say = |rows: &[usize], cached| {
        let memories = match rows {
            [0] => memories.clone().narrow(0, 0, 2),
            [1] => memories.clone().narrow(0, 2, 1),
            _ => memories.clone(),
        };
        let places = rows.iter().map(|row| places[*row].clone()).collect();
        let ids = rows.iter().map(|row| ids[*row].clone()).collect();
        let mut prompt = Prompt::of_ids(&text, ids).unwrap();
        prompt.beside = Some(Beside::new(&gates, memories, places));
        let sampling = Sampling { max_tokens: 20, cached, ..Sampling::default() };
        let said = generate(&text, &prompt, &sampling, &mut |_, _| ControlFlow::Continue(()));
        said.unwrap().into_iter().map(|said| said.ids).collect::<Vec<_>>()
    };
    let both = say(&[0, 1], true);
    assert!(both.iter().all(|ids| ids.len() == 20));
    assert_eq!(both, say(&[0, 1], false));
    assert_eq!(both, [say(&[0], true), say(&[1], true)].concat());
}

#[test]
fn questions_packed_behind_a_picture_get_the_logits_that_they_get_alone() {
    let device = Device::flex();
    let text = decoder(&device);
    let (picture, texts) = (4, [3, 2]);
    let rows = random([1, picture + texts[0] + texts[1], 16], &device);
    let logits = |rows: Tensor<3>, tokens: Vec<Token>| {
        let mut pass = Pass::new().with_positions(vec![masks::positions(&tokens)]);
        pass = pass.with_mask(Sight::among(&[tokens]).mask(&device)).open();
        text.logits(text.extend(rows, &mut pass))
    };
    let packed = logits(rows.clone(), masks::packed(picture, &texts));
    let mut start = picture;
    for len in texts {
        let own = rows.clone().narrow(1, start, len);
        let alone = Tensor::cat(vec![rows.clone().narrow(1, 0, picture), own], 1);
        let alone = logits(alone, masks::causal(picture + len)).narrow(1, picture, len);
        let gap = (alone - packed.clone().narrow(1, start, len)).abs().max();
        assert!(gap.into_scalar::<f32>() < 1e-4);
        start += len;
    }
}
