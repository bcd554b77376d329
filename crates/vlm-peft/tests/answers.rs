//! Answers of a model whose attentions are skipped, or that remembers pictures: the same with and without a
//! cache, alone and among others, in a row of their own and packed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_fusion::decode::{Decode, Prompt, Sampling, generate};
use vlm_fusion::task::{Lesson, Row, Seen};
use vlm_fusion::{GenerativeFolder, GenerativeModel};
use vlm_nn::adapter::NormOf;
use vlm_nn::params::{self, Init};
use vlm_peft::{AnyMethod, Eas, Memvp, Sight, attach, fold};

fn device() -> Device {
    Device::flex()
}

/// A small model that speaks.
fn llava() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-fusion/tests/golden/generative/llava-clip")
}

/// The model with an adapter whose values are all random.
fn adapted(method: &AnyMethod) -> GenerativeModel {
    let folder = GenerativeFolder::open(&llava(), &device()).unwrap();
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    let model = folder.model.clone().train();
    let (model, _) = attach(model, "one", method, None, &names, 1).unwrap();
    let fill = &mut |path: &str, shape: &[usize]| {
        let mine = path.contains(".adapters.parts.");
        Ok::<_, ()>(mine.then(|| params::drawn(Init::Normal(0.4), shape, 5, path)))
    };
    params::replace(model, fill).unwrap().valid()
}

fn methods() -> Vec<(&'static str, AnyMethod)> {
    let eas = |layers: Vec<usize>, router| {
        AnyMethod::Eas(Eas { layers, router, size: 4, ..Default::default() })
    };
    let sight = Some(Sight { width: 16, rows: 16, blocks: 2 });
    let memvp = |shared| {
        AnyMethod::Memvp(Memvp {
            lambda: 1.0,
            scale: 1.0,
            size: 6,
            shared,
            sight,
            ..Default::default()
        })
    };
    vec![
        ("eas", eas(vec![1], true)),
        ("eas, bare", eas(vec![0], false)),
        ("eas, both", eas(vec![0, 1], true)),
        ("memvp", memvp(true)),
        ("memvp, each its own", memvp(false)),
    ]
}

fn picture(seed: usize) -> Tensor<4> {
    let values: Vec<f32> =
        (0..3 * 16 * 16).map(|i| ((i * (seed + 3)) as f32 * 0.37).sin()).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, 16, 16]), &device())
}

/// A prompt of some tokens behind a picture.
fn prompt(model: &GenerativeModel, texts: &[(usize, &[i64])]) -> Prompt {
    let image = model.image_token();
    let places = if model.memory().is_some() { 0 } else { 16 };
    let (mut ids, mut pictures) = (Vec::new(), Vec::new());
    for (seed, text) in texts {
        let places = std::iter::repeat_n(image, places);
        ids.push([3, 8].into_iter().chain(places).chain(text.iter().copied()).collect());
        let rows = model.fuse(model.look_at(picture(*seed)), (16, 16), None);
        let [_, count, width] = rows.dims();
        pictures.push(Some(rows.reshape([count, width])));
    }
    model.prompt_with(ids, pictures).unwrap()
}

fn said(model: &GenerativeModel, prompt: &Prompt, cached: bool) -> Vec<Vec<i64>> {
    let sampling = Sampling { max_tokens: 24, cached, ..Default::default() };
    let mut quiet = |_: usize, _: i64| ControlFlow::Continue(());
    let all = generate(model, prompt, &sampling, &mut quiet).unwrap();
    all.into_iter().map(|one| one.ids).collect()
}

/// What the model makes of a prompt, before the logits.
fn states(model: &GenerativeModel, prompt: &Prompt) -> Vec<f32> {
    let mut pass = prompt.pass(0, prompt.rows.dims()[1], model.context());
    model.extend(prompt.rows.clone(), &mut pass).into_data().iter().collect()
}

/// Folded, a model says what it said: prompts and answers, one and several.
#[test]
fn folded_is_unfolded() {
    let folder = GenerativeFolder::open(&llava(), &device()).unwrap();
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    let blocks = &folder.plan.spec.text.blocks[0];
    let (own, first) = (NormOf::FeedForward, NormOf::Attention);
    for (layers, router, norm) in [
        (vec![1], false, own),
        (vec![0, 1], false, own),
        (vec![0, 1], false, first),
        (vec![1], true, own),
    ] {
        let method = AnyMethod::Eas(Eas { layers, router, norm, size: 4, ..Default::default() });
        let model = folder.model.clone().train();
        let (model, adapter) = attach(model, "one", &method, None, &names, 1).unwrap();
        let fill = &mut |path: &str, shape: &[usize]| {
            let mine = path.contains(".adapters.parts.");
            Ok::<_, ()>(mine.then(|| params::drawn(Init::Normal(0.4), shape, 5, path)))
        };
        let model = params::replace(model, fill).unwrap().valid();
        let folded = match fold(model.clone(), &adapter, blocks) {
            Ok(folded) => folded,
            Err(error) => {
                assert!(router && error.to_string().contains("router=false"), "{error}");
                continue;
            }
        };
        assert!(!router);
        let prompt = prompt(&model, &TEXTS);
        let (a, b) = (states(&model, &prompt), states(&folded, &prompt));
        let largest = a.iter().fold(1f32, |most, x| most.max(x.abs()));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5 * largest, "{a} and, folded, {b}");
        }
        assert_eq!(said(&folded, &prompt, true), said(&model, &prompt, true));
        assert_eq!(said(&folded, &prompt, false), said(&model, &prompt, true));
    }
}

