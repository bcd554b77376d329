//! The shape of a generative model.

use vlm_encoders::{TextSpec, VisionSpec};

use crate::fuse::FusionConfig;

/// The choices that make a [`GenerativeModel`](crate::GenerativeModel) one of the families.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerativeSpec {
    /// The image tower.
    pub vision: VisionSpec,
    /// Which of its states the fusion sees.
    pub reading: Reading,
    /// How they reach the decoder.
    pub fusion: FusionConfig,
    /// What the fused rows are divided by, before they take the place of tokens' rows.
    pub divide: Option<f64>,
    /// The decoder.
    pub text: TextSpec,
    /// The token that stands for a row of a picture.
    pub image_token: i64,
    /// Whether the tokens of a prompt see each other both ways (prefix-LM, PaliGemma).
    pub prefix: bool,
    /// Whether pictures stand beside the feed-forwards and have no tokens: not of a model itself, but of an
    /// adapter on it (MemVP).
    pub memory: bool,
}

/// Which states of the image tower the fusion sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The last, behind the norm.
    Last,
    /// Those after so many layers each, side by side; 0 is what enters the first.
    Layers {
        /// Layers before each.
        depths: Vec<usize>,
        /// Whether the first token, where a class token stands, is left out.
        skip_first: bool,
    },
}

impl GenerativeSpec {
    /// Width of what the fusion sees.
    pub fn fused_width(&self) -> usize {
        let states = match &self.reading {
            Reading::Last => 1,
            Reading::Layers { depths, .. } => depths.len(),
        };
        states * self.vision.block.width
    }

    /// How many blocks of the image tower are looked through.
    pub fn depth(&self) -> usize {
        match &self.reading {
            Reading::Last => self.vision.layers,
            Reading::Layers { depths, .. } => depths.iter().copied().max().unwrap_or(0),
        }
    }

    /// Whether the parameter at a path has a part in what the model says: blocks of the image tower behind
    /// those that are looked through have none.
    pub fn uses(&self, path: &str) -> bool {
        let Some(inside) = path.strip_prefix("vision.") else { return true };
        if self.reading == Reading::Last {
            return true;
        }
        match inside.strip_prefix("stack.blocks.").and_then(|rest| rest.split('.').next()) {
            Some(block) => block.parse().is_ok_and(|block: usize| block < self.depth()),
            None => !["post_norm.", "dense.", "pool."].iter().any(|end| inside.starts_with(end)),
        }
    }

    /// How many tokens the fusion sees of a picture of this height and width.
    pub fn seen_tokens(&self, (height, width): (usize, usize)) -> usize {
        let patches = (height / self.vision.patch) * (width / self.vision.patch);
        let all = patches + usize::from(self.vision.class) + self.vision.registers;
        match self.reading {
            Reading::Layers { skip_first: true, .. } => all - all.min(1),
            _ => all,
        }
    }
}
