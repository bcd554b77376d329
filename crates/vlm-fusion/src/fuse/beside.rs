//! Pictures that stand beside a batch of texts: the decoder looks at them between its blocks.

use burn::tensor::Tensor;
use vlm_nn::Between;

use super::{GatedBlocks, Memory};
use crate::masks::pictures_so_far;

/// Gated blocks, and the pictures of a batch of texts as they see them.
///
/// Given to a [`Pass`](vlm_nn::Pass), it stands between the decoder's blocks.
#[derive(Clone, Debug)]
pub struct Beside {
    blocks: GatedBlocks,
    memory: Memory,
    places: Vec<Vec<usize>>,
}

impl Beside {
    /// For texts whose pictures are `memories: [pictures, rows, vision width]`, those of the first
    /// text first; `places` are the positions, in each text, of the first token that sees each
    /// picture.
    ///
    /// # Panics
    /// If there are not as many places as pictures.
    pub fn new(blocks: &GatedBlocks, memories: Tensor<3>, places: Vec<Vec<usize>>) -> Self {
        let counts: Vec<usize> = places.iter().map(Vec::len).collect();
        Beside { blocks: blocks.clone(), memory: blocks.remember(memories, &counts), places }
    }
}

impl Between for Beside {
    /// # Panics
    /// If the batch has other texts than those that the pictures belong to.
    fn before(&self, layer: usize, x: Tensor<3>, positions: &[Vec<usize>]) -> Tensor<3> {
        if !self.blocks.stands_before(layer) {
            return x;
        }
        let texts = x.dims()[0];
        assert_eq!(texts, self.places.len(), "texts and places of pictures differ in number");
        let row = |(i, places): (usize, &Vec<usize>)| {
            // One row stands for all where all are alike.
            pictures_so_far(places, positions[i % positions.len()].iter().copied())
        };
        let so_far: Vec<Vec<usize>> = self.places.iter().enumerate().map(row).collect();
        let recent = self.memory.recent(&so_far, &x.device());
        self.blocks.before(layer, x, &self.memory, &recent)
    }
}
