//! BLEU (Papineni et al. 2002).

use std::collections::BTreeMap;

use super::grams;

/// The longest runs of words that are compared.
const LONGEST: usize = 4;

/// Sums over a corpus.
#[derive(Default)]
struct Sums {
    predicted: usize,
    reference: usize,
    guessed: [usize; LONGEST],
    correct: [usize; LONGEST],
}

impl Sums {
    fn add<T: Ord>(&mut self, predicted: &[T], references: &[Vec<T>]) {
        let length = predicted.len();
        self.predicted += length;
        // The reference of the closest length, and of two such the shorter.
        let lengths = references.iter().map(Vec::len);
        self.reference += lengths.min_by_key(|l| (l.abs_diff(length), *l)).unwrap_or(0);
        for size in 1..=LONGEST {
            let mut most: BTreeMap<&[T], usize> = BTreeMap::new();
            for reference in references {
                for (gram, count) in grams(reference, size) {
                    let known = most.entry(gram).or_default();
                    *known = count.max(*known);
                }
            }
            self.guessed[size - 1] += (length + 1).saturating_sub(size);
            for (gram, count) in grams(predicted, size) {
                let known = most.get(gram).copied().unwrap_or(0);
                self.correct[size - 1] += count.min(known);
            }
        }
    }
}

/// BLEU-1 to BLEU-4 of a corpus, from 0 to 1, as pycocoevalcap computes them: no smoothing, and of
/// several references the one whose length is closest.
///
/// `predicted` and `references` are lists of words, such as [`words`](super::words()) makes;
/// predictions without references are left out.
pub fn bleu(predicted: &[Vec<String>], references: &[Vec<Vec<String>>]) -> [f64; LONGEST] {
    // So that nothing found is 0 and nothing guessed is no error.
    const SMALL: f64 = 1e-9;
    const TINY: f64 = 1e-15;
    let mut sums = Sums::default();
    for (predicted, references) in predicted.iter().zip(references) {
        sums.add(predicted, references);
    }
    let ratio = (sums.predicted as f64 + TINY) / (sums.reference as f64 + SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|i| {
        product *= (sums.correct[i] as f64 + TINY) / (sums.guessed[i] as f64 + SMALL);
        product.powf(1.0 / (i + 1) as f64) * brevity
    })
}

/// BLEU of a corpus from 0 to 100 as sacrebleu computes it by default (Post 2018): its tokenizer
/// `13a`, case kept, exponential smoothing.
pub fn sacre_bleu(predicted: &[String], references: &[Vec<String>]) -> f64 {
    let mut sums = Sums::default();
    for (predicted, references) in predicted.iter().zip(references) {
        let references: Vec<Vec<String>> = references.iter().map(|text| words_13a(text)).collect();
        sums.add(&words_13a(predicted), &references);
    }
    if sums.correct.iter().all(|count| *count == 0) {
        return 0.0;
    }
    let brevity = match (sums.predicted as f64, sums.reference as f64) {
        (predicted, reference) if predicted < reference => (1.0 - reference / predicted).exp(),
        _ => 1.0,
    };
    let mut halves = 1.0;
    let mut logs = 0.0;
    for (guessed, correct) in sums.guessed.into_iter().zip(sums.correct) {
        if guessed == 0 {
            return 0.0;
        }
        let precision = if correct == 0 {
            halves *= 2.0;
            100.0 / (halves * guessed as f64)
        } else {
            100.0 * correct as f64 / guessed as f64
        };
        logs += precision.ln();
    }
    brevity * (logs / LONGEST as f64).exp()
}

/// The words of a text after the rules of mteval-v13a: punctuation stands alone, but for periods and
/// commas within numbers.
fn words_13a(text: &str) -> Vec<String> {
    let mut text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (name, sign) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(name, sign);
    }
    let mut spaced = String::from(" ");
    for c in text.chars() {
        match c {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => {
                spaced.extend([' ', c, ' ']);
            }
            _ => spaced.push(c),
        }
    }
    spaced.push(' ');
    let stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let spaced = pairs(&spaced, |a, b| !digit(a) && stop(b), |a, b| [a, ' ', b, ' ']);
    let spaced = pairs(&spaced, |a, b| stop(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let spaced = pairs(&spaced, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Replaces pairs of letters from left to right; a letter is in one pair at most.
fn pairs(
    text: &str,
    is: impl Fn(char, char) -> bool,
    with: impl Fn(char, char) -> [char; 4],
) -> String {
    let mut letters = text.chars().peekable();
    let mut out = String::new();
    while let Some(a) = letters.next() {
        match letters.peek().copied() {
            Some(b) if is(a, b) => {
                letters.next();
                out.extend(with(a, b));
            }
            _ => out.push(a),
        }
    }
    out
}
