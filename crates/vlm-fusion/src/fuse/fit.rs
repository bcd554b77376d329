//! A start that knows what the image tower says.

use burn::module::Param;
use burn::tensor::Tensor;
use vlm_nn::Linear;

use super::Fusion;

/// Values that hardly change are not blown up.
const LEAST: f64 = 1e-3;

impl Fusion {
    /// Fits the start of plain maps to what they will see: each value of `seen: [tokens, width]`
    /// enters with mean 0 and deviation 1, and what comes out is as long as the decoder's own rows
    /// are, whose root mean square is `length`. States of towers have values that are the same for
    /// all pictures and many times larger than what differs; without this a projector spends its
    /// first thousands of steps on finding that out.
    ///
    /// It is a start only: the maps stay what they were. Kinds with a norm of their own are left as
    /// they are.
    pub fn fitted(self, seen: &Tensor<2>, length: f64) -> Self {
        match self {
            Fusion::Linear(mut module) => {
                let linear = standardised(module.linear, seen);
                let out = linear.forward(seen.clone());
                module.linear = scaled(linear, length / rms(out));
                Fusion::Linear(module)
            }
            Fusion::Mlp(mut module) => {
                module.up = standardised(module.up, seen);
                let tokens = seen.dims()[0];
                let out = module.forward(seen.clone().unsqueeze(), (1, tokens));
                module.down = scaled(module.down, length / rms(out));
                Fusion::Mlp(module)
            }
            other => other,
        }
    }
}

/// The root mean square of all values; never 0.
pub(crate) fn rms<const D: usize>(x: Tensor<D>) -> f64 {
    let square: f32 = (x.clone() * x).mean().into_scalar();
    f64::from(square).sqrt().max(1e-12)
}

/// The map that does to `x` what this one does to `(x − mean) / deviation`.
fn standardised(linear: Linear, seen: &Tensor<2>) -> Linear {
    let [_, width] = seen.dims();
    let mean = seen.clone().mean_dim(0);
    let centred = seen.clone() - mean.clone();
    let deviation = (centred.clone() * centred).mean_dim(0).sqrt().clamp_min(LEAST);
    let weight = linear.weight.val() / deviation.reshape([width, 1]);
    let bias = linear.bias.map(|bias| {
        let shift = mean.matmul(weight.clone());
        let out = shift.dims()[1];
        Param::from_tensor(bias.val() - shift.reshape([out]))
    });
    Linear { weight: Param::from_tensor(weight), bias }
}

fn scaled(linear: Linear, by: f64) -> Linear {
    Linear {
        weight: Param::from_tensor(linear.weight.val() * by),
        bias: linear.bias.map(|bias| Param::from_tensor(bias.val() * by)),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::fuse::FusionConfig;

    #[test]
    fn rows_begin_as_long_as_asked_and_differ_as_much_as_pictures_do() {
        let device = Device::flex();
        let noise = Tensor::<2>::random([200, 12], Distribution::Normal(0.0, 0.05), &device);
        // A large value that all have in common.
        let seen = noise + 3.0;
        for kind in ["linear", "mlp"] {
            let config: FusionConfig =
                serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
            let fusion = Fusion::init(&config, 12, 20, 1, 1, &device).unwrap();
            let rows = |fusion: &Fusion| fusion.fuse(seen.clone().unsqueeze(), (10, 20), None);
            let moving = |rows: Tensor<3>| {
                let mean = rows.clone().mean_dim(1);
                rms(rows.clone() - mean) / rms(rows)
            };
            let before = moving(rows(&fusion));
            let fitted = fusion.fitted(&seen, 0.1);
            let after = rows(&fitted);
            assert!((rms(after.clone()) - 0.1).abs() < 1e-4, "{kind}");
            let after = moving(after);
            assert!(before < 0.2 && after > 0.6, "{kind}: {before} {after}");
        }
    }
}