/// With the feed-forward's own norm, a model whose attentions are skipped begins as one whose attentions say nothing.
#[test]
fn a_skipped_attention_is_missed_and_nothing_else() {
    let folder = GenerativeFolder::open(&llava(), &device()).unwrap();
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    let of = |norm| {
        let method = AnyMethod::Eas(Eas { layers: vec![1], norm, size: 4, ..Default::default() });
        attach(folder.model.clone(), "one", &method, None, &names, 1).unwrap().0
    };
    let silent = params::replace(folder.model.clone(), &mut |path, shape| {
        let said = path.starts_with("text.") && path.contains(".blocks.1.attention.out.");
        Ok::<_, ()>(said.then(|| TensorData::zeros::<f32, _>(shape.to_vec())))
    })
    .unwrap();
    let states = |model: &GenerativeModel| states(model, &prompt(model, &TEXTS));
    let far =
        |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    let want = states(&silent);
    assert!(far(&states(&of(NormOf::FeedForward)), &want) < 1e-5);
    assert!(far(&states(&of(NormOf::Attention)), &want) > 1e-3, "the code of EAS is not the same");
    assert!(far(&states(&folder.model), &want) > 1e-3, "the attention says something");
}

const TEXTS: [(usize, &[i64]); 3] =
    [(1, &[20, 21, 22]), (2, &[30]), (3, &[9, 40, 41, 42, 43, 44, 45])];

#[test]
fn answers_do_not_depend_on_the_cache_or_on_others() {
    for (name, method) in methods() {
        let model = adapted(&method);
        let together = prompt(&model, &TEXTS);
        let all = said(&model, &together, true);
        assert_eq!(all, said(&model, &together, false), "{name}: without a cache");
        for (text, answer) in TEXTS.iter().zip(&all) {
            let alone = prompt(&model, &[*text]);
            assert_eq!(&said(&model, &alone, true)[0], answer, "{name}: alone");
        }
        // Another picture is another answer: what is compared is not always the same.
        let other = prompt(&model, &[(7, TEXTS[0].1)]);
        let logits = |prompt: &Prompt| -> Vec<f32> {
            let tokens = prompt.rows.dims()[1];
            let mut pass = prompt.pass(0, tokens, model.context());
            let states = model.extend(prompt.rows.clone(), &mut pass).narrow(1, tokens - 1, 1);
            Decode::logits(&model, states).into_data().iter().collect()
        };
        assert_ne!(logits(&other), logits(&prompt(&model, &TEXTS[..1])), "{name}: another picture");
    }
}

#[test]
fn conversations_in_one_row_do_not_hear_each_other() {
    for (name, method) in methods() {
        let model = adapted(&method);
        let image = model.image_token();
        let places = if model.memory().is_some() { 0 } else { 16 };
        let lesson = |text: &[i64]| {
            let ids: Vec<i64> = [3, 8]
                .into_iter()
                .chain(std::iter::repeat_n(image, places))
                .chain(text.iter().copied())
                .collect();
            let learned = (0..ids.len()).map(|i| i + 2 >= ids.len()).collect();
            Lesson { ids, learned }
        };
        let lessons =
            [lesson(&[20, 21, 22, 5]), lesson(&[9, 40, 41, 42, 6, 7]), lesson(&[30, 31, 33])];
        let foretold = |lessons: &[Lesson]| -> Vec<f32> {
            let seen = Seen { states: model.look_at(picture(1)), size: (16, 16), of_rows: vec![1] };
            let logits = model.foretell(&[Row::pack(lessons)], Some(seen), None).unwrap();
            logits.into_data().iter().collect()
        };
        let packed = foretold(&lessons);
        let alone: Vec<f32> =
            lessons.iter().flat_map(|lesson| foretold(std::slice::from_ref(lesson))).collect();
        assert_eq!(packed.len(), alone.len());
        for (a, b) in packed.iter().zip(&alone) {
            assert!((a - b).abs() < 2e-4, "{name}: {a} packed and {b} alone");
        }
    }
}
