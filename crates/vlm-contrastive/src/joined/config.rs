//! The choices of a joined encoder.

use std::path::PathBuf;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use vlm_encoders::States;

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
    /// Shows the tower each picture whole, in the middle of a white square, instead of the crop
    /// that its own preparation makes.
    #[serde(default)]
    pub letterbox: bool,
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
        let (x, pooled) = match self.layer {
            None => (states.last, states.pooled),
            Some(layer) => {
                let count = states.layers.len() as i64;
                let place = if layer < 0 { count + layer } else { layer };
                (states.layers.into_iter().nth(usize::try_from(place).ok()?)?, None)
            }
        };
        let [b, t, width] = x.dims();
        let class = || x.clone().narrow(1, 0, 1).reshape([b, width]);
        let rest = || x.clone().narrow(1, 1, t - 1);
        let mean = || rest().mean_dim(1).reshape([b, width]);
        let max = || rest().max_dim(1).reshape([b, width]);
        Some(match self.pool {
            ImagePool::Pooled if self.layer.is_none() => pooled?,
            ImagePool::Pooled | ImagePool::Class => class(),
            _ if t < 2 => return None,
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
