//! The image tower.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use vlm_nn::params::blank;
use vlm_nn::{Attention, AttentionConfig, BlockConfig, FeedForward, Linear, Norm, NormKind, Stack};

use super::grid::{self, Kernel};
use super::{States, padding_mask};

/// The choices that make a [`VisionTower`] one of the families.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionSpec {
    /// Height and width in pixels of the pictures that the positions stand for.
    pub image: (usize, usize),
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Colour channels.
    pub channels: usize,
    /// Blocks.
    pub layers: usize,
    /// The block.
    pub block: BlockConfig,
    /// Bias on the patches' map.
    pub patch_bias: bool,
    /// Whether a class token stands before the patches.
    pub class: bool,
    /// Tokens between class token and patches that stand for nothing (Darcet et al. 2023,
    /// arXiv 2309.16588).
    pub registers: usize,
    /// Norm before the stack.
    pub pre_norm: bool,
    /// Norm after the stack.
    pub post_norm: PostNorm,
    /// What stands for the whole picture.
    pub pool: VisionPool,
    /// What becomes of the positions when a picture has another size.
    pub places: Places,
}

impl VisionSpec {
    /// How many patches the picture has that the positions stand for.
    pub fn patches(&self) -> usize {
        (self.image.0 / self.patch) * (self.image.1 / self.patch)
    }

    /// How many tokens such a picture is for the blocks.
    pub fn tokens(&self) -> usize {
        usize::from(self.class) + self.registers + self.patches()
    }
}

/// Which tokens the norm after the stack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostNorm {
    /// The pooled one only (CLIP).
    Pooled,
    /// All.
    All,
}

/// What stands for the whole picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionPool {
    /// The class token.
    Class,
    /// A linear map and a tanh on the class token (ViT), with its output width.
    Dense(usize),
    /// A learned query that attends to all patches (SigLIP).
    Attention,
    /// Nothing.
    Absent,
}

/// What becomes of the positions when a picture has another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// Other sizes are refused.
    Fixed,
    /// The grid is resized (DINOv2), with antialias or without.
    Resized {
        /// Whether a shrinking grid is averaged.
        antialias: bool,
    },
    /// Each patch takes the place of the table that lies where it lies in the picture (Idefics 3).
    Buckets {
        /// Whether every place but the first is one too early, as transformers 4.55 to 4.57 has it
        /// (its issue 41190) where a patch lies on the border of two places.
        shifted: bool,
    },
    /// Each picture brings its own grid, as flat patches (SigLIP 2 NaFlex).
    Flexible,
}

/// Pictures as flat patches, each with a grid of its own.
#[derive(Clone, Debug)]
pub struct Patches {
    /// `[batch, patches, channels · patch²]`, filled up with anything.
    pub values: Tensor<3>,
    /// Rows and columns of each picture.
    pub grids: Vec<(usize, usize)>,
}

/// Attention of one learned query to all tokens (Zhai et al. 2022, arXiv 2106.04560).
#[derive(Module, Debug)]
pub struct AttentionPool {
    /// `[width]`, the query.
    pub probe: Param<Tensor<1>>,
    /// From the query to the tokens.
    pub attention: Attention,
    /// Norm of the feed-forward.
    pub norm: Norm,
    /// On the attention's result.
    pub feed_forward: FeedForward,
}

