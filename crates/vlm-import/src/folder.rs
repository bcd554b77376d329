//! Writing the folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vlm_store::{Float, StagedDir, write_file, write_tensors_from};

use crate::{Error, Format, Plan};

/// How to import.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The type that weights are stored in.
    pub float: Float,
    /// Whether a model folder that is there may be replaced.
    pub force: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { float: Float::F32, force: false }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The file's format.
    pub format: Format,
    /// The class in transformers.
    pub architecture: String,
    /// The folder's files.
    pub files: Vec<&'static str>,
    /// Tensors in `model.safetensors`.
    pub tensors: usize,
    /// Values in them.
    pub parameters: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors of the file that belong to something else.
    pub left_out: Vec<String>,
}

/// Turns a file into a folder, which appears whole or not at all.
///
/// `progress` is told how many bytes of `model.safetensors` are written, and of how many.
///
/// # Errors
/// If the file cannot be read, is damaged or is nothing that can be imported; if the folder is there
/// and not empty, unless [`Options::force`] allows to replace it; if writing fails.
pub fn import(
    file: &Path,
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Made, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let dir = std::path::absolute(dir).map_err(io(dir))?;
    room(&dir, options.force)?;
    // Opening a pipe without a writer would wait for ever.
    if !fs::metadata(file).map_err(io(file))?.is_file() {
        let reason = "it is not a file".into();
        return Err(Error::Unsupported { path: file.to_owned(), reason });
    }
    let mut plan = Plan::read(File::open(file).map_err(io(file))?, file)?;
    let specs = plan.specs();
    let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let parameters = specs.iter().map(|spec| count(&spec.shape)).sum::<u64>();
    let width: u64 = if options.float == Float::F32 { 4 } else { 2 };
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(io(parent))?;
    }
    let staged = StagedDir::new(&dir)?;
    let mut files = Vec::new();
    for (name, value) in &plan.files {
        write_file(&staged.path().join(name), &mut |w| {
            serde_json::to_writer_pretty(&mut *w, value).map_err(std::io::Error::from)?;
            w.write_all(b"\n")
        })?;
        files.push(*name);
    }
    let weights = "model.safetensors";
    let mut done = 0;
    write_tensors_from(&staged.path().join(weights), options.float, &[], &specs, &mut |name| {
        progress(done * width, parameters * width);
        let values = plan.values(name).map_err(|e| {
            std::io::Error::new(e.kind(), format!("reading {name} of {}: {e}", file.display()))
        })?;
        done += values.num_elements() as u64;
        Ok(values)
    })?;
    progress(parameters * width, parameters * width);
    files.push(weights);
    let mut bytes = 0;
    for name in &files {
        let path = staged.path().join(name);
        bytes += fs::metadata(&path).map_err(io(&path))?.len();
    }
    staged.commit()?;
    Ok(Made {
        format: plan.format,
        architecture: plan.architecture,
        files,
        tensors: specs.len(),
        parameters,
        bytes,
        left_out: plan.left_out,
    })
}

/// That nothing is lost where the folder is to be.
fn room(dir: &Path, force: bool) -> Result<(), Error> {
    let occupied = |reason: String| Err(Error::Occupied { dir: dir.to_owned(), reason });
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return occupied("it is a file; name a folder".into());
        }
        Err(source) => return Err(Error::Io { path: dir.to_owned(), source }),
    };
    let entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if entries.is_empty() {
        return Ok(());
    }
    if !force {
        return occupied("it is not empty; name another folder, or replace it with --force".into());
    }
    // Replacing deletes all that is in it.
    if !dir.join("config.json").is_file() || entries.iter().any(|entry| entry.is_dir()) {
        return occupied("--force replaces model folders only, and it is none".into());
    }
    let mut old = dir.as_os_str().to_owned();
    old.push(".old");
    if Path::new(&old).exists() {
        let old = Path::new(&old).display();
        return occupied(format!("{old} is in the way of replacing it; move that first"));
    }
    Ok(())
}
