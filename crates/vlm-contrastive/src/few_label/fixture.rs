//! Constructed problems for the tests.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::problem::{Labelled, Method, Pool, Problem, host};
use crate::loss::normalize;
use crate::zero_shot;

/// Standard normal numbers.
pub struct Normal(ChaCha8Rng);

impl Normal {
    pub fn new(seed: u64) -> Self {
        Normal(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn next(&mut self) -> f32 {
        let (a, b) = (1.0 - self.0.random::<f64>(), self.0.random::<f64>());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    pub fn index(&mut self, of: usize) -> usize {
        self.0.random_range(0..of)
    }
}

pub fn matrix(rows: &[Vec<f32>]) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
}

/// Makes a point of a class: the first is as it is, and others are changed views of it.
pub type Maker<'a> = &'a mut dyn FnMut(usize, &mut Normal) -> Vec<Vec<f32>>;

/// Points of some classes, `count` each, with their views.
pub fn labelled(count: usize, classes: usize, random: &mut Normal, make: Maker) -> Labelled {
    let mut views: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut labels = Vec::new();
    for class in 0..classes {
        for _ in 0..count {
            labels.push(class);
            for (view, point) in make(class, random).into_iter().enumerate() {
                if views.len() <= view {
                    views.push(Vec::new());
                }
                views[view].push(point);
            }
        }
    }
    let mut views: Vec<Tensor<2>> = views.iter().map(|view| normalize(matrix(view))).collect();
    Labelled { features: views.remove(0), labels, views }
}

/// A problem with so many labels, validation pictures, unlabelled ones and queries a class; and
/// the classes of the queries.
pub fn problem(
    [shots, validation, pool, queries]: [usize; 4],
    classes: usize,
    seed: u64,
    make: Maker,
) -> (Problem<'static>, Vec<usize>) {
    let random = &mut Normal::new(seed);
    let few = labelled(shots, classes, random, make);
    let split = (validation > 0).then(|| labelled(validation, classes, random, make));
    let pool = (pool > 0).then(|| {
        let Labelled { features, views, .. } = labelled(pool, classes, random, make);
        Pool { features, views }
    });
    let asked = labelled(queries, classes, random, make);
    let problem = Problem {
        classes,
        labelled: few,
        validation: split,
        pool,
        text: None,
        prompts: None,
        queries: asked.features,
        transductive: false,
        seed,
    };
    (problem, asked.labels)
}

/// The accuracy of a method.
pub fn accuracy(method: &dyn Method, problem: &Problem<'_>, truth: &[usize]) -> f64 {
    let scores = host(method.fit(problem).unwrap().scores);
    zero_shot::accuracy(&scores, problem.classes, truth, 1).unwrap()
}
