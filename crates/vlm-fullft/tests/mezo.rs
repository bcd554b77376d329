//! MeZO: its slope against the one of calculus, its steps against themselves.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use vlm_fullft::{Mezo, MezoConfig};
use vlm_nn::params::{self, Init};
use vlm_nn::{Activation, BlockConfig, Linear, NormKind, Stack};

fn device() -> Device {
    Device::flex().autodiff()
}

fn matrix(rows: [[f32; 2]; 2]) -> Tensor<2> {
    Tensor::from_data(rows, &device())
}

/// A vector in a module of its own.
#[derive(Module, Debug)]
struct Theta {
    theta: Param<Tensor<1>>,
}

fn theta(values: &[f32]) -> Theta {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Theta { theta: Param::from_tensor(Tensor::from_data(data, &device())) }
}

fn values<M: Module>(model: &M) -> Vec<f32> {
    let mut all = Vec::new();
    params::read(model, &mut |_, data| all.extend(data.iter::<f32>()));
    all
}

/// ½ θᵀHθ with H = [[2, ½], [½, 1]].
fn half_square(model: Theta) -> Result<f64, ()> {
    let x = model.theta.val().reshape([1, 2]);
    let loss = (x.clone().matmul(matrix([[2.0, 0.5], [0.5, 1.0]])) * x).sum() * 0.5;
    Ok(f64::from(loss.into_scalar::<f32>()))
}

/// Of a quadratic loss the slope along z is zᵀHθ, whatever eps is. The direction is seen in the step that
/// was made: θ − θ' = lr · slope · z.
#[test]
fn the_slope_of_a_quadratic_is_exact() {
    for (seed, eps) in [(1, 1e-2), (2, 1e-2), (3, 0.1), (4, 0.5), (5, 0.25)] {
        let begin = [1.0f32, -2.0];
        let mut rule = Mezo::new(MezoConfig { seed, eps, ..Default::default() });
        let (model, probed) = rule.step(theta(&begin), &half_square, 0.1);
        let step = probed.unwrap().step.unwrap();
        let slope = f64::from(step.slopes[0]);
        let end = values(&model);
        let z: Vec<f64> =
            (0..2).map(|i| f64::from(begin[i] - end[i]) / (f64::from(step.lr) * slope)).collect();
        // Hθ = (1, −1.5).
        let want = z[0] * 1.0 + z[1] * -1.5;
        assert!(
            (slope - want).abs() < 1e-3 * want.abs().max(0.1),
            "eps {eps}: {slope}, not {want}"
        );
        assert!(model.theta.is_require_grad());
    }
}

/// Weights that have been probed a thousand times, and never changed.
#[test]
fn probing_leaves_weights_as_they_are() {
    let model = params::initialize(stack(), 3, &|_, _| Init::Normal(0.3));
    let begin = values(&model);
    let mut rule = Mezo::new(MezoConfig { seed: 1, directions: 2, ..Default::default() });
    let still = |_: Stack| Ok::<_, ()>(0.5);
    let (mut model, first) = rule.step(model, &still, 1e-3);
    first.unwrap();
    let rounded = values(&model);
    let largest = begin.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (a, b) in begin.iter().zip(&rounded) {
        assert!((a - b).abs() <= largest * 2f32.powi(-23), "{a} and {b}");
    }
    for _ in 0..500 {
        let (next, probed) = rule.step(model, &still, 1e-3);
        assert_eq!(probed.unwrap().slope, 0.0);
        model = next;
    }
    assert_eq!(values(&model), rounded);
}

fn stack() -> Stack {
    let config = BlockConfig {
        width: 16,
        heads: 2,
        inner: 24,
        activation: Activation::GeluTanh,
        norm: NormKind::Rms,
        ..BlockConfig::default()
    };
    Stack::new(&config, 2, &device())
}

/// The mean square of what a stack makes of a row.
fn squares(model: Stack) -> Result<f64, ()> {
    let x = Tensor::<3>::ones([1, 4, 16], &device());
    let y = model.forward(x, None);
    Ok(f64::from(y.square().mean().into_scalar::<f32>()))
}

fn run(config: MezoConfig, steps: usize) -> (Stack, Mezo, Vec<f32>) {
    let model = params::initialize(stack(), 3, &|_, _| Init::Normal(0.3));
    let begin = values(&model);
    let mut rule = Mezo::new(config);
    let mut model = model;
    for _ in 0..steps {
        let (next, probed) = rule.step(model, &squares, 3e-4);
        probed.unwrap();
        model = next;
    }
    (model, rule, begin)
}

