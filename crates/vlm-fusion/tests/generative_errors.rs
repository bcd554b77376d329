//! What does not fit is one clear error; other names and versions of the same are understood.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};
use vlm_encoders::image::{RgbImage, load};
use vlm_fusion::{Error, GenerativeFolder};
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generative").join(name)
}

fn picture() -> RgbImage {
    load(&golden("wide.png")).unwrap()
}

/// A copy of a golden folder.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn open(dir: &Path) -> Result<GenerativeFolder, Error> {
    GenerativeFolder::open(dir, &Device::flex())
}

/// A JSON file of a folder, changed.
fn change(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// The tensors of a folder under other names; those that get none are left out.
fn rename(dir: &Path, name: impl Fn(&str) -> Option<String>) {
    let files = TensorFiles::open_dir(dir, "model").unwrap();
    let (specs, mut values): (Vec<_>, std::collections::BTreeMap<_, _>) = files
        .names()
        .filter_map(|old| Some((old, name(old)?)))
        .map(|(old, name)| {
            let spec = TensorSpec { name: name.clone(), shape: files.shape(old).unwrap().to_vec() };
            (spec, (name, files.read(old).unwrap()))
        })
        .unzip();
    let file = dir.join("model.safetensors");
    let mut value = |name: &str| values.remove(name).unwrap();
    write_tensors(&file, Float::F16, &[], &specs, &mut value).unwrap();
}

fn one_line(error: &Error) -> String {
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 2000, "{message}");
    message
}

/// What opening a golden folder says after a change of its `config.json`.
fn refused(name: &str, changed: impl FnOnce(&mut Value)) -> String {
    let dir = copy(name);
    change(dir.path(), "config.json", changed);
    one_line(&open(dir.path()).unwrap_err())
}

#[test]
fn pictures_and_their_places_pair() {
    let folder = open(&golden("llava-clip")).unwrap();
    let said = |text: &str, pictures: usize| {
        let error = folder.prepare(text, &vec![picture(); pictures]).unwrap_err();
        assert!(matches!(error, Error::Pictures { .. }));
        one_line(&error)
    };
    let more = said("USER: <image> what?", 2);
    assert_eq!(
        more,
        "the prompt has 1 `<image>` and there are 2 pictures; write `<image>` once for each picture"
    );
    assert!(said("USER: <image> and <image>?", 1).starts_with("the prompt has 2 `<image>`"));
    assert!(said("what?", 2).starts_with("the prompt has 0 `<image>`"));
    assert!(said("<image> what?", 0).contains("0 pictures"));
}

#[test]
fn a_picture_without_a_place_gets_one() {
    for (name, expected) in [
        ("llava-clip", "<image>\nWhat?"),
        ("llava-siglip", "<|im_start|>user\n<image>What?<|im_end|>\n<|im_start|>assistant\n"),
        ("smolvlm", "<|im_start|>User:<image>What?<end_of_utterance>\nAssistant:"),
        ("paligemma", "<image>What?"),
    ] {
        let folder = open(&golden(name)).unwrap();
        let placed = folder.prepare("What?", &[picture()]).unwrap();
        let exact = folder.prepare_marked(expected, &[picture()]).unwrap();
        assert_eq!(placed.text(), exact.text(), "{name}");
    }
    let folder = open(&golden("llava-siglip")).unwrap();
    let text = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(folder.prepare("What?", &[]).unwrap().text(), text);
}

#[test]
fn a_template_of_texts_alone_gets_the_mark_in_the_text() {
    let dir = copy("llava-siglip");
    let template = "{% for message in messages %}[{{ message['role'] + ': ' + message['content'] }}]\
                    {% endfor %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let folder = open(dir.path()).unwrap();
    let prepared = folder.prepare("What?", &[picture()]).unwrap();
    let exact = folder.prepare_marked("[user: <image>\nWhat?]", &[picture()]).unwrap();
    assert_eq!(prepared, exact);
    assert_eq!(folder.prepare("What?", &[]).unwrap().text(), "[user: What?]");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let folder = open(&golden("llava-clip")).unwrap();
    let error = folder.prepare(&"a long story ".repeat(40), &[picture()]).unwrap_err();
    assert!(matches!(error, Error::Context { context: 256, .. }), "{error}");
    assert!(one_line(&error).ends_with("the model takes 256; shorten it, or give fewer pictures"));
}

