//! The towers of a joined encoder in training, and what they say of data.

use std::path::PathBuf;

use burn::tensor::Device;
use rayon::prelude::*;
use vlm_encoders::image::{self, Pixels, Resize, RgbImage};
use vlm_encoders::{TextEncoder, TextFolder, VisionFolder};
use vlm_train::BoxError;

use super::config::Tower;
use super::folder::{WHITE, image_vectors, open_text, open_vision, values};
use super::{HeadKind, JoinConfig};
use vlm_train::{FeatureCache, Vectors, stamp, stamp_folder};

/// Pictures that a tower looks at together.
const PICTURES: usize = 16;
/// Texts that a tower reads together.
const TEXTS: usize = 128;

/// Tells how far a tower is: what it looks at, how many of how many.
pub type Progress<'a> = dyn Fn(&str, usize, usize) + 'a;

/// Both towers, opened.
#[derive(Debug)]
pub struct Towers {
    /// The choices.
    pub config: JoinConfig,
    /// Of pictures.
    pub vision: VisionFolder,
    /// Of texts.
    pub text: TextFolder,
    cache: FeatureCache,
}

impl Towers {
    /// Opens the folders, a locked tower on the plain device and a trained one on the device that
    /// tracks gradients.
    ///
    /// # Errors
    /// If a folder cannot be opened or is of another kind, or the configuration makes no sense.
    pub fn open(
        config: &JoinConfig,
        cache: FeatureCache,
        plain: &Device,
        training: &Device,
    ) -> Result<Self, BoxError> {
        config.check().map_err(|reason| format!("model.towers.{reason}"))?;
        let device = |tower| if config.train.contains(&tower) { training } else { plain };
        let mut vision = open_vision(&config.vision, device(Tower::Vision))?;
        if let Some(side) = config.letterbox {
            let images = &mut vision.images;
            images.resize = Some(Resize::ShortestEdge(side));
            images.crop = Some((side, side));
            images.letterbox = Some(WHITE);
        }
        let text = open_text(&config.text, device(Tower::Text))?;
        Ok(Towers { config: config.clone(), vision, text, cache })
    }

    /// Whether a tower is locked.
    pub fn locked(&self, tower: Tower) -> bool {
        !self.config.train.contains(&tower)
    }

    /// What the image tower says of picture files.
    pub(super) fn pictures(
        &self,
        paths: &[PathBuf],
        mirrored: bool,
        progress: &Progress<'_>,
    ) -> Result<Vectors, BoxError> {
        let about = format!(
            "{}\n{:?}\n{:?}\n{mirrored}",
            stamp_folder(&self.config.vision),
            self.config.image,
            self.vision.images
        );
        let items: Vec<String> = paths.iter().map(|path| stamp(path)).collect();
        let told = |done: usize, of: usize| progress("pictures", done, of);
        self.cache.get(&about, &items, &told, &mut |range| {
            let start = range.start;
            let mut all = Vectors::default();
            for (i, paths) in paths[range].chunks(PICTURES).enumerate() {
                progress("pictures", start + i * PICTURES, items.len());
                let pixels = paths
                    .par_iter()
                    .map(|path| self.prepare(path, mirrored))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .collect::<Result<Vec<Pixels>, BoxError>>()?;
                let read = image_vectors(&self.vision, self.config.image, &pixels)?;
                all.width = read.dims()[1];
                all.values.extend(values(read));
            }
            Ok(all)
        })
    }

    fn prepare(&self, path: &std::path::Path, mirrored: bool) -> Result<Pixels, BoxError> {
        if !mirrored {
            return Ok(self.vision.images.process_path(path)?);
        }
        let picture: RgbImage = image::load(path)?;
        let (width, height) = picture.dimensions();
        let mirror = RgbImage::from_fn(width, height, |x, y| *picture.get_pixel(width - 1 - x, y));
        Ok(self.vision.images.process(&mirror)?)
    }

    /// What the text tower says of texts.
    pub(super) fn texts(
        &self,
        texts: &[String],
        progress: &Progress<'_>,
    ) -> Result<Vectors, BoxError> {
        let about = stamp_folder(&self.config.text);
        let told = |done: usize, of: usize| progress("texts", done, of);
        self.cache.get(&about, texts, &told, &mut |range| {
            let mut all = Vectors::default();
            for texts in texts[range].chunks(TEXTS) {
                let read = self.text.encode_texts(texts)?;
                all.width = read.dims()[1];
                all.values.extend(values(read));
            }
            Ok(all)
        })
    }

    /// Dimensions of the shared space.
    pub(super) fn dim(&self, text_width: usize) -> usize {
        match self.config.text_head {
            HeadKind::None => text_width,
            _ => self.config.dim,
        }
    }
}
