//! Kosmos-2's cells of a grid.

use super::{BBox, Located};

/// Cells along a side.
const SIDE: u32 = 32;
const SEVERAL: &str = "</delimiter_of_multi_objects/>";

fn token(cell: u32) -> String {
    format!("<patch_index_{cell:04}>")
}

pub(super) fn tokens() -> Vec<String> {
    let tags = ["<phrase>", "</phrase>", "<object>", "</object>", SEVERAL];
    tags.into_iter().map(str::to_owned).chain((0..SIDE * SIDE).map(token)).collect()
}

/// The cells of the upper left and the lower right corner: those whose inside the box touches.
fn cells(bbox: &BBox) -> (u32, u32) {
    let last = f64::from(SIDE - 1);
    let first = |share: f64| (share * f64::from(SIDE)).floor().clamp(0.0, last) as u32;
    let end = |share: f64| (share * f64::from(SIDE) - 1.0).ceil().clamp(0.0, last) as u32;
    let cell = |x: u32, y: u32| y * SIDE + x;
    (cell(first(bbox.left), first(bbox.top)), cell(end(bbox.right), end(bbox.bottom)))
}

/// From the middles of the cells; from their edges where the box is in one row or column.
fn corners(first: u32, end: u32) -> [f64; 4] {
    let share = |cells: u32, more: f64| (f64::from(cells) + more) / f64::from(SIDE);
    let (x1, y1, x2, y2) = (first % SIDE, first / SIDE, end % SIDE, end / SIDE);
    let (begin, finish) = if x1 == x2 || y1 == y2 { (0.0, 1.0) } else { (0.5, 0.5) };
    [share(x1, begin), share(y1, begin), share(x2, finish), share(y2, finish)]
}

/// Boxes of one label stand in one object.
pub(super) fn encode(boxes: &[Located]) -> String {
    let mut text = String::new();
    for same in boxes.chunk_by(|a, b| a.label.is_some() && a.label == b.label) {
        if let Some(label) = &same[0].label {
            text += &format!("<phrase>{label}</phrase>");
        }
        let pairs: Vec<String> = same
            .iter()
            .map(|located| {
                let (first, end) = cells(&located.bbox);
                token(first) + &token(end)
            })
            .collect();
        text += &format!("<object>{}</object>", pairs.join(SEVERAL));
    }
    text
}

/// The cell of the token that a text begins with, and the rest.
fn first(text: &str) -> Option<(u32, &str)> {
    let rest = text.strip_prefix("<patch_index_")?;
    let (digits, rest) = rest.split_once('>')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let cell: u32 = digits.parse().ok()?;
    (cell < SIDE * SIDE).then_some((cell, rest))
}

/// A pair of cells as a box. A model may say its corners the wrong way round.
fn pair(text: &str) -> Option<BBox> {
    let (a, rest) = first(text.trim_start())?;
    let (b, rest) = first(rest.trim_start())?;
    if !rest.trim().is_empty() {
        return None;
    }
    BBox::new(corners(a, b))
}

/// Boxes with their places in the text. The label is the phrase in front of the object.
pub(super) fn find(text: &str) -> Vec<(usize, Located)> {
    const OBJECT: &str = "<object>";
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(OBJECT) {
        let start = from + at;
        let inside = start + OBJECT.len();
        from = inside;
        let Some(length) = text[inside..].find("</object>") else { break };
        let content = &text[inside..inside + length];
        let label = text[..start]
            .trim_end()
            .strip_suffix("</phrase>")
            .and_then(|before| before.rsplit_once("<phrase>"))
            .map(|(_, label)| label)
            .filter(|label| !label.contains('<'))
            .unwrap_or_default();
        let boxes: Option<Vec<BBox>> = content.split(SEVERAL).map(pair).collect();
        let boxes = boxes.unwrap_or_default().into_iter();
        found.extend(boxes.map(|bbox| (start, Located::new(label, bbox))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_those_of_the_paper() {
        for (given, cell, decoded) in [
            ([0.1, 0.25, 0.5, 0.75], (259, 751), [0.109375, 0.265625, 0.484375, 0.734375]),
            ([0.0, 0.0, 1.0, 1.0], (0, 1023), [0.015625, 0.015625, 0.984375, 0.984375]),
            ([0.3, 0.3, 0.31, 0.31], (297, 297), [0.28125, 0.28125, 0.3125, 0.3125]),
        ] {
            let bbox = BBox::new(given).unwrap();
            assert_eq!(cells(&bbox), cell);
            assert_eq!(corners(cell.0, cell.1), decoded);
        }
        let exact = BBox::new([0.390625, 0.046875, 0.984375, 0.828125]).unwrap();
        assert_eq!(cells(&exact), (44, 863));
        assert_eq!(corners(44, 863), exact.corners());
    }

    #[test]
    fn what_is_no_object_is_passed_over() {
        for text in [
            "<object>",
            "<object></object>",
            "<object><patch_index_0001></object>",
            "<object><patch_index_0001><patch_index_1024></object>",
            "<object><patch_index_0001><patch_index_99999999999></object>",
            "<object><patch_index_><patch_index_0001></object>",
            "<object><patch_index_0001><patch_index_0040> x</object>",
        ] {
            assert!(find(text).is_empty(), "{text}");
        }
        let turned = find("<object><patch_index_0751><patch_index_0259></object>");
        assert_eq!(turned[0].1.bbox.corners(), [0.109375, 0.265625, 0.484375, 0.734375]);
    }
}