#[test]
fn a_tokenizer_without_the_token_of_pictures_is_refused() {
    let dir = copy("llava-clip");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let path = dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap().replace("<image>", "<picture>");
        std::fs::write(path, text).unwrap();
    }
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoImageToken { .. }), "{error}");
    assert!(one_line(&error).contains("no token `<image>` with id 336"));
    let moved = refused("llava-clip", |config| config["image_token_index"] = json!(5));
    assert!(moved.contains("no token `<image>` with id 5"), "{moved}");
}

#[test]
fn files_that_disagree_on_the_rows_of_a_picture_are_found() {
    let dir = copy("llava-clip");
    change(dir.path(), "processor_config.json", |config| config["patch_size"] = json!(2));
    let error = open(dir.path()).unwrap().prepare("What?", &[picture()]).unwrap_err();
    assert!(matches!(error, Error::PictureTokens { tokens: 64, features: 16 }), "{error}");
    one_line(&error);
    // Without the file's counts the model's own are right.
    change(dir.path(), "processor_config.json", |config| config["patch_size"] = Value::Null);
    open(dir.path()).unwrap().prepare("What?", &[picture()]).unwrap();
    let dir = copy("smolvlm");
    change(dir.path(), "processor_config.json", |config| config["image_seq_len"] = json!(9));
    let error = open(dir.path()).unwrap().prepare("What?", &[picture()]).unwrap_err();
    assert!(matches!(error, Error::PictureTokens { tokens: 9, features: 4 }), "{error}");
}

#[test]
fn a_config_that_is_not_that_of_the_tensors_is_told_in_one_line() {
    let text = |key: &'static str, value: Value| {
        move |config: &mut Value| config["text_config"][key] = value
    };
    let vision = |key: &'static str, value: Value| {
        move |config: &mut Value| config["vision_config"][key] = value
    };
    let whole = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value;
    let wide = refused("llava-clip", text("intermediate_size", json!(20)));
    assert!(wide.contains("is [24, 16] and should be [20, 16]"), "{wide}");
    let deep = refused("llava-clip", text("num_hidden_layers", json!(3)));
    assert!(deep.contains("missing: language_model.model.layers.2."), "{deep}");
    let deeper = refused("llava-clip", vision("num_hidden_layers", json!(300)));
    assert!(deeper.contains("vision_config wants 300 layers"), "{deeper}");
    let shallow = refused("llava-dinov2", vision("num_hidden_layers", json!(2)));
    assert!(shallow.contains("surplus: vision_tower.encoder.layer.2."), "{shallow}");
    let unbiased = refused("llava-clip", whole("multimodal_projector_bias", json!(false)));
    assert!(unbiased.contains("2 surplus: multi_modal_projector.linear_1.bias"), "{unbiased}");
    for (name, change, words) in [
        ("llava-clip", text("surprise", json!(1)), "unknown key: text_config.surprise"),
        ("llava-clip", text("model_type", json!("mamba")), "text_config.model_type `mamba`"),
        ("llava-siglip", text("use_sliding_window", json!(true)), "text_config.use_sliding_window"),
    ] {
        let message = refused(name, change);
        assert!(message.contains("config.json: ") && message.contains(words), "{message}");
    }
    for (change, words) in [
        (vision("surprise", json!(1)), "vision_config: unknown field `surprise`"),
        (vision("model_type", json!("siglip2_vision_model")), "vision_config"),
        (vision("image_size", json!(20)), "image_size is 20x20, but preprocessor_config.json"),
        (vision("num_channels", json!(1)), "num_channels is 1"),
    ] {
        let message = refused("llava-clip", change);
        assert!(message.contains("config.json: ") && message.contains(words), "{message}");
    }
    for (name, change, words) in [
        ("llava-clip", whole("surprise", json!(1)), "unknown key: surprise"),
        ("llava-clip", whole("vision_feature_layer", json!(4)), "the states 0 to 3"),
        ("llava-clip", whole("vision_feature_layer", json!(-5)), "vision_feature_layer is -5"),
        ("llava-clip", whole("vision_feature_layer", json!([])), "vision_feature_layer is []"),
        ("llava-clip", whole("vision_feature_select_strategy", json!("all")), "is \"all\""),
        ("llava-clip", whole("projector_hidden_act", json!("mish")), "projector_hidden_act"),
        ("llava-clip", whole("image_token_index", json!("x")), "image_token_index is \"x\""),
        ("llava-clip", whole("text_config", json!(3)), "text_config is not an object"),
        ("llava-clip", whole("model_type", json!("flava")), "model_type `flava`"),
        ("smolvlm", whole("scale_factor", json!(3)), "does not divide the 4 patches"),
        ("paligemma", whole("projection_dim", json!(8)), "projection_dim is 8"),
    ] {
        let message = refused(name, change);
        assert!(message.contains("config.json: ") && message.contains(words), "{message}");
    }
}

