//! The set `scenes`: coloured shapes in relations, with captions, questions and boxes.
//!
//! It is made from a seed, the same on every machine: no number here depends on a library of
//! mathematics. What is asked is unambiguous (a thing that is named is the only one of that name,
//! and relations keep a distance), and the answers of each form of question are equally frequent,
//! so that whoever does not look at the picture guesses.

mod ask;
mod balance;
mod draw;
mod layout;
mod random;
mod words;

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::ImageFormat;
use serde_json::{Value, json};

use crate::Error;
use ask::Row;
use layout::Scene;
use random::Dice;

/// Side of a picture.
pub(crate) const SIDE: u32 = 96;
/// Changes when what is made does, so that an older set is made anew.
const VERSION: &str = "scenes 3\n";
const SEED: u64 = 2026;

/// A part of the set.
pub(crate) struct Split {
    name: &'static str,
    pictures: usize,
    /// Whether each picture has a thing whose colour and shape never come together elsewhere, and
    /// what is asked is about it.
    unseen: bool,
    /// Whether it is for learning: there are lists of everything in a picture, among the questions and by
    /// themselves, and questions with more about how things lie. What is measured are single answers.
    taught: bool,
}

/// The whole set.
pub(crate) const SPLITS: [Split; 4] = [
    Split { name: "train", pictures: 8000, unseen: false, taught: true },
    Split { name: "val", pictures: 500, unseen: false, taught: false },
    Split { name: "test", pictures: 1000, unseen: false, taught: false },
    Split { name: "test-unseen", pictures: 500, unseen: true, taught: false },
];

/// Whether the folder holds the set as this version makes it.
pub(crate) fn is_made(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("version.txt")).is_ok_and(|text| text == VERSION)
}

/// Makes the set in `cache/scenes`, whole or not at all.
pub(crate) fn make(cache: &Path, splits: &[Split]) -> Result<PathBuf, Error> {
    let target = cache.join("scenes");
    let io = |source| Error::Io { path: target.clone(), source };
    std::fs::create_dir_all(cache).map_err(io)?;
    let staged =
        tempfile::Builder::new().prefix(".making-scenes-").tempdir_in(cache).map_err(io)?;
    write_splits(staged.path(), splits)?;
    if target.exists() && !is_made(&target) {
        std::fs::remove_dir_all(&target).map_err(io)?;
    }
    match std::fs::rename(staged.path(), &target) {
        Ok(()) => {
            // It has moved: there is nothing left to clean up.
            let _ = staged.keep();
            readable(&target).map_err(io)?;
            Ok(target)
        }
        // Another process was faster.
        Err(_) if is_made(&target) => Ok(target),
        Err(error) => Err(io(error)),
    }
}

/// Temporary folders are private; what they become is not.
fn readable(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Writes the whole set `scenes` into an empty folder: pictures of 96x96, for each split its
/// questions (`train.jsonl`) and its captions (`captions-train.jsonl`), for training more about how things
/// lie (`asked-train.jsonl`) and lists of all things (`told-train.jsonl`), and `answers.txt`.
///
/// The splits are train, val, test, and test-unseen, whose things pair colours and shapes that
/// no other split does.
///
/// # Errors
/// What the operating system reports.
pub fn write_scenes(dir: &Path) -> Result<(), Error> {
    write_splits(dir, &SPLITS)
}

fn write_splits(dir: &Path, splits: &[Split]) -> Result<(), Error> {
    let mut answers: Vec<String> = Vec::new();
    for (number, split) in splits.iter().enumerate() {
        let scenes = scenes(number as u64, split);
        pictures(dir, split, &scenes)?;
        let mut captions = String::new();
        for (i, scene) in scenes.iter().enumerate() {
            captions +=
                &line(&json!({"image": file(split, i), "captions": words::captions(scene)}));
        }
        write(&dir.join(format!("captions-{}.jsonl", split.name)), captions.as_bytes())?;
        let rows = balance::rows(&scenes, split.unseen, false, dice(number as u64, u64::MAX));
        let asked = |rows: &[(usize, Row)]| -> String {
            rows.iter().map(|(picture, row)| line(&row.json(&file(split, *picture)))).collect()
        };
        let wholes: Vec<Vec<Row>> = match split.taught {
            true => scenes.iter().map(ask::wholes).collect(),
            false => Vec::new(),
        };
        let mut questions = String::new();
        for rows in rows.chunk_by(|a, b| a.0 == b.0) {
            questions += &asked(rows);
            // The list comes last.
            let list = wholes.get(rows[0].0).and_then(|wholes| wholes.last());
            questions.extend(list.map(|list| line(&list.json(&file(split, rows[0].0)))));
        }
        write(&dir.join(format!("{}.jsonl", split.name)), questions.as_bytes())?;
        if split.taught {
            let more = balance::rows(&scenes, split.unseen, true, dice(number as u64, u64::MAX));
            write(&dir.join(format!("asked-{}.jsonl", split.name)), asked(&more).as_bytes())?;
            let told: Vec<(usize, Row)> = (wholes.into_iter().enumerate())
                .flat_map(|(picture, rows)| rows.into_iter().map(move |row| (picture, row)))
                .collect();
            write(&dir.join(format!("told-{}.jsonl", split.name)), asked(&told).as_bytes())?;
        }
        answers.extend(rows.into_iter().filter_map(|(_, row)| row.answer));
        answers.sort();
        answers.dedup();
    }
    write(&dir.join("answers.txt"), (answers.join("\n") + "\n").as_bytes())?;
    write(&dir.join("version.txt"), VERSION.as_bytes())
}

fn line(row: &Value) -> String {
    format!("{row}\n")
}

fn file(split: &Split, picture: usize) -> String {
    format!("{}/{picture}.png", split.name)
}

/// What is random about a picture of a split.
fn dice(split: u64, picture: u64) -> Dice {
    Dice::new(SEED + split, picture)
}

fn scenes(number: u64, split: &Split) -> Vec<Scene> {
    (0..split.pictures).map(|i| layout::scene(&mut dice(number, i as u64), split.unseen)).collect()
}

/// Draws and writes the pictures, on all cores.
fn pictures(dir: &Path, split: &Split, scenes: &[Scene]) -> Result<(), Error> {
    let folder = dir.join(split.name);
    std::fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder, source })?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Error> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(scene) = scenes.get(i) else { return Ok(()) };
            let path = dir.join(file(split, i));
            let mut png = Cursor::new(Vec::new());
            draw::picture(scene).write_to(&mut png, ImageFormat::Png).map_err(|error| {
                Error::Io { path: path.clone(), source: std::io::Error::other(error) }
            })?;
            write(&path, png.get_ref())?;
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        // A worker does not panic; if one did, its picture is missing.
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(Error::Worker(0))))
    })
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let attempt = || {
        let mut file = std::fs::File::create(path)?;
        file.write_all(content)
    };
    attempt().map_err(|source| Error::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
