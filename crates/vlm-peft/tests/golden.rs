//! Adapters against peft (xtask/golden/adapters.py).

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use serde_json::{Map, Value};
use vlm_encoders::{Blueprint, TextModel, TextSpec, Weights};
use vlm_fusion::GenerativeFolder;
use vlm_fusion::task::{Row, Seen};
use vlm_nn::adapter::{self, Part};
use vlm_nn::params::{self, PathStack};
use vlm_peft::{Adapter, Base, Error, Shape, load, merge, save};
use vlm_store::{Float, TensorFiles};
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer};

const METHODS: [&str; 6] = ["lora", "rslora", "dora", "ia3", "prefix", "prompt"];
/// Those with tensors of the model beside them, by family.
const BESIDE: [(&str, &str); 4] = [
    ("llava", "lora-saved"),
    ("llama", "ia3-saved"),
    ("bert", "lora-biases"),
    ("clip", "lora-biases"),
];
/// Heads, key/value heads and blocks of the parts that read text.
const SHAPE: Shape = Shape { layers: 2, heads: 4, kv_heads: 2 };

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapters")
}

/// What goes into a model and comes out of it.
struct Expected(TensorFiles, Vec<u8>);

impl Expected {
    fn open(dir: &Path) -> Self {
        let path = dir.join("expected.safetensors");
        Expected(TensorFiles::open_file(&path).unwrap(), std::fs::read(&path).unwrap())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.read(name).unwrap().iter().collect()
    }

    fn ids(&self) -> (Vec<i64>, [usize; 2]) {
        let tensors = safetensors::SafeTensors::deserialize(&self.1).unwrap();
        let view = tensors.tensor("input_ids").unwrap();
        let values = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        (values, [view.shape()[0], view.shape()[1]])
    }

    fn tokens(&self) -> Tensor<2, Int> {
        let (ids, shape) = self.ids();
        Tensor::from_data(TensorData::new(ids, shape), &device())
    }

    fn pixels(&self) -> Tensor<4> {
        Tensor::from_data(self.0.read("pixel_values").unwrap(), &device())
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let count = x.dims().iter().product::<usize>();
    x.reshape([count])
}

fn close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-4 * largest, "{what}: {a} and {b} of {largest}");
    }
}

/// The values of an adapter's parts by peft's names, as peft lies them out.
fn stored<M: Module>(
    model: &M,
    adapter: &Adapter,
    grads: Option<&Gradients>,
) -> Vec<(String, Vec<f32>)> {
    let matrix = |x: Tensor<2>| -> Vec<f32> {
        let x = match grads {
            Some(grads) => x.grad(grads).unwrap_or_else(|| x.zeros_like().inner()),
            None => x.inner(),
        };
        x.transpose().into_data().iter().collect()
    };
    let vector = |x: Tensor<1>| -> Vec<f32> {
        let x = match grads {
            Some(grads) => x.grad(grads).unwrap_or_else(|| x.zeros_like().inner()),
            None => x.inner(),
        };
        x.into_data().iter().collect()
    };
    let (_, all) = adapter::take(model.clone());
    let (mut found, mut rows) = (Vec::new(), Vec::new());
    for site in &adapter.sites {
        let name = |end: &str| format!("base_model.model.{}.{end}", site.module);
        match &all[&site.path].parts[0].part {
            Part::LowRank(part) => {
                found.push((name("lora_A.weight"), matrix(part.a.val())));
                found.push((name("lora_B.weight"), matrix(part.b.val())));
                if let Some(magnitude) = &part.magnitude {
                    found.push((name("lora_magnitude_vector"), vector(magnitude.val())));
                }
            }
            Part::Scale(part) => found.push((name("ia3_l"), vector(part.factors.val()))),
            Part::Bottleneck(_) => unreachable!("peft has none"),
            Part::Rows(part) => rows.push((part.rows.val(), matrix(part.rows.val()))),
            Part::Bypass(_) | Part::Memory(_) => unreachable!("peft has no such method"),
        }
    }
    found.extend(whole(model, adapter, grads));
    if !rows.is_empty() {
        // One tensor, a row each: the keys of the first block, its values, the keys of the second.
        let tokens = rows[0].0.dims()[0];
        let value = |i: usize| rows.iter().flat_map(move |(_, x)| x.iter().skip(i).step_by(tokens));
        let all = (0..tokens).flat_map(|i| value(i).copied().collect::<Vec<f32>>()).collect();
        found.push(("prompt_embeddings".to_owned(), all));
    }
    found
}

