//! Each operation with a hand-written backward pass beside its plain composition in Burn, in the
//! shapes of ViT-B/32: forward and backward together.

use criterion::{BatchSize, Criterion};

use burn::tensor::{Device, Distribution, Tensor, activation};
use vlm_nn::ops::{self, Activation, AttentionShape, Precision};

const PICTURES: usize = 16;
const TOKENS: usize = 50;
const WIDTH: usize = 768;
const HEADS: usize = 12;

type Inputs = Vec<Tensor<3>>;
type Op<'a> = &'a dyn Fn(&Inputs) -> Tensor<3>;

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let device = Device::default();
    let mut pair = |name: &str, shapes: &[[usize; 3]], ours: Op, plain: Op| {
        let mut group = criterion.benchmark_group(name);
        for (who, op) in [("ours", ours), ("burn", plain)] {
            group.bench_function(who, |b| {
                let inputs = || inputs(shapes, &device);
                b.iter_batched_ref(inputs, |x| pass(x, op, &device), BatchSize::PerIteration);
            });
        }
        group.finish();
    };

    let tokens = [PICTURES, TOKENS, WIDTH];
    pair("attention", &[tokens; 3], &attention, &plain_attention);
    let affine = [1, 1, WIDTH];
    pair("layer norm", &[tokens, affine, affine], &layer_norm, &plain_layer_norm);
    let inner = [PICTURES, TOKENS, 4 * WIDTH];
    pair("quick gelu", &[inner], &|x| ops::activate(x[0].clone(), Activation::QuickGelu), &|x| {
        x[0].clone() * activation::sigmoid(x[0].clone() * 1.702)
    });
    pair("gelu", &[inner], &|x| ops::activate(x[0].clone(), Activation::Gelu), &|x| {
        activation::gelu(x[0].clone())
    });
    pair("cross-entropy", &[[1, 512, 512]], &cross_entropy, &plain_cross_entropy);
    let (half, heads) = (WIDTH / HEADS / 2, [PICTURES, TOKENS, WIDTH]);
    let angles = || Tensor::<3>::ones([1, TOKENS, half], &device) * 0.5;
    let (cos, sin) = (angles().cos(), angles().sin());
    let rotate = |x: &Inputs| {
        let (cos, sin) = (Tensor::from_inner(cos.clone()), Tensor::from_inner(sin.clone()));
        ops::rotate(x[0].clone(), cos, sin, HEADS)
    };
    pair("rotary positions", &[heads], &rotate, &|x| plain_rotate(x, &cos, &sin));
    pair("gated silu", &[inner, inner], &gated, &|x| activation::silu(x[0].clone()) * x[1].clone());

    // A feed-forward of SmolLM2-135M over 2,048 tokens.
    let mut group = criterion.benchmark_group("linear");
    for precision in [Precision::Highest, Precision::High, Precision::Medium] {
        group.bench_function(format!("{precision:?}").to_lowercase(), |b| {
            let _precision = precision.scope();
            let inputs = || inputs(&[[1, 2048, 576], [1, 576, 1536]], &device);
            let op = |x: &Inputs| ops::linear(x[0].clone(), x[1].clone().squeeze_dim::<2>(0), None);
            b.iter_batched_ref(inputs, |x| pass(x, &op, &device), BatchSize::PerIteration);
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Fresh leaves, since a backward pass uses its graph up.
fn inputs(shapes: &[[usize; 3]], device: &Device) -> Inputs {
    let auto = device.clone().autodiff();
    let noise = Distribution::Uniform(-1.0, 1.0);
    shapes.iter().map(|s| Tensor::random(*s, noise, &auto).require_grad()).collect()
}

/// Forward and backward.
fn pass(x: &Inputs, op: Op, device: &Device) {
    let y = op(x);
    // Squared, so that the gradient that comes in is no constant.
    drop((y.clone() * y).sum().backward());
    // Other backends than flex only queue the work.
    let _ = device.sync();
}

fn attention(x: &Inputs) -> Tensor<3> {
    let scale = 1.0 / ((WIDTH / HEADS) as f64).sqrt();
    let shape = AttentionShape { heads: HEADS, kv_heads: HEADS, causal: false, scale };
    ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), None, shape)
}

fn plain_attention(x: &Inputs) -> Tensor<3> {
    let [b, t, w] = x[0].dims();
    let d = w / HEADS;
    let split = |x: &Tensor<3>| x.clone().reshape([b, t, HEADS, d]).swap_dims(1, 2);
    let scores = split(&x[0]).matmul(split(&x[1]).swap_dims(2, 3)) / (d as f64).sqrt();
    let out = activation::softmax(scores, 3).matmul(split(&x[2]));
    out.swap_dims(1, 2).reshape([b, t, w])
}

fn gated(x: &Inputs) -> Tensor<3> {
    ops::gated(x[0].clone(), x[1].clone(), Activation::Silu)
}

fn plain_rotate(x: &Inputs, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let ([b, t, w], half) = (x[0].dims(), WIDTH / HEADS / 2);
    let table = |x: &Tensor<3>| Tensor::<3>::from_inner(x.clone()).unsqueeze_dim::<4>(2);
    let (cos, sin) = (table(cos), table(sin));
    let x = x[0].clone().reshape([b, t, HEADS, 2 * half]);
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned =
        [first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    Tensor::cat(turned.to_vec(), 3).reshape([b, t, w])
}

fn layer_norm(x: &Inputs) -> Tensor<3> {
    let vector = |x: &Tensor<3>| x.clone().reshape([WIDTH]);
    ops::layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5)
}

fn plain_layer_norm(x: &Inputs) -> Tensor<3> {
    let centred = x[0].clone() - x[0].clone().mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    centred / (variance + 1e-5).sqrt() * x[1].clone() + x[2].clone()
}

/// `[1, rows, classes]` to the loss of each row, `[1, rows, 1]`; row i belongs to class i.
fn cross_entropy(x: &Inputs) -> Tensor<3> {
    let [_, n, m] = x[0].dims();
    let logits = x[0].clone().reshape([n, m]);
    let targets = Tensor::eye(n, &logits.device());
    ops::cross_entropy(logits, targets).reshape([1, n, 1])
}

fn plain_cross_entropy(x: &Inputs) -> Tensor<3> {
    let [_, n, m] = x[0].dims();
    let logits = x[0].clone().reshape([n, m]);
    let targets = Tensor::<2>::eye(n, &logits.device());
    let log = activation::log_softmax(logits, 1);
    (log * targets).sum_dim(1).reshape([1, n, 1]).neg()
}
