//! Gradients of a step, summed over its parts.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Gradients, Tensor};
use vlm_nn::ops::square_sum;

/// The sum of the gradients of several backward passes, by parameter.
#[derive(Debug, Default)]
pub struct Grads {
    sum: GradientsParams,
}

impl Grads {
    /// Adds the gradients of one backward pass over `model`, each times `scale`.
    pub fn add<M: Module>(&mut self, grads: Gradients, model: &M, scale: f32) {
        struct Adder<'a>(&'a mut GradientsParams, &'a mut GradientsParams, f32);
        impl ModuleVisitor for Adder<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(mut grad) = self.0.remove::<D>(param.id) else { return };
                if self.2 != 1.0 {
                    grad = grad * self.2;
                }
                let grad = match self.1.remove::<D>(param.id) {
                    Some(before) => before + grad,
                    None => grad,
                };
                self.1.register(param.id, grad);
            }
        }
        let mut fresh = GradientsParams::from_grads(grads, model);
        model.visit(&mut Adder(&mut fresh, &mut self.sum, scale));
    }

    /// The gradient of a parameter, taken out.
    pub fn take<const D: usize>(&mut self, id: ParamId) -> Option<Tensor<D>> {
        self.sum.remove(id)
    }

    /// The gradient of a parameter.
    pub fn get<const D: usize>(&self, id: ParamId) -> Option<Tensor<D>> {
        self.sum.get(id)
    }

    /// Files a gradient under a parameter, in place of what was there.
    pub fn put<const D: usize>(&mut self, id: ParamId, grad: Tensor<D>) {
        self.sum.register(id, grad);
    }

    /// The length of the whole gradient, and of each parameter's by identifier.
    pub fn norms<M: Module>(&self, model: &M) -> (f64, HashMap<ParamId, f64>) {
        struct Squares<'a>(&'a Grads, Vec<ParamId>, Vec<Tensor<1>>);
        impl ModuleVisitor for Squares<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = self.0.get::<D>(param.id) {
                    self.1.push(param.id);
                    self.2.push(square_sum(grad));
                }
            }
        }
        let mut found = Squares(self, Vec::new(), Vec::new());
        model.visit(&mut found);
        let Squares(_, ids, squares) = found;
        if squares.is_empty() {
            return (0.0, HashMap::new());
        }
        // All at once: a device that computes elsewhere is waited for a single time.
        let squares = Tensor::cat(squares, 0).into_data();
        let norms: HashMap<ParamId, f64> = ids
            .into_iter()
            .zip(squares.iter::<f32>().map(|square| f64::from(square).sqrt()))
            .collect();
        // Summed in the order of the numbers themselves: a hash map's order changes by run.
        let mut squares: Vec<f64> = norms.values().map(|n| n * n).collect();
        squares.sort_by(f64::total_cmp);
        (squares.iter().sum::<f64>().sqrt(), norms)
    }
}
