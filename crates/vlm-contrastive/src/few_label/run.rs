//! Methods over draws.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::draw::{Draw, Draws};
use super::problem::{Labelled, Method, Pool, Problem, Text, host};
use super::prompts::Prompts;
use crate::{Error, zero_shot};
use vlm_train::Vectors;

/// The features of all pictures that the draws name, and of the test set.
pub struct Material<'a> {
    /// How pictures are drawn.
    pub draws: Draws<'a>,
    /// The pictures of the training set that `train` has rows of.
    pub pictures: &'a [usize],
    /// Features of `pictures`, rows of length 1; the first as they are, then views.
    pub train: &'a [Vectors],
    /// Features of the test set.
    pub test: &'a Vectors,
    /// The classes of the test set; only accuracies are made of them.
    pub answers: &'a [usize],
    /// Of a model with a text tower.
    pub text: Option<Text>,
    /// The text tower itself.
    pub prompts: Option<&'a dyn Prompts>,
    /// Whether methods may learn from the test pictures as unlabelled ones.
    pub transductive: bool,
    /// Where to compute.
    pub device: &'a Device,
}

/// The runs of a method at a number of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The method.
    pub method: &'static str,
    /// Labels a class.
    pub shots: usize,
    /// Whether it saw unlabelled pictures.
    pub unlabelled: bool,
    /// The accuracy of each seed.
    pub accuracies: Vec<f64>,
    /// What each seed chose.
    pub chosen: Vec<Vec<(&'static str, f64)>>,
}

impl Cell {
    /// The mean over the seeds.
    pub fn mean(&self) -> f64 {
        self.accuracies.iter().sum::<f64>() / self.accuracies.len().max(1) as f64
    }

    /// The standard deviation over the seeds (with n − 1); 0 of one.
    pub fn deviation(&self) -> f64 {
        let (mean, count) = (self.mean(), self.accuracies.len());
        let squares: f64 = self.accuracies.iter().map(|a| (a - mean).powi(2)).sum();
        if count < 2 { 0.0 } else { (squares / (count - 1) as f64).sqrt() }
    }
}

impl Material<'_> {
    fn rows(&self, of: &Vectors, rows: impl Iterator<Item = usize>) -> Tensor<2> {
        let mut values = Vec::new();
        rows.for_each(|row| values.extend_from_slice(of.row(row)));
        let shape = [values.len() / of.width.max(1), of.width];
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    /// What a method sees of a draw.
    ///
    /// # Panics
    /// If a picture of the draw is not among the pictures.
    pub fn problem(&self, draw: &Draw, unlabelled: bool, seed: u64) -> Problem<'_> {
        let place: HashMap<usize, usize> =
            self.pictures.iter().enumerate().map(|(row, picture)| (*picture, row)).collect();
        let all = |list: &[usize]| -> Vec<Tensor<2>> {
            let rows = || list.iter().map(|picture| place[picture]);
            self.train.iter().map(|view| self.rows(view, rows())).collect()
        };
        let labelled = |list: &[usize]| {
            let mut views = all(list);
            let labels = list.iter().map(|picture| self.draws.truth[*picture]).collect();
            Labelled { features: views.remove(0), labels, views }
        };
        let pool = (unlabelled && !draw.pool.is_empty()).then(|| {
            let mut views = all(&draw.pool);
            Pool { features: views.remove(0), views }
        });
        Problem {
            classes: self.draws.classes.len(),
            labelled: labelled(&draw.labelled),
            validation: (!draw.validation.is_empty()).then(|| labelled(&draw.validation)),
            pool,
            text: self.text.clone(),
            prompts: self.prompts,
            queries: self.rows(self.test, 0..self.answers.len()),
            transductive: self.transductive && unlabelled,
            seed,
        }
    }
}

/// Runs each method at each number of labels with each of the seeds `0..seeds`; those that use
/// unlabelled pictures also without them. `progress` is told what is next, and how many of how
/// many runs are done.
///
/// # Errors
/// If a class has too few pictures, or a method needs what there is not.
pub fn run(
    material: &Material<'_>,
    methods: &[Box<dyn Method>],
    shots: &[usize],
    seeds: u64,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<Cell>, Error> {
    let with_pool = material.draws.unlabelled > 0;
    let mut plan: Vec<(&dyn Method, bool)> = Vec::new();
    for method in methods {
        plan.push((method.as_ref(), false));
        if with_pool && method.uses_pool() {
            plan.push((method.as_ref(), true));
        }
    }
    let of = plan.len() * shots.len() * seeds as usize;
    let mut cells: Vec<Cell> = Vec::new();
    let mut done = 0;
    for &shots in shots {
        let first = cells.len();
        cells.extend(plan.iter().map(|(method, unlabelled)| Cell {
            method: method.name(),
            shots,
            unlabelled: *unlabelled,
            accuracies: Vec::new(),
            chosen: Vec::new(),
        }));
        for seed in 0..seeds {
            let draw = material.draws.draw(shots, seed)?;
            let problems = [false, true].map(|pool| material.problem(&draw, pool, seed));
            for (i, (method, unlabelled)) in plan.iter().enumerate() {
                progress(&format!("{} at {shots}", method.name()), done, of);
                let answer = method.fit(&problems[usize::from(*unlabelled)])?;
                let scores = host(answer.scores);
                let classes = material.draws.classes.len();
                let right = zero_shot::accuracy(&scores, classes, material.answers, 1)?;
                cells[first + i].accuracies.push(right);
                cells[first + i].chosen.push(answer.chosen);
                done += 1;
            }
        }
    }
    progress("", done, of);
    Ok(cells)
}
