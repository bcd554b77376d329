//! Preparing a picture for an image encoder.
//!
//! Order: resize → centre crop → rescale → normalise → channels first, as the slow processors of
//! transformers 4.57 (on Pillow) and the `…Pil` ones of transformers 5 do. Which of the steps there
//! are depends on the [`Kind`].
//! A file that names the torchvision ("fast") processor is handled the same way; torchvision's own
//! resampling differs from Pillow's by a few levels.

use std::path::Path;

use ::image::RgbImage;

use super::bound;
use super::config;
use super::crop::{Placed, centre};
use super::decode::load;
use super::error::ImageError;
use super::filter::Filter;
use super::kind::Kind;
use super::patches::Patching;
use super::pixels::{Pixels, Scaling};
use super::resample::{Window, resize};
use super::save;
use super::tiles::{Frames, Tiles, Tiling};

/// Mean of OpenAI's CLIP, per channel, of samples in 0…1.
pub const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of OpenAI's CLIP, per channel, of samples in 0…1.
pub const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// What a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The shorter edge to this many pixels, the longer one in proportion, rounded down.
    ShortestEdge(usize),
    /// To this size, whatever the proportions.
    Exact {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
    },
    /// To squares of one size, several of them and the whole.
    Tiles(Tiling),
    /// To whole patches in about the picture's own proportions, as many as allowed.
    Patches(Patching),
}

/// How pictures are prepared, as `preprocessor_config.json` says it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// The class of transformers that does the same, under which it is saved.
    pub kind: Kind,
    /// The size to resize to; `None` leaves the size alone.
    pub resize: Option<Resize>,
    /// The filter to resize with.
    pub filter: Filter,
    /// Height and width of the centre crop; `None` crops nothing.
    pub crop: Option<(usize, usize)>,
    /// What the samples 0…255 are multiplied by; `None` leaves them.
    pub rescale: Option<f64>,
    /// Mean and standard deviation per channel; `None` leaves the samples.
    pub normalize: Option<([f64; 3], [f64; 3])>,
    /// Shows the whole picture, in its proportions, in the middle of the size that comes out, on
    /// this colour, instead of cutting or stretching it. No file of transformers says this.
    pub letterbox: Option<[u8; 3]>,
}

impl ImageProcessor {
    /// CLIP's processing for square pictures of `image_size` pixels. OpenAI's statistics are
    /// [`CLIP_MEAN`] and [`CLIP_STD`].
    pub fn clip(image_size: usize, mean: [f64; 3], std: [f64; 3]) -> Self {
        Self {
            resize: Some(Resize::ShortestEdge(image_size)),
            crop: Some((image_size, image_size)),
            normalize: Some((mean, std)),
            ..Kind::Clip.defaults()
        }
    }

    /// Reads `preprocessor_config.json` of a model folder, or the `image_processor` part of
    /// `processor_config.json`, where transformers 5 puts it.
    ///
    /// # Errors
    /// [`ImageError`]: neither file is there, or one holds a field or value that is not known.
    pub fn from_dir(dir: &Path) -> Result<Self, ImageError> {
        config::read(dir)
    }

    /// What `preprocessor_config.json` holds.
    ///
    /// # Errors
    /// [`ImageError::NotOfKind`], as [`save`](Self::save).
    pub fn to_json(&self) -> Result<String, ImageError> {
        save::text(self)
    }

