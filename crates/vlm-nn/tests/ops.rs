//! Each operation against its plain composition and against finite differences, on every
//! backend that is built in.

mod common;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation};
use vlm_nn::ops::{self, Activation, AttentionShape, MASKED};

use common::{close, devices, host, input};

/// Checks `fast` against `plain` in value and gradients, and its gradients against
/// differences of its own values.
fn check<const D: usize, const E: usize>(
    what: &str,
    shapes: &[[usize; D]],
    fast: &dyn Fn(&[Tensor<D>]) -> Tensor<E>,
    plain: &dyn Fn(&[Tensor<D>]) -> Tensor<E>,
) {
    for device in devices() {
        let plain_inputs: Vec<_> =
            shapes.iter().enumerate().map(|(i, s)| input(*s, i, &device)).collect();
        let y = fast(&plain_inputs);
        let weights = input(y.dims(), 99, &device);
        close(&format!("{what} forward"), &host(y), &host(plain(&plain_inputs)), 1e-5);

        let grads = |f: &dyn Fn(&[Tensor<D>]) -> Tensor<E>| -> Vec<Vec<f32>> {
            let auto = device.clone().autodiff();
            let x: Vec<_> = shapes
                .iter()
                .enumerate()
                .map(|(i, s)| input(*s, i, &auto).require_grad())
                .collect();
            let weights = Tensor::from_inner(weights.clone());
            let mut grads = (f(&x) * weights).sum().backward();
            x.iter().map(|x| host(x.grad_remove(&mut grads).expect("a gradient"))).collect()
        };
        let (ours, theirs) = (grads(fast), grads(plain));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            close(&format!("{what} gradient of input {i}"), a, b, 1e-4);
        }

        // Directional differences in double steps: f32 leaves about three digits.
        for (i, gradient) in ours.iter().enumerate() {
            let direction = input(shapes[i], 1000 + i, &device);
            let at = |h: f32| {
                let mut x = plain_inputs.clone();
                x[i] = x[i].clone() + direction.clone() * h;
                // Summed in double, since the differences are small.
                let (y, w) = (host(fast(&x)), host(weights.clone()));
                y.iter().zip(&w).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum::<f64>()
            };
            let h = 1e-2;
            let numeric =
                (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * f64::from(h));
            let exact: f64 = gradient
                .iter()
                .zip(host(direction))
                .map(|(g, d)| f64::from(*g) * f64::from(d))
                .sum();
            let scale = exact.abs().max(1.0);
            assert!(
                (numeric - exact).abs() < 1e-2 * scale,
                "{what} input {i}: difference {numeric}, gradient {exact}"
            );
        }
    }
}

#[test]
fn linear() {
    let bias = |x: &[Tensor<2>]| {
        let [_, m] = x[2].dims();
        x[2].clone().reshape([m])
    };
    for (n, k, m) in
        [(3, 8, 5), (130, 33, 70), (1, 17, 1), (300, 200, 190), (1, 203, 700), (4, 129, 413)]
    {
        let shapes = [[n, k], [k, m], [1, m]];
        let plain = |x: &[Tensor<2>]| x[0].clone().matmul(x[1].clone()) + x[2].clone();
        check(
            "linear",
            &shapes,
            &|x| ops::linear(x[0].clone(), x[1].clone(), Some(bias(x))),
            &plain,
        );
        let plain = |x: &[Tensor<2>]| x[0].clone().matmul(x[1].clone());
        check(
            "linear, no bias",
            &shapes[..2],
            &|x| ops::linear(x[0].clone(), x[1].clone(), None),
            &plain,
        );
        // Views: neither matrix lies in its buffer row by row.
        let views = [[k, n + 2], [m, k], [1, m]];
        let cut = |x: &Tensor<2>| x.clone().transpose().narrow(0, 1, n);
        check(
            "linear of views",
            &views,
            &|x| ops::linear(cut(&x[0]), x[1].clone().transpose(), Some(bias(x))),
            &|x| cut(&x[0]).matmul(x[1].clone().transpose()) + x[2].clone(),
        );
    }
}

#[test]
fn frozen_parts_of_a_linear_map_get_no_gradient() {
    for device in devices() {
        let auto = device.clone().autodiff();
        for tracked in 0..3 {
            let mut parts =
                [input([4, 6], 0, &auto), input([6, 5], 1, &auto), input([1, 5], 2, &auto)];
            parts[tracked] = parts[tracked].clone().require_grad();
            let [x, w, b] = parts.clone();
            let grads = ops::linear(x, w, Some(b.reshape([5]))).sum().backward();
            for (i, part) in parts.iter().enumerate() {
                assert_eq!(part.grad(&grads).is_some(), i == tracked, "part {i}");
            }
        }
    }
}

