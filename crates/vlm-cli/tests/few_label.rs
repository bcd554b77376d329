//! `vlm eval --task few-label` from the outside.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, Tensor};
use common::{copy, fails, fresh, model, refuses, text, vlm, works};
use image::{Rgb, RgbImage};
use vlm_contrastive::few_label::{DualPrompts, Prompts};
use vlm_contrastive::{Dual, embed_texts};

const COLOURS: [(&str, [u8; 3]); 3] =
    [("blue sky", [60, 90, 220]), ("grass", [40, 180, 60]), ("brick", [190, 60, 40])];

/// A folder a class, with pictures of about one colour.
fn set(dir: &Path, counts: [usize; 3]) -> PathBuf {
    for ((class, colour), count) in COLOURS.iter().zip(counts) {
        let dir = dir.join(class);
        fs::create_dir_all(&dir).unwrap();
        for i in 0..count {
            let shade = |c: u8, x: u32, y: u32| {
                c.saturating_add(((x * 7 + y * 13 + i as u32 * 29) % 40) as u8)
            };
            let picture = RgbImage::from_fn(16, 16, |x, y| Rgb(colour.map(|c| shade(c, x, y))));
            picture.save(dir.join(format!("{i:02}.png"))).unwrap();
        }
    }
    dir.to_owned()
}

fn eval(train: &Path, test: &Path, features: &Path) -> Command {
    let mut vlm = vlm();
    vlm.args(["eval", "--task", "few-label", "--model"]).arg(model()).arg("--data").arg(train);
    vlm.arg("--test").arg(test).arg("--features").arg(features);
    vlm
}

#[test]
fn methods_are_compared() {
    let dir = fresh("few-compared");
    let (train, test) = (set(&dir.join("train"), [14; 3]), set(&dir.join("test"), [6; 3]));
    let call = || {
        let mut vlm = eval(&train, &test, &dir.join("features"));
        vlm.args(["--shots", "2,1", "--seeds", "2", "--unlabelled", "18", "--views", "1"]);
        vlm.args(["--methods", "coop,fixmatch,label-propagation,tip-adapter,zero-shot"]);
        vlm
    };
    let first = call().arg("--json").arg("--out").arg(dir.join("out")).output().unwrap();
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("training pictures  step "));
    let found: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let results = found["results"].as_array().unwrap();
    // Six methods, the probe among them unasked; two of them with and without unlabelled pictures.
    assert_eq!(results.len(), 2 * 8);
    assert_eq!(results[0]["method"], "linear-probe");
    for result in results {
        assert_eq!(result["accuracies"].as_array().unwrap().len(), 2, "{result}");
        assert_eq!(result["gain"].is_null(), result["unlabelled"] == false, "{result}");
        // Eight steps taught the text tower nothing.
        let by_text = result["method"] == "zero-shot" || result["method"] == "coop";
        assert!(by_text || result["mean"].as_f64() > Some(0.5), "{result}");
    }
    for name in ["results.json", "results.md", "report.html"] {
        let written = fs::read_to_string(dir.join("out").join(name)).unwrap();
        assert!(written.contains("label-propagation"), "{name}");
    }

    // The features are there now, and the results are the same.
    let again = call().arg("--json").output().unwrap();
    assert_eq!(text(&again.stdout), text(&first.stdout));
    assert!(!text(&again.stderr).contains("pictures  step "), "{}", text(&again.stderr));
    let shown = works(&mut call());
    for line in ["Accuracy in per cent", "Points above the linear-probe", "fixmatch + unlabelled"] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn sets_and_arguments_that_do_not_fit() {
    let dir = fresh("few-bad");
    let (train, test) = (set(&dir.join("train"), [6, 6, 3]), set(&dir.join("test"), [2; 3]));
    let features = dir.join("features");
    let call = || eval(&train, &test, &features);
    refuses(
        call().args(["--shots", "1,4"]),
        1,
        &["class `brick` has 3 training", "--min-pictures"],
    );
    refuses(call().args(["--shots", "0"]), 2, &["at least 1"]);
    refuses(call().args(["--methods", "magic"]), 2, &["no method `magic`", "label-propagation"]);
    refuses(call().args(["--shots", "1", "--min-pictures", "7"]), 1, &["0 class"]);
    refuses(
        call().args(["--shots", "1", "--layer", "0", "--methods", "clip-adapter"]),
        1,
        &["clip-adapter compares pictures with texts", "--layer"],
    );
    refuses(call().args(["--shots", "1", "--transductive"]), 2, &["--unlabelled"]);
    let mut other = vlm();
    other.args(["eval", "--task", "zero-shot", "--layer", "1", "--model"]).arg(model());
    refuses(other.arg("--data").arg(&test), 2, &["--layer is only of --task few-label"]);
    let mut none = vlm();
    none.args(["eval", "--task", "few-label", "--model"]).arg(model()).arg("--data").arg(&train);
    refuses(&mut none, 2, &["needs --test"]);

    fs::remove_dir_all(test.join("grass")).unwrap();
    refuses(call().args(["--shots", "1"]), 1, &["no picture of class `grass`"]);
    fs::create_dir(test.join("grass")).unwrap();
    fs::create_dir(test.join("cloud")).unwrap();
    fs::copy(test.join("brick/00.png"), test.join("grass/a.png")).unwrap();
    fs::copy(test.join("brick/00.png"), test.join("cloud/a.png")).unwrap();
    refuses(call().args(["--shots", "1"]), 1, &["label `cloud` does not occur"]);
}

