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