#[test]
fn names_that_transformers_has_in_memory_are_understood() {
    let memory = |name: &str| {
        let name = name.replace("vision_tower.vision_model.", "vision_tower.");
        let name = match name.strip_prefix("language_model.") {
            Some(rest) if rest.starts_with("lm_head.") => rest.to_owned(),
            Some(rest) => format!("model.language_model.{}", rest.strip_prefix("model.").unwrap()),
            None => format!("model.{name}"),
        };
        name.replace("attention.attention.query", "attention.q_proj")
            .replace("attention.attention.key", "attention.k_proj")
            .replace("attention.attention.value", "attention.v_proj")
            .replace("attention.output.dense", "attention.o_proj")
    };
    for name in ["llava-clip", "llava-dinov2", "llava-siglip", "paligemma"] {
        let dir = copy(name);
        rename(dir.path(), |old| Some(memory(old)));
        let out = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap().save(out.path(), Float::F16).unwrap();
        let read = |dir: &Path| {
            let files = TensorFiles::open_dir(dir, "model").unwrap();
            files.names().map(|n| (n.to_owned(), files.read(n).unwrap())).collect::<Vec<_>>()
        };
        assert!(read(out.path()) == read(&golden(name)), "{name}");
    }
    let dir = copy("smolvlm");
    rename(dir.path(), |old| Some(old.strip_prefix("model.").unwrap_or(old).to_owned()));
    open(dir.path()).unwrap();
}

#[test]
fn one_tensor_under_two_names_is_refused() {
    let dir = copy("llava-clip");
    let files = TensorFiles::open_dir(dir.path(), "model").unwrap();
    let name = "multi_modal_projector.linear_1.bias";
    let shape = files.shape(name).unwrap().to_vec();
    let twice = [name.to_owned(), format!("model.{name}")];
    let specs = twice.map(|name| TensorSpec { name, shape: shape.clone() });
    let value = files.read(name).unwrap();
    let file = dir.path().join("model.safetensors");
    write_tensors(&file, Float::F16, &[], &specs, &mut |_| value.clone()).unwrap();
    let message = one_line(&open(dir.path()).unwrap_err());
    assert!(message.contains("is another name of"), "{message}");
}

#[test]
fn a_folder_computes_what_its_writer_computed() {
    let logits = |name: &str, version: Option<&str>| {
        let dir = copy(name);
        if let Some(version) = version {
            change(dir.path(), "config.json", |config| {
                config["transformers_version"] = json!(version);
            });
        }
        let folder = open(dir.path()).unwrap();
        let prepared = folder.prepare("What?", &[picture()]).unwrap();
        folder.model.logits(&prepared).unwrap()
    };
    // PaliGemma 2's logits are bent, but not by versions 4.52 to 4.57, of which the folder is.
    let (straight, bent) = (logits("paligemma2", None), logits("paligemma2", Some("5.0.0")));
    let apart = ((straight / 2.0).tanh() * 2.0 - bent).abs().max().into_scalar::<f32>();
    assert!(apart < 1e-6, "{apart}");
    // Idefics 3 has other positions in 4.55 to 4.57.
    let (here, there) = (logits("idefics3", None), logits("idefics3", Some("4.57.6")));
    assert!((here - there).abs().max().into_scalar::<f32>() > 1e-3);
}
