//! Logistic regression.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, LBFGSConfig, LineSearchFn};
use burn::tensor::Tensor;
use vlm_nn::Linear;
use vlm_nn::ops::cross_entropy;

/// `logits = x W + b`, on features of a plain device.
#[derive(Clone, Debug)]
pub struct LinearClassifier {
    /// `[dim, classes]`.
    pub weight: Tensor<2>,
    /// `[1, classes]`.
    pub bias: Tensor<2>,
}

impl LinearClassifier {
    /// One that knows nothing.
    pub fn zero(dim: usize, classes: usize, like: &Tensor<2>) -> Self {
        let device = like.device();
        LinearClassifier {
            weight: Tensor::zeros([dim, classes], &device),
            bias: Tensor::zeros([1, classes], &device),
        }
    }

    /// `[pictures, dim]` to `[pictures, classes]`.
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }

    fn module(&self) -> Linear {
        let track = |x: Tensor<2>| Tensor::<2>::from_inner(x);
        let classes = self.bias.dims()[1];
        Linear {
            weight: Param::from_tensor(track(self.weight.clone())),
            bias: Some(Param::from_tensor(track(self.bias.clone()).reshape([classes]))),
        }
    }

    fn of(module: &Linear) -> Self {
        let weight = module.weight.val().inner();
        let classes = weight.dims()[1];
        let bias = match &module.bias {
            Some(bias) => bias.val().inner().reshape([1, classes]),
            None => Tensor::zeros([1, classes], &weight.device()),
        };
        LinearClassifier { weight, bias }
    }
}

/// What to fit: L2-regularised logistic regression, `C · Σ wᵢ CE(xᵢ, tᵢ) + ½‖W‖²`, the bias free
/// (scikit-learn's `LogisticRegression`), with L-BFGS.
#[derive(Clone, Debug)]
pub struct Fit {
    /// `[pictures, dim]`.
    pub x: Tensor<2>,
    /// `[pictures, classes]`, shares of 1.
    pub targets: Tensor<2>,
    /// How much each picture counts, `[pictures]`; 1 without.
    pub weights: Option<Tensor<1>>,
    /// Iterations at most.
    pub iterations: usize,
}

impl Fit {
    /// From a start to the optimum for that C.
    pub fn run(&self, start: &LinearClassifier, c: f64) -> LinearClassifier {
        let rows = self.x.dims()[0];
        let total = match &self.weights {
            Some(weights) => f64::from(weights.clone().sum().into_scalar::<f32>()).max(1e-6),
            None => rows as f64,
        };
        let x = Tensor::<2>::from_inner(self.x.clone());
        let targets = Tensor::<2>::from_inner(self.targets.clone());
        let weights = self.weights.clone().map(Tensor::<1>::from_inner);
        let decay = 0.5 / (c * total);
        let objective = |module: Linear| {
            let losses = cross_entropy(module.forward(x.clone()), targets.clone());
            let losses = match &weights {
                Some(weights) => losses * weights.clone(),
                None => losses,
            };
            let weight = module.weight.val();
            let loss = losses.sum() / total + (weight.clone() * weight).sum() * decay;
            let value: f32 = loss.clone().into_scalar();
            (f64::from(value), GradientsParams::from_grads(loss.backward(), &module))
        };
        let mut optimizer = LBFGSConfig::new()
            .with_max_iter(self.iterations)
            .with_history_size(10)
            .with_tolerance_grad(1e-5)
            .with_tolerance_change(1e-7)
            .with_line_search_fn(LineSearchFn::StrongWolfe)
            .init();
        let (module, _) = optimizer.step(1.0, start.module(), objective);
        LinearClassifier::of(&module.no_grad())
    }
}
