//! Adapters of encoders from the command line.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{encoders, example, fails, fresh, refuses, vlm, works};

fn finetune(model: &Path, method: &str, data: &Path, out: &Path) -> Command {
    let mut command = vlm();
    command.arg("finetune").arg("--model").arg(model).args(["--method", method]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--batch", "2", "--steps", "4", "--lr", "0.05"]);
    command.args(["--set", "train.checkpoint_every=2", "--set", "train.keep=9"]);
    command
}

fn embedded(model: &Path, adapter: Option<&Path>, what: &[&str]) -> String {
    let mut command = vlm();
    command.arg("embed").arg("--model").arg(model).args(what);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    works(command.arg("--json"))
}

#[test]
fn encoders_of_one_kind_are_adapted_and_merged() {
    let dir = fresh("finetune-solo");
    encoders(&dir);
    let picture = example("csv").join("cat.png");
    let picture = picture.to_str().unwrap();
    for (tower, data, what) in
        [("vision", "csv", ["--image", picture]), ("text", "csv", ["--text", "a b c"])]
    {
        let (model, data) = (dir.join(tower), example(data));
        let plain = embedded(&model, None, &what);
        for method in ["lora", "qlora", "ia3", "full"] {
            let out = dir.join(format!("{tower}-{method}"));
            let mut command = finetune(&model, method, &data, &out);
            command.arg("--test").arg(&data);
            if method.ends_with("lora") {
                command.args(["--set", "r=2"]);
            }
            let said = works(&mut command);
            assert!(said.contains("nearest"), "{tower} {method}: {said}");
            if method == "full" {
                assert_ne!(embedded(&out.join("model"), None, &what), plain);
                continue;
            }
            let adapter = out.join("adapter");
            let worn = embedded(&model, Some(&adapter), &what);
            assert_ne!(worn, plain, "{tower} {method}");
            if method == "lora" {
                let merged = dir.join(format!("{tower}-merged"));
                let mut command = vlm();
                command.arg("merge").arg("--model").arg(&model).arg("--adapter").arg(&adapter);
                works(command.arg("--out").arg(&merged));
                assert_eq!(embedded(&merged, None, &what), worn, "{tower}");
            }
        }
        // Stopped and gone on with, it comes to the same.
        let (whole, again) = (dir.join(format!("{tower}-ia3")), dir.join(format!("{tower}-again")));
        common::copy(&whole, &again);
        fs::remove_dir_all(again.join("adapter")).unwrap();
        fs::remove_dir_all(again.join("checkpoints/step-00000004")).unwrap();
        let mut command = finetune(&model, "ia3", &data, &again);
        works(command.arg("--test").arg(&data).arg("--resume"));
        let file = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(file(&again), file(&whole));
    }
}

/// Values of a safetensors file, whatever they are.
fn bytes(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}

#[test]
fn all_weights_are_trained_by_every_rule() {
    let dir = fresh("finetune-rules");
    encoders(&dir);
    let tune = |model: &Path, rule: &str, out: &Path| {
        let mut command = finetune(model, "full", &example("csv"), out);
        command.args(["--optimizer", rule]);
        command
    };
    let models = [dir.join("vision"), dir.join("text"), common::model()];
    for (number, model) in models.iter().enumerate() {
        let out = |name: &str| dir.join(format!("{number}-{name}"));
        for rule in ["sgd", "lomo", "adalomo"] {
            works(&mut tune(model, rule, &out(rule)));
            assert_ne!(bytes(&out(rule)), fs::read(model.join("model.safetensors")).unwrap());
            // Stopped after half of it and gone on with, it comes to the same.
            let again = out(&format!("{rule}-again"));
            common::copy(&out(rule), &again);
            fs::remove_dir_all(again.join("model")).unwrap();
            fs::remove_dir_all(again.join("checkpoints/step-00000004")).unwrap();
            works(tune(model, rule, &again).arg("--resume"));
            assert!(bytes(&again) == bytes(&out(rule)), "{rule} {number}");
        }
        // LOMO is descent, but for the clipping that it is spared here.
        let plain = out("plain");
        works(tune(model, "sgd", &plain).args(["--set", "optim.clip=0"]));
        let floats = |run: &Path| -> Vec<f32> {
            let file = bytes(run);
            let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
            let mut names = tensors.names();
            names.sort();
            let values = |name: &&str| {
                let data = tensors.tensor(name).unwrap().data().to_vec();
                data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            names.iter().flat_map(|name| -> Vec<f32> { values(&&**name) }).collect()
        };
        let (fused, plain) = (floats(&out("lomo")), floats(&plain));
        assert!(fused.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5), "{number}");
        for (value, same) in [("1e9", true), ("1e-9", false)] {
            let cut = out(&format!("cut-{value}"));
            let setting = format!("optim.clip_value={value}");
            works(tune(model, "lomo", &cut).args(["--set", &setting]));
            assert_eq!(bytes(&cut) == bytes(&out("lomo")), same, "{number} {value}");
        }
    }
    let out = dir.join("refused");
    let refused = |method: &str, more: &[&str]| {
        let mut command = finetune(&models[2], method, &example("csv"), &out);
        command.args(["--optimizer", "lomo"]).args(more);
        command
    };
    let twice = ["--set", "train.accumulate=2"];
    refuses(&mut refused("full", &twice), 1, &["gradients that nobody keeps cannot be added up"]);
    let chunk = ["--set", "batch.chunk=1"];
    fails(&mut refused("full", &chunk), 1, &["batch.chunk needs gradients that are kept"]);
    let sgd = ["--optimizer", "sgd", "--set", "optim.clip_value=0.1"];
    let mut command = finetune(&models[2], "full", &example("csv"), &out);
    refuses(command.args(sgd), 1, &["optim.clip_value cuts lomo's gradients alone"]);
    fs::remove_dir_all(&out).unwrap();
    let fa = refused("lora-fa", &["--set", "r=2"]);
    fails(&mut { fa }, 1, &["do not keep the gradients that this method"]);
}

#[test]
fn what_has_nothing_that_belongs_together_is_refused() {
    let dir = fresh("finetune-solo-refused");
    encoders(&dir);
    let list = dir.join("alone.jsonl");
    let image = example("csv").join("cat.png");
    fs::copy(&image, dir.join("a.png")).unwrap();
    fs::copy(&image, dir.join("b.png")).unwrap();
    let rows = ["a", "b"]
        .map(|name| format!("{{\"image\": \"{name}.png\", \"captions\": [\"{name}\"]}}\n"));
    fs::write(&list, rows.concat()).unwrap();
    let out = dir.join("out");
    let pictures = finetune(&dir.join("vision"), "lora", &list, &out);
    refuses(&mut { pictures }, 1, &["no two pictures have the same label or group"]);
    let texts = finetune(&dir.join("text"), "lora", &list, &out);
    refuses(&mut { texts }, 1, &["no two texts have the same picture, label or group"]);
    assert!(!out.exists());
}

#[test]
fn what_trains_whole_beside_an_adapter_is_kept_with_it() {
    let dir = fresh("finetune-beside");
    encoders(&dir);
    let (model, out) = (dir.join("vision"), dir.join("run"));
    let with = |settings: &[&str]| {
        let mut command = finetune(&model, "lora", &example("csv"), &out);
        command.args(["--set", "r=2"]).args(settings);
        command
    };
    works(&mut with(&["--set", "bias=lora_only", "--set", "modules_to_save=[\"layernorm\"]"]));
    let config = fs::read_to_string(out.join("adapter/adapter_config.json")).unwrap();
    assert!(config.contains("\"lora_only\"") && config.contains("\"layernorm\""), "{config}");
    let file = fs::read(out.join("adapter/adapter_model.safetensors")).unwrap();
    let names = String::from_utf8_lossy(&file);
    assert!(names.contains("query.base_layer.bias") && names.contains("model.layernorm.weight"));
    let picture = example("csv").join("cat.png");
    let what = ["--image", picture.to_str().unwrap()];
    let adapter = out.join("adapter");
    assert_ne!(embedded(&model, Some(&adapter), &what), embedded(&model, None, &what));
    fs::remove_dir_all(&out).unwrap();
    let unknown = ["--set", "modules_to_save=[\"head\"]"];
    refuses(&mut with(&unknown), 1, &["the model has no module `head`"]);
    let mut command = finetune(&model, "ia3", &example("csv"), &out);
    refuses(command.args(["--set", "bias=all"]), 1, &["bias is for other methods than ia3"]);
    assert!(!out.exists());
}

#[test]
fn an_adapter_of_a_dual_encoder_is_worn_everywhere() {
    let dir = fresh("dual-worn");
    let (clip, out) = (common::model(), dir.join("run"));
    let mut command = finetune(&clip, "lora", &example("csv"), &out);
    works(command.args(["--set", "r=3"]));
    let (adapter, picture) = (out.join("adapter"), example("csv").join("cat.png"));
    let ask = |name: &str, more: &[&str]| {
        let mut command = vlm();
        command.arg(name).arg("--model").arg(&clip).args(more);
        match name {
            "zero-shot" => command.arg("--image").arg(&picture).args(["--labels", "red,blue"]),
            "retrieve" => {
                command.arg("--images").arg(example("folder")).args(["--query", "a red circle"])
            }
            _ => command.arg("--data").arg(example("classes")).args(["--task", "zero-shot"]),
        };
        works(command.arg("--json"))
    };
    let worn = adapter.to_str().unwrap();
    for name in ["zero-shot", "retrieve", "eval"] {
        let (with, without) = (ask(name, &["--adapter", worn]), ask(name, &[]));
        if name != "eval" {
            assert_ne!(with, without, "{name}");
        }
        let first = ask(name, &["--adapter", worn, "--adapter-ranks", "1"]);
        if name == "zero-shot" {
            assert!(first != with && first != without);
        }
    }
    let mut command = vlm();
    command.arg("eval").arg("--model").arg(&clip).arg("--adapter").arg(&adapter);
    command.args(["--task", "few-label", "--data"]).arg(example("classes"));
    refuses(&mut command, 2, &["`vlm merge` makes one model of both"]);
}
