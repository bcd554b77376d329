//! Pictures with what a model says about them.

use super::html::{escape, png_uri};

/// One picture with lines of text, such as a model's guesses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Card {
    /// The picture, a PNG file; none is shown if it is empty.
    pub image_png: Vec<u8>,
    /// What stands under it, such as its true caption.
    pub caption: String,
    /// Lines of text, each with a bar (0 to 1) if it has a probability, and whether it is right.
    pub lines: Vec<(String, Option<f32>, bool)>,
    /// Small pictures beside it, PNG files, such as its nearest neighbours.
    pub more: Vec<Vec<u8>>,
}

pub(super) fn draw(cards: &[Card]) -> String {
    let mut html = String::from("<div class=\"cards\">\n");
    for card in cards {
        html += &draw_card(card);
    }
    html + "</div>\n"
}

fn draw_card(card: &Card) -> String {
    let caption = escape(&card.caption);
    let mut html = String::from("<article>\n<div class=\"pictures\">");
    if !card.image_png.is_empty() {
        let uri = png_uri(&card.image_png);
        html += &format!("<img src=\"{uri}\" width=\"96\" height=\"96\" alt=\"{caption}\">");
    }
    if !card.more.is_empty() {
        html += "<div class=\"more\">";
        for picture in &card.more {
            let uri = png_uri(picture);
            html += &format!("<img src=\"{uri}\" width=\"44\" height=\"44\" alt=\"\">");
        }
        html += "</div>";
    }
    html += &format!("</div>\n<h3>{caption}</h3>\n");
    if !card.lines.is_empty() {
        html += "<ul>\n";
        for (text, probability, right) in &card.lines {
            html += &draw_line(text, *probability, *right);
        }
        html += "</ul>\n";
    }
    html + "</article>\n"
}

fn draw_line(text: &str, probability: Option<f32>, right: bool) -> String {
    // Not by colour alone, which some readers do not see.
    let (class, mark) = if right { (" class=\"right\"", " ✓") } else { ("", "") };
    let mut html = format!("<li{class}><span>{}{mark}</span>", escape(text));
    if let Some(probability) = probability.filter(|p| p.is_finite()) {
        let percent = f64::from(probability.clamp(0.0, 1.0)) * 100.0;
        html += &format!(
            "<small>{percent:.0} %</small><i class=\"bar\"><i style=\"width:{percent:.1}%\"></i></i>"
        );
    }
    html + "</li>\n"
}
