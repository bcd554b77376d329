//! Five steps of each rule against the official package (xtask/golden/lomo.py).

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vlm_fullft::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig, Passed};
use vlm_nn::{Linear, params};
use vlm_store::TensorFiles;

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    second: Linear,
}

fn files() -> TensorFiles {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lomo");
    TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap()
}

/// Values of the file in the order of ours: weights are the other way round there.
fn turned(files: &TensorFiles, name: &str) -> Vec<f32> {
    let shape = files.shape(name).unwrap_or_else(|| panic!("no {name}")).to_vec();
    let values: Vec<f32> = files.read(name).unwrap().iter().collect();
    match shape[..] {
        [out, into] => (0..out * into).map(|i| values[i % out * into + i / out]).collect(),
        _ => values,
    }
}

fn net(files: &TensorFiles, bias: bool, device: &Device) -> Net {
    let net =
        Net { first: Linear::new(48, 64, bias, device), second: Linear::new(64, 20, bias, device) };
    let start = if bias { "start" } else { "bare" };
    params::replace(net, &mut |path, shape| {
        let values = turned(files, &format!("{start}.{path}"));
        Ok::<_, ()>(Some(burn::tensor::TensorData::new(values, shape.to_vec())))
    })
    .unwrap()
}

type Loss<'a> = &'a dyn Fn(Net) -> Result<Tensor<1>, ()>;

fn compare(case: &str, bias: bool, step: &mut dyn FnMut(Net, Loss<'_>) -> (Net, Passed)) {
    let (files, device) = (files(), Device::flex().autodiff());
    let x = Tensor::<2>::from_data(files.read("x").unwrap(), &device);
    let loss = |net: Net| {
        let y = net.second.forward(net.first.forward(x.clone()).tanh());
        Ok((y.clone() * y).mean() * 0.5)
    };
    let mut net = net(&files, bias, &device);
    for _ in 0..5 {
        let (next, passed) = step(net, &loss);
        assert!(passed.silent.is_empty() && passed.late.is_none(), "{case}");
        net = next;
    }
    params::read(&net, &mut |path, data| {
        let want = turned(&files, &format!("{case}.{path}"));
        let begin = turned(&files, &format!("{}.{path}", if bias { "start" } else { "bare" }));
        let got: Vec<f32> = data.iter().collect();
        let moved = want.iter().zip(&begin).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(moved > 1e-4, "{case} {path}: the reference has not moved");
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((g - w).abs() < 1e-6, "{case} {path}[{i}]: {g} and {w}");
        }
    });
}

#[test]
fn lomo_is_the_official_one() {
    for (case, bias, config) in [
        ("lomo", true, LomoConfig::default()),
        ("lomo-value", true, LomoConfig { clip_value: 0.01, ..Default::default() }),
        ("lomo-norm", true, LomoConfig { clip_norm: 0.3, ..Default::default() }),
        ("lomo-decay", false, LomoConfig { weight_decay: 0.5, ..Default::default() }),
    ] {
        let mut rule = Lomo::new(config);
        compare(case, bias, &mut |net, loss| {
            let (net, passed) = rule.step(net, loss, 0.05);
            (net, passed.unwrap())
        });
    }
}

#[test]
fn ada_lomo_is_the_official_one() {
    for (case, bias, config) in [
        ("adalomo", true, AdaLomoConfig::default()),
        ("adalomo-decay", false, AdaLomoConfig { weight_decay: 0.5, ..Default::default() }),
        ("adalomo-threshold", true, AdaLomoConfig { clip_threshold: 0.4, ..Default::default() }),
    ] {
        let mut rule = AdaLomo::new(config);
        compare(case, bias, &mut |net, loss| {
            let (net, passed) = rule.step(net, loss, 0.02);
            (net, passed.unwrap())
        });
    }
}