#[test]
fn a_seed_is_a_run_and_its_steps_are_the_weights() {
    for directions in [1, 3] {
        let config = MezoConfig {
            seed: 11,
            directions,
            weight_decay: 0.1,
            lr_scale: [("blocks.0.mlp".to_owned(), 3.0), ("blocks.1.attention".to_owned(), 0.0)]
                .into(),
            ..Default::default()
        };
        let (model, rule, begin) = run(config.clone(), 20);
        let end = values(&model);
        assert_ne!(begin, end);
        assert_eq!(values(&run(config.clone(), 20).0), end, "the same seed");
        let other = MezoConfig { seed: 12, ..config.clone() };
        assert_ne!(values(&run(other, 20).0), end, "another seed");

        let mut again = params::initialize(stack(), 3, &|_, _| Init::Normal(0.3));
        let mut replay = Mezo::new(config);
        for step in rule.steps() {
            again = replay.replay(again, step);
        }
        assert_eq!(values(&again), end, "{directions} directions");
        assert_eq!(replay.steps(), rule.steps());
        let mut frozen = Vec::new();
        let (mut before, mut after) = (begin.iter(), end.iter());
        params::read(&model, &mut |path, data| {
            for _ in 0..data.num_elements() {
                let same = before.next() == after.next();
                if path.starts_with("blocks.1.attention") {
                    frozen.push(same);
                }
            }
        });
        assert!(frozen.len() > 900 && frozen.into_iter().all(|same| same), "a factor of 0 freezes");
    }
}

/// Weights that begin at 0 outgrow their grid, and come to what plain arithmetic says.
#[test]
fn a_grid_grows_with_its_weights() {
    let goal = 0.75f32;
    let loss = |model: Theta| {
        let rest = model.theta.val() - goal;
        Ok::<_, ()>(f64::from(rest.square().mean().into_scalar::<f32>()))
    };
    let mut rule = Mezo::new(MezoConfig { seed: 2, eps: 1e-2, ..Default::default() });
    let mut model = theta(&[0.0; 4]);
    let begin = model.clone();
    for _ in 0..600 {
        let (next, probed) = rule.step(model, &loss, 0.2);
        model = next;
        probed.unwrap();
    }
    for x in values(&model) {
        assert!((x - goal).abs() < 1e-3, "{x}");
    }
    let mut replay = Mezo::new(MezoConfig { seed: 2, eps: 1e-2, ..Default::default() });
    let again = rule.steps().iter().fold(begin, |model, step| replay.replay(model, step));
    assert_eq!(values(&again), values(&model));
}

#[test]
fn what_is_no_number_or_too_steep_changes_nothing() {
    let begin = [1.0f32, -2.0];
    for directions in [1, 2] {
        let config = MezoConfig { seed: 1, directions, ..Default::default() };
        let mut rule = Mezo::new(config);
        let (model, probed) = rule.step(theta(&begin), &|_| Ok::<_, ()>(f64::NAN), 0.1);
        assert!(probed.unwrap().step.is_none());
        assert_eq!(values(&model), begin);
        let steep = |model: Theta| half_square(model).map(|loss| 1e9 * loss);
        let (model, probed) = rule.step(model, &steep, 0.1);
        let probed = probed.unwrap();
        assert!(probed.step.is_none() && probed.slope.abs() > 1e6, "{probed:?}");
        let (model, failed) = rule.step(model, &|_| Err("no data"), 0.1);
        assert_eq!(failed.unwrap_err(), "no data");
        assert_eq!(values(&model), begin);
        assert!(rule.steps().is_empty() && model.theta.is_require_grad());
    }
}

/// Only what requires gradients is moved, and a weight that stands in two places once.
#[test]
fn subsets_and_ties() {
    #[derive(Module, Debug)]
    struct Pair {
        a: Linear,
        b: Linear,
        c: Linear,
    }
    let a = params::initialize(Linear::new(3, 3, false, &device()), 1, &|_, _| Init::Normal(0.5));
    let c = params::initialize(Linear::new(3, 3, true, &device()), 2, &|_, _| Init::Normal(0.5));
    let model = Pair { b: a.clone(), a, c: c.no_grad() };
    let begin = values(&model);
    let x = Tensor::<2>::ones([2, 3], &device());
    let loss = |model: Pair| {
        let y = model.c.forward(model.b.forward(model.a.forward(x.clone())));
        Ok::<_, ()>(f64::from(y.square().mean().into_scalar::<f32>()))
    };
    let mut rule = Mezo::new(MezoConfig { seed: 4, ..Default::default() });
    let mut model = model;
    for _ in 0..5 {
        let (next, probed) = rule.step(model, &loss, 1e-3);
        probed.unwrap();
        model = next;
    }
    let end = values(&model);
    assert_ne!(end[..9], begin[..9]);
    assert_eq!(end[..9], end[9..18], "tied");
    assert_eq!(end[18..], begin[18..], "frozen");
    assert!(!model.c.weight.is_require_grad() && model.a.weight.is_require_grad());
}
