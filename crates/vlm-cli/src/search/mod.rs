//! `vlm search`.

mod bring;
mod page;
mod sheet;
mod thumb;
mod title;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use vlm_contrastive::index::{Compared, ENDINGS, Index, Place};
use vlm_contrastive::{PictureSide, TextSide, embed_pictures, embed_texts};

use crate::output;

/// The folder of the index, in that of the pictures.
const FOLDER: &str = ".vlm-search";

/// Arguments of `vlm search`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["query", "like"])))]
pub struct Args {
    /// The model folder. With --like, an encoder of pictures alone will do.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The folder of pictures, at any depth. Hidden files, and folders behind links, are left out.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// What to look for. Without --query and --like, the index is only brought up to date.
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// A picture to look for others like it.
    #[arg(long, value_name = "FILE")]
    like: Option<PathBuf>,
    /// Where the index is kept, which is of one folder and one model [default: .vlm-search in the
    /// folder of pictures].
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// How many pictures to find.
    #[arg(long, value_name = "N", default_value = "20", value_parser = output::count)]
    top: usize,
    /// Find only pictures of this similarity (-1 to 1) or more.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Also write the pictures that are found, with names and similarities, as one picture.
    #[arg(long, value_name = "FILE.png", requires = "what")]
    sheet: Option<PathBuf>,
    /// Also write a page of them that links to the files.
    #[arg(long, value_name = "FILE.html", requires = "what")]
    html: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    like: Option<String>,
    results: &'a [Found],
    index: About,
    skipped: Vec<Skipped>,
    milliseconds: Milliseconds,
}

/// A picture that was found.
#[derive(Serialize)]
struct Found {
    image: String,
    similarity: f32,
    #[serde(skip)]
    path: PathBuf,
}

/// What the index is and what was done to it.
#[derive(Serialize)]
struct About {
    path: String,
    pictures: usize,
    computed: usize,
    dropped: usize,
}

#[derive(Serialize)]
struct Skipped {
    image: String,
    reason: String,
}

/// Where the time went. Index and model are read side by side.
#[derive(Default, Serialize)]
struct Milliseconds {
    /// Comparing the index with the folder.
    index: f64,
    /// Computing what was missing.
    update: f64,
    /// Opening the model for the query.
    model: f64,
    /// Encoding the query.
    query: f64,
    /// Comparing it with the pictures.
    search: f64,
}

/// A query as the model sees it, and the milliseconds that it took.
struct Query {
    features: Tensor<2>,
    model: f64,
    query: f64,
}

