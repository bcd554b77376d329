//! The choices of a joined encoder.

use std::path::PathBuf;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use vlm_encoders::image::Pixels;
use vlm_encoders::{Error, States, VisionFolder, VisionTower};

/// Which towers are joined, and how; the `[model.towers]` section of a run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinConfig {
    /// Folder of the image encoder.
    pub vision: PathBuf,
    /// Folder of the text encoder.
    pub text: PathBuf,
    /// Towers that are trained: `vision`, `text`. The others are locked.
    #[serde(default)]
    pub train: Vec<Tower>,
    /// How the image tower's states become one vector.
    #[serde(default)]
    pub image: ImageReading,
    /// What maps that vector to the shared space.
    #[serde(default)]
    pub image_head: HeadKind,
    /// What maps the text tower's vector to the shared space.
    #[serde(default)]
    pub text_head: HeadKind,
    /// Dimensions of the shared space; the text vector's where its head is `none`.
    #[serde(default = "dim")]
    pub dim: usize,
    /// Share of a locked tower's values that are left out in each step.
    #[serde(default)]
    pub dropout: f32,
    /// Whether pictures are also learnt from mirrored.
    #[serde(default)]
    pub mirror: bool,
    /// Shows the tower each picture whole, in the middle of a white square of that many pixels,
    /// instead of the crop that its own preparation makes. More pixels show more, and take longer.
    pub letterbox: Option<usize>,
}

fn dim() -> usize {
    256
}

impl JoinConfig {
    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// The first such value, with what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=1 << 16).contains(&self.dim) {
            return Err(format!("dim is {}; it must be from 1 to 65536", self.dim));
        }
        if let Some(side) = self.letterbox
            && !(1..=1 << 12).contains(&side)
        {
            return Err(format!("letterbox is {side}; it must be from 1 to 4096 pixels"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout is {}; it must be from 0 to below 1", self.dropout));
        }
        if self.image_head == HeadKind::None {
            return Err(
                "image_head is `none`; only a text can stand where its tower puts it".into()
            );
        }
        for head in [self.image_head, self.text_head] {
            if let HeadKind::Mlp(0) = head {
                return Err("an mlp head has a width of 0".into());
            }
        }
        Ok(())
    }
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tower {
    /// Of pictures.
    Vision,
    /// Of texts.
    Text,
}

/// What maps a tower's vector to the shared space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// Nothing: the space is the tower's own, with its mean taken out.
    None,
    /// A linear map.
    #[default]
    Linear,
    /// A linear map, a gelu and another linear map, with that many values between.
    Mlp(usize),
}

/// How an image tower's states become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageReading {
    /// Which state: 0 is before the first layer, −1 after the last; none is the tower's last
    /// word, after its own norm. A tower that was made for another task often knows more before
    /// its last layer.
    pub layer: Option<i64>,
    /// Which tokens.
    pub pool: ImagePool,
}

/// Which tokens stand for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePool {
    /// What the tower pools by itself; of a middle layer, the class token.
    #[default]
    Pooled,
    /// The first token.
    Class,
    /// The mean of all tokens but the first.
    Mean,
    /// Both, one after the other.
    ClassMean,
    /// Both, and the largest value of each channel over all tokens but the first, so that a thing
    /// on a wide background is not averaged away.
    ClassMeanMax,
}

impl std::fmt::Display for ImageReading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pool = match self.pool {
            ImagePool::Pooled => "pooled",
            ImagePool::Class => "class",
            ImagePool::Mean => "mean",
            ImagePool::ClassMean => "class-mean",
            ImagePool::ClassMeanMax => "class-mean-max",
        };
        match self.layer {
            Some(layer) => write!(f, "layer {layer}, pool {pool}"),
            None => write!(f, "the last state, pool {pool}"),
        }
    }
}

impl ImageReading {
    /// Whether all layers' states are needed.
    pub fn layers(&self) -> bool {
        self.layer.is_some()
    }

