//! A start that knows what the image tower says.

use burn::module::Param;
use burn::tensor::Tensor;
use vlm_nn::Linear;

use super::Fusion;

/// Values that hardly change are not blown up.
const LEAST: f64 = 1e-3;

impl Fusion {
    /// Fits the start of plain maps to what they will see: each value of the tower's states enters with
    /// mean 0 and deviation 1, and what comes out is as long as the decoder's own rows are, whose root
    /// mean square is `length`. States of towers have values that are the same for all pictures and many
    /// times larger than what differs; without this a projector spends its first thousands of steps on
    /// finding that out.
    ///
    /// `seen: [pictures, tokens, width]` is a sample of pictures of that grid. It is a start only: the
    /// maps stay what they were. Kinds with a norm of their own are left as they are.
    pub fn fitted(mut self, seen: &Tensor<3>, grid: (usize, usize), length: f64) -> Self {
        let [pictures, tokens, width] = seen.dims();
        let values = Values::of(&seen.clone().reshape([pictures * tokens, width]));
        match &mut self {
            Fusion::Linear(module) => module.linear = values.standardised(&module.linear),
            Fusion::Mlp(module) => module.up = values.standardised(&module.up),
            Fusion::PixelShuffle(module) => {
                let square = module.factor().pow(2);
                module.projection = values.repeated(square).standardised(&module.projection);
            }
            _ => return self,
        }
        let by = length / rms(self.fuse(seen.clone(), grid, None));
        match &mut self {
            Fusion::Linear(module) => module.linear = scaled(&module.linear, by),
            Fusion::Mlp(module) => module.down = scaled(&module.down, by),
            Fusion::PixelShuffle(module) => module.projection = scaled(&module.projection, by),
            _ => {}
        }
        self
    }
}

/// What a sample says of each value of a state, `[1, width]` each.
struct Values {
    mean: Tensor<2>,
    deviation: Tensor<2>,
}

impl Values {
    fn of(seen: &Tensor<2>) -> Self {
        let mean = seen.clone().mean_dim(0);
        let centred = seen.clone() - mean.clone();
        let deviation = (centred.clone() * centred).mean_dim(0).sqrt().clamp_min(LEAST);
        Values { mean, deviation }
    }

    /// Of so many states one after the other.
    fn repeated(&self, times: usize) -> Self {
        Values {
            mean: self.mean.clone().repeat(&[1, times]),
            deviation: self.deviation.clone().repeat(&[1, times]),
        }
    }

    /// The map that does to `x` what this one does to `(x − mean) / deviation`.
    fn standardised(&self, linear: &Linear) -> Linear {
        let [_, width] = self.mean.dims();
        let mean = self.mean.clone() / self.deviation.clone();
        let weight = linear.weight.val();
        // The mean comes through as this: taken off by the bias, or, without one, by making the map
        // blind to the mean's direction.
        let common = mean.clone().matmul(weight.clone());
        let (weight, bias) = match &linear.bias {
            Some(bias) => {
                let [out] = bias.dims();
                (weight, Some(Param::from_tensor(bias.val() - common.reshape([out]))))
            }
            None => {
                let square = (mean.clone() * mean.clone()).sum_dim(1).clamp_min(LEAST);
                (weight - (mean / square).transpose().matmul(common), None)
            }
        };
        let weight = weight / self.deviation.clone().reshape([width, 1]);
        Linear { weight: Param::from_tensor(weight), bias }
    }
}

/// The root mean square of all values; never 0.
pub(crate) fn rms<const D: usize>(x: Tensor<D>) -> f64 {
    let square: f32 = (x.clone() * x).mean().into_scalar();
    f64::from(square).sqrt().max(1e-12)
}

fn scaled(linear: &Linear, by: f64) -> Linear {
    Linear {
        weight: Param::from_tensor(linear.weight.val() * by),
        bias: linear.bias.as_ref().map(|bias| Param::from_tensor(bias.val() * by)),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use serde_json::json;

    use super::*;
    use crate::fuse::FusionConfig;

    #[test]
    fn rows_begin_as_long_as_asked_and_differ_as_much_as_pictures_do() {
        let device = Device::flex();
        let noise = Tensor::<3>::random([4, 48, 12], Distribution::Normal(0.0, 0.05), &device);
        // A large value that all have in common.
        let seen = noise + 3.0;
        let grid = (6, 8);
        let kinds = [
            json!({ "kind": "linear" }),
            json!({ "kind": "mlp" }),
            json!({ "kind": "mlp", "pool": 2, "bias": false }),
            json!({ "kind": "pixel-shuffle", "factor": 2 }),
        ];
        for kind in kinds {
            let config: FusionConfig = serde_json::from_value(kind.clone()).unwrap();
            let fusion = Fusion::init(&config, 12, 20, 1, 1, &device).unwrap();
            let rows = |fusion: &Fusion| fusion.fuse(seen.clone(), grid, None);
            let moving = |rows: Tensor<3>| {
                let mean = rows.clone().mean_dim(1);
                rms(rows.clone() - mean) / rms(rows)
            };
            let before = moving(rows(&fusion));
            let fitted = fusion.fitted(&seen, grid, 0.1);
            let after = rows(&fitted);
            assert!((rms(after.clone()) - 0.1).abs() < 1e-4, "{kind}");
            let after = moving(after);
            assert!(before < 0.2 && after > 0.6, "{kind}: {before} {after}");
        }
    }
}