fn since(begin: Instant) -> f64 {
    // Microseconds are as much as anybody can measure.
    (begin.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// Brings the index up to date and searches it.
pub fn run(args: &Args, device: &Device) -> Result<ExitCode> {
    let index = args.index.clone().unwrap_or_else(|| args.images.join(FOLDER));
    let place = Place { pictures: args.images.clone(), index };
    if let Some(like) = &args.like {
        std::fs::metadata(like).map_err(|e| anyhow::anyhow!("{}: {e}", like.display()))?;
    }
    let begin = Instant::now();
    // A text is encoded while the folder is looked through: both wait for the disk.
    let (opened, asked) = std::thread::scope(|scope| {
        let text = args.query.as_ref().map(|text| scope.spawn(|| encode(text, args, device)));
        let opened = Index::open(&place, &args.model).map(|index| (index, since(begin)));
        let asked = text
            .map(|thread| thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)));
        (opened, asked)
    });
    let (mut index, milliseconds) = opened?;
    let mut query = asked.transpose()?;
    let mut times = Milliseconds { index: milliseconds, ..Milliseconds::default() };

    let before = index.compared();
    if before.ready + before.fresh == 0 && index.skipped().is_empty() {
        let (dir, endings) = (args.images.display(), ENDINGS.join(", "));
        bail!("{dir}: no pictures below it; give a folder that holds some ({endings})");
    }
    let begin = Instant::now();
    let asks = args.query.is_some() || args.like.is_some();
    let mut side = None;
    if index.is_outdated() && !bring::up_to_date(&mut index, &place, args, asks, device, &mut side)?
    {
        return Ok(ExitCode::from(130));
    }
    times.update = since(begin);
    let after = index.compared();
    if after.ready == 0 {
        let first = index.skipped().into_iter().next();
        let why = first.map_or_else(String::new, |first| {
            format!("; {}: {}", args.images.join(first.name).display(), first.reason)
        });
        bail!("{}: none of the pictures below it can be used{why}", args.images.display());
    }
    if let Some(like) = &args.like {
        query = Some(look_at(like, &index, args, side, device)?);
    }
    let Some(query) = query else { return report(args, &index, &place, before, times) };
    (times.model, times.query) = (query.model, query.query);
    let begin = Instant::now();
    let results = search(&index, query.features, args)?;
    times.search = since(begin);

    let title = title::Title::of(args, after.ready);
    if let Some(path) = &args.sheet {
        sheet::write(path, &title, &results)?;
    }
    if let Some(path) = &args.html {
        page::write(path, &title, &results)?;
    }
    if args.json {
        print(args, &results, &index, &place, before, times)?;
    } else {
        for found in &results {
            output::line(&format!("{:7.4}  {}", found.similarity, found.image))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Encodes a text.
fn encode(text: &str, args: &Args, device: &Device) -> Result<Query> {
    let begin = Instant::now();
    let side = TextSide::open(&args.model, device).map_err(anyhow::Error::from)?;
    let model = since(begin);
    let begin = Instant::now();
    let features = embed_texts(&side, &[text.to_owned()]).map_err(output::blame(&args.model))?;
    Ok(Query { features, model, query: since(begin) })
}

/// The features of a picture: those in the index, if it is there.
fn look_at(
    like: &Path,
    index: &Index,
    args: &Args,
    side: Option<PictureSide>,
    device: &Device,
) -> Result<Query> {
    let begin = Instant::now();
    if let Some(row) = own(like, args).and_then(|name| index.features_of(&name)) {
        let features = Tensor::from_data(TensorData::new(row.to_vec(), [1, row.len()]), device);
        return Ok(Query { features, model: 0.0, query: since(begin) });
    }
    let side = match side {
        Some(side) => side,
        None => PictureSide::open(&args.model, device)?,
    };
    let model = since(begin);
    let begin = Instant::now();
    let features = embed_pictures(&side, &[like.to_owned()]).map_err(output::blame(&args.model))?;
    Ok(Query { features, model, query: since(begin) })
}

/// The name below the folder of a picture that lies there.
fn own(like: &Path, args: &Args) -> Option<PathBuf> {
    let folder = args.images.canonicalize().ok()?;
    Some(like.canonicalize().ok()?.strip_prefix(folder).ok()?.to_owned())
}

fn search(index: &Index, features: Tensor<2>, args: &Args) -> Result<Vec<Found>> {
    // The picture that others should be like is no answer.
    let own = args.like.as_ref().and_then(|like| own(like, args));
    let more = args.top.saturating_add(usize::from(own.is_some()));
    let hits = index.search(features, more)?;
    let found = hits
        .into_iter()
        .filter(|hit| Some(&hit.name) != own.as_ref())
        .filter(|hit| args.threshold.is_none_or(|least| hit.similarity >= least))
        .take(args.top)
        .map(|hit| {
            let path = args.images.join(hit.name);
            Found { image: path.display().to_string(), similarity: hit.similarity, path }
        });
    Ok(found.collect())
}

/// What there is to say without a query.
fn report(
    args: &Args,
    index: &Index,
    place: &Place,
    before: Compared,
    times: Milliseconds,
) -> Result<ExitCode> {
    if args.json {
        print(args, &[], index, place, before, times)?;
    } else {
        let (ready, skipped) = (index.compared().ready, index.skipped().len());
        let index = place.index.display();
        output::line(&format!("{ready} pictures are in the index {index}, {skipped} skipped"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(
    args: &Args,
    results: &[Found],
    index: &Index,
    place: &Place,
    before: Compared,
    milliseconds: Milliseconds,
) -> Result<()> {
    let pictures = index.compared().ready;
    let skipped = index.skipped().into_iter().map(|skipped| Skipped {
        image: args.images.join(skipped.name).display().to_string(),
        reason: skipped.reason,
    });
    output::json(&Document {
        query: args.query.as_deref(),
        like: args.like.as_ref().map(|like| like.display().to_string()),
        results,
        index: About {
            path: place.index.display().to_string(),
            pictures,
            computed: pictures.saturating_sub(before.ready),
            dropped: before.gone,
        },
        skipped: skipped.collect(),
        milliseconds,
    })
}
