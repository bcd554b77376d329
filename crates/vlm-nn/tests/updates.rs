//! What a step does to weights, and how gradients come to it, on every backend that is built in.

mod common;

use burn::tensor::{Device, Tensor};
use vlm_nn::ops;

use common::{close, devices, host, input};

/// What a sink under a weight is given when `forward` is run, and the gradient without a sink.
fn drained(
    device: &Device,
    forward: &dyn Fn(Tensor<2>) -> Tensor<1>,
) -> (Vec<ops::Arrived>, Vec<f32>) {
    use std::sync::{Arc, Mutex};
    let make = || input([4, 4], 1, device).require_grad();
    let plain = make();
    let want = host(plain.grad(&forward(plain.clone()).backward()).unwrap());
    let given = Arc::new(Mutex::new(Vec::new()));
    let sink = given.clone();
    let leaf = make();
    let hook =
        ops::Hook::new(&ops::Meter::default(), move |arrived| sink.lock().unwrap().push(arrived));
    let (weight, _guard) = ops::sink(leaf.clone(), hook);
    let grads = forward(weight).backward();
    assert!(leaf.grad(&grads).is_none());
    let given = std::mem::take(&mut *given.lock().unwrap());
    (given, want)
}

#[test]
fn a_sink_is_given_the_whole_gradient_and_nobody_keeps_it() {
    for device in devices() {
        let device = device.autodiff();
        let x = input([3, 4], 2, &device);
        let square = |y: Tensor<2>| (y.clone() * y).sum();
        let linear = |x: Tensor<2>, w: Tensor<2>| ops::linear(x, w, None);
        // Used twice by operations of this crate, by others alone, by one that nothing comes of.
        let twice = |w: Tensor<2>| square(linear(linear(x.clone(), w.clone()), w));
        let foreign = |w: Tensor<2>| square(x.clone().matmul(w));
        let idle = |w: Tensor<2>| {
            let _ = linear(x.clone(), w.clone());
            square(linear(x.clone(), w))
        };
        let cases: [(&str, &dyn Fn(Tensor<2>) -> Tensor<1>); 3] =
            [("twice", &twice), ("foreign", &foreign), ("idle", &idle)];
        for (name, forward) in cases {
            let (mut given, want) = drained(&device, forward);
            let Some(ops::Arrived::Whole(grad)) = given.pop() else { panic!("{name}: nothing") };
            close(name, &host(grad), &want, 1e-5);
            assert!(given.is_empty(), "{name}");
        }
        // Both kinds together: what comes late is told.
        let mixed = |w: Tensor<2>| square(linear(x.clone(), w.clone())) + w.sum() * 2.0;
        let (mut given, want) = drained(&device, &mixed);
        let Some(ops::Arrived::Rest(rest)) = given.pop() else { panic!("no rest") };
        let Some(ops::Arrived::Whole(first)) = given.pop() else { panic!("nothing first") };
        close("mixed", &host(first + rest), &want, 1e-5);
    }
}

#[test]
fn descent_and_ada_lomo_follow_their_formulas() {
    for device in devices() {
        // More rows than a task takes, and columns that fill no register.
        let (n, m) = (130, 37);
        let p = input([n, m], 1, &device);
        let g = input([n, m], 2, &device) * 3.0;
        let flat = |x: Tensor<2>| x.reshape([n * m]);
        let step = ops::SgdStep { keep: 0.9, length: 0.1, clip: 2.0 };
        let got = ops::sgd_step(flat(p.clone()), flat(g.clone()), step);
        let want = p.clone() * 0.9 - g.clone().clamp(-2.0, 2.0) * 0.1;
        close("sgd", &host(got), &host(flat(want)), 1e-6);

        let step = ops::AdaLomoStep {
            lr: 0.1,
            beta: 0.4,
            weight_decay: 0.5,
            clip_threshold: 0.7,
            eps: [1e-30, 1e-3],
        };
        let (r, c) = (input([n], 3, &device).abs(), input([m], 4, &device).abs());
        let (flat_p, flat_g) = (flat(p.clone()), flat(g.clone()));
        let (got, rows, columns) =
            ops::ada_lomo_step(flat_p, flat_g, r.clone(), Some(c.clone()), step);
        let square = g.clone() * g.clone();
        let r = r.reshape([n, 1]) * 0.4 + square.clone().mean_dim(1) * 0.6;
        let c = c.reshape([1, m]) * 0.4 + square.mean_dim(0) * 0.6;
        close("rows", &host(rows), &host(r.clone()), 1e-5);
        close("columns", &host(columns.unwrap()), &host(c.clone()), 1e-5);
        let size = |x: &Tensor<2>| {
            let square: f32 = (x.clone() * x.clone()).mean().into_scalar();
            f64::from(square.sqrt())
        };
        let level = r.clone().mean_dim(0);
        let update = g / (r / level).sqrt() / c.sqrt();
        let lr = 0.1 * size(&p).max(1e-3);
        let shorten = (size(&update) / 0.7).max(1.0);
        let want = p * (1.0 - lr * 0.5) - update * (lr / shorten);
        close("ada lomo", &host(got), &host(flat(want)), 1e-5);
    }
}

#[test]
fn adamw_follows_the_paper() {
    let (lr, b1, b2, eps, wd) = (0.1f64, 0.9f64, 0.99f64, 1e-8f64, 0.05f64);
    let grads = [[0.5f64, -2.0], [0.1, 1.0], [-3.0, 0.0]];
    let (mut p, mut m, mut v) = ([1.0f64, -0.5], [0.0f64; 2], [0.0f64; 2]);
    for (t, g) in grads.iter().enumerate() {
        for i in 0..2 {
            let g = g[i] * 0.5;
            m[i] = b1 * m[i] + (1.0 - b1) * g;
            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
            let mh = m[i] / (1.0 - b1.powi(t as i32 + 1));
            let vh = v[i] / (1.0 - b2.powi(t as i32 + 1));
            p[i] -= lr * wd * p[i];
            p[i] -= lr * mh / (vh.sqrt() + eps);
        }
    }
    for device in devices() {
        let mut param = Tensor::<1>::from_data([1.0f32, -0.5], &device);
        let mut moments = [Tensor::zeros([2], &device), Tensor::zeros([2], &device)];
        for (t, g) in grads.iter().enumerate() {
            let grad = Tensor::<1>::from_data([g[0] as f32, g[1] as f32], &device);
            let step = ops::AdamWStep {
                lr,
                betas: [b1, b2],
                eps,
                weight_decay: wd,
                step: t as u64 + 1,
                grad_scale: 0.5,
            };
            (param, moments) = ops::adamw_step(param, grad, moments, step);
        }
        close("adamw", &host(param), &p.map(|x| x as f32), 1e-6);
    }
}

#[test]
fn averages_and_squares() {
    for device in devices() {
        // Over one chunk and the next, and through a view.
        for n in [1, 7, 40_001] {
            let (a, b) = (input([n], 0, &device), input([n, 1], 1, &device).reshape([n]));
            let want = host(a.clone() * 0.9 + b.clone() * 0.1);
            close("average", &host(ops::average(a.clone(), b.clone(), 0.9)), &want, 1e-6);
            let square: f64 = host(a.clone()).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            close("square", &host(ops::square_sum(a)), &[square as f32], 1e-5);
        }
        let x = input([6, 5], 3, &device);
        let (x, want) = (x.clone().transpose(), host((x.clone() * x).sum()));
        close("square of a view", &host(ops::square_sum(x)), &want, 1e-5);
    }
}
