//! A set of conversations, prepared for a model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use vlm_datasets::{Conversation, Conversations, order};
use vlm_encoders::image::load;
use vlm_train::{BoxError, Vectors};

use super::lesson::Telling;
use super::pack::{Lesson, Row};
use crate::GenerativeFolder;
use crate::processor::Place;

/// Lessons, and which pictures each is about.
#[derive(Debug, Default)]
pub struct Material {
    /// One for each conversation, in their order.
    pub lessons: Vec<Lesson>,
    /// All pictures, each once.
    pub pictures: Vec<PathBuf>,
    /// The pieces of each.
    pub(crate) places: Vec<Place>,
    /// Pieces of those before each.
    before: Vec<usize>,
    /// The conversations about the same pictures, and which these are.
    groups: Vec<(Vec<usize>, Vec<usize>)>,
    /// What a locked image tower says of the pictures.
    pub(super) seen: Option<Vectors>,
}

impl Material {
    /// Cuts conversations into tokens. `size` is the height and width of a prepared picture.
    ///
    /// # Errors
    /// If one cannot be told to the model; the message names where it stands.
    pub fn new(
        data: &Conversations,
        folder: &GenerativeFolder,
        size: (usize, usize),
        telling: Telling<'_>,
    ) -> Result<Self, BoxError> {
        let mut numbers: HashMap<&Path, usize> = HashMap::new();
        let mut material = Material::default();
        for conversation in data.samples.iter().filter(|_| !telling.blind) {
            for path in &conversation.pictures {
                numbers.entry(path).or_insert_with(|| {
                    material.pictures.push(path.clone());
                    material.pictures.len() - 1
                });
            }
        }
        material.places = places(&material.pictures, folder, size)?;
        let pieces = material.places.iter().scan(0, |before, place| {
            *before += place.pieces();
            Some(*before - place.pieces())
        });
        material.before = pieces.collect();
        // A chat template is a program: tens of thousands of runs of it take a minute on one core.
        let told = data.samples.par_iter().map(|conversation| {
            let of = if telling.blind { &[][..] } else { &conversation.pictures[..] };
            let pictures: Vec<usize> = of.iter().map(|path| numbers[path.as_path()]).collect();
            let places: Vec<Place> = pictures.iter().map(|i| material.places[*i]).collect();
            let lesson = folder.lesson(conversation, &places, telling);
            let lesson = lesson.map_err(|e| format!("{}: {e}", conversation.origin))?;
            Ok((pictures, lesson))
        });
        // Of several that cannot be told, the first is named.
        let told: Vec<Result<(Vec<usize>, Lesson), String>> = told.collect();
        let mut group_of: HashMap<Vec<usize>, usize> = HashMap::new();
        for (i, (conversation, told)) in data.samples.iter().zip(told).enumerate() {
            let (pictures, lesson) = told?;
            material.lessons.push(lesson);
            let groups = &mut material.groups;
            // Blind or not, what is drawn together is what is about one picture.
            let key = match telling.blind {
                true => vec![*numbers.entry(named(conversation)).or_insert(usize::MAX - i)],
                false if pictures.is_empty() => vec![usize::MAX - i],
                false => pictures.clone(),
            };
            let group = *group_of.entry(key).or_insert_with(|| {
                groups.push((Vec::new(), pictures));
                groups.len() - 1
            });
            groups[group].0.push(i);
        }
        Ok(material)
    }

    /// Which conversations stand in one row, and the row's pictures: at most `pack` about the same
    /// pictures, at most `per_picture` of each in all. Drawn anew in each epoch.
    pub fn rows(
        &self,
        (seed, epoch): (u64, u64),
        pack: usize,
        per_picture: usize,
    ) -> Vec<(Vec<usize>, &[usize])> {
        let mut rows = Vec::new();
        for group in order(seed, epoch, self.groups.len()) {
            let (members, pictures) = &self.groups[group];
            let mut members = members.clone();
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ epoch << 40 ^ (group as u64) << 8 ^ 3);
            for i in (1..members.len()).rev() {
                members.swap(i, rng.random_range(0..=i));
            }
            members.truncate(per_picture);
            rows.extend(members.chunks(pack).map(|row| (row.to_vec(), pictures.as_slice())));
        }
        rows
    }

    /// Some lessons in one row.
    pub(super) fn packed(&self, lessons: &[usize]) -> Row {
        let lessons: Vec<Lesson> =
            lessons.iter().map(|lesson| self.lessons[*lesson].clone()).collect();
        Row::pack(&lessons)
    }

    /// The files of some pictures.
    pub(super) fn files(&self, pictures: &[usize]) -> Vec<PathBuf> {
        pictures.iter().map(|picture| self.pictures[*picture].clone()).collect()
    }

    /// How many pieces some pictures have.
    pub(super) fn pieces(&self, pictures: &[usize]) -> usize {
        pictures.iter().map(|picture| self.places[*picture].pieces()).sum()
    }

    /// Where the pieces of a picture are among those of all.
    pub(super) fn rows_of(&self, picture: usize) -> std::ops::Range<usize> {
        let from = self.before[picture];
        from..from + self.places[picture].pieces()
    }

    /// How many [rows](Self::rows) an epoch has.
    pub fn count(&self, pack: usize, per_picture: usize) -> usize {
        self.groups.iter().map(|(members, _)| members.len().min(per_picture).div_ceil(pack)).sum()
    }
}

/// How each picture is cut up.
fn places(
    pictures: &[PathBuf],
    folder: &GenerativeFolder,
    size: (usize, usize),
) -> Result<Vec<Place>, BoxError> {
    let images = &folder.images;
    if images.tiling().is_none() {
        return Ok(vec![Place { size, grid: (0, 0) }; pictures.len()]);
    }
    let found = pictures.par_iter().map(|path| {
        let grid = images.grid(&load(path).map_err(|e| e.to_string())?);
        grid.map(|grid| Place { size, grid }).map_err(|e| format!("{}: {e}", path.display()))
    });
    Ok(found.collect::<Vec<_>>().into_iter().collect::<Result<_, _>>()?)
}

fn named(conversation: &Conversation) -> &Path {
    conversation.pictures.first().map_or(Path::new(""), PathBuf::as_path)
}
