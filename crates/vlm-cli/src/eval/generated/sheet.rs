//! Pictures with what was said of them, and the truth: texts below, boxes in the picture.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use vlm_datasets::Conversation;
use vlm_encoders::image::load;
use vlm_fusion::metrics::Task;
use vlm_fusion::spatial::{BBox, find};
use vlm_store::write_file;

use crate::boxes::{COLORS, Drawn, draw};
use crate::output;
use crate::pen::Pen;

/// Pictures on a sheet, in so many columns.
const MOST: usize = 24;
const COLUMNS: u32 = 6;
/// Side of the square that a picture fits in, the space around it, and the room for two lines.
const SIDE: u32 = 240;
const GAP: u32 = 12;
const LINES: u32 = 40;

const PAPER: Rgb<u8> = Rgb([244, 245, 247]);
const INK: [u8; 3] = [32, 36, 42];
const FAINT: [u8; 3] = [110, 116, 126];
const RIGHT: [u8; 3] = COLORS[2];
const SAID: [u8; 3] = COLORS[0];

/// Lines of a text below a picture at most, and their height.
const WRAPPED: usize = 4;
const LINE: u32 = 17;

/// Writes a sheet of samples spread over all: of boxes the true ones green and those that were said red, of
/// texts what was said and, in grey, the truth.
///
/// # Errors
/// If a picture cannot be read or the sheet not be written.
pub fn write(path: &Path, task: Task, samples: &[&Conversation], said: &[String]) -> Result<()> {
    let shown = super::spread(&(0..samples.len()).collect::<Vec<_>>(), Some(MOST));
    if samples.len() > MOST {
        output::note(&format!("{}: shows {MOST} of {}", path.display(), samples.len()));
    }
    let below = if task == Task::Boxes { LINES } else { 2 * WRAPPED as u32 * LINE + 12 };
    let columns = COLUMNS.min(shown.len() as u32);
    let rows = (shown.len() as u32).div_ceil(COLUMNS);
    let (across, down) = (SIDE + GAP, SIDE + below + GAP);
    let mut sheet = RgbImage::from_pixel(GAP + columns * across, GAP + rows * down, PAPER);
    for (place, i) in shown.into_iter().enumerate() {
        let (sample, said) = (samples[i], &said[i]);
        let x = GAP + place as u32 % COLUMNS * across;
        let y = GAP + place as u32 / COLUMNS * down;
        let Some(file) = sample.pictures.first() else { continue };
        let picture = DynamicImage::from(load(file)?).into_rgb8();
        let (picture, lines) = match task {
            Task::Boxes => boxed(picture, sample, said)?,
            _ => (picture, texts(&mut sheet, task, sample, said)?),
        };
        let by = f64::from(SIDE) / f64::from(picture.width().max(picture.height()));
        let [width, height] = [picture.width(), picture.height()]
            .map(|side| ((f64::from(side) * by).round() as u32).max(1));
        let picture = imageops::resize(&picture, width, height, FilterType::Triangle);
        imageops::replace(&mut sheet, &picture, i64::from(x), i64::from(y));
        let mut pen = Pen::new(&mut sheet)?;
        for (line, (text, ink)) in lines.iter().enumerate() {
            let text = pen.fitted(text, 13.0, SIDE);
            pen.text(&text, x, y + SIDE + 15 + LINE * line as u32, 13.0, *ink);
        }
    }
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).context("cannot make a PNG")?;
    Ok(write_file(path, &mut |w| w.write_all(png.get_ref()))?)
}

/// Lines of text, each with its ink.
type Lines = Vec<(String, [u8; 3])>;

/// The picture with boxes in it, and how well they fit.
fn boxed(picture: RgbImage, sample: &Conversation, said: &str) -> Result<(RgbImage, Lines)> {
    let found: Vec<BBox> = find(said).iter().map(|located| located.bbox).collect();
    let right: Vec<BBox> =
        sample.boxes.iter().filter_map(|region| BBox::new(region.corners)).collect();
    let drawn = |bbox: &BBox, color| Drawn { bbox: *bbox, label: String::new(), color };
    let boxes: Vec<Drawn> = right
        .iter()
        .map(|bbox| drawn(bbox, RIGHT))
        .chain(found.iter().map(|bbox| drawn(bbox, SAID)))
        .collect();
    let fit = match (&found[..], &right[..]) {
        ([], _) => "no box was said".to_owned(),
        ([found], [right]) => format!("IoU {:.2}", found.iou(right)),
        _ => format!("{} boxes for {}", found.len(), right.len()),
    };
    let lines = vec![(sample.question().to_owned(), INK), (fit, FAINT)];
    Ok((draw(&picture, &boxes)?, lines))
}

/// What was said, below what was asked, and the truth.
fn texts(sheet: &mut RgbImage, task: Task, sample: &Conversation, said: &str) -> Result<Lines> {
    let pen = Pen::new(sheet)?;
    let mut lines = Lines::new();
    let mut add = |text: &str, ink| {
        lines.extend(wrapped(&pen, text).into_iter().map(|line| (line, ink)));
    };
    if task == Task::Vqa {
        add(sample.question(), FAINT);
    }
    let right = sample.answers.iter().any(|answer| answer.eq_ignore_ascii_case(said));
    add(said, if right { RIGHT } else { INK });
    if !right {
        add(&format!("({})", sample.answers.first().map_or("", String::as_str)), FAINT);
    }
    Ok(lines)
}

/// A text in lines as wide as a picture.
fn wrapped(pen: &Pen<'_>, text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let count = lines.len();
        let Some(last) = lines.last_mut() else { break };
        let longer = if last.is_empty() { word.to_owned() } else { format!("{last} {word}") };
        if last.is_empty() || pen.width(&longer, 13.0) <= SIDE as f32 {
            *last = longer;
        } else if count < WRAPPED {
            lines.push(word.to_owned());
        } else {
            last.push_str(" …");
            break;
        }
    }
    lines
}