#[test]
fn features_that_are_no_numbers() {
    let dir = fresh("few-nan");
    let (train, test) = (set(&dir.join("train"), [3; 3]), set(&dir.join("test"), [1; 3]));
    let broken = dir.join("broken");
    copy(&model(), &broken);
    let weights = broken.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[header..].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(&weights, bytes).unwrap();
    let mut vlm = vlm();
    vlm.args(["eval", "--task", "few-label", "--shots", "1", "--model"]).arg(&broken);
    vlm.arg("--data").arg(&train).arg("--test").arg(&test).arg("--features").arg(dir.join("f"));
    fails(&mut vlm, 1, &["broken: ", "no numbers", "train it again"]);
}

/// A context of the tokens of some words is those words.
#[test]
fn prompts_of_words_are_texts() {
    let labels = ["cat", "a long dog name"].map(str::to_owned);
    let plain = Dual::open(&model(), &Device::flex()).unwrap();
    let texts = labels.clone().map(|label| format!("red {label}"));
    let want: Vec<f32> = embed_texts(&plain, &texts).unwrap().into_data().iter().collect();
    let tracked = Dual::open(&model(), &Device::flex().autodiff()).unwrap();
    let prompts = DualPrompts::new(tracked, &labels).unwrap();
    let words = prompts.look_up("red").unwrap();
    let [tokens, width] = words.dims();
    let got = prompts.encode(words.reshape([1, tokens, width])).inner();
    let got: Vec<f32> = got.into_data().iter().collect();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }

    // The gradient reaches the context, and is that of finite differences along itself.
    let start = prompts.look_up("red").unwrap().inner().reshape([1, tokens, width]);
    let said = |context: Tensor<3>| (prompts.encode(context).narrow(1, 0, 3) * 10.0).sum();
    let context = Tensor::<3>::from_inner(start.clone()).require_grad();
    let gradient = context.grad(&said(context.clone()).backward()).unwrap();
    let length = (gradient.clone() * gradient.clone()).sum().sqrt();
    let want: f32 = length.clone().into_scalar();
    assert!(want > 1e-3, "{want}");
    let unit = gradient / length.reshape([1, 1, 1]);
    let step = 1e-3;
    let moved = |by: f64| -> f32 {
        said(Tensor::from_inner(start.clone() + unit.clone() * by)).into_scalar()
    };
    let got = (moved(step) - moved(-step)) / (2.0 * step as f32);
    assert!((got - want).abs() < 0.03 * want, "{got} {want}");
}
