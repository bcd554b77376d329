//! A page about a run: facts, curves, tables and pictures in one HTML file that needs nothing
//! else.
//!
//! No script, no font, no picture from elsewhere: the page can be mailed, kept with the run and
//! opened without a network, in a light and a dark theme.

mod chart;
mod gallery;
mod html;
mod ticks;

use std::fmt::Display;

pub use chart::Series;
pub use gallery::Card;
use html::escape;

const STYLE: &str = include_str!("report/style.css");

/// Builds the page, section by section, in the order in which they are added.
///
/// ```
/// use vlm_train::{Report, Series};
///
/// let loss = Series { name: "train".into(), points: vec![(1.0, 3.5), (2.0, 3.1)] };
/// let page = Report::new("A run")
///     .facts(&[("steps", 2)])
///     .curve("Loss", "step", "loss", &[loss])
///     .render();
/// assert!(page.starts_with("<!DOCTYPE html>"));
/// ```
///
/// All text is taken as text: whatever stands in a caption is shown, never interpreted.
#[derive(Debug, Clone)]
pub struct Report {
    title: String,
    sections: Vec<Section>,
}

#[derive(Debug, Clone)]
enum Section {
    /// HTML of its own.
    Block(String),
    /// HTML of a chart; neighbours share a row where the page is wide enough.
    Chart(String),
}

impl Report {
    /// An empty page under a title.
    pub fn new(title: &str) -> Self {
        Report { title: title.to_owned(), sections: Vec::new() }
    }

    /// Adds a list of names and values.
    pub fn facts<K: Display, V: Display>(&mut self, facts: &[(K, V)]) -> &mut Self {
        let mut html = String::from("<dl>\n");
        for (key, value) in facts {
            let (key, value) = (escape(&key.to_string()), escape(&value.to_string()));
            html += &format!("<div><dt>{key}</dt><dd>{value}</dd></div>\n");
        }
        self.block(html + "</dl>\n")
    }

    /// Adds a line chart. Points that are not finite are left out; a line goes on after them.
    pub fn curve(
        &mut self,
        title: &str,
        x_label: &str,
        y_label: &str,
        series: &[Series],
    ) -> &mut Self {
        self.sections.push(Section::Chart(chart::draw(title, x_label, y_label, series)));
        self
    }

    /// Adds a table with a note below it (none if empty). Cells that are numbers stand to the
    /// right; rows may be shorter or longer than the header.
    pub fn table<H: Display>(
        &mut self,
        title: &str,
        header: &[H],
        rows: &[Vec<String>],
        note: &str,
    ) -> &mut Self {
        let mut html = heading(title);
        html += "<div class=\"scroll\"><table>\n<thead><tr>";
        for (column, cell) in header.iter().enumerate() {
            // A heading stands where its numbers stand.
            let number = rows.first().and_then(|row| row.get(column)).is_some_and(|c| is_number(c));
            html += &format!("<th{}>{}</th>", class(number), escape(&cell.to_string()));
        }
        html += "</tr></thead>\n<tbody>\n";
        for row in rows {
            html += "<tr>";
            for cell in row {
                html += &format!("<td{}>{}</td>", class(is_number(cell)), escape(cell));
            }
            html += "</tr>\n";
        }
        html += "</tbody></table></div>\n";
        self.block(html + &paragraph(note))
    }

    /// Adds pictures with what was said about them, below a note (none if empty).
    pub fn gallery(&mut self, title: &str, note: &str, cards: &[Card]) -> &mut Self {
        let html = heading(title) + &paragraph(note) + &gallery::draw(cards);
        self.block(html)
    }

    /// The whole page.
    pub fn render(&self) -> String {
        let title = escape(&self.title);
        // The policy makes a browser refuse whatever is not in the page itself.
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        );
        let mut in_charts = false;
        for section in &self.sections {
            let is_chart = matches!(section, Section::Chart(_));
            if is_chart != in_charts {
                page += if is_chart { "<div class=\"charts\">\n" } else { "</div>\n" };
                in_charts = is_chart;
            }
            match section {
                Section::Block(html) => page += &format!("<section>\n{html}</section>\n"),
                Section::Chart(html) => page += html,
            }
        }
        if in_charts {
            page += "</div>\n";
        }
        page + "</main>\n</body>\n</html>\n"
    }

    fn block(&mut self, html: String) -> &mut Self {
        self.sections.push(Section::Block(html));
        self
    }
}

fn heading(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!("<h2>{}</h2>\n", escape(title)) }
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(text)) }
}

fn class(number: bool) -> &'static str {
    if number { " class=\"number\"" } else { "" }
}

/// Also `93.1 %`, `±0.2` and `12.1 ± 0.3`.
fn is_number(cell: &str) -> bool {
    let mut parts = cell.split(['±', ' ', '%']).filter(|part| !part.is_empty()).peekable();
    parts.peek().is_some() && parts.all(|part| part.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests;
