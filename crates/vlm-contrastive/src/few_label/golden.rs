//! Numbers of an independent restatement of the formulas (`xtask/golden/few_label.py`), and those
//! of the original libraries on the same inputs.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use vlm_store::TensorFiles;

use super::fixture::matrix;
use super::graph::{Graph, neighbours, shares, solve};
use super::linear::{Fit, LinearClassifier};
use super::problem::{host, one_hot};
use super::propagation::dense;
use super::{clip_adapter, sup_con, tip_logits};
use crate::loss::normalize;

struct Golden(TensorFiles);

impl Golden {
    fn open() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/few_label");
        Golden(TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap())
    }

    fn data(&self, name: &str) -> TensorData {
        self.0.read(name).unwrap()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.data(name).iter().collect()
    }

    fn numbers(&self, name: &str) -> Vec<usize> {
        self.values(name).into_iter().map(|x| x as usize).collect()
    }

    fn tensor(&self, name: &str) -> Tensor<2> {
        Tensor::from_data(self.data(name), &Device::flex())
    }
}

#[track_caller]
fn close(got: &[f32], want: &[f32], within: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= within * want.abs().max(1.0), "{i}: {got} should be {want}");
    }
}

#[test]
fn tip_and_clip_adapter() {
    let golden = Golden::open();
    let (f, device) = (golden.tensor("f"), Device::flex());
    let similarity = f.clone().matmul(golden.tensor("keys").transpose());
    let values = one_hot(&golden.numbers("labels"), 3, &device);
    let text = f.clone().matmul(golden.tensor("text").transpose()) * 20.0;
    let both = tip_logits(similarity.clone(), values.clone(), Some(text), (1.17, 2.5));
    close(&host(both), &golden.values("tip"), 1e-5);
    let cache = tip_logits(similarity, values, None, (1.17, 2.5));
    close(&host(cache), &golden.values("tip_cache"), 1e-5);
    let mixed = clip_adapter::mixed(f, golden.tensor("down"), golden.tensor("up"), 0.2);
    close(&host(mixed), &golden.values("adapter"), 1e-5);

    // The numbers of the reference code.
    let f = matrix(&[vec![0.6, 0.8]]);
    let keys = matrix(&[vec![1., 0.], vec![0., 1.], vec![0.8, 0.6]]);
    let text = matrix(&[vec![0.8, 0.6], vec![0.6, -0.8]]);
    let said = f.clone().matmul(text.transpose()) * 100.0;
    let values = one_hot(&[0, 1, 1], 2, &device);
    let logits = tip_logits(f.matmul(keys.transpose()), values, Some(said), (1.17, 1.0));
    close(&host(logits), &[96.784_27, -25.917_96], 1e-5);
}

#[test]
fn the_supervised_contrastive_loss() {
    let golden = Golden::open();
    let groups: Vec<u32> = golden.numbers("groups").into_iter().map(|group| group as u32).collect();
    let device = Device::flex().autodiff();
    let z = Tensor::<2>::from_data(golden.data("z"), &device).require_grad();
    let loss = sup_con(z.clone(), &groups, 0.1);
    let gradient = z.grad(&loss.backward()).unwrap();
    close(&host(loss), &golden.values("sup_con"), 1e-5);
    close(&host(gradient), &golden.values("sup_con_gradient"), 1e-4);

    // The official loss on the common inputs: two views of four pictures.
    let made = |a: usize, m: usize, o: usize| -> Tensor<2> {
        let at = |i: usize| (((i * a + o) % m) as f32 - (m / 2) as f32) / 16.0;
        let values: Vec<f32> = (0..24).map(at).collect();
        normalize(Tensor::from_data(TensorData::new(values, [4, 6]), &Device::flex()))
    };
    let z = || Tensor::cat(vec![made(17, 31, 3), made(13, 37, 8)], 0);
    let labels = [0, 1, 0, 1, 0, 1, 0, 1];
    close(&host(sup_con(z(), &labels, 0.07)), &[7.561_810_5], 1e-5);
    close(&host(sup_con(z(), &labels, 0.1)), &[7.836_797], 1e-5);
    close(&host(sup_con(z(), &[0, 1, 2, 3, 0, 1, 2, 3], 0.07)), &[5.784_525], 1e-5);
}

#[test]
fn labels_spread() {
    let golden = Golden::open();
    let nodes = golden.tensor("nodes");
    let near = neighbours(&nodes, &nodes, 9, true);
    let graph = Graph::new(&near, 5, 3.0);
    let mut labels = vec![0f32; graph.len() * 3];
    for (row, class) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        labels[row * 3 + class] = 1.0;
    }
    let spread = solve(&graph, &labels, 3, 0.9);
    close(&spread, &golden.values("spread"), 1e-4);
    close(&shares(&spread, 3).1, &golden.values("certainty"), 1e-4);
    let asked = neighbours(&golden.tensor("queries"), &nodes, 5, false);
    let heard: Vec<f32> = asked.iter().flat_map(|near| graph.hear(near, 3.0, &spread)).collect();
    close(&heard, &golden.values("heard"), 1e-4);

    // All points joined, with the weights of Zhou et al.
    let points = matrix(&[vec![1., 0.], vec![0.96, 0.28], vec![0., 1.], vec![0.28, 0.96]]);
    let f = dense(points, 0.5, 0.9, &[1., 0., 0., 0., 0., 1., 0., 0.]);
    let want =
        [3.373_017, 1.583_917, 2.920_662, 1.782_032, 1.583_917, 3.373_017, 1.782_032, 2.920_662];
    close(&f, &want, 1e-4);
}

#[test]
fn logistic_regression_finds_what_scikit_learn_finds() {
    let golden = Golden::open();
    let x = golden.tensor("x");
    let targets = one_hot(&golden.numbers("classes"), 3, &Device::flex());
    let fit = Fit { x: x.clone(), targets: targets.clone(), weights: None, iterations: 500 };
    let found = fit.run(&LinearClassifier::zero(4, 3, &x), 2.5);
    close(&host(found.weight.clone()), &golden.values("probe_weight"), 2e-3);
    close(&host(found.logits(x.clone())), &golden.values("probe"), 2e-3);
    // A picture that counts twice is as two of it.
    let weights = Tensor::from_data(TensorData::new(vec![2f32; 30], [30]), &Device::flex());
    let twice = Fit { weights: Some(weights), ..fit.clone() };
    let doubled = Fit {
        x: Tensor::cat(vec![x.clone(), x.clone()], 0),
        targets: Tensor::cat(vec![targets.clone(), targets], 0),
        ..fit
    };
    let zero = LinearClassifier::zero(4, 3, &x);
    let (a, b) = (twice.run(&zero, 2.5), doubled.run(&zero, 2.5));
    close(&host(a.weight), &host(b.weight), 2e-3);
}
