//! Tokens are chosen as transformers chooses them (xtask/golden/decode.py).

use serde_json::Value;
use vlm_fusion::decode::{Sampling, probabilities};

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn probabilities_are_those_of_the_reference() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/decode/choices.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let settings = &case["settings"];
        let sampling = Sampling {
            temperature: settings["temperature"].as_f64().unwrap_or(1.0),
            top_k: settings["top_k"].as_u64().map(|k| k as usize),
            top_p: settings["top_p"].as_f64(),
            repetition_penalty: settings["repetition_penalty"].as_f64().unwrap_or(1.0),
            ..Sampling::default()
        };
        let seen = case["seen"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap());
        let got = probabilities(floats(&case["logits"]), &seen.collect(), &sampling).unwrap();
        let want = floats(&case["probabilities"]);
        assert_eq!(got.len(), want.len());
        for (id, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(*got == 0.0, *want == 0.0, "{settings}: token {id} is {got}, not {want}");
            assert!((got - want).abs() < 2e-7, "{settings}: token {id} is {got}, not {want}");
        }
    }
}
