//! The nearest mean of a class.

use super::problem::{Answer, Method, Problem};
use crate::Error;
use crate::loss::normalize;

/// Each class is the direction of its pictures' mean; a query belongs to the nearest.
#[derive(Clone, Copy, Debug)]
pub struct ClassMean;

impl Method for ClassMean {
    fn name(&self) -> &'static str {
        "class-mean"
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let labelled = &problem.labelled;
        let sums = labelled.one_hot(problem.classes).transpose().matmul(labelled.features.clone());
        let scores = problem.queries.clone().matmul(normalize(sums).transpose());
        Ok(Answer { scores, chosen: Vec::new() })
    }
}
