//! Looking at pictures.

use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use vlm_encoders::batch_pixels;
use vlm_encoders::image::{Pixels, load};
use vlm_train::{BoxError, FeatureCache, Vectors, stamp};

use super::{GenerativeTask, Material, Progress, Seen};
use crate::GenerativeModel;
use crate::decode::Decode;

/// Pieces of pictures that a locked tower looks at together.
const TOGETHER: usize = 16;

impl GenerativeTask {
    /// What the locked tower of this fingerprint says of the pieces of all pictures.
    pub(super) fn look(
        &self,
        tower: u64,
        material: &Material,
        cache: &FeatureCache,
        progress: &Progress<'_>,
    ) -> Result<Vectors, BoxError> {
        let about =
            format!("{tower:016x}\n{:?}\n{:?}", self.folder.plan.spec.reading, self.folder.images);
        // Which picture each piece is of, and which of its pieces it is.
        let pieces: Vec<(usize, usize)> = material
            .places
            .iter()
            .enumerate()
            .flat_map(|(picture, place)| (0..place.pieces()).map(move |piece| (picture, piece)))
            .collect();
        let name = |(picture, piece): &(usize, usize)| {
            let stamp = stamp(&material.pictures[*picture]);
            if *piece == 0 { stamp } else { format!("{stamp} {piece}") }
        };
        let items: Vec<String> = pieces.iter().map(name).collect();
        let told = |done: usize, of: usize| progress("pictures", done, of);
        cache.get(&about, &items, &told, &mut |range| {
            let (mut all, mut done) = (Vectors::default(), range.start);
            let mut look = |pixels: &[Pixels]| {
                for some in pixels.chunks(TOGETHER) {
                    progress("pictures", done, items.len());
                    done += some.len();
                    let seen =
                        self.folder.model.look_at(batch_pixels(some, &self.folder.model.device()));
                    let [_, tokens, width] = seen.dims();
                    all.width = tokens * width;
                    all.values.extend(seen.into_data().iter::<f32>());
                }
            };
            let mut waiting: Vec<Pixels> = Vec::new();
            let of_pictures: Vec<&[(usize, usize)]> =
                pieces[range].chunk_by(|a, b| a.0 == b.0).collect();
            for some in of_pictures.chunks(TOGETHER) {
                let paths: Vec<PathBuf> =
                    some.iter().map(|of| material.pictures[of[0].0].clone()).collect();
                for (of, tiles) in some.iter().zip(self.read(&paths)?) {
                    waiting.extend(of.iter().map(|(_, piece)| tiles[*piece].clone()));
                }
                let whole = waiting.len() / TOGETHER * TOGETHER;
                look(&waiting[..whole]);
                waiting.drain(..whole);
            }
            look(&waiting);
            Ok(all)
        })
    }

    /// The pieces of picture files.
    pub(super) fn read(&self, paths: &[PathBuf]) -> Result<Vec<Vec<Pixels>>, BoxError> {
        let images = &self.folder.images;
        let read = paths.par_iter().map(|path| {
            let tiles = images.tiles(&load(path).map_err(|e| e.to_string())?);
            tiles.map(|tiles| tiles.tiles).map_err(|e| format!("{}: {e}", path.display()))
        });
        Ok(read.collect::<Vec<_>>().into_iter().collect::<Result<_, _>>()?)
    }

    /// What the fusion sees of some pictures: known already, or looked at now.
    pub(super) fn seen(
        &self,
        model: &GenerativeModel,
        material: &Material,
        (pictures, of_rows): (&[usize], Vec<usize>),
        pixels: &[Pixels],
    ) -> Option<Seen> {
        if pictures.is_empty() {
            return None;
        }
        let states = match &material.seen {
            Some(vectors) => {
                let tokens = self.folder.plan.spec.seen_tokens(self.size);
                let width = vectors.width / tokens;
                let rows = pictures.iter().flat_map(|picture| material.rows_of(*picture));
                let values: Vec<f32> = rows.flat_map(|row| vectors.row(row)).copied().collect();
                let shape = [values.len() / vectors.width, tokens, width];
                Tensor::from_data(TensorData::new(values, shape), &model.device())
            }
            None => model.look_at(batch_pixels(pixels, &model.device())),
        };
        Some(Seen { states, size: self.size, of_rows })
    }
}
