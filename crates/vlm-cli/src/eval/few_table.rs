//! What `vlm eval --task few-label` says.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use vlm_contrastive::few_label::Cell;
use vlm_contrastive::joined::ImageReading;
use vlm_store::write_file;
use vlm_train::{Report, Series};

/// What was measured.
#[derive(Serialize)]
pub struct Facts {
    pub model: String,
    pub reading: Option<ImageReading>,
    pub data: String,
    pub test: String,
    pub classes: usize,
    pub test_pictures: usize,
    pub unlabelled: usize,
    pub transductive: bool,
    pub validation: String,
    pub views: usize,
    pub seeds: usize,
}

/// All runs.
pub struct Results {
    pub facts: Facts,
    pub shots: Vec<usize>,
    pub cells: Vec<Cell>,
}

/// One JSON document.
#[derive(Serialize)]
pub struct Document<'a> {
    task: &'static str,
    #[serde(flatten)]
    facts: &'a Facts,
    results: Vec<Entry>,
}

/// A method at a number of labels; shares from 0 to 1.
#[derive(Serialize)]
struct Entry {
    method: &'static str,
    shots: usize,
    unlabelled: bool,
    mean: f64,
    deviation: f64,
    accuracies: Vec<f64>,
    /// To the linear probe, seed by seed.
    difference: Spread,
    /// Of unlabelled pictures, seed by seed.
    gain: Option<Spread>,
    /// What each seed chose on its validation pictures.
    chosen: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// Mean and standard deviation of differences within seeds.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    mean: f64,
    deviation: f64,
}

fn difference(a: &Cell, b: &Cell) -> Spread {
    let differences = a.accuracies.iter().zip(&b.accuracies).map(|(a, b)| a - b).collect();
    let cell = Cell { accuracies: differences, ..a.clone() };
    Spread { mean: cell.mean(), deviation: cell.deviation() }
}

/// The title of a table, its columns, its rows, and a note.
type Table = (String, Vec<String>, Vec<Vec<String>>, String);

impl Results {
    fn find(&self, method: &str, shots: usize, unlabelled: bool) -> Option<&Cell> {
        let same = |c: &&Cell| (c.method, c.shots, c.unlabelled) == (method, shots, unlabelled);
        self.cells.iter().find(same)
    }

    /// Methods in the order in which they ran.
    fn methods(&self) -> Vec<(&'static str, bool)> {
        let first = self.shots.first().copied().unwrap_or_default();
        let of = self.cells.iter().filter(|cell| cell.shots == first);
        of.map(|cell| (cell.method, cell.unlabelled)).collect()
    }

    fn against(&self, cell: &Cell, method: &str) -> Option<Spread> {
        Some(difference(cell, self.find(method, cell.shots, false)?))
    }

