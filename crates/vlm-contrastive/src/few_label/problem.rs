//! What a method sees, and what it says.

use burn::tensor::{Device, Tensor, TensorData};

use super::prompts::Prompts;
use crate::Error;

/// Pictures whose classes are known.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// `[pictures, dim]`, rows of length 1.
    pub features: Tensor<2>,
    /// The class of each, from 0.
    pub labels: Vec<usize>,
    /// Features of the same pictures, changed at random; each like `features`.
    pub views: Vec<Tensor<2>>,
}

impl Labelled {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The labels as `[pictures, classes]` of 0 and 1.
    pub fn one_hot(&self, classes: usize) -> Tensor<2> {
        one_hot(&self.labels, classes, &self.features.device())
    }

    /// The pictures and all their views, below each other, with their labels.
    pub fn with_views(&self) -> (Tensor<2>, Vec<usize>) {
        let mut parts = vec![self.features.clone()];
        parts.extend(self.views.iter().cloned());
        let labels = self.labels.repeat(parts.len());
        (Tensor::cat(parts, 0), labels)
    }
}

/// Pictures whose classes nobody told.
#[derive(Clone, Debug)]
pub struct Pool {
    /// `[pictures, dim]`, rows of length 1.
    pub features: Tensor<2>,
    /// As [`Labelled::views`].
    pub views: Vec<Tensor<2>>,
}

/// What the text tower says of the classes.
#[derive(Clone, Debug)]
pub struct Text {
    /// `[classes, dim]`, rows of length 1.
    pub weights: Tensor<2>,
    /// What the model multiplies similarities by; 100 of CLIP.
    pub scale: f32,
}

/// All that a method may see.
pub struct Problem<'a> {
    /// How many classes there are.
    pub classes: usize,
    /// The few.
    pub labelled: Labelled,
    /// Labelled pictures to choose settings on; `None` leaves the settings of the papers.
    pub validation: Option<Labelled>,
    /// Further pictures of the training set.
    pub pool: Option<Pool>,
    /// Of a model with a text tower.
    pub text: Option<Text>,
    /// The text tower itself.
    pub prompts: Option<&'a dyn Prompts>,
    /// The pictures to classify, `[pictures, dim]`, rows of length 1.
    pub queries: Tensor<2>,
    /// Whether the queries may be learnt from as unlabelled pictures.
    pub transductive: bool,
    /// For whatever is drawn.
    pub seed: u64,
}

impl Problem<'_> {
    /// Where the features are.
    pub fn device(&self) -> Device {
        self.labelled.features.device()
    }

    /// What is said of the text tower, for a method that needs one.
    ///
    /// # Errors
    /// [`Error::NoText`] if there is none.
    pub fn text(&self, method: &'static str) -> Result<&Text, Error> {
        self.text.as_ref().ok_or(Error::NoText { method })
    }
}

/// What a method says of the queries.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `[queries, classes]`; the highest of a row is the answer.
    pub scores: Tensor<2>,
    /// What was chosen on the validation split.
    pub chosen: Vec<(&'static str, f64)>,
}

/// A way to learn from few labels.
pub trait Method {
    /// As the command line and the tables call it.
    fn name(&self) -> &'static str;

    /// Whether unlabelled pictures change what it says.
    fn uses_pool(&self) -> bool {
        false
    }

    /// Whether changed views of pictures change what it says.
    fn uses_views(&self) -> bool {
        false
    }

    /// Whether it needs what the text tower says of the classes.
    fn needs_text(&self) -> bool {
        false
    }

    /// Whether it needs the text tower itself.
    fn needs_prompts(&self) -> bool {
        false
    }

    /// Learns, and classifies the queries.
    ///
    /// # Errors
    /// If the method needs what the problem does not have.
    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error>;
}

/// The class names alone, as a measure of what the labels add.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroShot;

impl Method for ZeroShot {
    fn name(&self) -> &'static str {
        "zero-shot"
    }

    fn needs_text(&self) -> bool {
        true
    }

    fn fit(&self, problem: &Problem<'_>) -> Result<Answer, Error> {
        let text = problem.text(self.name())?;
        let scores = problem.queries.clone().matmul(text.weights.clone().transpose());
        Ok(Answer { scores, chosen: Vec::new() })
    }
}

/// Labels as `[rows, classes]` of 0 and 1.
pub(super) fn one_hot(labels: &[usize], classes: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0f32; labels.len() * classes];
    for (row, label) in labels.iter().enumerate() {
        values[row * classes + label] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [labels.len(), classes]), device)
}

/// Values of a tensor, row after row.
pub(super) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}
