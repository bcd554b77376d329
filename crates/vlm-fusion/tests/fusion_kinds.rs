//! What all fusion strategies have in common: configurations, start values, rows, and that a
//! decoder behind new gates says what it said.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution, Gradients, Int, Tensor};
use vlm_encoders::{HeadSpec, TextPool, TextSpec, TextTower};
use vlm_fusion::fuse::{Fusion, FusionConfig, GatedBlocks, GatedConfig};
use vlm_nn::params::{self, Init, PathStack};
use vlm_nn::{Activation, BlockConfig, NormKind, Rotary};

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
        Fusion::new(&config, vision, 576, &Device::flex()).unwrap().parameters()
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
        let error = Fusion::new(&config(json), 8, 8, &Device::flex()).unwrap_err();
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
        let fusion = Fusion::init(&config, 6, 10, 1, &device).unwrap();
        let picture = random([2, 12, 6], &device);
        let question = (random([2, 4, 10], &device), None);
        let rows = fusion.fuse(picture.clone(), (2, 6), Some(question.clone()));
        if matches!(fusion, Fusion::Gated(_)) {
            assert_eq!((config.rows(12, (2, 6)), rows.dims()), (0, [2, 3, 6]));
        } else {
            assert_eq!(rows.dims(), [2, config.rows(12, (2, 6)), 10], "{json}");
        }
        let gradients = rows.clone().powf_scalar(2.0).sum().backward();
        assert_eq!(without_gradient(&fusion, &gradients), Vec::<String>::new(), "{json}");

        let alone = fusion.fuse(picture.clone(), (2, 6), None);
        let differs = alone.into_data() != rows.clone().into_data();
        assert_eq!(differs, config.reads_question(), "{json}");

        let same = Fusion::init(&config, 6, 10, 1, &device).unwrap();
        let same = same.fuse(picture.clone(), (2, 6), Some(question.clone()));
        assert_eq!(same.into_data(), rows.clone().into_data(), "{json}");
        let other = Fusion::init(&config, 6, 10, 2, &device).unwrap();
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
        vocabulary: 30,
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

#[test]
fn a_decoder_behind_new_gates_says_what_it_said_to_the_bit() {
    let device = Device::flex();
    let text = decoder(&device);
    let FusionConfig::Gated(config) = config(KINDS[8]) else { panic!("gated") };
    let gates = GatedBlocks::init(&config, 6, 16, 4, 1, &device).unwrap();
    assert_eq!(gates.blocks.len(), 2);
    let ids = Tensor::<2, Int>::from_data([[3, 9, 4, 7, 1], [5, 5, 2, 8, 29]], &device);

    let plain = text.logits(text.states(ids.clone(), None, None, false).last);
    let through = |gates: &GatedBlocks| {
        let memory = gates.remember(random([2, 3, 6], &device), &[1, 1]);
        let recent = memory.recent(&[vec![0, 1, 1, 1, 1], vec![1; 5]], &device);
        let x = text.look_up(ids.clone());
        let x = text.stack.blocks.iter().enumerate().fold(x, |x, (layer, block)| {
            block.forward(gates.before(layer, x, &memory, &recent), None)
        });
        text.logits(text.final_norm.as_ref().unwrap().forward(x))
    };
    let bits = |x: Tensor<3>| x.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
    let plain = bits(plain);
    assert_eq!(bits(through(&gates)), plain);

    let open = params::replace(gates.clone(), &mut |path, _| {
        let opened = path.ends_with("gate1").then(|| [0.1f32].into());
        Ok::<_, std::convert::Infallible>(opened)
    });
    let Ok(open) = open;
    // The first token of the first text comes before its picture: only the others change.
    let changed = bits(through(&open));
    let vocabulary = 30;
    assert_eq!(changed[..vocabulary], plain[..vocabulary]);
    assert!(changed[vocabulary..].iter().zip(&plain[vocabulary..]).any(|(a, b)| a != b));

    // Texts without any picture go through too.
    let memory = gates.remember(Tensor::zeros([0, 3, 6], &device), &[0, 0]);
    let recent = memory.recent(&[vec![0; 5], vec![0; 5]], &device);
    let x = random([2, 5, 16], &device);
    assert_eq!(gates.before(1, x.clone(), &memory, &recent).into_data(), x.into_data());
}
