//! Conversations, questions and captions through one type, and what is wrong with them.

use std::path::Path;

use vlm_datasets::{Conversations, Dataset, Region, Role};

fn set(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

fn open(dir: &Path, name: &str) -> Result<Conversations, vlm_datasets::Error> {
    Conversations::open(dir.join(name).to_str().unwrap(), "test")
}

fn example(name: &str) -> Conversations {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), name).unwrap()
}

#[test]
fn llava_conversations() {
    let set = example("llava/train.json");
    assert_eq!((set.samples.len(), set.notes.len()), (2, 0));
    let first = &set.samples[0];
    assert_eq!(first.id.as_deref(), Some("1"));
    let said: Vec<_> =
        first.turns.iter().map(|t| (t.role.as_str(), t.text.as_str(), t.pictures)).collect();
    assert_eq!(
        said,
        [
            ("user", "What is this?", 1),
            ("assistant", "A red apple.", 0),
            ("user", "Has it a leaf?", 0),
            ("assistant", "Yes, a green one.", 0),
        ]
    );
    assert!(first.pictures[0].ends_with("llava/apple.png"));
    assert!(set.samples[1].pictures.is_empty());
    assert_eq!(set.samples[1].question(), "What do dogs eat?");
    assert_eq!(set.samples[1].answers, ["Meat, mostly."]);
}

#[test]
fn messages_with_several_pictures() {
    let set = example("llava:messages");
    let turns = &set.samples[0].turns;
    assert_eq!(turns[0].role, Role::System);
    assert_eq!((turns[1].pictures, turns[1].text.as_str()), (2, "Which picture shows an animal?"));
    assert_eq!(set.samples[0].pictures.len(), 2);
}

#[test]
fn questions() {
    let set = example("questions");
    let [color, fruit, dog, leaf] = &set.samples[..] else { panic!("{}", set.samples.len()) };
    assert_eq!((color.question(), color.answer()), ("What color is the fruit?", "red"));
    assert_eq!((color.kind.as_deref(), color.answers.len()), (Some("color"), 1));
    assert_eq!(fruit.choices, ["yes", "no"]);
    assert_eq!((dog.answer(), dog.answers.len()), ("dog", 3));
    assert!(leaf.answer().is_empty() && leaf.answers.is_empty());
    let corners = [0.5, 0.05, 0.8, 0.3];
    assert_eq!(leaf.boxes, [Region { label: Some("leaf".into()), corners }]);
}

#[test]
fn captions_of_every_format_leave_the_asking_to_the_task() {
    for name in ["folder", "csv", "jsonl:train", "classes"] {
        let set = example(name);
        let sample = &set.samples[0];
        assert_eq!((sample.question(), sample.turns[0].pictures), ("", 1), "{name}");
        assert_eq!(sample.answer(), sample.answers[0], "{name}");
    }
    assert_eq!(example("folder").samples[0].answers, ["a red apple", "fruit with a green leaf"]);
    let emoji = Conversations::open("emoji:test", "").unwrap();
    let captions = Dataset::open("emoji:test", "").unwrap();
    assert_eq!(emoji.samples.len(), captions.samples.len());
    assert_eq!(emoji.samples[5].answers, captions.samples[5].captions);
}

#[test]
fn coco_captions_and_vqa_v2() {
    let captions = r#"{"images": [{"id": 9, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "caption": "a cat "}, {"image_id": 9, "caption": "b"}]}"#;
    let questions = r#"{"data_subtype": "val2014", "questions":
        [{"question_id": 7, "image_id": 42, "question": "How many?"}]}"#;
    let answers = r#"{"annotations": [{"question_id": 7, "answer_type": "number",
        "multiple_choice_answer": "2", "answers": [{"answer": "2"}, {"answer": "two"}]}]}"#;
    let dir = set(&[
        ("captions_val2017.json", captions),
        ("val2017/a.jpg", ""),
        ("v2_OpenEnded_mscoco_val2014_questions.json", questions),
        ("v2_mscoco_val2014_annotations.json", answers),
        ("val2014/COCO_val2014_000000000042.jpg", ""),
    ]);
    let coco = open(dir.path(), "captions_val2017.json").unwrap();
    assert_eq!(coco.samples[0].answers, ["a cat", "b"]);
    let vqa = open(dir.path(), "v2_OpenEnded_mscoco_val2014_questions.json").unwrap();
    let sample = &vqa.samples[0];
    assert_eq!((sample.answer(), sample.answers.len()), ("2", 2));
    assert_eq!(sample.kind.as_deref(), Some("number"));
    std::fs::remove_file(dir.path().join("v2_mscoco_val2014_annotations.json")).unwrap();
    let error = open(dir.path(), "v2_OpenEnded_mscoco_val2014_questions.json").unwrap_err();
    assert!(error.to_string().contains("`annotations` for `questions`"), "{error}");
}

#[test]
fn pictures_may_lie_elsewhere() {
    let dir = set(&[
        ("lists/a.jsonl", r#"{"image": "b/1.png", "question": "q", "answer": "a"}"#),
        ("pictures/b/1.png", ""),
    ]);
    let list = dir.path().join("lists/a.jsonl");
    let below = dir.path().join("pictures");
    let open = |pictures| Conversations::open_with(list.to_str().unwrap(), "", pictures);
    assert!(open(None).is_err());
    assert_eq!(open(Some(&below)).unwrap().samples[0].pictures[0], below.join("b/1.png"));
}

#[test]
fn an_answer_to_no_question_is_left_out_and_told() {
    let list = r#"[{"conversations": [{"from": "gpt", "value": "Hi."},
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]"#;
    let dir = set(&[("a.json", list)]);
    let set = open(dir.path(), "a.json").unwrap();
    assert_eq!(set.samples[0].turns.len(), 2);
    assert!(set.notes[0].contains("1 conversations begin with an answer"), "{}", set.notes[0]);
}

