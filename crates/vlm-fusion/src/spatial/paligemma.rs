//! PaliGemma's location tokens.

use super::{BBox, Located};

/// The last of the bins.
pub(super) const LAST: u32 = 1023;

pub(super) fn token(bin: u32) -> String {
    format!("<loc{bin:04}>")
}

/// A share as a token; halves go to the even bin, as in TensorFlow.
fn said(share: f64) -> String {
    // The cast takes what is no number to 0.
    token((share.clamp(0.0, 1.0) * f64::from(LAST)).round_ties_even() as u32)
}

pub(super) fn encode(boxes: &[Located]) -> String {
    let one = |located: &Located| {
        let [left, top, right, bottom] = located.bbox.corners().map(said);
        let label = located.label.as_ref().map(|label| format!(" {label}")).unwrap_or_default();
        format!("{top}{left}{bottom}{right}{label}")
    };
    boxes.iter().map(one).collect::<Vec<_>>().join(" ; ")
}

pub(super) fn encode_point([x, y]: [f64; 2]) -> String {
    said(y) + &said(x)
}

/// The share of the token that a text begins with, and the rest.
fn first(text: &str) -> Option<(f64, &str)> {
    let (digits, rest) = text.strip_prefix("<loc")?.split_at_checked(4)?;
    let rest = rest.strip_prefix('>')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bin: u32 = digits.parse().ok()?;
    (bin <= LAST).then_some((f64::from(bin) / f64::from(LAST), rest))
}

/// Runs of tokens: where each begins, its shares, and the text behind it.
fn runs(text: &str) -> Vec<(usize, Vec<f64>, &str)> {
    let mut runs = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("<loc") {
        let place = text.len() - rest.len() + at;
        rest = &rest[at..];
        let mut shares = Vec::new();
        while let Some((share, behind)) = first(rest) {
            shares.push(share);
            // Some tokenizers put spaces between tokens.
            rest = if first(behind.trim_start()).is_some() { behind.trim_start() } else { behind };
        }
        if shares.is_empty() {
            rest = &rest["<loc".len()..];
        } else {
            runs.push((place, shares, rest));
        }
    }
    runs
}

/// Boxes with their places in the text: four tokens each, and their labels up to the next `;` or
/// token. Of a longer run each four are a box.
pub(super) fn find(text: &str) -> Vec<(usize, Located)> {
    let mut found = Vec::new();
    for (place, shares, behind) in runs(text) {
        let label = behind.split([';', '<', '\n']).next().unwrap_or_default();
        for four in shares.chunks_exact(4) {
            let corners = [four[1], four[0], four[3], four[2]];
            found.extend(BBox::new(corners).map(|bbox| (place, Located::new(label, bbox))));
        }
    }
    found
}

/// Points: runs of exactly two tokens.
pub(super) fn find_points(text: &str) -> Vec<[f64; 2]> {
    runs(text)
        .into_iter()
        .filter_map(|(_, shares, _)| match shares[..] {
            [y, x] => Some([x, y]),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_rounded_as_tensorflow_does() {
        let bins = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0].map(said);
        let wanted = [0, 102, 256, 512, 767, 1023].map(token);
        assert_eq!(bins, wanted);
        assert_eq!([-1.0, 7.0, f64::NAN].map(said), [0, 1023, 0].map(token));
    }

    #[test]
    fn several_boxes_keep_their_labels() {
        let text = "<loc0000><loc0512><loc1023><loc0767> red cat ; \
                    <loc0000> <loc0000> <loc0512> <loc0512> dog";
        let found = find(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1.label.as_deref(), Some("red cat"));
        assert_eq!(found[0].1.bbox.corners(), [512.0 / 1023.0, 0.0, 767.0 / 1023.0, 1.0]);
        assert_eq!(found[1].1.label.as_deref(), Some("dog"));
        assert!(found[0].0 < found[1].0);
        let bboxes: Vec<Located> = found.into_iter().map(|(_, located)| located).collect();
        assert_eq!(encode(&bboxes), text.replace("> <", "><"));
    }

    #[test]
    fn points_are_two_tokens() {
        assert_eq!(encode_point([1.0, 0.5]), "<loc0512><loc1023>");
        assert_eq!(find_points("cup <loc0512><loc1023>, <loc0001>"), [[1.0, 512.0 / 1023.0]]);
        assert!(find("<loc0512><loc1023>").is_empty());
    }

    #[test]
    fn what_is_no_token_is_passed_over() {
        for text in ["<loc", "<loc1024>", "<loc12345>", "<loc+001>", "<loc\u{e9}\u{e9}>", "<loc00"]
        {
            assert!(runs(text).is_empty(), "{text}");
        }
        let text = "<loc<loc0000><loc0000><loc0001><loc0001>";
        assert_eq!(find(text).len(), 1);
    }
}
