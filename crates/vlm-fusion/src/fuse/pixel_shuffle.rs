//! Neighbouring patches as one row, and a linear map (Idefics 3, Laurençon et al. 2024,
//! arXiv 2408.12637; SmolVLM, Marafioti et al. 2025, arXiv 2504.05299).
//!
//! Choose it where the decoder is small or pictures are many: a factor of 4 leaves a sixteenth of the
//! rows and loses no value of a patch. Fine print and small things suffer first.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vlm_nn::Linear;

use super::config::Checks;
use crate::Error;

/// The choices of a [`PixelShuffleFusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixelShuffleConfig {
    /// Side of the squares of patches that become one row.
    pub factor: usize,
}

impl Default for PixelShuffleConfig {
    fn default() -> Self {
        PixelShuffleConfig { factor: 2 }
    }
}

impl PixelShuffleConfig {
    /// Whether a map can be built of it.
    ///
    /// # Errors
    /// [`Error::Fusion`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        Checks("pixel-shuffle").positive("factor", self.factor)?;
        Ok(())
    }
}

/// Squares of patches to rows.
#[derive(Module, Debug)]
pub struct PixelShuffleFusion {
    /// `[factor² · vision width, text width]`, no bias.
    pub projection: Linear,
    factor: usize,
}

impl PixelShuffleFusion {
    /// A blank map.
    pub fn new(config: &PixelShuffleConfig, vision: usize, text: usize, device: &Device) -> Self {
        let factor = config.factor;
        let projection = Linear::new(vision * factor * factor, text, false, device);
        PixelShuffleFusion { projection, factor }
    }

    /// Side of the squares.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// `[pictures, patches, vision width]` of a grid to `[pictures, patches / factor², text width]`.
    ///
    /// # Panics
    /// If the patches are not those of the grid, or the factor does not divide its sides.
    pub fn forward(&self, picture: Tensor<3>, grid: (usize, usize)) -> Tensor<3> {
        self.projection.forward(shuffled(picture, grid, self.factor))
    }
}

/// The patches of each square one after the other, row by row.
fn shuffled(picture: Tensor<3>, (rows, cols): (usize, usize), factor: usize) -> Tensor<3> {
    let [pictures, _, width] = picture.dims();
    let (down, across) = (rows / factor, cols / factor);
    picture
        .reshape([pictures, down, factor, across, factor, width])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([pictures, down * across, factor * factor * width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Int;

    #[test]
    fn squares_become_rows() {
        let device = Device::default();
        // A picture of 2 by 4 patches, each its own number.
        let patches = Tensor::<1, Int>::arange(0..8, &device).float().reshape([1, 8, 1]);
        let rows = shuffled(patches, (2, 4), 2).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(rows, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    }
}
