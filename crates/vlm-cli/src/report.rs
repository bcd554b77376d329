//! The page that a run ends with.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use anyhow::Result;
use burn::tensor::Tensor;
use vlm_contrastive::zero_shot::top_k;
use vlm_encoders::image;

use vlm_train::{Card, MetricsLog, Report, RunDir, Series};

use crate::config::RunConfig;
use crate::eval::Measured;
use crate::train::Facts;

/// Pictures of a set that are shown.
const SHOWN: usize = 24;

/// The report as HTML.
///
/// # Errors
/// If metrics or pictures cannot be read.
pub fn page(
    run: &RunDir,
    config: &RunConfig,
    facts: Facts,
    measured: &[Measured],
) -> Result<String> {
    let mut report = beginning(run, config, facts);
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|m| {
            let mut row = vec![m.note.clone(), m.samples.to_string(), m.labels.to_string()];
            row.extend(m.metrics.iter().map(|(_, value)| format!("{:.1} %", 100.0 * value)));
            row
        })
        .collect();
    report.table(
        "Zero-shot classification",
        &["pictures of", "pictures", "labels", "top-1", "top-5"],
        &rows,
        "The model chooses among all labels; it sees only their names.",
    );
    curves(
        run,
        &mut report,
        &[
            ("Training loss", "nats", &[("train", "loss")]),
            ("Validation accuracy", "share", &[("val", "top1"), ("val", "top5")]),
            ("Learning rate", "", &[("train", "lr")]),
            ("Logit scale", "", &[("train", "scale")]),
        ],
    )?;
    for m in measured {
        let cards = cards(m)?;
        let note = "Best guesses with their share among the best five; green is right. Below: \
                    the pictures of the set that the model finds most alike.";
        report.gallery(&format!("Guesses: {}", m.note), note, &cards);
    }
    Ok(report.render())
}

/// The facts that every run begins its report with.
pub fn beginning(run: &RunDir, config: &RunConfig, facts: Facts) -> Report {
    let mut report = Report::new(&format!("Training run {}", run.root().display()));
    let mut all = vec![("data", config.data.train.clone())];
    all.extend(facts);
    all.extend([
        ("epochs", config.train.epochs.to_string()),
        ("batch", config.batch.size.to_string()),
        ("seed", config.seed.to_string()),
    ]);
    all.push(match &config.adapter {
        None => ("model", run.model().display().to_string()),
        Some(adapter) => ("adapter", {
            let name = adapter.method.get().name();
            format!("{name}, {}", run.adapter().display())
        }),
    });
    report.facts(&all);
    report
}

/// A curve: its title, what y is, and the metrics in it by kind of record and name.
pub type Curve<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// Draws those curves that a run has numbers for.
///
/// # Errors
/// If the metrics cannot be read.
pub fn curves(run: &RunDir, report: &mut Report, wanted: &[Curve<'_>]) -> Result<()> {
    let records = MetricsLog::read(&run.file("metrics.jsonl"))?;
    let mut curves: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for record in &records {
        for (name, value) in &record.values {
            curves.entry((&record.kind, name)).or_default().push((record.step as f64, *value));
        }
    }
    let mut curve = |title: &str, y: &str, names: &[(&str, &str)]| {
        let series: Vec<Series> = names
            .iter()
            .filter_map(|key| {
                let points = curves.get(key)?.clone();
                Some(Series { name: key.1.to_owned(), points })
            })
            .collect();
        if !series.is_empty() {
            report.curve(title, "step", y, &series);
        }
    };
    for (title, y, names) in wanted {
        curve(title, y, names);
    }
    Ok(())
}

fn cards(m: &Measured) -> Result<Vec<Card>> {
    let step = (m.samples / SHOWN).max(1);
    let mut cards = Vec::new();
    for i in (0..m.samples).step_by(step).take(SHOWN) {
        let row = &m.scores[i * m.labels..(i + 1) * m.labels];
        let best = top_k(row, 5);
        // Softmax over the five: similarities by themselves say little to a reader.
        let weights: Vec<f32> =
            best.iter().map(|j| ((row[*j] - row[best[0]]) * 20.0).exp()).collect();
        let sum: f32 = weights.iter().sum();
        let lines = best
            .iter()
            .zip(&weights)
            .map(|(j, w)| (m.data.labels[*j].clone(), Some(w / sum), *j == m.truth[i]))
            .collect();
        let more = neighbours(m, i)
            .into_iter()
            .map(|j| thumbnail(&m.data.samples[j].image))
            .collect::<Result<_>>()?;
        cards.push(Card {
            image_png: thumbnail(&m.data.samples[i].image)?,
            caption: m.data.labels[m.truth[i]].clone(),
            lines,
            more,
        });
    }
    Ok(cards)
}

/// The four pictures most like picture `i`.
fn neighbours(m: &Measured, i: usize) -> Vec<usize> {
    let one: Tensor<2> = m.features.clone().narrow(0, i, 1);
    let scores: Vec<f32> = m.features.clone().matmul(one.transpose()).into_data().iter().collect();
    top_k(&scores, 5).into_iter().filter(|j| *j != i).take(4).collect()
}

/// The picture as a small PNG.
pub fn thumbnail(path: &Path) -> Result<Vec<u8>> {
    let picture = ::image::DynamicImage::from(image::load(path)?);
    let picture = if picture.width().max(picture.height()) > 128 {
        picture.thumbnail(128, 128)
    } else {
        picture
    };
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ::image::ImageFormat::Png)?;
    Ok(png.into_inner())
}
