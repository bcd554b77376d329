//! The rules against plain descent, against the values of the official package, and against themselves.

use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_fullft::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig, backward};
use vlm_nn::ops::{lookup, scores};
use vlm_nn::params::{self, Init};
use vlm_nn::{Activation, BlockConfig, Linear, NormKind, Stack};

fn device() -> Device {
    Device::flex().autodiff()
}

/// The generator of methods.md, section 14.
fn numbers<const D: usize>(shape: [usize; D], [a, m, o]: [usize; 3]) -> Tensor<D> {
    let len = shape.iter().product::<usize>();
    let values: Vec<f32> =
        (0..len).map(|i| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn linear() -> Linear {
    let mut linear = Linear::new(4, 3, true, &device());
    let weight = numbers([3, 4], [7, 23, 5]).transpose().into_data();
    let bias = numbers([3], [5, 11, 2]).into_data();
    linear = params::replace(linear, &mut |path, _| {
        Ok::<_, ()>(Some(if path == "weight" { weight.clone() } else { bias.clone() }))
    })
    .unwrap();
    linear
}

fn half_square(model: Linear) -> Result<Tensor<1>, ()> {
    let y = model.forward(numbers([2, 4], [11, 29, 4]));
    Ok((y.clone() * y).sum() * 0.5)
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn close(what: &str, got: &[f32], want: &[f32], most: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= most, "{what}[{i}]: {g} and {w}");
    }
}

/// Weight as PyTorch has it, and bias.
fn values(model: &Linear) -> [Vec<f32>; 2] {
    let bias = model.bias.as_ref().unwrap();
    [host(model.weight.val().transpose()), host(bias.val())]
}

#[test]
fn lomo_gives_the_official_values() {
    let mut rule = Lomo::new(LomoConfig { clip_norm: 1.0, ..Default::default() });
    let (model, passed) = rule.step(linear(), &half_square, 0.1);
    assert!((passed.unwrap().loss - 0.881_012).abs() < 1e-6);
    let [weight, bias] = values(&model);
    let want = [
        -0.3437398, 0.0309989, 0.4715678, -0.4676238, -0.0656704, 0.3661229, -0.6182534, -0.184989,
        0.2391572, 0.6633795, -0.2914231, 0.1305926,
    ];
    close("weight", &weight, &want, 1e-6);
    close("bias", &bias, &[-0.1830361, 0.1477255, -0.1842585], 1e-6);
}

#[test]
fn ada_lomo_gives_the_official_values() {
    let mut rule = AdaLomo::new(AdaLomoConfig::default());
    let (model, passed) = rule.step(linear(), &half_square, 0.1);
    passed.unwrap();
    let [weight, bias] = values(&model);
    let want = [
        -0.3320397, 0.0271067, 0.4639529, -0.455118, -0.0852227, 0.3229841, -0.5803917, -0.1693467,
        0.2231093, 0.6385937, -0.2642774, 0.1389908,
    ];
    close("weight, step 1", &weight, &want, 1e-6);
    close("bias, step 1", &bias, &[-0.168068, 0.144432, -0.230568], 1e-6);
    let (model, _) = rule.step(model, &half_square, 0.1);
    let [weight, bias] = values(&model);
    let want = [
        -0.2945886, -0.0031043, 0.432273, -0.4163212, -0.1025927, 0.2818237, -0.5459508,
        -0.1547474, 0.2001753, 0.5951768, -0.2227158, 0.1518108,
    ];
    close("weight, step 2", &weight, &want, 1e-6);
    close("bias, step 2", &bias, &[-0.1547945, 0.1602419, -0.2128903], 1e-6);
    // A value a row and a column, and one for each of the bias.
    assert_eq!(rule.bytes(), 4 * (3 + 4 + 3));
}

/// A stack as Llama's or CLIP's.
fn stack(gated: bool) -> Stack {
    let config = BlockConfig {
        width: 32,
        heads: 4,
        kv_heads: gated.then_some(2),
        inner: 64,
        gated,
        norm: if gated { NormKind::Rms } else { NormKind::Layer },
        activation: if gated { Activation::Silu } else { Activation::QuickGelu },
        bias: !gated,
        ..Default::default()
    };
    params::initialize(Stack::new(&config, 3, &device()), 5, &|path, _| {
        if path.contains("norm") { Init::Constant(1.0) } else { Init::Normal(0.2) }
    })
}

fn loss_of(model: Stack) -> Result<Tensor<1>, ()> {
    let x = numbers([2, 7, 32], [13, 101, 3]) * 0.3;
    let y = model.forward(x, None);
    Ok((y.clone() * y).mean())
}

/// Descent in the ordinary way: all gradients first.
fn descended(model: Stack, lr: f64, clip_norm: f64) -> Stack {
    let grads = loss_of(model.clone()).unwrap().backward();
    struct Square<'a>(&'a burn::tensor::Gradients, f64);
    impl burn::module::ModuleVisitor for Square<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap();
            self.1 += host(grad).iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        }
    }
    let mut square = Square(&grads, 0.0);
    model.visit(&mut square);
    let norm = square.1.sqrt();
    let scale = if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    struct Step<'a>(&'a burn::tensor::Gradients, f64);
    impl ModuleMapper for Step<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| {
                let grad = value.grad(self.0).unwrap();
                Tensor::from_inner(value.inner() - grad * self.1).require_grad()
            })
        }
    }
    model.map(&mut Step(&grads, lr * scale))
}

