//! What hangs on weights.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::adapter::{
    Adapters, Bottleneck, ByPath, LowRank, Named, Part, Place, Ranks, Scale, Scaling, Side, put,
    take,
};
use vlm_nn::{Activation, Linear, ops};

fn device() -> Device {
    Device::flex().autodiff()
}

fn noise<const D: usize>(shape: [usize; D], seed: u64) -> Param<Tensor<D>> {
    let device = device();
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let tensor = Tensor::from_data(TensorData::new(values, shape), &device).require_grad();
    Param::initialized(ParamId::new(), tensor)
}

fn low_rank(magnitude: bool) -> Part {
    Part::LowRank(LowRank {
        a: noise([6, 3], 1),
        b: noise([3, 5], 2),
        magnitude: magnitude.then(|| noise([5], 3)),
        scaling: Scaling { alpha: 4.0, rooted: false },
        ranks: None,
        dropout: 0.0,
    })
}

fn scale(side: Side) -> Part {
    let width = if side == Side::Input { 6 } else { 5 };
    Part::Scale(Scale { factors: noise([width], 4), side })
}

fn bottleneck(place: Place) -> Part {
    let (input, output) = match place {
        Place::Before | Place::Around => (6, 6),
        Place::After => (5, 5),
        Place::Beside => (6, 5),
    };
    Part::Bottleneck(Bottleneck {
        down: noise([input, 2], 5),
        up: noise([2, output], 6),
        activation: Activation::Tanh,
        scale: 0.5,
        place,
        dropout: 0.0,
    })
}

fn linear() -> Linear {
    Linear { weight: noise([6, 5], 7), bias: Some(noise([5], 8)) }
}

