//! The rows of `vlm eval`: measures for all samples and for each kind, beside what a constant
//! answer reaches.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{bleu, cider, cider_d, exact_match, normalised, rouge_l, vqa_accuracy, words};
use crate::spatial::{BBox, Score, find};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Answers to questions: `accuracy` ([`vqa_accuracy`]) and `exact` ([`exact_match`]).
    Vqa,
    /// Captions: `bleu-1` to `bleu-4`, `rouge-l`, `cider` and `cider-d`, which papers on COCO
    /// report as CIDEr.
    Caption,
    /// Boxes: `mean-iou`, `iou-0.5` (share of true boxes with at least a half), `pointing`, and
    /// `surplus` (boxes too many, a sample).
    Boxes,
}

impl Task {
    /// Its name, as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Task::Vqa => "vqa",
            Task::Caption => "caption",
            Task::Boxes => "boxes",
        }
    }
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.name())
    }
}

/// What is right for a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// Of which kind it is; kinds have rows of their own.
    pub kind: Option<String>,
    /// The answers or captions that are right.
    pub answers: Vec<String>,
    /// Where what is asked for is.
    pub boxes: Vec<BBox>,
}

#[cfg(feature = "train")]
impl From<&vlm_datasets::Conversation> for Expected {
    fn from(sample: &vlm_datasets::Conversation) -> Self {
        Expected {
            kind: sample.kind.clone(),
            answers: sample.answers.clone(),
            boxes: sample.boxes.iter().filter_map(|region| BBox::new(region.corners)).collect(),
        }
    }
}

/// Measures by name; BLEU, ROUGE, accuracies and boxes from 0 to 1, CIDEr from 0 to 10.
pub type Measures = BTreeMap<&'static str, f64>;

/// What was measured for the samples of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kind; `all` for the first row, of all samples.
    pub kind: String,
    /// How many samples there are.
    pub samples: usize,
    /// The measures of what was predicted.
    pub measures: Measures,
    /// The answer that was given most often as right in these samples, or their mean box: what
    /// someone says who knows the set and sees no picture.
    pub constant: String,
    /// The measures of saying just that for all of these samples.
    pub baseline: Measures,
}

/// All rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// What was measured.
    pub task: Task,
    /// `all` first, then the kinds, if there is more than one, in alphabetical order.
    pub rows: Vec<Row>,
}

/// Measures what was predicted, a text for each sample. Boxes are read out of the texts in
/// whatever way they are written.
///
/// ```
/// use vlm_fusion::metrics::{Expected, Task, table};
///
/// let expected = |kind: &str, answer: &str| Expected {
///     kind: Some(kind.into()),
///     answers: vec![answer.into()],
///     ..Expected::default()
/// };
/// let truth = [expected("color", "red"), expected("color", "blue"), expected("count", "2")];
/// let said = ["Red.".to_owned(), "red".to_owned(), "two".to_owned()];
/// let table = table(Task::Vqa, &said, &truth);
/// let accuracies: Vec<_> = table.rows.iter().map(|row| row.measures["accuracy"]).collect();
/// assert_eq!(accuracies, [2.0 / 3.0, 0.5, 1.0]);
/// ```
pub fn table(task: Task, predicted: &[String], expected: &[Expected]) -> Table {
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, expected) in expected.iter().enumerate() {
        kinds.entry(expected.kind.as_deref().unwrap_or("other")).or_default().push(i);
    }
    let whole = ("all", (0..expected.len().min(predicted.len())).collect());
    let kinds = if kinds.len() > 1 { kinds } else { BTreeMap::new() };
    let rows = std::iter::once(whole).chain(kinds);
    let rows = rows.map(|(kind, samples): (&str, Vec<usize>)| {
        let expected: Vec<&Expected> = samples.iter().map(|i| &expected[*i]).collect();
        let said: Vec<&str> = samples.iter().map(|i| predicted[*i].as_str()).collect();
        let constant = match task {
            Task::Boxes => mean_box(&expected),
            _ => majority(&expected),
        };
        Row {
            kind: kind.to_owned(),
            samples: samples.len(),
            measures: measures(task, &said, &expected),
            baseline: measures(task, &vec![constant.as_str(); said.len()], &expected),
            constant,
        }
    });
    Table { task, rows: rows.collect() }
}

