//! How texts with places for pictures become tokens: what transformers' processors do.

mod settings;

use std::path::Path;

use crate::model::rows_of;
use crate::{Error, GenerativeSpec};
use settings::Count;

/// Around the pictures of Idefics 3, and before the whole picture.
const AROUND: &str = "<fake_token_around_image>";
const WHOLE: &str = "<global-img>";

/// How a family writes pictures into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markup {
    /// The token, as often as the picture has rows (LLaVA).
    Llava,
    /// Tile by tile, each with its row and column, and the whole picture last (Idefics 3).
    Idefics3,
    /// As LLaVA's, all before the start token, and a line break at the end (PaliGemma).
    PaliGemma,
}

/// A picture as far as a text has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Height and width in pixels of what the image tower sees.
    pub size: (usize, usize),
    /// Rows and columns of tiles; 0 and 0 for a picture in one piece.
    pub grid: (usize, usize),
}

impl Place {
    /// How often the image tower looks.
    pub fn pieces(&self) -> usize {
        self.grid.0 * self.grid.1 + 1
    }
}

/// What the files of a folder say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    pub markup: Markup,
    /// What marks the place of a picture.
    pub token: String,
    /// The start token, which PaliGemma has between pictures and text.
    bos: String,
    count: Count,
}

impl Processor {
    /// Of a new model, which counts rows itself.
    pub fn new(markup: Markup, token: &str) -> Self {
        Processor { markup, token: token.to_owned(), bos: String::new(), count: Count::Model }
    }

    /// Reads `processor_config.json` and what else says how many tokens a picture takes.
    ///
    /// # Errors
    /// If a file is damaged.
    pub fn read(dir: &Path, markup: Markup, bos: Option<String>) -> Result<Self, Error> {
        let (token, count) = settings::read(dir, markup)?;
        Ok(Processor { markup, token, bos: bos.unwrap_or_default(), count })
    }

    /// Whether the tokenizer puts its start before a text.
    pub fn begins(&self) -> bool {
        self.markup != Markup::PaliGemma
    }

    /// How many tokens a piece of a picture takes.
    fn tokens(&self, spec: &GenerativeSpec, size: (usize, usize)) -> usize {
        match self.count {
            _ if spec.memory => 0,
            Count::Model => rows_of(spec, size),
            Count::Fixed(count) => count,
            Count::Patches { patch, more, less } => {
                ((size.0 / patch) * (size.1 / patch) + more).saturating_sub(less)
            }
        }
    }

    /// How many tokens pictures take at least.
    pub fn least(&self, spec: &GenerativeSpec, pictures: &[Place]) -> usize {
        let one = |place: &Place| place.pieces().saturating_mul(self.tokens(spec, place.size));
        pictures.iter().map(one).fold(0, usize::saturating_add)
    }

    /// A text with as many tokens for each picture as it takes; the text has a place for each.
    pub fn expand(&self, text: &str, spec: &GenerativeSpec, pictures: &[Place]) -> String {
        let mut parts = text.split(&self.token);
        let mut whole = parts.next().unwrap_or_default().to_owned();
        let mut end = 0;
        for (part, picture) in parts.zip(pictures) {
            let row = self.token.repeat(self.tokens(spec, picture.size));
            match self.markup {
                Markup::Llava | Markup::PaliGemma => whole.push_str(&row),
                Markup::Idefics3 => whole.push_str(&in_tiles(&row, picture.grid)),
            }
            end = whole.len();
            whole.push_str(part);
        }
        if self.markup == Markup::PaliGemma {
            whole.insert_str(end, &self.bos);
            whole.push('\n');
        }
        whole
    }

    /// A text about one picture, with the place for it where the family was trained to see it.
    pub fn place(&self, text: &str) -> String {
        match self.markup {
            Markup::Llava => format!("{}\n{text}", self.token),
            Markup::Idefics3 | Markup::PaliGemma => format!("{}{text}", self.token),
        }
    }
}

/// The text that stands for a picture in tiles, of which each takes a `row` of tokens.
fn in_tiles(row: &str, (rows, columns): (usize, usize)) -> String {
    let mut text = String::new();
    for r in 1..=rows {
        for c in 1..=columns {
            text.push_str(&format!("{AROUND}<row_{r}_col_{c}>{row}"));
        }
        text.push('\n');
    }
    if rows > 0 {
        text.push('\n');
    }
    text + &format!("{AROUND}{WHOLE}{row}{AROUND}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_written_row_by_row_and_the_whole_last() {
        assert_eq!(in_tiles("ii", (0, 0)), format!("{AROUND}{WHOLE}ii{AROUND}"));
        let text = in_tiles("i", (2, 1));
        let rows = format!("{AROUND}<row_1_col_1>i\n{AROUND}<row_2_col_1>i\n\n");
        assert_eq!(text, format!("{rows}{AROUND}{WHOLE}i{AROUND}"));
    }
}
