//! Each operation with a hand-written backward pass beside its plain composition in Burn, in the
//! shapes of ViT-B/32: forward and backward together.

use criterion::{BatchSize, Criterion};

use burn::tensor::{Device, Distribution, Tensor, activation};
use vlm_nn::ops::{self, Activation, AttentionShape};

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
