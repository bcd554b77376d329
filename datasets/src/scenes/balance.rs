//! Which questions are asked, so that no answer is more frequent than another.

use std::collections::BTreeMap;

use super::ask::{Row, all, lies};
use super::draw::SHAPES;
use super::layout::{COLORS, Scene};
use super::random::Dice;

/// An answer of a form may be asked for so many times more than the rarest.
const SLACK: usize = 1;

/// The questions of a split, with the numbers of their pictures; with `more`, how things lie is asked for
/// twice.
pub(super) fn rows(
    scenes: &[Scene],
    unseen: bool,
    more: bool,
    mut dice: Dice,
) -> Vec<(usize, Row)> {
    let mut asked: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (picture, scene) in scenes.iter().enumerate() {
        let mut kinds = all(scene);
        // One bit each, and the most to be learned.
        if more {
            kinds.extend(lies(scene));
        }
        let first = chosen.len();
        for mut rows in kinds {
            let is_new = |row: &Row| chosen[first..].iter().all(|(_, other)| other != row);
            rows.retain(|row| (row.unseen || !unseen) && is_new(row));
            dice.shuffle(&mut rows);
            if let Some(row) = pick(&rows, &mut asked, unseen) {
                chosen.push((picture, row));
            }
        }
    }
    chosen
}

/// The question whose answer was asked for least, of the form that was asked least; none if
/// every answer is ahead of another of its form.
fn pick(
    rows: &[Row],
    asked: &mut BTreeMap<String, BTreeMap<String, usize>>,
    unseen: bool,
) -> Option<Row> {
    let mut best: Option<((usize, usize), &Row)> = None;
    for row in rows {
        let Some(answer) = &row.answer else { return Some(row.clone()) };
        let form = asked.entry(row.form.clone()).or_insert_with(|| possible(&row.form, unseen));
        let least = form.values().min().copied().unwrap_or(0);
        let own = form.get(answer).copied().unwrap_or(0);
        let rank = (form.values().sum(), own);
        if own < least + SLACK && best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, row));
        }
    }
    let row = best?.1.clone();
    let answer = row.answer.clone()?;
    *asked.get_mut(&row.form)?.entry(answer).or_default() += 1;
    Some(row)
}

/// The answers that a form can have, none of which was asked for yet.
fn possible(form: &str, unseen: bool) -> BTreeMap<String, usize> {
    let texts = |list: &[&str]| list.iter().map(|text| ((*text).to_owned(), 0)).collect();
    let colors = COLORS.map(|(name, _)| name);
    match form {
        // Pink and black have no pair that is kept back.
        "color" if unseen => texts(&colors[..6]),
        "color" => texts(&colors),
        "shape" => texts(&SHAPES),
        form if form.starts_with("size") => texts(&["small", "large"]),
        "place" => texts(&["left", "right", "above", "below"]),
        "count things" => texts(&["1", "2", "3", "4", "5"]),
        "count colors" | "count shapes" => texts(&["0", "1", "2", "3", "4"]),
        _ => texts(&["yes", "no"]),
    }
}