#[test]
fn layer_norm() {
    let plain = |x: &[Tensor<2>]| {
        let [n, d] = x[0].dims();
        let mean = x[0].clone().mean_dim(1);
        let c = x[0].clone() - mean;
        let var = c.clone().powf_scalar(2.0).mean_dim(1);
        let w = x[1].clone().expand([n, d]);
        c / (var + 1e-5).sqrt() * w + x[2].clone().expand([n, d])
    };
    let fast = |x: &[Tensor<2>]| {
        let d = x[0].dims()[1];
        ops::layer_norm(x[0].clone(), x[1].clone().reshape([d]), x[2].clone().reshape([d]), 1e-5)
    };
    for (n, d) in [(3, 8), (130, 33), (1, 1024)] {
        check("layer_norm", &[[n, d], [1, d], [1, d]], &fast, &plain);
    }
}

#[test]
fn rms_norm() {
    let plain = |x: &[Tensor<2>]| {
        let dims = x[0].dims();
        let square = x[0].clone().powf_scalar(2.0).mean_dim(1);
        x[0].clone() / (square + 1e-6).sqrt() * x[1].clone().expand(dims)
    };
    let fast = |x: &[Tensor<2>]| {
        let d = x[0].dims()[1];
        ops::rms_norm(x[0].clone(), x[1].clone().reshape([d]), 1e-6)
    };
    for (n, d) in [(3, 8), (130, 33)] {
        check("rms_norm", &[[n, d], [1, d]], &fast, &plain);
    }
}

