//! Questions and conversations, with the random models whose answers transformers gave
//! (xtask/golden/generative.py).

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{copy, fresh, model, refuses, text, vlm, works};
use serde_json::Value;
use vlm_store::TensorFiles;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-fusion/tests/golden/generative").join(name)
}

/// `vlm generate` about a picture.
fn ask(model: &str, prompt: &str) -> Command {
    let mut vlm = vlm();
    vlm.arg("generate").arg("--model").arg(folder(model)).arg("--prompt").arg(prompt);
    vlm.arg("--image").arg(folder("wide.png"));
    vlm
}

#[track_caller]
fn document(command: &mut Command) -> Value {
    serde_json::from_str(&works(command.arg("--json"))).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

#[test]
fn answers_are_those_of_the_reference() {
    let cases = fs::read(folder("smolvlm/cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let case = &cases["cases"][0];
    assert_eq!(case["chat"][0]["content"][1]["text"], "What is this?");
    let logits = fresh("generate").join("logits.safetensors");
    for no_cache in [false, true] {
        let mut command = ask("smolvlm", "What is this?");
        command.args(["--max-tokens", "64"]);
        if no_cache {
            command.arg("--no-cache");
        } else {
            command.arg("--logits").arg(&logits);
        }
        let answer = document(&mut command);
        let mut names: Vec<_> = answer.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["boxes", "prompt_tokens", "text", "token_ids"]);
        assert_eq!(ids(&answer["token_ids"]), ids(&case["greedy"]));
        assert_eq!(answer["prompt_tokens"], ids(&case["ids"]).len());
    }
    let file = TensorFiles::open_file(&logits).unwrap();
    let tokens = ids(&case["ids"]);
    let saw: Vec<i64> = file.read("input_ids").unwrap().iter::<i64>().collect();
    assert_eq!(saw, tokens);
    let all = file.read("logits").unwrap();
    let [1, count, vocabulary] = all.shape()[..] else { panic!("{:?}", all.shape()) };
    assert_eq!(count, tokens.len());
    let last: Vec<f32> = all.iter::<f32>().skip((count - 1) * vocabulary).collect();
    let best = (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
    assert_eq!(best as i64, ids(&case["greedy"])[0]);
}

#[test]
fn what_is_drawn_repeats_and_is_shown_as_it_comes() {
    let drawn = |more: &[&str]| {
        let mut command = ask("smolvlm", "What is this?");
        command.args(["--temperature", "0.9", "--top-k", "30", "--top-p", "0.95"]);
        works(command.args(["--max-tokens", "40"]).args(more))
    };
    let one = drawn(&["--seed", "1"]);
    assert_eq!(one, drawn(&["--seed", "1"]));
    assert_ne!(one, drawn(&["--seed", "2"]));
    assert_eq!(one, drawn(&["--seed", "1", "--stream"]));
    let penalised = drawn(&["--seed", "1", "--repetition-penalty", "1.5"]);
    assert_ne!(one, penalised);
}

#[test]
fn stop_strings_are_cut_off() {
    let mut plain = ask("smolvlm", "What is this?");
    let whole = document(plain.args(["--max-tokens", "40"]));
    let said = whole["text"].as_str().unwrap();
    let stop: String = said.chars().skip(12).take(3).collect();
    let end = said.find(&stop).unwrap();
    for stream in [false, true] {
        let mut command = ask("smolvlm", "What is this?");
        command.args(["--max-tokens", "40", "--stop", "never said", &stop]);
        if stream {
            assert_eq!(works(command.arg("--stream")), format!("{}\n", &said[..end]));
        } else {
            let cut = document(&mut command);
            assert_eq!(cut["text"], said[..end]);
            assert!(ids(&cut["token_ids"]).len() < 40);
        }
    }
    // An answer that stops before it begins.
    let first: String = said.chars().take(1).collect();
    let mut command = ask("smolvlm", "What is this?");
    assert_eq!(document(command.args(["--stop", &first]))["text"], "");
}

#[test]
fn questions_that_cannot_be_answered() {
    let picture = folder("wide.png");
    refuses(
        ask("smolvlm", "What?").arg("--image").arg("none.png"),
        1,
        &["none.png", "No such file"],
    );
    refuses(&mut ask("smolvlm", "<image> or <image>?"), 1, &["2 `<image>`", "1 picture"]);
    refuses(ask("smolvlm", "<image>?").arg("--image").arg(&picture), 1, &["1 `<image>`"]);
    refuses(ask("smolvlm", "What?").arg("--raw"), 1, &["0 `<image>`"]);
    refuses(&mut ask("smolvlm", &"very ".repeat(9000)), 1, &["tokens", "the model takes"]);
    for (option, value) in [("--temperature", "-1"), ("--top-p", "1.5"), ("--temperature", "NaN")] {
        refuses(ask("smolvlm", "What?").args([option, value]), 2, &[value.trim_start_matches('-')]);
    }
    for option in ["--max-tokens", "--top-k"] {
        refuses(ask("smolvlm", "What?").args([option, "0"]), 2, &[option]);
    }
    refuses(ask("smolvlm", "What?").args(["--json", "--stream"]), 2, &["--stream"]);
    // A model that makes no text.
    let mut vlm = vlm();
    vlm.args(["generate", "--prompt", "What?", "--model"]).arg(model());
    refuses(&mut vlm, 1, &["makes no text"]);
    // A damaged setting.
    let broken = fresh("generate-broken").join("model");
    copy(&folder("smolvlm"), &broken);
    fs::write(broken.join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    let mut vlm = common::vlm();
    vlm.args(["generate", "--prompt", "What?", "--model"]).arg(&broken);
    refuses(&mut vlm, 1, &["generation_config.json", "eos_token_id"]);
}

/// The answers to lines of input, and how it ended.
fn chat(model: &str, lines: &[&str]) -> (Vec<u8>, Vec<u8>, Option<i32>) {
    let mut vlm = vlm();
    vlm.arg("chat").arg("--model").arg(folder(model)).args(["--max-tokens", "12"]);
    vlm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = vlm.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may end before it has heard all.
    let _ = input.write_all(lines.join("\n").as_bytes());
    drop(input);
    let done = child.wait_with_output().unwrap();
    (done.stdout, done.stderr, done.status.code())
}

#[test]
fn a_conversation_through_a_pipe() {
    let show = format!("/image {}", folder("wide.png").display());
    let ask = "What is this?";
    let (said, errors, code) = chat("smolvlm", &[&show, ask, "", "And now?", "/reset", &show, ask]);
    assert_eq!((text(&errors).as_str(), code), ("", Some(0)));
    // The first answer is that of `vlm generate`, and comes again after the reset.
    let mut alone = self::ask("smolvlm", ask);
    let alone = works(alone.args(["--max-tokens", "12"]));
    assert!(said.starts_with(alone.as_bytes()) && said.ends_with(alone.as_bytes()));
    assert!(said.len() > 2 * alone.len(), "the second answer is missing");
    // What comes after the end is not heard.
    assert_eq!(chat("smolvlm", &["/quit", "What?"]), (vec![], vec![], Some(0)));
}

#[test]
fn a_conversation_that_cannot_go_on() {
    for (model, line, words) in [
        ("smolvlm", "/image none.png", "none.png"),
        ("smolvlm", "/nonsense", "/nonsense"),
        ("paligemma", "hello", "no chat template"),
    ] {
        let (said, errors, code) = chat(model, &[line]);
        let errors = text(&errors);
        assert_eq!((said.as_slice(), code), (&b""[..], Some(1)), "{errors}");
        assert!(errors.contains(words) && errors.lines().count() == 1, "{errors}");
    }
    let (_, errors, code) = chat("smolvlm", &["hello", &"very ".repeat(9000)]);
    assert_eq!(code, Some(1));
    assert!(text(&errors).contains("the model takes"));
}

/// A random model speaks of no boxes: the picture is written all the same, and that is said.
#[test]
fn a_picture_is_drawn_without_boxes_too() {
    let sheet = fresh("generate-draw").join("out.png");
    let mut command = ask("smolvlm", "Where is it?");
    let output = command.args(["--max-tokens", "4"]).arg("--draw").arg(&sheet).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no boxes"));
    assert_eq!(&fs::read(&sheet).unwrap()[1..4], b"PNG");
    let mut nothing = vlm();
    nothing.args(["generate", "--model"]).arg(folder("smolvlm"));
    let output = nothing.args(["--prompt", "x", "--draw", "x.png"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_folder_and_a_first_step_are_shown() {
    let said = works(vlm().arg("inspect").arg(folder("llava-dinov2")));
    for words in ["llava in ", "fusion       mlp, 16 places a picture", "3 layers", "2 layers"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let dir = fresh("inspect-generative");
    for picture in ["wide.png", "tall.png"] {
        std::fs::copy(folder(picture), dir.join(picture)).unwrap();
    }
    let lines = "{\"image\": \"wide.png\", \"question\": \"what is it\", \"answer\": \"a cat\"}\n\
                 {\"image\": \"wide.png\", \"question\": \"how many\", \"answer\": \"two\"}\n\
                 {\"image\": \"tall.png\", \"question\": \"is it red\", \"answer\": \"no\"}\n";
    std::fs::write(dir.join("train.jsonl"), lines).unwrap();
    let config = format!(
        "[data]\ntrain = {:?}\n[model.generative]\nfrom = {:?}\n[batch]\nsize = 2\n",
        dir.display().to_string(),
        folder("llava-dinov2").display().to_string()
    );
    std::fs::write(dir.join("run.toml"), config).unwrap();
    let page = dir.join("batch.html");
    let mut batch = vlm();
    batch.arg("inspect").arg("--batch").arg(dir.join("run.toml")).arg("--out").arg(&page);
    works(&mut batch);
    let html = std::fs::read_to_string(page).unwrap();
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 2);
    assert!(html.contains("tokens that are learned"));
}
