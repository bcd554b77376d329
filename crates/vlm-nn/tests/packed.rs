//! Weights of four bits in linear maps.

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use vlm_nn::adapter::{Adapters, all, pack, plain, shape, take};
use vlm_nn::four_bit::{Code, FourBit, Largest, Packed};
use vlm_nn::{BlockConfig, Linear, Stack, ops, params};

fn noise(len: usize, seed: u64) -> Vec<f32> {
    params::drawn(params::Init::Normal(1.0), &[len], seed, "noise").iter().collect()
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn close(ours: &[f32], theirs: &[f32], within: f32) {
    assert_eq!(ours.len(), theirs.len());
    let most = theirs.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= within * most, "{a} and {b}");
    }
}

const SHAPES: [[usize; 2]; 5] = [[40, 7], [64, 48], [7, 9], [576, 1000], [33, 130]];

#[test]
fn a_packed_map_is_the_map_of_its_values() {
    let device = Device::flex().autodiff();
    for (case, [input, output]) in SHAPES.into_iter().enumerate() {
        for nested in [false, true] {
            let values = noise(input * output, case as u64);
            let four = FourBit::of(&values, [Code::Nf4, Code::Fp4][case % 2], 64, nested);
            let packed = Packed::new(&four, [input, output], &Device::flex());
            assert_eq!(packed.to_host(), four);
            let known = TensorData::new(four.values(), [output, input]);
            let known = Tensor::<2>::from_data(known, &Device::flex()).transpose();
            assert_eq!(floats(packed.values()), floats(known.clone()), "{input} {output}");
            for rows in [1, 3, 5, 70] {
                let x = || {
                    Tensor::<2>::from_data(
                        TensorData::new(noise(rows * input, 9), [rows, input]),
                        &device,
                    )
                    .require_grad()
                };
                let b = || Tensor::<1>::from_floats(&noise(output, 8)[..], &device).require_grad();
                let (x1, b1, x2, b2) = (x(), b(), x(), b());
                let y1 = packed.forward(x1.clone(), Some(b1.clone()));
                let known = Tensor::from_data(known.clone().into_data(), &device);
                let y2 = ops::linear(x2.clone(), known, Some(b2.clone()));
                close(&floats(y1.clone()), &floats(y2.clone()), 1e-5);
                let (g1, g2) =
                    ((y1.clone() * y1).sum().backward(), (y2.clone() * y2).sum().backward());
                close(&floats(x1.grad(&g1).unwrap()), &floats(x2.grad(&g2).unwrap()), 1e-5);
                close(&floats(b1.grad(&g1).unwrap()), &floats(b2.grad(&g2).unwrap()), 1e-5);
                close(
                    &floats(packed.forward(x1.inner(), None)),
                    &floats(ops::linear(x2.inner(), known_inner(&packed), None)),
                    1e-5,
                );
            }
        }
    }
}

fn known_inner(packed: &Packed) -> Tensor<2> {
    packed.values()
}

#[test]
fn it_takes_about_four_bits_a_value() {
    let values = noise(512 * 1024, 1);
    let bits = |nested| {
        let four = FourBit::of(&values, Code::Nf4, 64, nested);
        8.0 * Packed::new(&four, [512, 1024], &Device::flex()).bytes() as f64 / values.len() as f64
    };
    assert!((bits(false) - 4.5).abs() < 1e-9);
    // The map of 256 bytes is shared by a weight only.
    assert!(
        (bits(true) - 4.127 - 8.0 * 1024.0 / values.len() as f64).abs() < 1e-3,
        "{}",
        bits(true)
    );
}

#[test]
fn a_model_is_packed_map_by_map_and_says_nearly_the_same() {
    let device = Device::flex().autodiff();
    let config = BlockConfig { width: 64, heads: 4, inner: 128, ..Default::default() };
    let stack = params::initialize(Stack::new(&config, 2, &device), 7, &|path, _| {
        params::Init::Normal(if path.ends_with("bias") { 0.0 } else { 0.05 })
    });
    let x = Tensor::<3>::random([2, 6, 64], Distribution::Normal(0.0, 1.0), &device);
    let before = floats(stack.forward(x.clone(), None));
    let count = |stack: &Stack| {
        params::list(stack).iter().map(|p| p.shape.iter().product::<usize>()).sum::<usize>()
    };
    let all_values = count(&stack);
    let place = |stack: &Stack| stack.blocks[0].attention.q.weight.lazy_shape().to_vec();
    assert_eq!(place(&stack), [64, 64]);
    let source = stack.clone();
    let packed = pack(stack, &mut |path, _| {
        let chosen = path.ends_with("weight") && !path.contains("norm");
        let values = |path: &str| -> Vec<f32> {
            let data = params::read_one(&source, path);
            let [input, output] = data.shape()[..] else { unreachable!() };
            let turned = Tensor::<2>::from_data(data, &Device::flex()).transpose();
            assert_eq!(turned.dims(), [output, input]);
            floats(turned)
        };
        Ok::<_, ()>(chosen.then(|| FourBit::of(&values(path), Code::Nf4, 64, true)))
    })
    .unwrap();
    let after = floats(packed.forward(x.clone(), None));
    close(&after, &before, 0.2);
    assert_eq!(count(&packed), all_values);
    assert_eq!(place(&packed), [1, 1], "a copy of the weight is left");
    let q: &Param<Tensor<2>> = &packed.blocks[0].attention.q.weight;
    assert_eq!(shape(q), [64, 64]);
    // What others see of the weight is what is multiplied with.
    assert_eq!(floats(q.val()), floats(plain(q)));
    // A blank of the values in its place says the same.
    let dense = Linear {
        weight: Param::from_tensor(plain(q)),
        bias: packed.blocks[0].attention.q.bias.clone(),
    };
    let y = packed.blocks[0].attention.q.forward(x.clone());
    close(&floats(y), &floats(dense.forward(x)), 1e-5);
    assert_eq!(all(&packed).len(), 12);
    let (_, taken) = take(packed);
    assert!(taken.values().all(|Adapters { parts, packed }| parts.is_empty() && packed.is_some()));
    let Largest::Nested { .. } =
        taken.values().next().unwrap().packed.as_ref().unwrap().to_host().largest
    else {
        panic!("not nested")
    };
}
