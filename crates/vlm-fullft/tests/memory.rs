//! What LOMO takes, as the system counts it. A process of its own: a peak cannot be set back.
#![cfg(target_os = "linux")]

mod common;

use burn::tensor::{Device, Tensor};
use vlm_fullft::{AdaLomo, AdaLomoConfig, Lomo, LomoConfig};
use vlm_nn::Linear;
use vlm_nn::params::{self, Init};

use common::{Chain, status};

/// Weights are written in place, and no more than one gradient is there.
#[test]
fn a_step_takes_the_largest_gradient_and_little_more() {
    const WIDTH: usize = 2048;
    const MAPS: usize = 6;
    let device = Device::flex().autodiff();
    let maps = (0..MAPS).map(|_| Linear::new(WIDTH, WIDTH, false, &device)).collect();
    let mut model = params::initialize(Chain { maps }, 1, &|_, _| Init::Normal(0.02));
    let x = Tensor::<2>::ones([2, WIDTH], &device);
    let loss = |model: Chain| {
        let y = model.maps.iter().fold(x.clone(), |x, map| map.forward(x));
        Ok::<_, ()>(y.square().mean())
    };
    let before = status("VmRSS");
    let (mut lomo, mut ada) =
        (Lomo::new(LomoConfig::default()), AdaLomo::new(AdaLomoConfig::default()));
    for _ in 0..2 {
        let (next, passed) = lomo.step(model, &loss, 1e-3);
        passed.unwrap();
        let (next, passed) = ada.step(next, &loss, 1e-3);
        assert_eq!(passed.unwrap().largest, 4 * WIDTH * WIDTH);
        model = next;
    }
    // 16 MiB a gradient; six of them, or a second copy of the weights, would be 96.
    let more = status("VmHWM") - before;
    assert!(more < 40.0, "{more} MiB");
    drop(model);
}
