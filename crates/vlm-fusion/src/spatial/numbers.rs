//! Boxes as plain numbers.

use super::{BBox, Located};

/// Of so many decimals.
pub(super) fn encode(boxes: &[Located], decimals: usize) -> String {
    let groups = boxes.chunk_by(|a, b| a.label == b.label);
    let one = |same: &[Located]| {
        let boxes: Vec<String> = same
            .iter()
            .map(|located| {
                located.bbox.corners().map(|share| format!("{share:.decimals$}")).join(",")
            })
            .collect();
        let label = same[0].label.as_ref().map(|label| format!("{label} ")).unwrap_or_default();
        format!("{label}[{}]", boxes.join(";"))
    };
    groups.map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn encode_point(point: [f64; 2], decimals: usize) -> String {
    let [x, y] = point.map(|share| if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) });
    format!("[{x:.decimals$},{y:.decimals$}]")
}

/// Lists of numbers in brackets, with their places and what stands before them.
fn lists(text: &str) -> Vec<(usize, Vec<Vec<f64>>, &str)> {
    let mut found = Vec::new();
    let mut before = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find('[') {
        let start = from + at;
        from = start + 1;
        // The innermost bracket counts.
        let Some(end) = text[from..].find([']', '[']) else { break };
        if text[from + end..].starts_with('[') {
            continue;
        }
        let content = &text[from..from + end];
        from += end + 1;
        let numbers = |part: &str| {
            let shares: Option<Vec<f64>> =
                part.split(',').map(|number| share(number.trim())).collect();
            shares
        };
        let parts: Option<Vec<Vec<f64>>> = content.split(';').map(numbers).collect();
        if let Some(parts) = parts {
            found.push((start, parts, &text[before..start]));
        }
        before = from;
    }
    found
}

/// A number from 0 to 1. What is larger counts pixels or something else that is not known here.
fn share(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = text.parse().ok()?;
    (plain && (0.0..=1.0).contains(&number)).then_some(number)
}

/// The words right before a bracket, without what joins them to what is further left.
fn label(before: &str) -> &str {
    let words = before.trim_end().trim_end_matches([':', '[', '(']);
    let words = words.rsplit(['\n', '.', ',', ';', ']', '?', '!', '>']).next().unwrap_or_default();
    let words = words.trim();
    words.strip_prefix("and ").unwrap_or(words)
}

/// Boxes with their places in the text.
pub(super) fn find(text: &str) -> Vec<(usize, Located)> {
    let mut found = Vec::new();
    for (place, parts, before) in lists(text) {
        for part in parts {
            let [left, top, right, bottom] = part[..] else { continue };
            let bbox = BBox::new([left, top, right, bottom]);
            found.extend(bbox.map(|bbox| (place, Located::new(label(before), bbox))));
        }
    }
    found
}

/// Points: two numbers each.
pub(super) fn find_points(text: &str) -> Vec<[f64; 2]> {
    let parts = lists(text).into_iter().flat_map(|(_, parts, _)| parts);
    parts
        .filter_map(|part| match part[..] {
            [x, y] => Some([x, y]),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(Option<String>, [f64; 4])> {
        find(text).into_iter().map(|(_, l)| (l.label, l.bbox.corners())).collect()
    }

    #[test]
    fn boxes_are_read_with_their_words() {
        let text = "The red cat [0.100,0.250,0.500,0.750] is left of a dog: [0, 0, 1, 0.5].";
        let found = of(text);
        assert_eq!(found[0], (Some("The red cat".into()), [0.1, 0.25, 0.5, 0.75]));
        assert_eq!(found[1], (Some("is left of a dog".into()), [0.0, 0.0, 1.0, 0.5]));
        let several = of("[0.1,0.1,0.2,0.2;0.3,0.3,0.4,0.4], and cup [0.5,0.5,0.6,0.6]");
        assert_eq!(several.len(), 3);
        assert_eq!((several[1].0.as_deref(), several[2].0.as_deref()), (None, Some("cup")));
        assert_eq!(of("[[0.1,0.1,0.2,0.2],[0.3,0.3,0.4,0.4]]").len(), 2);
    }

    #[test]
    fn boxes_of_one_label_share_a_bracket() {
        let located = |label: &str, at: f64| {
            Located::new(label, BBox::new([at, at, at + 0.1, at + 0.1]).unwrap())
        };
        let boxes = [located("cat", 0.1), located("cat", 0.2), located("dog", 0.3)];
        let text = "cat [0.100,0.100,0.200,0.200;0.200,0.200,0.300,0.300], \
                    dog [0.300,0.300,0.400,0.400]";
        assert_eq!(encode(&boxes, 3), text);
        assert_eq!(encode(&boxes[2..], 2), "dog [0.30,0.30,0.40,0.40]");
        let labels: Vec<_> = of(text).into_iter().filter_map(|(label, _)| label).collect();
        assert_eq!(labels, ["cat", "cat", "dog"]);
        assert_eq!(encode_point([0.5, f64::NAN], 3), "[0.500,0.000]");
        assert_eq!(find_points("at [0.5, 0.25], not [0.5] or [1,2]"), [[0.5, 0.25]]);
    }

    #[test]
    fn what_is_no_box_is_passed_over() {
        for text in [
            "[",
            "[]",
            "[1]",
            "[0.1,0.2,0.3]",
            "[10,20,30,40]",
            "[0.1,0.2,NaN,0.4]",
            "[0.1,0.2,inf,0.4]",
            "[-0.1,0.2,0.3,0.4]",
            "[0.1,0.2,0.3,1e-1]",
            "[a,b,c,d]",
            "0.1,0.2,0.3,0.4",
        ] {
            assert!(find(text).is_empty(), "{text}");
        }
    }
}
