//! Measures of texts against their reference implementations (xtask/golden/metrics.py).

use serde::Deserialize;
use vlm_fusion::metrics::{
    bleu, cider, cider_d, exact_match, normalised, rouge_l, rouge_l_f1, sacre_bleu, vqa_accuracy,
    words,
};

#[derive(Deserialize)]
struct Golden {
    words: Vec<Words>,
    captions: Vec<Captions>,
    texts: Vec<Texts>,
    normal: Vec<Normal>,
    judged: Vec<Judged>,
}

#[derive(Deserialize)]
struct Words {
    text: String,
    words: Vec<String>,
}

#[derive(Deserialize)]
struct Captions {
    predicted: Vec<String>,
    references: Vec<Vec<String>>,
    bleu: [f64; 4],
    rouge_l: Vec<f64>,
    cider_d: Vec<f64>,
    cider: Vec<f64>,
}

#[derive(Deserialize)]
struct Texts {
    predicted: Vec<String>,
    references: Vec<Vec<String>>,
    sacre_bleu: f64,
    rouge_l_f1: Vec<f64>,
}

#[derive(Deserialize)]
struct Normal {
    text: String,
    normalised: String,
}

#[derive(Deserialize)]
struct Judged {
    text: String,
    answers: Vec<String>,
    accuracy: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/metrics/metrics.json")).unwrap()
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn close(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{what}: {a} for {b}");
}

#[test]
fn captions_are_split_as_stanfords_tokenizer_does() {
    for case in golden().words {
        assert_eq!(words(&case.text), case.words, "{}", case.text);
    }
}

#[test]
fn caption_measures_equal_pycocoevalcap() {
    for case in golden().captions {
        let predicted: Vec<_> = case.predicted.iter().map(|text| split(text)).collect();
        let references: Vec<Vec<_>> =
            case.references.iter().map(|r| r.iter().map(|text| split(text)).collect()).collect();
        for (ours, theirs) in bleu(&predicted, &references).into_iter().zip(case.bleu) {
            close(ours, theirs, "BLEU");
        }
        let (d, plain) = (cider_d(&predicted, &references), cider(&predicted, &references));
        for i in 0..predicted.len() {
            close(rouge_l(&predicted[i], &references[i]), case.rouge_l[i], "ROUGE-L");
            close(d[i], case.cider_d[i], "CIDEr-D");
            close(plain[i], case.cider[i], "CIDEr");
        }
    }
}

#[test]
fn text_measures_equal_sacrebleu_and_rouge_score() {
    for case in golden().texts {
        close(sacre_bleu(&case.predicted, &case.references), case.sacre_bleu, "sacrebleu");
        for (i, theirs) in case.rouge_l_f1.iter().enumerate() {
            close(rouge_l_f1(&case.predicted[i], &case.references[i]), *theirs, "ROUGE-L F1");
        }
    }
}

#[test]
fn answers_are_normalised_and_judged_as_vqa_does() {
    for case in golden().normal {
        assert_eq!(normalised(&case.text), case.normalised, "{:?}", case.text);
    }
    for case in golden().judged {
        let what = format!("{} of {:?}", case.text, case.answers);
        close(vqa_accuracy(&case.text, &case.answers), case.accuracy, &what);
    }
}

#[test]
fn fewer_than_ten_people_are_enough() {
    let people =
        |answers: &[&str]| -> Vec<String> { answers.iter().map(|a| (*a).into()).collect() };
    assert_eq!(vqa_accuracy("Yes.", &people(&["yes"])), 1.0);
    assert_eq!(vqa_accuracy("no", &people(&["yes"])), 0.0);
    assert_eq!(vqa_accuracy("dog", &people(&["dog", "dog", "dog"])), 1.0);
    assert_eq!(vqa_accuracy("dog", &people(&["dog", "cat"])), 0.5);
    assert_eq!(vqa_accuracy("dog", &[]), 0.0);
    assert!(
        exact_match("The Dog!", &people(&["cat", "dog"])) && !exact_match("", &people(&["a b"]))
    );
}

#[test]
fn nothing_is_no_error() {
    let none = || Vec::<String>::new();
    assert!(bleu(&[none()], &[vec![none()]]).iter().all(|score| *score < 1e-3));
    assert_eq!(sacre_bleu(&[String::new()], &[vec!["a".into()]]), 0.0);
    assert_eq!(rouge_l(&none(), &[none()]), 0.0);
    assert_eq!(rouge_l_f1("", &[]), 0.0);
    let scores = [cider(&[none()], &[vec![]]), cider_d(&[none()], &[vec![none()]])];
    assert!(scores.iter().flatten().all(|score| *score == 0.0), "{scores:?}");
    assert!(words(" \u{1F600}'... --").iter().all(|word| !word.is_empty()));
}