impl AttentionPool {
    fn new(block: &BlockConfig, device: &Device) -> Self {
        let (width, head) = (block.width, block.width / block.heads);
        let attention = AttentionConfig::plain(width, width, block.heads, head, true);
        AttentionPool {
            probe: blank([block.width], device),
            attention: Attention::new(&attention, device),
            norm: Norm::new(NormKind::Layer, block.width, block.eps, device),
            feed_forward: FeedForward::new(
                block.width,
                block.inner,
                false,
                true,
                block.activation,
                device,
            ),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<2> {
        let [b, _, width] = x.dims();
        let probe = self.probe.val().reshape([1, 1, width]).expand([b, 1, width]);
        let x = self.attention.forward(probe, Some(x), mask);
        (x.clone() + self.feed_forward.forward(self.norm.forward(x))).reshape([b, width])
    }
}

/// A vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929).
#[derive(Module, Debug)]
pub struct VisionTower {
    /// `[channels · patch², width]`: the patch convolution as a matrix.
    pub patches: Linear,
    /// `[width]`, the class token.
    pub class: Option<Param<Tensor<1>>>,
    /// `[registers, width]`.
    pub registers: Option<Param<Tensor<2>>>,
    /// `[(1 +) patches, width]`, the class token's row first where there is one.
    pub positions: Param<Tensor<2>>,
    /// Before the stack.
    pub pre_norm: Option<Norm>,
    /// The blocks.
    pub stack: Stack,
    /// After the stack.
    pub post_norm: Norm,
    /// ViT's map of the class token.
    pub dense: Option<Linear>,
    /// SigLIP's head.
    pub pool: Option<AttentionPool>,
    patch: usize,
    grid: (usize, usize),
    #[module(skip)]
    post: PostNorm,
    #[module(skip)]
    places: Places,
}

impl VisionTower {
    /// A blank tower.
    pub fn new(spec: &VisionSpec, device: &Device) -> Self {
        let width = spec.block.width;
        let norm = || Norm::new(NormKind::Layer, width, spec.block.eps, device);
        let grid = (spec.image.0 / spec.patch, spec.image.1 / spec.patch);
        let pixels = spec.channels * spec.patch * spec.patch;
        VisionTower {
            patches: Linear::new(pixels, width, spec.patch_bias, device),
            class: spec.class.then(|| blank([width], device)),
            registers: (spec.registers > 0).then(|| blank([spec.registers, width], device)),
            positions: blank([usize::from(spec.class) + grid.0 * grid.1, width], device),
            pre_norm: spec.pre_norm.then(norm),
            stack: Stack::new(&spec.block, spec.layers, device),
            post_norm: norm(),
            dense: match spec.pool {
                VisionPool::Dense(out) => Some(Linear::new(width, out, true, device)),
                _ => None,
            },
            pool: (spec.pool == VisionPool::Attention)
                .then(|| AttentionPool::new(&spec.block, device)),
            patch: spec.patch,
            grid,
            post: spec.post_norm,
            places: spec.places,
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

    /// The positions of the patches of a picture of this size, `[patches, width]`.
    fn patch_places(&self, height: usize, width: usize) -> Tensor<2> {
        let before = usize::from(self.class.is_some());
        let table = self.positions.val();
        let table = table.narrow(0, before, self.grid.0 * self.grid.1);
        let grid = (height / self.patch, width / self.patch);
        if let Places::Buckets { shifted } = self.places {
            return grid::pick(table, self.grid, grid, shifted);
        }
        if grid == self.grid {
            return table;
        }
        let kernel = match self.places {
            Places::Resized { antialias: true } => Kernel::BicubicAntialias,
            _ => Kernel::Bicubic,
        };
        grid::resize(table, self.grid, grid, kernel)
    }

    /// What enters the stack: `[batch, tokens, width]`, the class token first.
    ///
    /// `keep: [batch, kept]` picks the patches that are looked at (patch dropout, Li et al.
    /// 2022, arXiv 2212.00794); all of them without it.
    pub fn embed(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<3> {
        let [b, _, h, w] = pixels.dims();
        let mut patches = self.cut(pixels);
        let mut places = self.patch_places(h, w).unsqueeze::<3>();
        if let Some(keep) = keep {
            // Picked before the product, so that dropped patches cost nothing.
            let kept = keep.dims()[1];
            let (len, width) = (patches.dims()[2], places.dims()[2]);
            let index = keep.clone().unsqueeze_dim::<3>(2);
            patches = patches.gather(1, index.expand([b, kept, len]));
            places = places
                .squeeze_dim::<2>(0)
                .select(0, keep.reshape([b * kept]))
                .reshape([b, kept, width]);
        }
        self.assemble(self.patches.forward(patches) + places)
    }

    /// Puts class token and registers before the patches, and the norm on all.
    fn assemble(&self, patches: Tensor<3>) -> Tensor<3> {
        let [b, _, width] = patches.dims();
        let mut parts = Vec::new();
        if let Some(class) = &self.class {
            let class = class.val() + self.positions.val().narrow(0, 0, 1).reshape([width]);
            parts.push(class.reshape([1, 1, width]).expand([b, 1, width]));
        }
        if let Some(registers) = &self.registers {
            let count = registers.dims()[0];
            let registers = registers.val().reshape([1, count, width]);
            parts.push(registers.expand([b, count, width]));
        }
        parts.push(patches);
        let x = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) };
        match &self.pre_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// `[batch, channels, height, width]` to the pooled state `[batch, width]`.
    ///
    /// # Panics
    /// If the family has no pooled state.
    pub fn forward(&self, pixels: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        let x = self.stack.forward(self.embed(pixels, keep), None);
        let pooled = match self.post {
            PostNorm::Pooled => self.class_state(x),
            PostNorm::All => self.pooled(self.post_norm.forward(x), None),
        };
        pooled.unwrap_or_else(|| panic!("this image tower has no pooled state"))
    }

    /// All that the tower says of pictures `[batch, channels, height, width]`.
    pub fn states(&self, pixels: Tensor<4>, layers: bool) -> States {
        self.finish(self.embed(pixels, None), None, layers)
    }

    /// The state after the first `depth` layers, `[batch, tokens, width]`; what stands behind them
    /// is not computed.
    pub fn state_at(&self, pixels: Tensor<4>, depth: usize) -> Tensor<3> {
        self.stack.forward_first(self.embed(pixels, None), None, depth)
    }

    /// The states after the first so many layers each, 0 for what enters the stack; what stands
    /// behind the deepest is not computed.
    ///
    /// # Panics
    /// If there are not so many layers.
    pub fn states_at(&self, pixels: Tensor<4>, depths: &[usize]) -> Vec<Tensor<3>> {
        let mut states = vec![self.embed(pixels, None)];
        let deepest = depths.iter().max().copied().unwrap_or(0);
        for block in &self.stack.blocks[..deepest] {
            let last = states[states.len() - 1].clone();
            states.push(block.forward(last, None));
        }
        depths.iter().map(|depth| states[*depth].clone()).collect()
    }

    /// `last_hidden_state`, `[batch, tokens, width]`, without what is pooled.
    pub fn last_state(&self, pixels: Tensor<4>) -> Tensor<3> {
        let x = self.stack.forward(self.embed(pixels, None), None);
        match self.post {
            PostNorm::Pooled => x,
            PostNorm::All => self.post_norm.forward(x),
        }
    }

    /// The same of pictures with a grid each.
    pub fn patch_state_at(&self, patches: Patches, depth: usize) -> Tensor<3> {
        let (x, mask) = self.embed_patches(patches);
        self.stack.forward_first(x, mask, depth)
    }

    /// All that the tower says of pictures with a grid each.
    pub fn patch_states(&self, patches: Patches, layers: bool) -> States {
        let (x, mask) = self.embed_patches(patches);
        self.finish(x, mask, layers)
    }

    /// What enters the stack, and the mask of places without a patch.
    fn embed_patches(&self, patches: Patches) -> (Tensor<3>, Option<Tensor<3>>) {
        let Patches { values, grids } = patches;
        let ([b, n, _], device) = (values.dims(), values.device());
        let x = self.patches.forward(values);
        let width = x.dims()[2];
        let places = grids.iter().map(|grid| {
            let table =
                grid::resize(self.positions.val(), self.grid, *grid, Kernel::BilinearAntialias);
            let missing = n - grid.0 * grid.1;
            // The reference fills up with the first row; nobody sees those places.
            let fill = table.clone().narrow(0, 0, 1).expand([missing.max(1), width]);
            let table = if missing == 0 { table } else { Tensor::cat(vec![table, fill], 0) };
            table.unsqueeze::<3>()
        });
        let places = Tensor::cat(places.collect(), 0);
        let seen: Vec<bool> =
            grids.iter().flat_map(|grid| (0..n).map(move |i| i < grid.0 * grid.1)).collect();
        let mask = padding_mask(&seen, b, n, &device);
        (self.assemble(x + places), mask)
    }

    fn finish(&self, x: Tensor<3>, mask: Option<Tensor<3>>, layers: bool) -> States {
        let mut all = Vec::new();
        let last = if layers {
            all = self.stack.forward_all(x, mask.clone());
            all[all.len() - 1].clone()
        } else {
            self.stack.forward(x, mask.clone())
        };
        let (last, pooled) = match self.post {
            PostNorm::Pooled => (last.clone(), self.class_state(last)),
            PostNorm::All => {
                let last = self.post_norm.forward(last);
                (last.clone(), self.pooled(last, mask))
            }
        };
        States { last, pooled, layers: all }
    }

    /// The class token with the norm on it alone.
    fn class_state(&self, x: Tensor<3>) -> Option<Tensor<2>> {
        let [b, _, width] = x.dims();
        self.class.as_ref()?;
        Some(self.post_norm.forward(x.narrow(1, 0, 1).reshape([b, width])))
    }

    fn pooled(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Option<Tensor<2>> {
        if let Some(pool) = &self.pool {
            return Some(pool.forward(x, mask));
        }
        let [b, _, width] = x.dims();
        self.class.as_ref()?;
        let class = x.narrow(1, 0, 1).reshape([b, width]);
        Some(match &self.dense {
            Some(dense) => dense.forward(class).tanh(),
            None => class,
        })
    }

    /// Whether pictures enter as pixels, and not as patches with a grid each.
    pub fn plain(&self) -> bool {
        self.places != Places::Flexible
    }

    /// Whether a picture of this height and width can be looked at.
    pub fn takes(&self, (height, width): (usize, usize)) -> bool {
        let grid = (height / self.patch, width / self.patch);
        match self.places {
            Places::Fixed => grid == self.grid,
            Places::Resized { .. } | Places::Buckets { .. } => grid.0 > 0 && grid.1 > 0,
            Places::Flexible => false,
        }
    }
}
