//! LoRA on a model of plain `burn::nn` layers: nothing of this project but the adapter.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{Device, Distribution, Tensor};
use vlm_peft::{AnyMethod, Lora, Targets, attach, merge, own_names};

#[derive(Module, Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(Relu::new().forward(self.up.forward(x)))
    }
}

fn main() -> Result<(), vlm_peft::Error> {
    let device = Device::flex().autodiff();
    let linear = |input, output| LinearConfig::new(input, output).init(&device);
    let model = Mlp { up: linear(8, 32), down: linear(32, 4) };
    let lora = AnyMethod::Lora(Lora { r: 2, ..Default::default() });
    // Each pass builds the changed weights anew; train with any optimiser of Burn, which sees A and B.
    let (model, adapter) =
        attach(model, "mine", &lora, Some(&Targets::of(&["up"])), &own_names, 1)?;
    let x = Tensor::random([16, 8], Distribution::Normal(0.0, 1.0), &device);
    let _for_your_optimiser = model.forward(x.clone()).powf_scalar(2.0).mean().backward();
    let model = merge(model, &adapter)?;
    println!("{:?}", model.forward(x).dims());
    Ok(())
}
