//! Blocks that are computed twice: the same gradients and steps, with less kept. One test, since the choice is the
//! process's.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor};
use vlm_fullft::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig};
use vlm_nn::adapter::{self, Adapters, LowRank, Named, Part, Scaling};
use vlm_nn::ops::{MASKED, lookup, scores};
use vlm_nn::params::{self, Init};
use vlm_nn::{Activation, BlockConfig, NormKind, Pass, Rotary, Stack, recompute};

#[derive(Module, Debug)]
struct Speaker {
    table: Param<Tensor<2>>,
    stack: Stack,
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn speaker(gated: bool) -> Speaker {
    let config = BlockConfig {
        width: 32,
        heads: 4,
        kv_heads: Some(2),
        inner: 64,
        gated,
        causal: gated,
        rotary: gated.then(|| Rotary::new(1e4)),
        norm: if gated { NormKind::Rms } else { NormKind::Layer },
        activation: if gated { Activation::Silu } else { Activation::QuickGelu },
        bias: !gated,
        ..Default::default()
    };
    let speaker = Speaker {
        table: params::blank([50, 32], &device()),
        stack: Stack::new(&config, 3, &device()),
    };
    params::initialize(speaker, 7, &|path, _| {
        if path.contains("norm") { Init::Constant(1.0) } else { Init::Normal(0.2) }
    })
}

fn with_lora(model: Speaker) -> Speaker {
    let map = |rows, columns, seed: u64| {
        let data = params::drawn(Init::Normal(0.3), &[rows, columns], seed, "");
        Param::from_tensor(Tensor::from_data(data, &device()).require_grad())
    };
    let part = Part::LowRank(LowRank {
        a: map(32, 4, 1),
        b: map(4, 64, 2),
        magnitude: None,
        scaling: Scaling { alpha: 8.0, rooted: false },
        ranks: None,
        dropout: 0.0,
    });
    let adapters =
        Adapters { parts: vec![Named { name: "one".into(), active: true, part }], packed: None };
    let path = "stack.blocks.1.feed_forward.up.weight".to_owned();
    let model = adapter::put(model, [(path, adapters)].into());
    params::set_trainable(model, &adapter::is_inside)
}

fn loss(model: Speaker, in_pass: bool) -> Tensor<1> {
    let ids = Tensor::<2, Int>::from_data([[1, 5, 49, 5, 3], [0, 7, 7, 2, 9]], &device());
    // The second text is padded in front.
    let mask = Tensor::<3>::from_data(
        [[[0.0f32, 0.0, 0.0, 0.0, 0.0]], [[MASKED, 0.0, 0.0, 0.0, 0.0]]],
        &device(),
    );
    let x = lookup(model.table.val(), ids);
    let y = match in_pass {
        true => {
            let positions = vec![(0..5).collect(), vec![0, 0, 1, 2, 3]];
            let mut pass = Pass::new().with_mask(Some(mask)).with_positions(positions);
            model.stack.extend(x, &mut pass)
        }
        false => model.stack.forward(x, Some(mask)),
    };
    scores(y, model.table.val()).square().mean()
}

/// The gradients of all parameters that have one, by their order.
fn gradients(model: &Speaker, in_pass: bool) -> Vec<Option<Vec<f32>>> {
    struct All<'a>(&'a Gradients, Vec<Option<Vec<f32>>>);
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.base().grad(self.0);
            self.1.push(grad.map(|grad| grad.into_data().iter().collect()));
        }
    }
    let grads = loss(model.clone(), in_pass).backward();
    let mut all = All(&grads, Vec::new());
    model.visit(&mut all);
    all.1
}

fn values(model: &Speaker) -> Vec<f32> {
    let mut all = Vec::new();
    params::read(model, &mut |_, data| all.extend(data.iter::<f32>()));
    all
}

fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{what}: {a} and {b}");
    }
}

#[test]
fn what_is_computed_twice_is_the_same() {
    for (gated, in_pass) in [(true, true), (false, true), (true, false), (false, false)] {
        for model in [speaker(gated), with_lora(speaker(gated))] {
            let what = format!("gated {gated}, in a pass {in_pass}");
            let kept = gradients(&model, in_pass);
            let again = {
                let _on = recompute(true);
                gradients(&model, in_pass)
            };
            assert!(kept.iter().flatten().count() >= 2, "{what}");
            for (kept, again) in kept.iter().zip(&again) {
                match (kept, again) {
                    (Some(kept), Some(again)) => close(&what, again, kept),
                    (None, None) => {}
                    _ => panic!("{what}: {} and {}", kept.is_some(), again.is_some()),
                }
            }
        }
        let step = |model: Speaker, ada: bool| {
            let loss = |model: Speaker| Ok::<_, ()>(loss(model, in_pass));
            let (model, passed) = match ada {
                true => AdaLomo::new(AdaLomoConfig::default()).step(model, &loss, 0.01),
                false => Lomo::new(LomoConfig::default()).step(model, &loss, 0.1),
            };
            let passed = passed.unwrap();
            assert!(passed.silent.is_empty() && passed.late.is_none(), "{passed:?}");
            assert_eq!(passed.held, passed.largest);
            values(&model)
        };
        for ada in [false, true] {
            let plain = step(speaker(gated), ada);
            let _on = recompute(true);
            let twice = step(speaker(gated), ada);
            assert_ne!(plain, values(&speaker(gated)));
            close("a step", &twice, &plain);
        }
    }
}
