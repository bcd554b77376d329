//! How good generated texts and boxes are.
//!
//! Each measure gives the numbers of a reference implementation, which its page names:
//! [`vqa_accuracy`], [`bleu`] and [`sacre_bleu`], [`rouge_l`] and [`rouge_l_f1`], [`cider`] and
//! [`cider_d`]. Captions are split into words by [`words`]. [`table()`] makes the rows of
//! `vlm eval` out of predictions and what was expected.

mod bleu;
mod cider;
mod rouge;
mod table;
mod vqa;
mod words;

pub use bleu::{bleu, sacre_bleu};
pub use cider::{cider, cider_d};
pub use rouge::{rouge_l, rouge_l_f1};
pub use table::{Expected, Measures, Row, Table, Task, table};
pub use vqa::{exact_match, normalised, vqa_accuracy};
pub use words::words;

use std::collections::BTreeMap;

/// How often each run of `size` words occurs.
fn grams<T: Ord>(words: &[T], size: usize) -> BTreeMap<&[T], usize> {
    let mut counts = BTreeMap::new();
    for gram in words.windows(size) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}