#[test]
fn a_picture_missing_in_row_31000_is_found_on_opening() {
    let mut rows: Vec<String> = (0..31_002)
        .map(|_| r#"{"image": "a.png", "question": "q", "answer": "a"}"#.to_owned())
        .collect();
    rows[30_999] = rows[30_999].replace("a.png", "lost.png");
    let dir = set(&[("a.png", ""), ("a.jsonl", &rows.join("\n"))]);
    let error = open(dir.path(), "a.jsonl").unwrap_err().to_string();
    assert!(error.contains("a.jsonl:31000: `image`: picture `lost.png` is missing"), "{error}");
    let chat = r#"{"image": "a.png", "conversations": [{"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"}]}"#;
    let mut rows = vec![chat.to_owned(); 31_000];
    rows[30_999] = chat.replace("a.png", "lost.png");
    let dir = set(&[("a.png", ""), ("a.json", &format!("[{}]", rows.join(",")))]);
    let error = open(dir.path(), "a.json").unwrap_err().to_string();
    assert!(error.contains("a.json: row 31000: `image`: picture `lost.png`"), "{error}");
}

#[test]
fn errors_name_row_field_and_remedy() {
    let q = |rest: &str| format!(r#"{{"image": "a.png", "question": "q", {rest}}}"#);
    let chat = |turns: &str| format!(r#"{{"image": "a.png", "conversations": [{turns}]}}"#);
    let human = r#"{"from": "human", "value": "<image> q"}"#;
    let gpt = r#"{"from": "gpt", "value": "a"}"#;
    let cases = [
        (q(r#""answer": """#), "`answer` is empty; fill it"),
        (q(r#""answer": 3"#), "`answer` is a number; put the text in quotes"),
        (q(r#""answers": ["a", " "]"#), "`answers[1]` is empty"),
        (q(r#""answers": []"#), "`answers` is an empty list"),
        (q(r#""anwser": "a""#), "unknown field `anwser`; known: id, image"),
        (q(r#""kind": "k""#), "no answer; add the field"),
        (q(r#""answer": "a", "choices": ["b"]"#), "`a` is not among the `choices`"),
        (q(r#""boxes": [[0, 0, 1]]"#), "`boxes[0]` is not four numbers"),
        (q(r#""boxes": [[0, 0, 64, 64]]"#), "divide by the picture's width and height"),
        (q(r#""boxes": [[0.5, 0, 0.2, 1]]"#), "empty or reversed"),
        (q(r#""boxes": [{"box": [0, 0, 1, 1], "name": "x"}]"#), "unknown field `name`"),
        (q(r#""boxes": []"#), "`boxes` is no list with boxes"),
        (r#"{"question": "q", "answer": "a"}"#.into(), "no picture is named; add"),
        (r#"{"image": 4, "question": "q", "answer": "a"}"#.into(), "`image` is neither a path"),
        (r#"{"image": "/a.png", "question": "q", "answer": "a"}"#.into(), "climbs out"),
        (r#"{"image": "a.png"}"#.into(), "none of the fields `conversations`"),
        (r#"["image"]"#.into(), "not an object"),
        (r#"{"image": "a.png", "#.into(), "not JSON"),
        (chat(&format!("{human}, {}", gpt.replace("gpt", "bot"))), "unknown role `bot`; `from` is"),
        (
            chat(&format!("{human}, {}", gpt.replace("\"a\"", "\" \""))),
            "turn 2: the answer is empty",
        ),
        (chat(human), "does not end with an answer"),
        (chat(&format!("{human}, {human}, {gpt}")), "a turn of `human` where one of `gpt` belongs"),
        (chat(&format!("{}, {gpt}", human.replace("q", "<image>"))), "2 x <image>"),
        (chat(&format!("{human}, {}", gpt.replace("\"a\"", "\"<image>\""))), "not the user's"),
        (chat(""), "`conversations` is no list"),
        (chat("3"), "`conversations[0]`: not an object with `from`"),
        (r#"{"messages": [{"role": "user", "content": [{"type": "video"}]}]}"#.into(), "`video`"),
    ];
    for (row, wanted) in cases {
        let dir = set(&[("a.png", ""), ("a.jsonl", &row), ("b.json", &format!("[{row}]"))]);
        let error = open(dir.path(), "a.jsonl").unwrap_err().to_string();
        assert!(error.contains("a.jsonl:1: ") && error.contains(wanted), "{error} lacks {wanted}");
        let error = open(dir.path(), "b.json").unwrap_err().to_string();
        let place = error.contains("b.json: row 1: ");
        assert!(place && (error.contains(wanted) || wanted == "not an object"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for (file, text, wanted) in [
        ("a.json", "", "neither a list nor an object"),
        ("a.json", "[]", "no sample in it"),
        ("a.json", "[{}] x", "none of the fields"),
        ("a.json", "{}", "neither VQA v2's"),
        ("a.txt", "", "not a caption file"),
    ] {
        let dir = set(&[(file, text)]);
        let error = open(dir.path(), file).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error} lacks {wanted}");
    }
    let dir = set(&[("a.png", ""), ("t.jsonl", &q(r#""answer": "a""#))]);
    let error = Dataset::open(dir.path().to_str().unwrap(), "train").unwrap_err().to_string();
    assert!(error.contains("t.jsonl:1: a question, not a caption"), "{error}");
}
