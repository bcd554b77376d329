//! AdaLomo: LOMO with a factored second moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::ops::{AdaLomoStep, ada_lomo_step};
use vlm_nn::params::factor_at;

use crate::{Passed, Weight, backward};

/// How AdaLomo changes weights.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaLomoConfig {
    /// Decoupled weight decay, multiplied by the length of the step; of matrices only.
    pub weight_decay: f64,
    /// Factors on the learning rate by the start of a weight's path; the longest that fits holds.
    pub lr_scale: BTreeMap<String, f64>,
    /// The power of the step's number that the moments decay by: `1 − t^decay`.
    pub decay: f64,
    /// Root mean square of a weight's update that is left as it is; larger ones are shortened to it.
    pub clip_threshold: f64,
    /// What is added to squares of gradients, and the least root mean square that a weight is taken to have.
    pub eps: [f64; 2],
}

impl Default for AdaLomoConfig {
    fn default() -> Self {
        AdaLomoConfig {
            weight_decay: 0.0,
            lr_scale: BTreeMap::new(),
            decay: -0.8,
            clip_threshold: 1.0,
            eps: [1e-30, 1e-3],
        }
    }
}

/// The second moments of a weight: of rows and columns of a matrix, of all values of a vector.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Of rows, or of a vector.
    pub rows: Tensor<1>,
    /// Of columns; empty of a vector.
    pub columns: Option<Tensor<1>>,
}

/// AdaLomo (Lv et al. 2023, arXiv 2310.10195): each weight's step in proportion to its size, by the square
/// roots of moments of rows and columns.
///
/// Choose it where LOMO's learning rate is hard to find: it learns about as AdamW does, with a state of one
/// value a row and a column. Not meant to be used with clipping by norm.
#[derive(Debug)]
pub struct AdaLomo {
    config: AdaLomoConfig,
    steps: u64,
    moments: Arc<Mutex<BTreeMap<String, Moments>>>,
}

impl AdaLomo {
    /// A fresh state.
    pub fn new(config: AdaLomoConfig) -> Self {
        AdaLomo { config, steps: 0, moments: Arc::default() }
    }

    /// One step. `loss` gets the model and must not keep it.
    ///
    /// # Errors
    /// As `loss`; the model is then as it was.
    pub fn step<M: Module, E>(
        &mut self,
        model: M,
        loss: &dyn Fn(M) -> Result<Tensor<1>, E>,
        lr: f64,
    ) -> (M, Result<Passed, E>) {
        let step = AdaLomoStep {
            lr,
            beta: 1.0 - ((self.steps + 1) as f64).powf(self.config.decay),
            weight_decay: self.config.weight_decay,
            clip_threshold: self.config.clip_threshold,
            eps: self.config.eps,
        };
        let (moments, lr_scale) = (self.moments.clone(), self.config.lr_scale.clone());
        let change = move |weight: &Weight, value: Tensor<1>, grad: Tensor<1>| {
            let lr = step.lr * factor_at(&lr_scale, &weight.path);
            let weight_decay = if weight.shape.len() > 1 { step.weight_decay } else { 0.0 };
            let step = AdaLomoStep { lr, weight_decay, ..step };
            let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
            let [rows, columns] = matrix(&weight.shape);
            let zeros = |len: usize| Tensor::<1>::zeros([len], &value.device());
            let before = moments.remove(&weight.path).unwrap_or_else(|| match columns {
                0 => Moments { rows: zeros(rows), columns: None },
                _ => Moments { rows: zeros(rows), columns: Some(zeros(columns)) },
            });
            let (value, rows, columns) =
                ada_lomo_step(value, grad, before.rows, before.columns, step);
            moments.insert(weight.path.clone(), Moments { rows, columns });
            value
        };
        let (model, passed) = backward(model, loss, Arc::new(change));
        if passed.is_ok() {
            self.steps += 1;
        }
        (model, passed)
    }

    /// The state, by name.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = Vec::new();
        for (path, Moments { rows, columns }) in moments.iter() {
            state.push((format!("{path}.rows"), rows.clone().into_data()));
            state
                .extend(columns.iter().map(|x| (format!("{path}.columns"), x.clone().into_data())));
        }
        state
    }

    /// Takes up a state that [`state`](Self::state) gave after so many steps.
    ///
    /// # Errors
    /// A reason, if it is none.
    pub fn restore(
        &mut self,
        state: BTreeMap<String, TensorData>,
        steps: u64,
        device: &Device,
    ) -> Result<(), String> {
        let mut moments = BTreeMap::new();
        let mut columns = BTreeMap::new();
        for (name, data) in state {
            let tensor = Tensor::<1>::from_data(data, device);
            match name.rsplit_once('.') {
                Some((path, "rows")) => {
                    moments.insert(path.to_owned(), Moments { rows: tensor, columns: None });
                }
                Some((path, "columns")) => {
                    columns.insert(path.to_owned(), tensor);
                }
                _ => return Err(format!("`{name}` is no moment of AdaLomo")),
            }
        }
        for (path, tensor) in columns {
            let of = moments.get_mut(&path);
            of.ok_or_else(|| format!("the rows of `{path}` are missing"))?.columns = Some(tensor);
        }
        (self.steps, self.moments) = (steps, Arc::new(Mutex::new(moments)));
        Ok(())
    }

    /// Bytes of the state.
    pub fn bytes(&self) -> usize {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let values = moments.values().map(|moments| {
            moments.rows.dims()[0] + moments.columns.as_ref().map_or(0, |columns| columns.dims()[0])
        });
        4 * values.sum::<usize>()
    }
}

/// Rows and columns of a weight; a vector has no columns.
fn matrix(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 0],
        [len] => [*len, 0],
        [rows @ .., columns] => [rows.iter().product(), *columns],
    }
}
