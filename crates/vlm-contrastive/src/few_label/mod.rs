//! Classification from few labels: methods that learn from a handful of labelled pictures a class
//! and, some of them, from pictures without labels.
//!
//! Every [`Method`] works on features of a tower that stays as it is. A [`Problem`] is all that a
//! method may see: features of labelled pictures, of a validation split of the same training set,
//! of unlabelled pictures, and of the queries. The queries come without labels, so what is chosen
//! (a regularisation, a temperature, a moment to stop) is chosen on the validation split: the
//! candidate that gets most of it right, of those the one that finds the truth likeliest. Without
//! a validation split a method takes the values of its paper.

mod choose;
mod class_mean;
mod clip_adapter;
mod coop;
mod draw;
mod features;
mod fix_match;
mod graph;
mod linear;
mod probe;
mod problem;
mod prompts;
mod propagation;
mod run;
mod sup_con;
mod tip;
mod train;

pub use class_mean::ClassMean;
pub use clip_adapter::ClipAdapter;
pub use coop::{CoOp, Start};
pub use draw::{Draw, Draws};
pub use features::{Reading, Source};
pub use fix_match::FixMatch;
pub use graph::{Graph, solve};
pub use linear::{Fit, LinearClassifier};
pub use probe::LinearProbe;
pub use problem::{Answer, Labelled, Method, Pool, Problem, Text};
pub use prompts::{DualPrompts, Prompts};
pub use propagation::LabelPropagation;
pub use run::{Cell, Material, run};
pub use sup_con::{SupCon, sup_con};
pub use tip::{TipAdapter, TipAdapterF, tip_logits};

/// All methods with the settings of their papers, the baseline first.
pub fn all() -> Vec<Box<dyn Method>> {
    vec![
        Box::new(LinearProbe),
        Box::new(problem::ZeroShot),
        Box::new(ClassMean),
        Box::new(TipAdapter),
        Box::new(TipAdapterF::default()),
        Box::new(ClipAdapter::default()),
        Box::new(CoOp::default()),
        Box::new(SupCon::default()),
        Box::new(LabelPropagation::default()),
        Box::new(FixMatch::default()),
    ]
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