#[test]
fn lomo_is_plain_descent() {
    for gated in [false, true] {
        for clip_norm in [0.0, 0.3] {
            let mut rule = Lomo::new(LomoConfig { clip_norm, ..Default::default() });
            let (mut fused, mut plain) = (stack(gated), stack(gated));
            for _ in 0..20 {
                let (model, passed) = rule.step(fused, &loss_of, 0.02);
                fused = model;
                assert!(passed.unwrap().silent.is_empty());
                plain = descended(plain, 0.02, clip_norm);
            }
            let all = |model: &Stack| {
                let mut values = Vec::new();
                params::read(model, &mut |_, data| values.extend(data.iter::<f32>()));
                values
            };
            assert_ne!(all(&fused), all(&stack(gated)));
            close("after 20 steps", &all(&fused), &all(&plain), 1e-6);
        }
    }
}

/// A map that is used twice, and stands in two places.
#[derive(Module, Debug)]
struct Twice {
    first: Linear,
    same: Linear,
    unused: Linear,
}

#[test]
fn no_two_gradients_are_alive_and_what_is_shared_is_changed_once() {
    let make = || {
        let square =
            params::initialize(Linear::new(4, 4, false, &device()), 3, &|_, _| Init::Normal(0.5));
        let unused =
            params::initialize(Linear::new(2, 2, false, &device()), 3, &|_, _| Init::Normal(0.5));
        Twice { first: square.clone(), same: square, unused }
    };
    let forward = |model: &Twice| {
        let x = numbers([3, 4], [5, 17, 2]);
        let y = model.same.forward(model.first.forward(model.first.forward(x)));
        (y.clone() * y).sum()
    };
    let plain = make();
    let grads = forward(&plain).backward();
    // The two places hold one parameter: its gradient is of all three uses.
    let want = host(plain.first.weight.val().grad(&grads).unwrap());

    let given = Arc::new(Mutex::new(Vec::new()));
    let sink = given.clone();
    let (model, passed) = backward(
        make(),
        |model| Ok::<_, ()>(forward(&model)),
        Arc::new(move |weight, value, grad| {
            sink.lock().unwrap().push((weight.path.clone(), host(grad)));
            value + 1.0
        }),
    );
    let passed = passed.unwrap();
    assert_eq!((passed.trained, passed.largest, passed.late), (2, 4 * 16, None));
    assert_eq!(passed.silent, ["unused.weight"]);
    let given = given.lock().unwrap();
    assert_eq!(given[0].0, "first.weight");
    close("gradient", &given[0].1, &want, 1e-5);
    let changed: Vec<f32> = host(make().first.weight.val()).iter().map(|x| x + 1.0).collect();
    close("first", &host(model.first.weight.val()), &changed, 0.0);
    close("same", &host(model.same.weight.val()), &changed, 0.0);
    // What has no gradient stays, and still trains.
    close("unused", &host(model.unused.weight.val()), &host(make().unused.weight.val()), 0.0);
    assert!(params::list(&model).iter().all(|param| param.trainable));
}

