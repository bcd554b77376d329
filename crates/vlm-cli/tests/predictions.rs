//! `vlm eval` of texts that some model said, and drawing boxes.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{example, fresh, refuses, text, vlm, works};

/// A set of three questions, a box and a file of predictions.
fn files(name: &str, predictions: &str) -> (PathBuf, PathBuf) {
    let dir = fresh(name);
    let rows = r#"{"image": "a.png", "question": "What?", "answer": "cat", "kind": "what"}
{"image": "a.png", "id": "q2", "question": "How many?", "answers": ["2", "two"], "kind": "count"}
{"image": "a.png", "question": "Is it?", "answer": "yes", "kind": "what"}
{"image": "a.png", "question": "Where?", "boxes": [[0.0, 0.0, 0.5, 0.5]], "kind": "box"}
"#;
    std::fs::copy(example("csv/cat.png"), dir.join("a.png")).unwrap();
    std::fs::write(dir.join("set.jsonl"), rows).unwrap();
    std::fs::write(dir.join("said.jsonl"), predictions).unwrap();
    (dir.join("set.jsonl"), dir.join("said.jsonl"))
}

fn eval(task: &str, (data, said): &(PathBuf, PathBuf)) -> Command {
    let mut vlm = vlm();
    vlm.args(["eval", "--task", task, "--data"]).arg(data).arg("--predictions").arg(said);
    vlm
}

fn json(command: &mut Command) -> String {
    let done = command.arg("--json").output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    text(&done.stdout)
}

const SAID: &str = r#"{"row": 1, "text": "The cat."}
{"id": "q2", "text": "two"}
{"row": 3, "text": "no"}

{"row": 4, "text": "<loc0000><loc0000><loc0512><loc0512> it"}
"#;

#[test]
fn answers_are_scored_by_kind() {
    let files = files("predictions-vqa", SAID);
    let out = json(&mut eval("vqa", &files));
    for part in
        ["\"task\": \"vqa\"", "\"samples\": 3", "\"kind\": \"count\"", "\"constant\": \"2\""]
    {
        assert!(out.contains(part), "{out} lacks {part}");
    }
    let table = text(&eval("vqa", &files).output().unwrap().stdout);
    let all = table.lines().find(|line| line.starts_with("all")).unwrap();
    assert!(all.contains("66.7 %"), "{table}");
    let what = table.lines().find(|line| line.starts_with("what")).unwrap();
    assert!(what.contains("50.0 %"), "{table}");
}

#[test]
fn boxes_are_scored_and_drawn() {
    let files = files("predictions-boxes", SAID);
    let sheet = files.0.with_file_name("sheet.png");
    let out = text(&eval("boxes", &files).arg("--draw").arg(&sheet).output().unwrap().stdout);
    let all = out.lines().find(|line| line.starts_with("all")).unwrap();
    assert!(all.contains("0.998") && all.contains("100.0 %"), "{out}");
    let sheet = image::open(&sheet).unwrap().into_rgb8();
    assert!(sheet.width() > 200, "the sheet is {} wide", sheet.width());
    let red = sheet.pixels().filter(|p| p.0[0] > 150 && p.0[1] < 90 && p.0[2] < 90).count();
    assert!(red > 100, "no box on the sheet");
}

#[test]
fn captions_are_scored() {
    let dir = fresh("predictions-captions");
    let lines: Vec<String> = ["a red apple", "a peeled banana", "a dog", "the face of a cat"]
        .iter()
        .enumerate()
        .map(|(i, text)| format!("{{\"row\": {}, \"text\": \"{text}\"}}", i + 1))
        .collect();
    let said = dir.join("said.jsonl");
    std::fs::write(&said, lines.join("\n")).unwrap();
    let out = json(&mut eval("caption", &(example("csv"), said)));
    assert!(out.contains("\"cider-d\"") && out.contains("\"bleu-4\""), "{out}");
}

#[test]
fn what_is_wrong_with_predictions_is_one_line() {
    let cases = [
        ("{\"row\": 1, \"text\": \"a\"}", &["2 of 3 samples have no prediction", "row 2"][..]),
        ("{\"row\": 1}", &["said.jsonl:1", "text"]),
        ("{\"row\": 0, \"text\": \"a\"}", &["said.jsonl:1", "rows count from 1"]),
        ("{\"row\": 9, \"text\": \"a\"}", &["row 9 of a set of 4"]),
        ("{\"id\": 7, \"text\": \"a\"}", &["no sample of the set has the id `7`"]),
        ("{\"text\": \"a\"}", &["neither `row` nor `id`"]),
        ("not json", &["said.jsonl:1", "in JSON"]),
        (
            "{\"row\": 1, \"text\": \"a\"}\n{\"row\": 1, \"text\": \"b\"}",
            &["said.jsonl:2", "predicted in line 1 already"],
        ),
    ];
    for (said, parts) in cases {
        refuses(&mut eval("vqa", &files("predictions-bad", said)), 1, parts);
    }
    let files = files("predictions-none", SAID);
    refuses(&mut eval("caption", &files), 1, &["set.jsonl", "no captions in it"]);
    refuses(&mut eval("vqa", &(files.0.clone(), "/none.jsonl".into())), 1, &["/none.jsonl"]);
    refuses(eval("vqa", &files).args(["--model", "x"]), 2, &["--model"]);
    let bare = |task: &str| {
        let mut vlm = vlm();
        vlm.args(["eval", "--task", task, "--data"]).arg(Path::new(&files.0));
        vlm
    };
    refuses(&mut bare("vqa"), 2, &["--predictions"]);
    refuses(&mut bare("zero-shot"), 2, &["--model"]);
    refuses(&mut eval("retrieval", &files), 2, &["--predictions"]);
}

#[test]
fn what_was_said_is_drawn_below_its_picture() {
    let files = files("predictions-drawn", SAID);
    let sheet = files.0.with_file_name("sheet.png");
    works(eval("vqa", &files).arg("--draw").arg(&sheet));
    let drawn = image::open(&sheet).unwrap().into_rgb8();
    // Right answers are written in green.
    let green = |p: &image::Rgb<u8>| p.0[1] > 100 && p.0[0] < 60 && p.0[2] < 100;
    assert!(drawn.pixels().any(green), "no right answer on the sheet");
}