/// The same of the tensors of the model that train beside it.
fn whole<M: Module>(
    model: &M,
    adapter: &Adapter,
    grads: Option<&Gradients>,
) -> Vec<(String, Vec<f32>)> {
    struct Finder<'a>(PathStack, &'a Adapter, Option<&'a Gradients>, Vec<(String, Vec<f32>)>);
    impl ModuleVisitor for Finder<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.0.path();
            let Some(whole) = self.1.whole.iter().find(|whole| whole.path == path) else { return };
            let value = match self.2 {
                Some(grads) => {
                    let param = param.val();
                    param.grad(grads).unwrap_or_else(|| param.zeros_like().inner())
                }
                None => param.val().inner(),
            };
            let values = whole.other_way(value.into_data()).iter().collect();
            self.3.push((format!("base_model.model.{}", whole.name), values));
        }
    }
    let mut finder = Finder(PathStack::default(), adapter, grads, Vec::new());
    model.visit(&mut finder);
    finder.3
}

/// All values of a model's own weights.
fn own<M: Module>(model: &M) -> Vec<f32> {
    let mut values = Vec::new();
    params::read(&adapter::take(model.clone()).0, &mut |_, data| values.extend(data.iter::<f32>()));
    values
}

fn agrees<M: Module>(
    family: &str,
    model: &M,
    names: &dyn Fn(&str, usize) -> Option<String>,
    say: &dyn Fn(&M, &Expected) -> Tensor<1>,
) {
    let has = |method: &&&str| match family {
        // peft has no rows in front of pictures.
        "clip" => !method.starts_with('p'),
        "four-bit" => **method == "lora",
        _ => true,
    };
    let beside = BESIDE.iter().filter(|(of, _)| *of == family).map(|(_, method)| method);
    for method in METHODS.iter().filter(has).chain(beside) {
        let case = format!("{family}-{method}");
        let dir = golden().join(&case);
        let expected = Expected::open(&dir);
        let plain = own(model);
        let (mut adapted, adapter) = load(model.clone(), "default", &dir, names, &device())
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        let said = say(&adapted, &expected);
        close(&case, &floats(said.clone()), &expected.floats("said"));
        match merge(adapted.clone(), &adapter) {
            // Merged, it says the same.
            Ok(merged) => close(
                &format!("{case} merged"),
                &floats(say(&merged, &expected)),
                &expected.floats("said"),
            ),
            Err(error) => assert!(method.starts_with('p'), "{case}: {error}"),
        }
        let written = tempfile::tempdir().unwrap();
        let written = written.path().join("adapter");
        let shape = if family == "bert" { Shape { kv_heads: 4, ..SHAPE } } else { SHAPE };
        let base = Base { text: Some(shape), ..Base::default() };
        save(&adapted, &adapter, &base, &written, Float::F32).unwrap();
        same_files(&case, &written, &dir);

        let grads = (said.clone() * said * 0.5).sum().backward();
        for (name, ours) in stored(&adapted, &adapter, Some(&grads)) {
            // It changes no attention: its gradient is 0 but for rounding.
            if name.ends_with(".key.bias") {
                continue;
            }
            close(&format!("{case} grad {name}"), &ours, &expected.floats(&format!("grad.{name}")));
        }
        let config = OptimConfig {
            lr: 0.01,
            betas: [0.9, 0.98],
            // As xtask/golden/adapters.py says.
            eps: if BESIDE.contains(&(family, method)) { 1.0 } else { 1e-6 },
            weight_decay: 0.0,
            clip: 0.0,
            ..Default::default()
        };
        let mut rule = AdamW::new(config, &Device::flex());
        for _ in 0..5 {
            let said = say(&adapted, &expected);
            let mut grads = Grads::default();
            grads.add((said.clone() * said * 0.5).sum().backward(), &adapted, 1.0);
            adapted = rule.step(adapted, &mut grads, 0.01, 1.0);
        }
        for (name, ours) in stored(&adapted, &adapter, None) {
            close(
                &format!("{case} after {name}"),
                &ours,
                &expected.floats(&format!("after.{name}")),
            );
        }
        let put_back = adapter.put_back(adapted);
        assert!(own(&put_back) == plain, "{case}: training changed the model itself");
    }
}