fn with(parts: Vec<Part>) -> Linear {
    let named = |part| Named { name: "one".into(), active: true, part };
    let adapters = Adapters { parts: parts.into_iter().map(named).collect(), packed: None };
    put(linear(), ByPath::from([("weight".into(), adapters)]))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn factors_and_the_dense_weight_say_the_same() {
    let x = noise([2, 6], 9).val();
    let cases = [
        vec![low_rank(false)],
        vec![low_rank(true)],
        vec![scale(Side::Input)],
        vec![low_rank(false), scale(Side::Input), low_rank(false)],
        vec![scale(Side::Input), low_rank(true)],
    ];
    for parts in cases {
        let linear = with(parts);
        let dense =
            ops::linear(x.clone(), linear.weight.val(), linear.bias.as_ref().map(Param::val));
        assert!(close(&values(linear.forward(x.clone())), &values(dense)), "{linear:?}");
    }
}

#[test]
fn a_scaled_output_takes_its_bias_along() {
    let x = noise([2, 6], 9).val();
    let Part::Scale(scale) = scale(Side::Output) else { unreachable!() };
    let want = linear().forward(x.clone()) * scale.factors.val().unsqueeze();
    assert!(close(&values(with(vec![Part::Scale(scale)]).forward(x)), &values(want)));
}

#[test]
fn bottlenecks_stand_where_they_should() {
    let x = noise([2, 6], 9).val();
    for place in [Place::Before, Place::After, Place::Beside, Place::Around] {
        let Part::Bottleneck(part) = bottleneck(place) else { unreachable!() };
        let narrow =
            |x: Tensor<2>| x.matmul(part.down.val()).tanh().matmul(part.up.val()) * part.scale;
        let map = |x: Tensor<2>| linear().forward(x);
        let want = match place {
            Place::Before => map(x.clone() + narrow(x.clone())),
            Place::After => map(x.clone()) + narrow(map(x.clone())),
            Place::Beside => map(x.clone()) + narrow(x.clone()),
            // Its feed-forward asks for it.
            Place::Around => map(x.clone()),
        };
        let said = with(vec![Part::Bottleneck(part.clone())]).forward(x.clone());
        assert!(close(&values(said), &values(want)), "{place:?}");
    }
}

#[test]
fn what_is_taken_can_be_put_back() {
    let model = with(vec![low_rank(true), scale(Side::Output)]);
    let x = noise([2, 6], 9).val();
    let before = values(model.forward(x.clone()));
    let (plain, mut taken) = take(model);
    assert_eq!(values(plain.forward(x.clone())), values(linear().forward(x.clone())));
    assert_eq!(taken.keys().collect::<Vec<_>>(), ["weight"]);
    let again = put(plain.clone(), taken.clone());
    assert_eq!(values(again.forward(x.clone())), before);
    for named in &mut taken.get_mut("weight").unwrap().parts {
        named.active = false;
    }
    let off = put(plain.clone(), taken);
    assert_eq!(values(off.forward(x.clone())), values(plain.forward(x)));
}

#[test]
fn ranks_are_chosen_for_all_terms_at_once_and_the_last_can_learn_alone() {
    let ranks = Ranks::default().last_learning(true);
    ranks.use_first(2);
    let Part::LowRank(part) = low_rank(false) else { unreachable!() };
    let part = LowRank { ranks: Some(ranks.clone()), ..part };
    let adapted = with(vec![Part::LowRank(part.clone())]);
    let x = noise([2, 6], 9).val();
    let (a, b) = (part.a.val(), part.b.val());
    let term = |used: usize| {
        let a = a.clone().slice([0..6, 0..used]);
        x.clone().matmul(a).matmul(b.clone().slice([0..used, 0..5])) * (4.0 / used as f64)
    };
    let plain = linear().forward(x.clone());
    assert!(close(&values(adapted.forward(x.clone())), &values(plain.clone() + term(2))));
    let grads = adapted.forward(x.clone()).sum().backward();
    let of_a: Vec<f32> = values(a.grad(&grads).unwrap());
    assert!(of_a.chunks(3).all(|row| row[0] == 0.0 && row[1] != 0.0 && row[2] == 0.0));
    ranks.use_first(1);
    assert!(close(&values(adapted.forward(x.clone())), &values(plain + term(1))));
}

#[test]
fn no_gradient_passes_through_the_length_of_a_direction() {
    let linear = with(vec![low_rank(true)]);
    let adapters = linear.weight.reparameterization::<Adapters>().unwrap();
    let Part::LowRank(part) = &adapters.parts[0].part else { unreachable!() };
    let x = noise([2, 6], 9).val();
    let grads = linear.forward(x.clone()).sum().backward();
    // ∇V = (m / |V|) ∇W, and ∇B = s Aᵀ ∇V.
    let weight = linear.weight.base() + part.a.val().matmul(part.b.val()) * (4.0 / 3.0);
    let stretch = part.magnitude.as_ref().unwrap().val().unsqueeze::<2>()
        / (weight.clone() * weight).sum_dim(0).sqrt();
    let upstream = x.transpose().matmul(Tensor::ones([2, 5], &device())) * stretch;
    let want = part.a.val().transpose().matmul(upstream) * (4.0 / 3.0);
    assert!(close(&values(part.b.val().grad(&grads).unwrap()), &values(want.inner())));
}

/// Values that the original libraries gave (peft 0.17 and NumPy, f32 on a CPU); matrices are given as
/// they store them, `[out, in]`.
mod golden {
    use super::*;

    /// `((i a + o) mod m − m / 2) / 16`.
    fn grid<const D: usize>(shape: [usize; D], [a, m, o]: [usize; 3]) -> Tensor<D> {
        let value = |i: usize| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    fn param<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
        Param::initialized(ParamId::new(), tensor.detach().require_grad())
    }

    fn a() -> Tensor<2> {
        grid([2, 4], [5, 13, 3]).transpose()
    }

    fn b() -> Tensor<2> {
        grid([3, 2], [3, 7, 1]).transpose()
    }

    fn x() -> Tensor<2> {
        grid([2, 4], [11, 29, 4])
    }

    fn weight() -> Tensor<2> {
        grid([3, 4], [7, 23, 5]).transpose()
    }

    fn with(part: Part) -> Linear {
        let linear = Linear { weight: param(weight()), bias: Some(param(grid([3], [5, 11, 2]))) };
        let parts = vec![Named { name: "default".into(), active: true, part }];
        put(linear, ByPath::from([("weight".into(), Adapters { parts, packed: None })]))
    }

    fn term(rooted: bool, dora: bool, ranks: Option<Ranks>) -> LowRank {
        LowRank {
            a: param(a()),
            b: param(b()),
            magnitude: dora.then(|| param(LowRank::resting_magnitude(weight()))),
            scaling: Scaling { alpha: 4.0, rooted },
            ranks,
            dropout: 0.0,
        }
    }

    fn says(part: Part, want: [f32; 6]) {
        let said = values(with(part).forward(x()));
        assert!(close(&said, &want), "{said:?}");
    }

    /// Gradients of half the sum of squares.
    fn gradients(part: LowRank) -> [Vec<f32>; 3] {
        let y = with(Part::LowRank(part.clone())).forward(x());
        let grads = (y.clone() * y * 0.5).sum().backward();
        let of_magnitude =
            part.magnitude.map(|m| values(m.val().grad(&grads).unwrap())).unwrap_or_default();
        // Back to how peft stores them.
        let of_a = part.a.val().grad(&grads).unwrap().transpose();
        [values(of_a), values(part.b.val().grad(&grads).unwrap().transpose()), of_magnitude]
    }

    #[test]
    fn lora() {
        says(
            Part::LowRank(term(false, false, None)),
            [0.6132812, -0.1611328, -0.6611328, -0.6015625, -0.1708984, -0.7373047],
        );
        says(
            Part::LowRank(term(true, false, None)),
            [0.6132812, -0.140503, -0.6680094, -0.5611119, -0.1478416, -0.7854408],
        );
        let [of_a, of_b, _] = gradients(term(false, false, None));
        let want_a = [
            0.193634, 0.0290833, -0.2478638, 0.092926, -0.0942612, -0.00383, 0.1173553, -0.0501938,
        ];
        let want_b = [0.015686, -0.9085693, 0.0935364, -0.0799561, 0.3945007, -0.3630371];
        assert!(close(&of_a, &want_a) && close(&of_b, &want_b), "{of_a:?} {of_b:?}");
    }

    #[test]
    fn dora() {
        says(
            Part::LowRank(term(false, true, None)),
            [0.615222, -0.2305956, -0.6147873, -0.6025661, -0.242732, -0.6823726],
        );
        let [of_a, of_b, of_magnitude] = gradients(term(false, true, None));
        let want_a = [
            0.168632, -0.0458354, -0.1930873, 0.1150859, -0.090741, 0.008935, 0.1089338, -0.0543778,
        ];
        let want_b = [0.0155059, -0.9127795, 0.1656767, -0.1399883, 0.3246377, -0.2967422];
        assert!(close(&of_a, &want_a) && close(&of_b, &want_b), "{of_a:?} {of_b:?}");
        assert!(close(&of_magnitude, &[0.9266716, 0.2267761, 0.6448952]), "{of_magnitude:?}");
        let merged = values(with(Part::LowRank(term(false, true, None))).weight.val().transpose());
        let want = [
            -0.2975945, 0.0, 0.6030205, -0.4385603, 0.0097091, 0.407782, -0.6019639, -0.203891,
            0.1317047, 0.6793189, -0.4089777, 0.0485228,
        ];
        assert!(close(&merged, &want), "{merged:?}");
    }

    #[test]
    fn dylora_at_one_rank() {
        let ranks = Ranks::default();
        ranks.use_first(1);
        says(
            Part::LowRank(term(false, false, Some(ranks))),
            [0.6796875, -0.1113281, -0.7441406, -0.625, -0.1152344, -0.7324219],
        );
    }

    #[test]
    fn factors_of_outputs_and_of_inputs() {
        let scale = |factors: &[f32], side| {
            let factors = param(Tensor::from_floats(factors, &device()));
            Part::Scale(Scale { factors, side })
        };
        says(
            scale(&[0.9375, 1.0625, 0.875], Side::Output),
            [0.5749512, -0.2241211, -0.5639648, -0.6555176, -0.2407227, -0.543457],
        );
        says(
            scale(&[0.9375, 1.0625, 0.875, 1.0], Side::Input),
            [0.552002, -0.1533203, -0.6027832, -0.6872559, -0.2541504, -0.6657715],
        );
    }

    #[test]
    fn a_bottleneck_beside() {
        let part = Bottleneck {
            down: param(a()),
            up: param(b()),
            activation: Activation::Tanh,
            scale: 1.0,
            place: Place::Beside,
            dropout: 0.0,
        };
        says(
            Part::Bottleneck(part),
            [0.6135641, -0.1861805, -0.6530664, -0.6526904, -0.1989331, -0.6768319],
        );
    }
}
