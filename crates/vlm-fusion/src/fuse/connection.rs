//! ViLBERT's connection: a layer in which one stream asks the other and nothing else.
//!
//! Lu et al. 2019, arXiv 1908.02265: the stream's queries attend to the keys and values of the
//! other stream, then a feed-forward, each with the norm after its sum.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vlm_nn::{Attention, AttentionConfig, BlockConfig, FeedForward, Norm};

/// One direction of a connection.
#[derive(Module, Debug)]
pub struct Connection {
    /// From this stream to the other.
    pub cross: Attention,
    /// Norm of its sum.
    pub norm1: Norm,
    /// Feed-forward.
    pub feed_forward: FeedForward,
    /// Norm of its sum.
    pub norm2: Norm,
}

impl Connection {
    /// A blank connection of the shape of a stream's blocks.
    pub fn new(shape: &BlockConfig, device: &Device) -> Self {
        let attention = AttentionConfig::plain(
            shape.width,
            shape.width,
            shape.heads,
            shape.width / shape.heads,
            true,
        );
        let norm = || Norm::new(shape.norm, shape.width, shape.eps, device);
        let (inner, activation) = (shape.inner, shape.activation);
        Connection {
            cross: Attention::new(&attention, device),
            norm1: norm(),
            feed_forward: FeedForward::new(shape.width, inner, false, true, activation, device),
            norm2: norm(),
        }
    }

    /// `x: [batch, tokens, width]` asks `other: [batch, keys, width]`, of which the mask
    /// `[batch or 1, 1, keys]` hides padding.
    pub fn forward(&self, x: Tensor<3>, other: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        let x = self.norm1.forward(x.clone() + self.cross.hear(x, Some(other), mask));
        self.norm2.forward(x.clone() + self.feed_forward.forward(x))
    }
}