fn floats(x: Tensor<1>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// The tensors are the same to the bit, and the fields those of peft.
fn same_files(case: &str, ours: &Path, theirs: &Path) {
    let open = |dir: &Path| TensorFiles::open_file(&dir.join("adapter_model.safetensors")).unwrap();
    let (a, b) = (open(ours), open(theirs));
    let names = |files: &TensorFiles| -> Vec<(String, Vec<usize>)> {
        files.names().map(|n| (n.to_owned(), files.shape(n).unwrap().to_vec())).collect()
    };
    assert_eq!(names(&a), names(&b), "{case}");
    assert!(b.names().all(|name| a.read(name).unwrap() == b.read(name).unwrap()), "{case}");
    let config = |dir: &Path| -> Map<String, Value> {
        let text = std::fs::read(dir.join("adapter_config.json")).unwrap();
        let mut fields: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        // Lists of names are in no order there, and of whole names where a pattern catches the same.
        for key in ["target_modules", "feedforward_modules"] {
            if let Some(Value::Array(list)) = fields.get_mut(key) {
                list.sort_by_key(Value::to_string);
            }
        }
        // What peft knows of the Python class.
        fields.remove("auto_mapping");
        fields.remove("base_model_name_or_path");
        fields.remove("task_type");
        fields
    };
    assert_eq!(config(ours), config(theirs), "{case}");
}

#[test]
fn llava() {
    speaking("llava", "generative/llava-clip");
}

/// LoRA on weights of four bits: QLoRA.
#[test]
fn four_bit() {
    speaking("four-bit", "four_bit/nf4");
}

fn speaking(family: &str, model: &str) {
    let dir = crates().join("vlm-fusion/tests/golden").join(model);
    let folder = GenerativeFolder::open(&dir, &Device::flex()).unwrap();
    let model = folder.model.clone().train();
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    agrees(family, &model, &names, &|model, expected| {
        let (ids, [_, count]) = expected.ids();
        let row = Row {
            ids,
            positions: (0..count).collect(),
            part: vec![0; count],
            answers: (0..count).map(|place| (place, 0)).collect(),
            shared: 0,
        };
        let states = model.look_at(expected.pixels());
        flat(
            model
                .foretell(&[row], Some(Seen { states, size: (16, 16), of_rows: vec![1] }), None)
                .unwrap(),
        )
    });
}

/// A text model among the goldens of the encoders.
fn text(name: &str) -> (Blueprint<TextSpec>, TextModel) {
    let dir = crates().join("vlm-encoders/tests/golden/encoders").join(name);
    match Weights::open(&dir, &Device::flex()).unwrap() {
        Weights::Text(plan, model) => (plan, model),
        _ => panic!("{name} is no text model"),
    }
}

#[test]
fn llama() {
    let (plan, model) = text("llama");
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    agrees("llama", &model.train(), &names, &|model, expected| {
        let said = model.text.states(expected.tokens(), None, None, false);
        flat(model.text.logits(said.last))
    });
}

#[test]
fn bert() {
    let (plan, model) = text("bert");
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    agrees("bert", &model.train(), &names, &|model, expected| {
        flat(model.text.states(expected.tokens(), None, None, false).last)
    });
}

#[test]
fn clip() {
    let dir = crates().join("vlm-encoders/tests/golden/encoders/clip-vision");
    let Weights::Vision(plan, model) = Weights::open(&dir, &Device::flex()).unwrap() else {
        panic!("no vision model")
    };
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    agrees("clip", &model.train(), &names, &|model, expected| {
        flat(model.features(&model.vision.states(expected.pixels(), false)))
    });
}

#[test]
fn an_adapter_for_another_model_says_what_differs() {
    let (plan, model) = text("llama");
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    let dir = golden().join("llava-lora");
    let error = load(model, "default", &dir, &names, &Device::flex()).unwrap_err();
    assert!(matches!(error, Error::Misfit { .. }), "{error}");
    assert!(error.to_string().contains("the model has no place for"), "{error}");
}

#[test]
fn a_tensor_that_the_configuration_does_not_speak_of_is_not_passed_over() {
    let (plan, model) = text("llama");
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    let from = golden().join("llama-dora");
    let dir = tempfile::tempdir().unwrap();
    let file = "adapter_model.safetensors";
    std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let config = config.replace("\"use_dora\": true", "\"use_dora\": false");
    std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    let error = load(model, "default", dir.path(), &names, &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("no place for"), "{error}");
    assert!(error.to_string().contains("lora_magnitude_vector"), "{error}");
}