#[test]
fn activations() {
    type Plain = fn(Tensor<2>) -> Tensor<2>;
    let cases: [(Activation, Plain); 5] = [
        // Not Burn's own gelu: on some backends its gradient is that of the tanh approximation.
        (Activation::Gelu, |x| {
            x.clone() * ((x * std::f32::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
        }),
        (Activation::GeluTanh, |x| {
            let inner = (x.clone() + x.clone().powf_scalar(3.0) * 0.044715) * 0.797_884_6;
            x * (inner.tanh() + 1.0) * 0.5
        }),
        (Activation::QuickGelu, |x| x.clone() * activation::sigmoid(x * 1.702)),
        (Activation::Silu, |x| x.clone() * activation::sigmoid(x)),
        (Activation::Relu, |x| activation::relu(x)),
    ];
    for (kind, plain) in cases {
        check::<2, 2>(
            &format!("{kind:?}"),
            &[[7, 19]],
            &|x| ops::activate(x[0].clone() * 3.0, kind),
            &|x| plain(x[0].clone() * 3.0),
        );
    }
}

#[test]
fn gated() {
    for kind in [Activation::Silu, Activation::GeluTanh] {
        for (n, d) in [(3, 8), (130, 333)] {
            check::<2, 2>(
                &format!("gated {kind:?}"),
                &[[n, d], [n, d]],
                &|x| ops::gated(x[0].clone() * 3.0, x[1].clone(), kind),
                &|x| ops::activate(x[0].clone() * 3.0, kind) * x[1].clone(),
            );
        }
    }
}

#[test]
fn rotate() {
    for (batch, of_angles, heads) in [(1, 1, 1), (3, 1, 2), (3, 3, 5)] {
        let (tokens, half) = (7, 4);
        let tables = |device: &Device| {
            let angles = input([of_angles, tokens, half], 5, device) * 2.0;
            (angles.clone().cos(), angles.sin())
        };
        check::<3, 3>(
            "rotate",
            &[[batch, tokens, 2 * half * heads]],
            &|x| {
                let (cos, sin) = tables(&x[0].device());
                ops::rotate(x[0].clone(), cos, sin, heads)
            },
            &|x| {
                let (cos, sin) = tables(&x[0].device());
                let (cos, sin) = (cos.unsqueeze_dim::<4>(2), sin.unsqueeze_dim::<4>(2));
                let x = x[0].clone().reshape([batch, tokens, heads, 2 * half]);
                let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
                let first = a.clone() * cos.clone() - b.clone() * sin.clone();
                let second = b * cos + a * sin;
                Tensor::cat(vec![first, second], 3).reshape([batch, tokens, 2 * half * heads])
            },
        );
    }
}

/// Attention as the textbook writes it.
fn plain_attention(x: &[Tensor<3>], mask: Option<Tensor<3>>, s: AttentionShape) -> Tensor<3> {
    let split = |x: &Tensor<3>, heads: usize| {
        let [b, t, w] = x.dims();
        let x = x.clone().reshape([b, t, heads, w / heads]).swap_dims(1, 2);
        let times = s.heads / heads;
        let parts: Vec<_> = (0..s.heads).map(|h| x.clone().narrow(1, h / times, 1)).collect();
        Tensor::cat(parts, 1)
    };
    let (q, k, v) = (split(&x[0], s.heads), split(&x[1], s.kv_heads), split(&x[2], s.kv_heads));
    let mut scores = q.matmul(k.swap_dims(2, 3)) * s.scale;
    let [_, _, t, n] = scores.dims();
    if let Some(mask) = mask {
        scores = scores + mask.unsqueeze_dim::<4>(1);
    }
    if s.causal {
        let hidden: Vec<f32> =
            (0..t * n).map(|i| if i % n > i / n + n - t { MASKED } else { 0.0 }).collect();
        let device = scores.device();
        scores = scores + Tensor::<4>::from_data(TensorData::new(hidden, [1, 1, t, n]), &device);
    }
    let out = activation::softmax(scores, 3).matmul(v);
    let [b, h, t, d] = out.dims();
    out.swap_dims(1, 2).reshape([b, t, h * d])
}

#[test]
fn attention() {
    // Query length, key length, heads, key/value heads, causal, mask rows (0 for no mask).
    let cases = [
        (5, 5, 2, 2, false, 0),
        (5, 5, 4, 2, true, 0),
        (3, 7, 4, 1, true, 1),
        (9, 6, 2, 2, false, 9),
        (133, 133, 1, 1, true, 0),
    ];
    for (t, n, heads, kv_heads, causal, mask_rows) in cases {
        let shape = AttentionShape { heads, kv_heads, causal, scale: 0.5 };
        let mask = move |device: &Device| {
            (mask_rows > 0).then(|| {
                let values = (0..2 * mask_rows * n)
                    .map(|i| if i % 3 == 1 { MASKED } else { 0.0 })
                    .collect::<Vec<f32>>();
                Tensor::<3>::from_data(TensorData::new(values, [2, mask_rows, n]), device)
            })
        };
        let fast = move |x: &[Tensor<3>]| {
            let m = mask(&x[0].device());
            // Keys and values have their own length: the first rows of the inputs.
            let (k, v) = (x[1].clone().narrow(1, 0, n), x[2].clone().narrow(1, 0, n));
            ops::attention(x[0].clone().narrow(1, 0, t), k, v, m, shape)
        };
        let plain = move |x: &[Tensor<3>]| {
            let m = mask(&x[0].device());
            let x = [
                x[0].clone().narrow(1, 0, t),
                x[1].clone().narrow(1, 0, n),
                x[2].clone().narrow(1, 0, n),
            ];
            plain_attention(&x, m, shape)
        };
        let rows = t.max(n);
        let d = 8;
        check(
            &format!("attention {t}x{n}, {heads}/{kv_heads} heads"),
            &[[2, rows, heads * d], [2, rows, kv_heads * d], [2, rows, kv_heads * d]],
            &fast,
            &plain,
        );
    }
}

/// A cache has room for more tokens than it holds.
#[test]
fn attention_to_the_filled_part_of_a_buffer() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, causal: true, scale: 0.5 };
    let attend = |x: &[Tensor<3>], cut: fn(&Tensor<3>) -> Tensor<3>| {
        ops::attention(x[0].clone(), cut(&x[1]), cut(&x[2]), None, shape)
    };
    for queries in [1, 5] {
        // Keys and values in buffers of 9 places, of which 2 to 8 are filled.
        check(
            "attention of a part",
            &[[3, queries, 12], [3, 9, 6], [3, 9, 6]],
            &|x| attend(x, |x| x.clone().narrow(1, 2, 7)),
            &|x| attend(x, |x| x.clone().narrow(1, 2, 7) + 0.0),
        );
    }
}

#[test]
fn a_row_that_sees_nothing_is_uniform() {
    for device in devices() {
        let x = input([1, 3, 4], 0, &device);
        let mask = Tensor::full([1, 3, 3], MASKED, &device);
        let shape = AttentionShape { heads: 1, kv_heads: 1, causal: false, scale: 1.0 };
        let y = ops::attention(x.clone(), x.clone(), x.clone(), Some(mask), shape);
        close("uniform", &host(y), &host(x.mean_dim(1).expand([1, 3, 4])), 1e-5);
    }
}