    /// As JSON.
    pub fn document(&self) -> Document<'_> {
        let none = Spread { mean: 0.0, deviation: 0.0 };
        let results = self.cells.iter().map(|cell| Entry {
            method: cell.method,
            shots: cell.shots,
            unlabelled: cell.unlabelled,
            mean: cell.mean(),
            deviation: cell.deviation(),
            accuracies: cell.accuracies.clone(),
            difference: self.against(cell, self.cells[0].method).unwrap_or(none),
            gain: self.against(cell, cell.method).filter(|_| cell.unlabelled),
            chosen: cell
                .chosen
                .iter()
                .map(|chosen| chosen.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect())
                .collect(),
        });
        Document { task: "few-label", facts: &self.facts, results: results.collect() }
    }

    /// The tables: accuracies, differences to the probe, gains by unlabelled pictures.
    fn tables(&self) -> Vec<Table> {
        let mut header = vec!["method".to_owned()];
        header.extend(self.shots.iter().map(|n| match n {
            1 => "1 label".to_owned(),
            n => format!("{n} labels"),
        }));
        let rows = |keep: &dyn Fn(&Cell) -> bool, cell: &dyn Fn(&Cell) -> String| {
            let mut rows: Vec<Vec<String>> = Vec::new();
            for (method, unlabelled) in self.methods() {
                let all = self.shots.iter().filter_map(|n| self.find(method, *n, unlabelled));
                let kept: Vec<&Cell> = all.filter(|cell| keep(cell)).collect();
                if !kept.is_empty() {
                    let mut row = vec![name(method, unlabelled)];
                    row.extend(kept.into_iter().map(cell));
                    rows.push(row);
                }
            }
            rows
        };
        let probe = self.cells.first().map_or("", |cell| cell.method);
        let signed = |spread: Option<Spread>| match spread {
            Some(s) => format!("{:+.1} ± {:.1}", 100.0 * s.mean, 100.0 * s.deviation),
            None => String::new(),
        };
        let seeds = self.facts.seeds;
        let mut tables = vec![
            (
                "Accuracy in per cent".to_owned(),
                header.clone(),
                rows(&|_| true, &|c| {
                    format!("{:.1} ± {:.1}", 100.0 * c.mean(), 100.0 * c.deviation())
                }),
                format!("Mean ± standard deviation over {seeds} draws of the labelled pictures."),
            ),
            (
                format!("Points above the {probe} on the same features"),
                header.clone(),
                rows(&|c| c.method != probe, &|c| signed(self.against(c, probe))),
                "Differences within a draw, their mean ± standard deviation.".to_owned(),
            ),
        ];
        let gains = rows(&|c| c.unlabelled, &|c| signed(self.against(c, c.method)));
        if !gains.is_empty() {
            let title = format!("Points that {} unlabelled pictures add", self.facts.unlabelled);
            let note = "Against the same method without them.".to_owned();
            tables.push((title, header, gains, note));
        }
        tables.retain(|table| !table.2.is_empty());
        tables
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let f = &self.facts;
        let reading = match f.reading {
            None => "the model's own features".to_owned(),
            Some(reading) => reading.to_string(),
        };
        let transductive = if f.transductive { ", and the test pictures" } else { "" };
        vec![
            ("model", f.model.clone()),
            ("reading", reading),
            ("training set", f.data.clone()),
            ("test set", format!("{} ({} pictures)", f.test, f.test_pictures)),
            ("classes", f.classes.to_string()),
            ("unlabelled pictures", format!("{}{transductive}", f.unlabelled)),
            ("validation pictures", f.validation.clone()),
            ("views", f.views.to_string()),
            ("draws", f.seeds.to_string()),
        ]
    }

    /// As lines for a terminal.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.facts().into_iter().map(|(k, v)| format!("{k:<20} {v}")).collect();
        for (title, header, rows, note) in self.tables() {
            lines.push(format!("\n{title}"));
            let line = |row: &[String]| {
                let cells: String = row[1..].iter().map(|cell| format!("{cell:>14}")).collect();
                format!("  {:<32}{cells}", row[0])
            };
            lines.push(line(&header));
            lines.extend(rows.iter().map(|row| line(row)));
            lines.push(format!("  {note}"));
        }
        lines.join("\n")
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# Few labels\n\n");
        for (name, value) in self.facts() {
            text += &format!("- {name}: {value}\n");
        }
        for (title, header, rows, note) in self.tables() {
            text += &format!("\n## {title}\n\n| {} |\n", header.join(" | "));
            text += &format!("|---{}|\n", "|---:".repeat(header.len() - 1));
            for row in rows {
                text += &format!("| {} |\n", row.join(" | "));
            }
            text += &format!("\n{note}\n");
        }
        text
    }

    fn page(&self) -> String {
        let mut report = Report::new("Classification from few labels");
        report.facts(&self.facts());
        let curve = |shown: &dyn Fn(&str) -> bool| -> Vec<Series> {
            let of = self.methods().into_iter().filter(|(method, _)| shown(method));
            of.map(|(method, unlabelled)| Series {
                name: name(method, unlabelled),
                points: self
                    .shots
                    .iter()
                    .filter_map(|n| {
                        Some((*n as f64, 100.0 * self.find(method, *n, unlabelled)?.mean()))
                    })
                    .collect(),
            })
            .collect()
        };
        // Two charts: a dozen lines in one cannot be told apart.
        let probe = self.cells.first().map_or("", |cell| cell.method);
        let pooled = |m: &str| self.cells.iter().any(|cell| cell.method == m && cell.unlabelled);
        let (from, accuracy) = ("labels a class", "accuracy, %");
        let labelled = curve(&|m| !pooled(m));
        if labelled.len() > 1 {
            report.curve("Labelled pictures alone", from, accuracy, &labelled);
        }
        let with = curve(&|m| m == probe || pooled(m));
        if with.len() > 1 {
            report.curve("With unlabelled pictures", from, accuracy, &with);
        }
        for (title, header, rows, note) in self.tables() {
            report.table(&title, &header, &rows, &note);
        }
        report.render()
    }

    /// Writes `results.json`, `results.md` and `report.html`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.document())? + "\n";
        for (name, text) in
            [("results.json", json), ("results.md", self.markdown()), ("report.html", self.page())]
        {
            write_file(&dir.join(name), &mut |w| w.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

fn name(method: &str, unlabelled: bool) -> String {
    if unlabelled { format!("{method} + unlabelled") } else { method.to_owned() }
}