    /// Writes `preprocessor_config.json` into a folder that exists, as transformers writes it.
    ///
    /// # Errors
    /// [`ImageError::NotOfKind`] if the kind lacks a step that was added by hand,
    /// [`ImageError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), ImageError> {
        save::write(self, dir)
    }

    /// The patches that the model takes, if it takes [patches](Pixels::patches) instead of
    /// `[3, height, width]`.
    pub fn patching(&self) -> Option<Patching> {
        match self.resize {
            Some(Resize::Patches(patching)) => Some(patching),
            _ => None,
        }
    }

    /// How pictures are cut into [tiles](Self::tiles), if the model takes them so.
    pub fn tiling(&self) -> Option<Tiling> {
        match self.resize {
            Some(Resize::Tiles(tiling)) => Some(tiling),
            _ => None,
        }
    }

    /// Height and width of the result, if they do not depend on the picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some(Resize::Exact { height, width })) => Some((height, width)),
            (None, Some(Resize::Tiles(tiling))) => Some((tiling.tile, tiling.tile)),
            _ => None,
        }
    }

    /// Prepares a picture in tiles, the whole one last. Where the class knows no tiles there is only
    /// the whole.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn tiles(&self, picture: &RgbImage) -> Result<Tiles, ImageError> {
        let Some(tiling) = self.tiling() else {
            return Ok(Tiles { tiles: vec![self.process(picture)?], grid: (0, 0) });
        };
        if picture.width() == 0 || picture.height() == 0 {
            return Err(ImageError::EmptyPicture);
        }
        let Frames { frames, grid } = tiling.cut(picture, self.filter)?;
        let scaling = Scaling { rescale: self.rescale, normalize: self.normalize };
        let tile = |samples| Pixels::new(samples, tiling.tile, tiling.tile, scaling);
        Ok(Tiles { tiles: frames.into_iter().map(tile).collect(), grid })
    }

    /// Rows and columns of the [tiles](Self::tiles) of a picture, without making them; 0 and 0 if
    /// there is only the whole.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn grid(&self, picture: &RgbImage) -> Result<(usize, usize), ImageError> {
        let Some(tiling) = self.tiling() else { return Ok((0, 0)) };
        if picture.width() == 0 || picture.height() == 0 {
            return Err(ImageError::EmptyPicture);
        }
        tiling.grid((picture.height() as usize, picture.width() as usize))
    }

    /// Prepares a picture; of one in tiles the whole.
    ///
    /// # Errors
    /// [`ImageError::EmptyPicture`]; [`ImageError::Bound`] if the result would be absurdly large.
    pub fn process(&self, picture: &RgbImage) -> Result<Pixels, ImageError> {
        let (height, width, samples) = self.resized_and_cropped(picture)?;
        bound::check(height * width, 3 * size_of::<f32>())?;
        let scaling = Scaling { rescale: self.rescale, normalize: self.normalize };
        Ok(Pixels::new(samples, height, width, scaling))
    }

    /// Reads and prepares a picture.
    ///
    /// # Errors
    /// As [`load`] and [`ImageProcessor::process`], with the file's name.
    pub fn process_path(&self, path: &Path) -> Result<Pixels, ImageError> {
        self.process(&load(path)?).map_err(|source| ImageError::Processing {
            name: path.display().to_string(),
            source: Box::new(source),
        })
    }

    /// Height, width and `[height, width, 3]` bytes: what the encoder will see, before it is
    /// turned into numbers.
    ///
    /// # Errors
    /// As [`ImageProcessor::process`].
    pub fn resized_and_cropped(
        &self,
        picture: &RgbImage,
    ) -> Result<(usize, usize, Vec<u8>), ImageError> {
        let (source_w, source_h) = (picture.width() as usize, picture.height() as usize);
        if source_w == 0 || source_h == 0 {
            return Err(ImageError::EmptyPicture);
        }
        if let (Some(colour), Some(size)) = (self.letterbox, self.output_size()) {
            return self.laid_on(picture, colour, size);
        }
        if let Some(tiling) = self.tiling() {
            let whole = tiling.cut(picture, self.filter)?.frames.pop().unwrap_or_default();
            return Ok((tiling.tile, tiling.tile, whole));
        }
        let (resized_h, resized_w) = self.resized_size(source_h, source_w);
        let (height, width) = self.crop.unwrap_or((resized_h, resized_w));
        bound::check(height, width.saturating_mul(3))?;
        let (rows, columns) = (centre(resized_h, height), centre(resized_w, width));
        let window = Window { x: columns.from.clone(), y: rows.from.clone() };
        let seen = resize(picture, resized_w, resized_h, &window, self.filter)?;
        Ok((height, width, padded(seen, height, width, &rows, &columns)))
    }

    /// The picture in the middle of a canvas.
    fn laid_on(
        &self,
        picture: &RgbImage,
        colour: [u8; 3],
        (height, width): (usize, usize),
    ) -> Result<(usize, usize, Vec<u8>), ImageError> {
        bound::check(height, width.saturating_mul(3))?;
        let (source_w, source_h) = (picture.width() as usize, picture.height() as usize);
        let scale = (height as f64 / source_h as f64).min(width as f64 / source_w as f64);
        let side =
            |length: usize, most: usize| ((length as f64 * scale).round() as usize).clamp(1, most);
        let (inner_h, inner_w) = (side(source_h, height), side(source_w, width));
        let window = Window { x: 0..inner_w, y: 0..inner_h };
        let seen = resize(picture, inner_w, inner_h, &window, self.filter)?;
        let mut canvas = colour.repeat(height * width);
        let (top, left) = ((height - inner_h) / 2, (width - inner_w) / 2);
        for (row, line) in seen.chunks_exact(3 * inner_w).enumerate() {
            let at = 3 * ((top + row) * width + left);
            canvas[at..at + line.len()].copy_from_slice(line);
        }
        Ok((height, width, canvas))
    }

    fn resized_size(&self, height: usize, width: usize) -> (usize, usize) {
        match self.resize {
            // Tiles are cut before anybody asks.
            None | Some(Resize::Tiles(_)) => (height, width),
            Some(Resize::Exact { height, width }) => (height, width),
            Some(Resize::Patches(patching)) => patching.fit(height, width),
            Some(Resize::ShortestEdge(edge)) => {
                let (short, long) = (height.min(width), height.max(width));
                // Python's `int(edge * long / short)`.
                let long = (edge.saturating_mul(long) as f64 / short as f64) as usize;
                if width <= height { (long, edge) } else { (edge, long) }
            }
        }
    }
}

/// Puts the seen part into a black picture of `height` × `width`, unless it fills it.
fn padded(seen: Vec<u8>, height: usize, width: usize, rows: &Placed, columns: &Placed) -> Vec<u8> {
    if rows.from.len() == height && columns.from.len() == width {
        return seen;
    }
    let mut out = vec![0; height * width * 3];
    let stride = columns.from.len() * 3;
    for (index, row) in seen.chunks_exact(stride).enumerate() {
        let start = ((rows.at + index) * width + columns.at) * 3;
        out[start..start + stride].copy_from_slice(row);
    }
    out
}