#[test]
fn causal_rows_do_not_see_the_future() {
    for device in devices() {
        let shape = AttentionShape { heads: 2, kv_heads: 2, causal: true, scale: 0.7 };
        let x = input([1, 6, 8], 0, &device);
        let noise = Tensor::random([1, 1, 8], Distribution::Default, &device);
        let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 5), noise], 1);
        let run = |x: Tensor<3>| {
            host(ops::attention(x.clone(), x.clone(), x, None, shape).narrow(1, 0, 5))
        };
        assert_eq!(run(x), run(changed));
    }
}

#[test]
fn cross_entropy() {
    let targets = |x: &Tensor<2>| {
        // Two positives in the first row, one elsewhere.
        let [n, c] = x.dims();
        let mut t = vec![0f32; n * c];
        for r in 0..n {
            t[r * c + (r * 5) % c] = 1.0;
        }
        t[0] = 0.5;
        t[c - 1] = 0.5;
        Tensor::<2>::from_data(TensorData::new(t, [n, c]), &x.device())
    };
    let fast = move |x: &[Tensor<2>]| ops::cross_entropy(x[0].clone() * 4.0, targets(&x[0]));
    let plain = move |x: &[Tensor<2>]| {
        let log = activation::log_softmax(x[0].clone() * 4.0, 1);
        -(log * targets(&x[0])).sum_dim(1).squeeze_dim::<1>(1)
    };
    for shape in [[3, 5], [40, 130]] {
        check("cross_entropy", &[shape], &fast, &plain);
    }
}

#[test]
fn cross_entropy_of_classes() {
    let classes = |x: &Tensor<2>| {
        let [n, c] = x.dims();
        let classes: Vec<i64> = (0..n).map(|r| ((r * 5 + 2) % c) as i64).collect();
        Tensor::<1, Int>::from_data(TensorData::new(classes, [n]), &x.device())
    };
    let fast = move |x: &[Tensor<2>]| ops::class_cross_entropy(x[0].clone() * 4.0, classes(&x[0]));
    let plain = move |x: &[Tensor<2>]| {
        let [n, _] = x[0].dims();
        let log = activation::log_softmax(x[0].clone() * 4.0, 1);
        -log.gather(1, classes(&x[0]).reshape([n, 1])).squeeze_dim::<1>(1)
    };
    for shape in [[3, 5], [40, 130]] {
        check("class_cross_entropy", &[shape], &fast, &plain);
    }
}

#[test]
fn the_logits_outlive_their_gradient() {
    for device in devices() {
        let device = device.autodiff();
        let x = input([4, 9], 3, &device).require_grad();
        let logits = x.clone() * 2.0;
        let classes = Tensor::<1, Int>::from_data([0, 8, 3, 3], &device);
        let before = host(logits.clone());
        let _ = ops::class_cross_entropy(logits.clone(), classes).sum().backward();
        assert_eq!(host(logits), before);
    }
}

#[test]
fn cross_entropy_of_huge_logits_is_finite() {
    for device in devices() {
        let logits = Tensor::<2>::from_data([[1e4f32, -1e4, 0.0]], &device);
        let targets = Tensor::<2>::from_data([[0.0f32, 1.0, 0.0]], &device);
        close("huge", &host(ops::cross_entropy(logits, targets)), &[2e4], 1e-5);
    }
}

#[test]
fn a_table_is_looked_up_and_multiplied_with() {
    let ids = |x: &Tensor<2>| {
        let device = x.clone().inner().device();
        Tensor::<2, Int>::from_data([[0, 3, 3], [5, 1, 0]], &device)
    };
    check("lookup", &[[6, 4]], &|x| ops::lookup(x[0].clone(), ids(&x[0])), &|x| {
        x[0].clone().select(0, ids(&x[0]).reshape([6])).reshape([2, 3, 4])
    });
    for (n, k, m) in [(3, 8, 5), (1, 17, 40), (130, 33, 70)] {
        check(
            "scores",
            &[[n, k], [m, k]],
            &|x| ops::scores(x[0].clone().reshape([1, n, k]), x[1].clone()),
            &|x| x[0].clone().matmul(x[1].clone().transpose()).reshape([1, n, m]),
        );
    }
}
