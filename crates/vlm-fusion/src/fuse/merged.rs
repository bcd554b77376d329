//! Merged attention: picture and question in one sequence, one stack with shared weights.
//!
//! ViLT (Kim et al. 2021, arXiv 2102.03334): rows of the text and rows of the picture, each with a
//! learned row that says which it is, go through one transformer with norms before the sub-layers.
//! Here the picture's rows of its output stand in the decoder's sequence where the picture would.
//!
//! When to choose it: as [`co_attention`](super::co_attention), when the question should decide what
//! of the picture is passed on, with half the weights a layer and a simpler shape. It spends its
//! attention on all pairs of rows, so that large grids want `pool`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::{Activation, BlockConfig, Linear, Norm, NormKind, Stack};

use super::co_attention::Entry;
use super::config::Checks;
use super::{Question, pool};
use crate::Error;

/// ViT's, under the norms' root.
const EPS: f64 = 1e-12;

/// The choices of merged attention; ViLT's by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MergedConfig {
    /// Values a row.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Inner width of the feed-forwards.
    pub inner: usize,
    /// Squares of so many patches a side become one row.
    pub pool: usize,
}

impl Default for MergedConfig {
    fn default() -> Self {
        MergedConfig { width: 768, layers: 12, heads: 12, inner: 3072, pool: 1 }
    }
}

impl MergedConfig {
    /// Whether the stack can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("merged")
            .positive("width", self.width)?
            .positive("layers", self.layers)?
            .positive("heads", self.heads)?
            .positive("inner", self.inner)?
            .positive("pool", self.pool)?
            .divides("heads", self.heads, "width", self.width)?;
        Ok(())
    }
}

/// One stack over text and picture.
#[derive(Module, Debug)]
pub struct Merged {
    /// The blocks.
    pub stack: Stack,
    /// After them.
    pub norm: Norm,
}

impl Merged {
    /// A blank stack.
    pub fn new(config: &MergedConfig, device: &Device) -> Self {
        let block = BlockConfig {
            width: config.width,
            heads: config.heads,
            inner: config.inner,
            activation: Activation::Gelu,
            eps: EPS,
            ..BlockConfig::default()
        };
        Merged {
            stack: Stack::new(&block, config.layers, device),
            norm: Norm::new(NormKind::Layer, config.width, EPS, device),
        }
    }

    /// The text's rows, if there is one, and behind them the picture's: `[pictures, rows, width]` to
    /// the same. `padding: [pictures or 1, 1, tokens]` hides rows of the text.
    pub fn forward(
        &self,
        picture: Tensor<3>,
        text: Option<(Tensor<3>, Option<Tensor<3>>)>,
    ) -> Tensor<3> {
        let patches = picture.dims()[1];
        let Some((text, padding)) = text else {
            return self.norm.forward(self.stack.forward(picture, None));
        };
        let mask = padding.map(|padding| {
            let texts = padding.dims()[0];
            let open = Tensor::zeros([texts, 1, patches], &padding.device());
            Tensor::cat(vec![padding, open], 2)
        });
        self.norm.forward(self.stack.forward(Tensor::cat(vec![text, picture], 1), mask))
    }
}

/// [`Merged`] in front of a decoder: `[pictures, patches, vision width]` and a question to
/// `[pictures, patches or squares, text width]`.
#[derive(Module, Debug)]
pub struct MergedFusion {
    /// To one width.
    pub entry: Entry,
    /// The stack.
    pub merged: Merged,
    /// To the decoder's width.
    pub out: Linear,
    pool: usize,
}

impl MergedFusion {
    /// Blank.
    pub fn new(
        config: &MergedConfig,
        vision_width: usize,
        text_width: usize,
        device: &Device,
    ) -> Self {
        MergedFusion {
            entry: Entry::new(vision_width, text_width, config.width, device),
            merged: Merged::new(config, device),
            out: Linear::new(config.width, text_width, true, device),
            pool: config.pool,
        }
    }

    /// The picture's rows after they have read the question.
    pub fn forward(
        &self,
        picture: Tensor<3>,
        grid: (usize, usize),
        question: Option<Question>,
    ) -> Tensor<3> {
        let picture = self.entry.picture(pool::average(picture, grid, self.pool));
        let patches = picture.dims()[1];
        let text =
            question.map(|(rows, padding)| (self.entry.text(rows, padding.clone()), padding));
        let states = self.merged.forward(picture, text);
        let rows = states.dims()[1];
        self.out.forward(states.narrow(1, rows - patches, patches))
    }
}