#[test]
fn a_loss_that_fails_leaves_the_model_as_it_was() {
    let mut rule = Lomo::new(LomoConfig { clip_norm: 1.0, ..Default::default() });
    let (model, failed) = rule.step(linear(), &|_: Linear| Err("no batch"), 0.1);
    assert_eq!(failed.unwrap_err(), "no batch");
    assert_eq!(values(&model), values(&linear()));
}

#[test]
fn what_is_locked_stays() {
    let model = params::set_trainable(linear(), &|path| path == "bias");
    let mut rule = Lomo::new(LomoConfig::default());
    let (model, passed) = rule.step(model, &half_square, 0.1);
    assert_eq!(passed.unwrap().trained, 1);
    let ([weight, bias], [before, old]) = (values(&model), values(&linear()));
    assert!(weight == before && bias != old);
}

/// A language model as small as it can be, with its table looked up and, at the end, multiplied with.
#[derive(Module, Debug)]
struct Speaker {
    table: Param<Tensor<2>>,
    stack: Stack,
    twice: Linear,
}

#[test]
fn no_more_than_the_largest_gradient_is_ever_alive() {
    const WORDS: usize = 300;
    let make = || {
        let table = params::blank([WORDS, 32], &device());
        let twice = Linear::new(32, 32, false, &device());
        let speaker = Speaker { table, stack: stack(true), twice };
        params::initialize(speaker, 7, &|path, _| {
            if path.contains("norm") { Init::Constant(1.0) } else { Init::Normal(0.2) }
        })
    };
    let ids = Tensor::<2, Int>::from_data([[1, 5, 299, 5], [0, 7, 7, 2]], &device());
    let loss = |model: Speaker| {
        let x = lookup(model.table.val(), ids.clone());
        let x = model.twice.forward(model.stack.forward(model.twice.forward(x), None));
        Ok::<_, ()>(scores(x, model.table.val()).square().mean())
    };
    let plain = make();
    let grads = loss(plain.clone()).unwrap().backward();
    let largest = 4 * WORDS * 32;
    let given = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let sink = given.clone();
    let (_, passed) = backward(
        make(),
        loss,
        Arc::new(move |weight, value, grad| {
            sink.lock().unwrap().insert(weight.path.clone(), host(grad));
            value
        }),
    );
    let passed = passed.unwrap();
    assert_eq!((passed.largest, passed.held), (largest, largest));
    assert!(passed.silent.is_empty() && passed.late.is_none());
    let given = given.lock().unwrap();
    let table = host(plain.table.val().grad(&grads).unwrap());
    close("table", &given["table"], &table, 1e-6);
    let twice = host(plain.twice.weight.val().grad(&grads).unwrap());
    close("twice", &given["twice.weight"], &twice, 1e-6);
    // What is written in place is whole by then: LOMO comes to what plain descent does.
    let (model, _) = Lomo::new(LomoConfig::default()).step(make(), &loss, 0.1);
    let begin = host(plain.table.val());
    let want: Vec<f32> = begin.iter().zip(&table).map(|(x, g)| x - 0.1 * g).collect();
    close("a step of the table", &host(model.table.val()), &want, 1e-6);
}
