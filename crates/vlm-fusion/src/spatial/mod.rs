//! Boxes and points as tokens or text, and where they are in the picture that was given.
//!
//! All boxes are shares of a picture's width and height ([`BBox`]). A model says them in one of
//! several ways ([`Codec`]); [`find`] reads them out of any answer, whatever else stands in it.
//! What a model sees was resized, padded or cut before; a [`Frame`] maps between that and the
//! picture. [`matched`] and [`Score`] compare boxes with the truth.
//!
//! ```
//! use vlm_fusion::spatial::{BBox, Codec, Located, find};
//!
//! let cat = Located::new("cat", BBox::new([0.1, 0.25, 0.5, 0.75]).unwrap());
//! let said = Codec::PaliGemma.encode(&[cat]);
//! assert_eq!(said, "<loc0256><loc0102><loc0767><loc0512> cat");
//! let found = find(&said);
//! assert_eq!(found[0].label.as_deref(), Some("cat"));
//! assert!((found[0].bbox.left - 0.1).abs() < 0.5 / 1023.0);
//! ```

mod bbox;
mod frame;
mod kosmos;
mod numbers;
mod paligemma;
mod score;

use serde::{Deserialize, Serialize};

pub use bbox::{BBox, Located};
pub use frame::Frame;
pub use score::{Score, matched};

/// How boxes and points are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// `<loc0256><loc0102><loc0767><loc0512> cat`: top, left, bottom, right of 1024 bins, as
    /// PaliGemma's tokens have them (Beyer et al. 2024). Choose it for its checkpoints, and where
    /// boxes must be exact to a pixel of a large picture; the tokens must be trained.
    #[serde(rename = "paligemma")]
    PaliGemma,
    /// `<phrase>cat</phrase><object><patch_index_0259><patch_index_0751></object>`: cells of a
    /// grid of 32x32, as in Kosmos-2 (Peng et al. 2023). Two tokens a box, coarse.
    Kosmos2,
    /// `cat [0.100,0.250,0.500,0.750]`: left, top, right, bottom as text, as in Shikra (Chen et
    /// al. 2023). Needs no new tokens, so any language model can learn it, and many tokens a box.
    Numbers,
    /// `cat [0.10,0.25,0.50,0.75]`: the same to a hundredth, as in LLaVA-1.5's data. Choose it where
    /// that is as exact as the tower sees: a digit that nobody can know only disturbs learning.
    Hundredths,
}

impl Codec {
    /// The boxes as a model would say them.
    pub fn encode(self, boxes: &[Located]) -> String {
        match self {
            Codec::PaliGemma => paligemma::encode(boxes),
            Codec::Kosmos2 => kosmos::encode(boxes),
            Codec::Numbers => numbers::encode(boxes, 3),
            Codec::Hundredths => numbers::encode(boxes, 2),
        }
    }

    /// A point, as shares of width and height; none in Kosmos-2's way, which has boxes only.
    pub fn encode_point(self, [x, y]: [f64; 2]) -> Option<String> {
        match self {
            Codec::PaliGemma => Some(paligemma::encode_point([x, y])),
            Codec::Kosmos2 => None,
            Codec::Numbers => Some(numbers::encode_point([x, y], 3)),
            Codec::Hundredths => Some(numbers::encode_point([x, y], 2)),
        }
    }

    /// The boxes of this way in a text, in its order.
    pub fn decode(self, text: &str) -> Vec<Located> {
        let found = match self {
            Codec::PaliGemma => paligemma::find(text),
            Codec::Kosmos2 => kosmos::find(text),
            Codec::Numbers | Codec::Hundredths => numbers::find(text),
        };
        found.into_iter().map(|(_, located)| located).collect()
    }

    /// The points of this way in a text, in its order.
    pub fn decode_points(self, text: &str) -> Vec<[f64; 2]> {
        match self {
            Codec::PaliGemma => paligemma::find_points(text),
            Codec::Kosmos2 => Vec::new(),
            Codec::Numbers | Codec::Hundredths => numbers::find_points(text),
        }
    }

    /// The tokens that a vocabulary must have for this way, such as `<loc0000>`; none for numbers.
    pub fn tokens(self) -> Vec<String> {
        match self {
            Codec::PaliGemma => (0..=paligemma::LAST).map(paligemma::token).collect(),
            Codec::Kosmos2 => kosmos::tokens(),
            Codec::Numbers | Codec::Hundredths => Vec::new(),
        }
    }
}

/// The boxes in a text, in whatever way they are written, in its order. What is no box is passed
/// over; corners that are the wrong way round are turned.
pub fn find(text: &str) -> Vec<Located> {
    let mut found = paligemma::find(text);
    found.extend(kosmos::find(text));
    found.extend(numbers::find(text));
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, located)| located).collect()
}

/// The points in a text, in whatever way they are written.
pub fn find_points(text: &str) -> Vec<[f64; 2]> {
    let mut points = paligemma::find_points(text);
    points.extend(numbers::find_points(text));
    points
}
