//! A decoder that looks at pictures between its blocks, as [`generate`](crate::decode::generate)
//! takes it.

use burn::tensor::{Device, Int, Tensor};
use vlm_encoders::TextTower;
use vlm_nn::Pass;

use super::{GatedBlocks, Memory};
use crate::decode::Decode;
use crate::masks::pictures_so_far;

/// A decoder with gated blocks between its own, and the pictures of a batch of texts.
#[derive(Clone, Debug)]
pub struct GatedText<'a> {
    text: &'a TextTower,
    gates: &'a GatedBlocks,
    memory: Memory,
    places: Vec<Vec<usize>>,
}

impl<'a> GatedText<'a> {
    /// For texts whose pictures are `memories: [pictures, rows, vision width]`, those of the first
    /// text first; `places` are the positions, in each text, of the first token behind each picture.
    ///
    /// # Panics
    /// If there are not as many places as pictures.
    pub fn new(
        text: &'a TextTower,
        gates: &'a GatedBlocks,
        memories: Tensor<3>,
        places: Vec<Vec<usize>>,
    ) -> Self {
        let counts: Vec<usize> = places.iter().map(Vec::len).collect();
        GatedText { text, gates, memory: gates.remember(memories, &counts), places }
    }
}

impl Decode for GatedText<'_> {
    fn look_up(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.text.look_up(ids)
    }

    /// # Panics
    /// If the batch has other texts than those that the pictures belong to.
    fn extend(&self, rows: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let ([batch, tokens, _], device) = (rows.dims(), rows.device());
        assert_eq!(batch, self.places.len(), "texts and places of pictures differ in number");
        let x = self.text.enter(rows, pass);
        let positions = pass.positions(batch, tokens);
        let row = |(i, places): (usize, &Vec<usize>)| {
            // One row stands for all where all are alike.
            pictures_so_far(places, positions[i % positions.len()].iter().copied())
        };
        let so_far: Vec<Vec<usize>> = self.places.iter().enumerate().map(row).collect();
        let recent = self.memory.recent(&so_far, &device);
        let x = self.text.stack.blocks.iter().enumerate().fold(x, |x, (layer, block)| {
            block.extend(self.gates.before(layer, x, &self.memory, &recent), layer, pass)
        });
        self.text.leave(x)
    }

    fn logits(&self, states: Tensor<3>) -> Tensor<3> {
        self.text.logits(states)
    }

    fn context(&self) -> usize {
        self.text.context()
    }

    fn vocabulary(&self) -> usize {
        self.text.vocabulary()
    }

    fn device(&self) -> Device {
        self.text.tokens.device()
    }
}
