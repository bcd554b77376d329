//! From pictures to features, which are kept on disk.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use vlm_datasets::{Augment, augment};
use vlm_encoders::image::{self, Pixels};
use vlm_encoders::{Encoder, PictureEncoder};
use vlm_train::BoxError;

use super::problem::Text;
use crate::joined::{Dual, ImageReading, image_vectors};
use crate::{Classifier, Error, Templates};
use vlm_train::{FeatureCache, Vectors, stamp, stamp_folder};

/// Pictures that are looked at together.
const PICTURES: usize = 16;

/// What makes features of pictures.
#[derive(Debug)]
// One of these is ever held.
#[allow(clippy::large_enum_variant)]
pub enum Reading {
    /// A dual encoder, in its shared space.
    Shared(Dual),
    /// An image encoder, or the image tower of a dual one, read as asked.
    Tower(Encoder, ImageReading),
}

impl Reading {
    /// Opens a model folder. Without `asked` a dual encoder is read in its shared space and an
    /// image encoder as it pools by itself.
    ///
    /// # Errors
    /// If the folder cannot be opened, or has no image tower.
    pub fn open(
        dir: &Path,
        asked: Option<ImageReading>,
        device: &Device,
    ) -> Result<Self, vlm_encoders::Error> {
        let joined = dir.join("heads.safetensors").is_file();
        if joined && asked.is_none() {
            return Ok(Reading::Shared(Dual::open(dir, device)?));
        }
        let dir = if joined { dir.join("vision") } else { dir.to_owned() };
        let encoder = Encoder::open(&dir, device)?;
        encoder.processor()?;
        Ok(match (encoder, asked) {
            (Encoder::Dual(folder), None) => Reading::Shared(Dual::One(folder)),
            (encoder, asked) => Reading::Tower(encoder, asked.unwrap_or_default()),
        })
    }

    /// What the text tower says of the classes, where pictures and texts share a space.
    ///
    /// # Errors
    /// If the tokenizer fails, or the model gives no numbers.
    pub fn text(&self, labels: &[String], templates: &Templates) -> Result<Option<Text>, Error> {
        let Reading::Shared(dual) = self else { return Ok(None) };
        let weights = Classifier::new(dual, labels, templates)?.weights;
        let scale = match dual {
            Dual::One(folder) => &folder.model.logit_scale,
            Dual::Joined(folder) => &folder.joint.logit_scale,
        };
        let scale: f32 = scale.val().into_scalar();
        Ok(Some(Text { weights, scale: scale.exp() }))
    }
}

/// A reading, and where its features are kept.
#[derive(Debug)]
pub struct Source {
    /// What looks at the pictures.
    pub reading: Reading,
    /// Its folder.
    pub model: PathBuf,
    /// Where features are kept.
    pub cache: FeatureCache,
}

impl Source {
    /// Features of picture files, rows of length 1. `view` 0 is the pictures as they are; others
    /// are changed at random, always alike for the same picture and view. `progress` is told how
    /// many of how many are there.
    ///
    /// # Errors
    /// The first picture that cannot be read, a tower without such a state, a row that is no
    /// number or has no direction.
    pub fn features(
        &self,
        paths: &[PathBuf],
        view: u64,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Vectors, BoxError> {
        let how = match &self.reading {
            Reading::Shared(dual) => format!("shared {:?}", dual.processor()?),
            Reading::Tower(encoder, reading) => format!("{reading:?} {:?}", encoder.processor()?),
        };
        let changes = if view == 0 { String::new() } else { format!("{:?}", strong()) };
        let about = format!("{}\n{how}\n{changes}", stamp_folder(&self.model));
        let items: Vec<String> =
            paths.iter().map(|path| format!("{view} {}", stamp(path))).collect();
        let mut all = self.cache.get(&about, &items, progress, &mut |range| {
            let mut all = Vectors::default();
            for (i, paths) in paths[range.clone()].chunks(PICTURES).enumerate() {
                progress(range.start + i * PICTURES, items.len());
                let pixels = paths
                    .par_iter()
                    .map(|path| self.prepare(path, view))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .collect::<Result<Vec<Pixels>, BoxError>>()?;
                let read = self.read(&pixels)?;
                all.width = read.dims()[1];
                all.values.extend(read.into_data().iter::<f32>());
            }
            Ok(all)
        })?;
        progress(items.len(), items.len());
        for (row, path) in all.values.chunks_exact_mut(all.width.max(1)).zip(paths) {
            let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if !(length.is_finite() && length > 0.0) {
                return Err(format!(
                    "{}: the features of {} are no numbers, or all 0; the model's weights are damaged: fetch or train it again",
                    self.model.display(),
                    path.display()
                )
                .into());
            }
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        Ok(all)
    }

    fn prepare(&self, path: &Path, view: u64) -> Result<Pixels, BoxError> {
        let processor = match &self.reading {
            Reading::Shared(dual) => dual.processor()?,
            Reading::Tower(encoder, _) => encoder.processor()?,
        };
        if view == 0 {
            return Ok(processor.process_path(path)?);
        }
        // By name, not by place in some list: a view must not depend on what else is drawn.
        let name = path.to_string_lossy();
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ view, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let changed = augment(&image::load_rgba(path)?, None, &strong(), seed);
        Ok(processor.process(&changed)?)
    }

    fn read(&self, pixels: &[Pixels]) -> Result<Tensor<2>, BoxError> {
        Ok(match &self.reading {
            Reading::Shared(dual) => dual.encode_pictures(pixels)?,
            Reading::Tower(Encoder::Vision(folder), reading) if *reading == PLAIN => {
                folder.encode_pictures(pixels)?
            }
            Reading::Tower(Encoder::Vision(folder), reading) => {
                image_vectors(folder, *reading, pixels).map_err(|_| no_state(reading))?
            }
            Reading::Tower(encoder, reading) => {
                let states = encoder.image_states(pixels, reading.layers())?;
                reading.read(states).ok_or_else(|| no_state(reading))?
            }
        })
    }
}

/// What a tower says by itself.
const PLAIN: ImageReading = ImageReading { layer: None, pool: crate::joined::ImagePool::Pooled };

fn no_state(reading: &ImageReading) -> String {
    let layer = reading.layer.map_or(String::new(), |layer| format!(" at layer {layer}"));
    format!("the image tower has no such state{layer}; choose another --layer or --pool")
}

/// How a view is changed: what leaves a small picture's meaning alone.
fn strong() -> Augment {
    Augment {
        rotate: 10.0,
        scale: [0.8, 1.1],
        stretch: 0.15,
        shift: 0.08,
        flip: 0.5,
        colour: 0.8,
        brightness: 0.3,
        contrast: 0.3,
        saturation: 0.3,
        hue: 0.03,
        blur: 0.2,
        erase: 0.3,
        erase_area: 0.15,
        ..Augment::default()
    }
}