fn measures(task: Task, said: &[&str], expected: &[&Expected]) -> Measures {
    let count = said.len().max(1) as f64;
    let pairs = || said.iter().zip(expected);
    match task {
        Task::Vqa => {
            let accuracy: f64 = pairs().map(|(said, e)| vqa_accuracy(said, &e.answers)).sum();
            let exact = pairs().filter(|(said, e)| exact_match(said, &e.answers)).count();
            Measures::from([("accuracy", accuracy / count), ("exact", exact as f64 / count)])
        }
        Task::Caption => {
            let predicted: Vec<_> = said.iter().map(|text| words(text)).collect();
            let references: Vec<Vec<_>> = expected
                .iter()
                .map(|e| e.answers.iter().map(|text| words(text)).collect())
                .collect();
            let mean = |scores: Vec<f64>| scores.iter().sum::<f64>() / count;
            let each = predicted.iter().zip(&references);
            let [one, two, three, four] = bleu(&predicted, &references);
            Measures::from([
                ("bleu-1", one),
                ("bleu-2", two),
                ("bleu-3", three),
                ("bleu-4", four),
                ("rouge-l", mean(each.map(|(said, right)| rouge_l(said, right)).collect())),
                ("cider", mean(cider(&predicted, &references))),
                ("cider-d", mean(cider_d(&predicted, &references))),
            ])
        }
        Task::Boxes => {
            let mut score = Score::default();
            for (said, expected) in pairs() {
                let found: Vec<BBox> = find(said).iter().map(|located| located.bbox).collect();
                score.add(&found, &expected.boxes);
            }
            Measures::from([
                ("mean-iou", score.mean_iou()),
                ("iou-0.5", score.at_half()),
                ("pointing", score.pointing()),
                ("surplus", score.surplus as f64 / count),
            ])
        }
    }
}

/// The answer that most samples count as right, as it is written first.
fn majority(expected: &[&Expected]) -> String {
    let mut counts: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for answers in expected.iter().map(|e| &e.answers) {
        for answer in answers {
            counts.entry(normalised(answer)).or_insert((0, answer)).0 += 1;
        }
    }
    // Of several that are as frequent the first in the alphabet.
    let best = counts.values().rev().max_by_key(|(count, _)| *count);
    best.map(|(_, answer)| (*answer).to_owned()).unwrap_or_default()
}

/// The mean of all boxes, in numbers.
fn mean_box(expected: &[&Expected]) -> String {
    let boxes: Vec<[f64; 4]> =
        expected.iter().flat_map(|e| e.boxes.iter().map(BBox::corners)).collect();
    let mean = |i: usize| boxes.iter().map(|b| b[i]).sum::<f64>() / boxes.len().max(1) as f64;
    let numbers = [0, 1, 2, 3].map(|i| format!("{:.3}", mean(i)));
    format!("[{}]", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(kind: Option<&str>, answers: &[&str], boxes: &[[f64; 4]]) -> Expected {
        Expected {
            kind: kind.map(str::to_owned),
            answers: answers.iter().map(|a| (*a).to_owned()).collect(),
            boxes: boxes.iter().map(|b| BBox::new(*b).unwrap()).collect(),
        }
    }

    #[test]
    fn the_constant_answer_is_the_most_frequent() {
        let truth = [
            expected(Some("color"), &["red"], &[]),
            expected(Some("color"), &["Red"], &[]),
            expected(Some("color"), &["blue"], &[]),
            expected(Some("yes/no"), &["yes"], &[]),
            expected(None, &["2"], &[]),
        ];
        let said = ["red", "blue", "blue", "no", "two"].map(str::to_owned);
        let table = table(Task::Vqa, &said, &truth);
        let row = |i: usize| {
            let row = &table.rows[i];
            (row.kind.as_str(), row.samples, row.measures["accuracy"], row.baseline["accuracy"])
        };
        assert_eq!(row(0), ("all", 5, 0.6, 0.4));
        assert_eq!(row(1), ("color", 3, 2.0 / 3.0, 2.0 / 3.0));
        assert_eq!((row(2), row(3)), (("other", 1, 1.0, 1.0), ("yes/no", 1, 0.0, 1.0)));
        assert_eq!(table.rows[1].constant, "red");
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["task"], "vqa");
        assert_eq!(json["rows"][0]["measures"]["exact"], 0.6);
    }

    #[test]
    fn captions_that_are_right_score_full() {
        let one = |text: &str| expected(None, &[text, "something else entirely here"], &[]);
        let truth = [one("a small red circle"), one("two large blue stars on grey")];
        let said = [truth[0].answers[0].clone(), truth[1].answers[0].clone()];
        let table = table(Task::Caption, &said, &truth);
        assert_eq!(table.rows.len(), 1);
        let row = &table.rows[0];
        for name in ["bleu-1", "bleu-4", "rouge-l"] {
            assert!((row.measures[name] - 1.0).abs() < 1e-6, "{name}");
        }
        assert!(row.measures["cider-d"] > row.baseline["cider-d"]);
        assert_eq!(row.constant, "something else entirely here");
    }

    #[test]
    fn boxes_are_read_in_any_way() {
        let truth = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]].map(|b| expected(None, &[], &[b]));
        let said = ["at [0,0,0.5,0.5]".to_owned(), "no idea".to_owned()];
        let table = table(Task::Boxes, &said, &truth);
        let row = &table.rows[0];
        assert_eq!((row.measures["mean-iou"], row.measures["iou-0.5"]), (0.5, 0.5));
        assert_eq!(row.constant, "[0.250,0.250,0.750,0.750]");
        assert!((row.baseline["mean-iou"] - 1.0 / 7.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_no_error() {
        for task in [Task::Vqa, Task::Caption, Task::Boxes] {
            let table = table(task, &[], &[]);
            assert!(table.rows[0].measures.values().all(|value| value.is_finite()), "{table:?}");
        }
    }
}
