//! What MeZO takes, as the system counts it. A process of its own: a peak cannot be set back.
#![cfg(target_os = "linux")]

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vlm_fullft::{Mezo, MezoConfig};
use vlm_nn::Linear;
use vlm_nn::params::{self, Init};

use common::{Chain, status};

/// Weights are moved in place, nothing is kept of a direction, and nothing for a backward pass.
#[test]
fn a_step_takes_no_more_than_a_forward_pass() {
    const WIDTH: usize = 2048;
    let device = Device::flex().autodiff();
    let maps = (0..6).map(|_| Linear::new(WIDTH, WIDTH, false, &device)).collect();
    let mut model = params::initialize(Chain { maps }, 1, &|_, _| Init::Normal(0.02));
    // A row of 4 MiB for each map, if they were kept.
    let x = Tensor::<2>::ones([512, WIDTH], &device);
    let loss = |model: Chain| {
        let y = model.maps.iter().fold(x.clone(), |x, map| map.forward(x));
        Ok::<_, ()>(f64::from(y.square().mean().into_scalar::<f32>()))
    };
    let inference = model.clone().no_grad();
    loss(inference).unwrap();
    let before = status("VmHWM");
    let mut rule = Mezo::new(MezoConfig::default());
    for _ in 0..2 {
        let (next, probed) = rule.step(model, &loss, 1e-6);
        assert!(probed.unwrap().step.is_some());
        model = next;
    }
    let more = status("VmHWM") - before;
    assert!(more < 8.0, "{more} MiB");
    drop(model);
}