    /// The vectors `[batch, dim]`; `None` if there is no such layer, or nothing is pooled.
    pub fn read(&self, states: States) -> Option<Tensor<2>> {
        let Some(depth) = self.depth(states.layers.len().saturating_sub(1)) else {
            return self.of_last(states);
        };
        self.pool(states.layers.into_iter().nth(depth?)?)
    }

    /// What a tower says of pictures `[batch, channels, height, width]`; layers behind the one that
    /// is read are not computed.
    pub fn of_tower(&self, tower: &VisionTower, pixels: Tensor<4>) -> Option<Tensor<2>> {
        match self.depth(tower.stack.blocks.len()) {
            None => self.of_last(tower.states(pixels, false)),
            Some(depth) => self.pool(tower.state_at(pixels, depth?)),
        }
    }

    /// The same of a folder's tower.
    ///
    /// # Errors
    /// If the tower does not take the pictures.
    pub fn of_folder(
        &self,
        folder: &VisionFolder,
        pictures: &[Pixels],
    ) -> Result<Option<Tensor<2>>, Error> {
        Ok(match self.depth(folder.plan.spec.layers) {
            None => self.of_last(folder.states(pictures, false)?),
            Some(None) => None,
            Some(Some(depth)) => self.pool(folder.state_at(pictures, depth)?),
        })
    }

    /// Behind how many of `layers` the state stands, if it is not the tower's last word; of those
    /// `None` if there is no such layer.
    fn depth(&self, layers: usize) -> Option<Option<usize>> {
        let layer = self.layer?;
        let place = if layer < 0 { layer.checked_add(layers as i64 + 1) } else { Some(layer) };
        let place = place.and_then(|place| usize::try_from(place).ok());
        Some(place.filter(|place| *place <= layers))
    }

    fn of_last(&self, states: States) -> Option<Tensor<2>> {
        match self.pool {
            ImagePool::Pooled => states.pooled,
            _ => self.pool(states.last),
        }
    }

    fn pool(&self, x: Tensor<3>) -> Option<Tensor<2>> {
        let [b, t, width] = x.dims();
        let class = || x.clone().narrow(1, 0, 1).reshape([b, width]);
        if matches!(self.pool, ImagePool::Pooled | ImagePool::Class) {
            return Some(class());
        }
        if t < 2 {
            return None;
        }
        let rest = || x.clone().narrow(1, 1, t - 1);
        let mean = || rest().mean_dim(1).reshape([b, width]);
        let max = || rest().max_dim(1).reshape([b, width]);
        Some(match self.pool {
            ImagePool::Pooled | ImagePool::Class => class(),
            ImagePool::Mean => mean(),
            ImagePool::ClassMean => Tensor::cat(vec![class(), mean()], 1),
            ImagePool::ClassMeanMax => Tensor::cat(vec![class(), mean(), max()], 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_reading_takes_its_tokens_from_its_layer() {
        let device = Device::flex();
        let state = |from: f32| {
            Tensor::<3>::from_data(
                [[[from, -from], [from + 1.0, 0.0], [from + 5.0, from]]],
                &device,
            )
        };
        let states = || States {
            last: state(90.0),
            pooled: Some(Tensor::<2>::from_data([[7.0f32, 8.0]], &device)),
            layers: vec![state(0.0), state(10.0), state(20.0)],
        };
        let read = |layer, pool| {
            let read = ImageReading { layer, pool }.read(states())?;
            Some(read.into_data().iter().collect::<Vec<f32>>())
        };
        assert_eq!(read(None, ImagePool::Pooled).unwrap(), [7.0, 8.0]);
        assert_eq!(read(None, ImagePool::Class).unwrap(), [90.0, -90.0]);
        assert_eq!(read(Some(1), ImagePool::Pooled).unwrap(), [10.0, -10.0]);
        assert_eq!(read(Some(-1), ImagePool::Mean).unwrap(), [23.0, 10.0]);
        assert_eq!(
            read(Some(1), ImagePool::ClassMeanMax).unwrap(),
            [10.0, -10.0, 13.0, 5.0, 15.0, 10.0]
        );
        assert_eq!(read(Some(3), ImagePool::Class), None);
        assert_eq!(read(Some(-4), ImagePool::Class), None);
    }
}
