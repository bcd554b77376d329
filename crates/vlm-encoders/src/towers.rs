//! The image tower and the text tower: configurations of the one stack.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use vlm_nn::params::blank;
use vlm_nn::{BlockConfig, Linear, Norm, NormKind, Stack};

/// A vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) with CLIP's extra norm.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// `[channels · patch², width]`, without bias: the patch convolution as a matrix.
    pub patches: Linear,
    /// `[width]`, the class token.
    pub class: Param<Tensor<1>>,
    /// `[1 + patches, width]`, the class token's row first.
    pub positions: Param<Tensor<2>>,
    /// Before the stack.
    pub pre_norm: Norm,
    /// The blocks.
    pub stack: Stack,
    /// On the class token, after the stack.
    pub post_norm: Norm,
    patch: usize,
}

impl VisionTower {
    /// A blank tower for square pictures of `image` pixels a side.
    pub fn new(
        block: &BlockConfig,
        layers: usize,
        image: usize,
        patch: usize,
        channels: usize,
        device: &Device,
    ) -> Self {
        let grid = image / patch;
        let norm = || Norm::new(NormKind::Layer, block.width, block.eps, device);
        VisionTower {
            patches: Linear::new(channels * patch * patch, block.width, false, device),
            class: blank([block.width], device),
            positions: blank([1 + grid * grid, block.width], device),
            pre_norm: norm(),
            stack: Stack::new(block, layers, device),
            post_norm: norm(),
            patch,
        }
    }

    /// Cuts `[batch, channels, height, width]` into `[batch, patches, channels · patch²]`, row by
    /// row. What is left over to the right and below is not looked at, as in a convolution.
    fn cut(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [b, c, h, w] = pixels.dims();
        let p = self.patch;
        let (rows, cols) = (h / p, w / p);
        let whole = h == rows * p && w == cols * p;
        let pixels =
            if whole { pixels } else { pixels.narrow(2, 0, rows * p).narrow(3, 0, cols * p) };
        pixels.reshape([b, c, rows, p, cols, p]).permute([0, 2, 4, 1, 3, 5]).reshape([
            b,
            rows * cols,
            c * p * p,
        ])
    }

    /// What enters the stack: `[batch, tokens, width]`, the class token first.
    ///
    /// `keep: [batch, kept]` picks the patches that are looked at (patch dropout, Li et al.
    /// 2022, arXiv 2212.00794); all of them without it.
    pub fn embed(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<3> {
        let mut patches = self.cut(pixels);
        let [b, n, _] = patches.dims();
        let width = self.class.dims()[0];
        let positions = self.positions.val();
        let mut places = positions.clone().narrow(0, 1, n).unsqueeze::<3>();
        if let Some(keep) = keep {
            // Picked before the product, so that dropped patches cost nothing.
            let kept = keep.dims()[1];
            let len = patches.dims()[2];
            let index = keep.clone().unsqueeze_dim::<3>(2);
            patches = patches.gather(1, index.expand([b, kept, len]));
            places = positions
                .narrow(0, 1, n)
                .select(0, keep.reshape([b * kept]))
                .reshape([b, kept, width]);
        }
        let class = self.class.val() + self.positions.val().narrow(0, 0, 1).reshape([width]);
        let class = class.reshape([1, 1, width]).expand([b, 1, width]);
        let x = Tensor::cat(vec![class, self.patches.forward(patches) + places], 1);
        self.pre_norm.forward(x)
    }

    /// `[batch, channels, image, image]` to the pooled state `[batch, width]`.
    pub fn forward(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        let x = self.stack.forward(self.embed(pixels, keep), None);
        let [b, _, width] = x.dims();
        self.post_norm.forward(x.narrow(1, 0, 1).reshape([b, width]))
    }
}

/// A causal text transformer, pooled at the end token.
#[derive(Module, Debug)]
pub struct TextTower {
    /// `[vocabulary, width]`.
    pub tokens: Param<Tensor<2>>,
    /// `[context, width]`.
    pub positions: Param<Tensor<2>>,
    /// The blocks.
    pub stack: Stack,
    /// After the stack.
    pub final_norm: Norm,
}

impl TextTower {
    /// A blank tower.
    pub fn new(
        block: &BlockConfig,
        layers: usize,
        vocabulary: usize,
        context: usize,
        device: &Device,
    ) -> Self {
        TextTower {
            tokens: blank([vocabulary, block.width], device),
            positions: blank([context, block.width], device),
            stack: Stack::new(block, layers, device),
            final_norm: Norm::new(NormKind::Layer, block.width, block.eps, device),
        }
    }

    /// The longest text in tokens, start and end included.
    pub fn context(&self) -> usize {
        self.positions.lazy_shape()[0]
    }

    /// `ids: [batch, tokens]` to the pooled state `[batch, width]` at `ends: [batch]`, the
    /// place of each text's end token.
    ///
    /// What follows the end token cannot reach it, since attention is causal, so padding
    /// needs no mask.
    ///
    /// # Panics
    /// If there are more tokens than [`context`](Self::context).
    pub fn forward(&self, ids: Tensor<2, Int>, ends: Tensor<1, Int>) -> Tensor<2> {
        let [b, t] = ids.dims();
        let x = burn::tensor::module::embedding(self.tokens.val(), ids);
        let width = x.dims()[2];
        let places = self.positions.val().narrow(0, 0, t);
        let x = self.stack.forward(x + places.unsqueeze(), None);
        // One row of each text, before the norm: the other rows are not needed.
        let rows = Tensor::arange(0..b as i64, &ends.device()) * t as i64 + ends;
        let x = x.reshape([b * t, width]).select(0, rows);
        self.final_norm.forward(x)
    }
}

/// How many patches a square picture has.
pub fn patch_positions(image: usize, patch: usize) -> usize {
    (image / patch) * (image / patch)
}
