//! What holds for every method on every family.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_encoders::{TextModel, Weights};
use vlm_fusion::GenerativeFolder;
use vlm_fusion::task::{Row, Seen};
use vlm_nn::four_bit::FourBitConfig;
use vlm_nn::{adapter, params};
use vlm_peft::{
    Adapter, AnyMethod, Base, Bottleneck, DyLora, Eas, Error, Form, Ia3, Lora, LoraFa, LoraPlus,
    Memvp, Prefix, PrefixStart, Prompt, Shape, Sight, attach, attached, detach, load, merge, save,
};
use vlm_store::Float;
use vlm_train::{AdamW, Grads, OptimConfig, Optimizer};

/// A method, whether it begins without any effect, and whether weights can take it up.
struct Case {
    name: &'static str,
    method: AnyMethod,
    rests: bool,
    merges: bool,
    /// Whether the model has weights of four bits.
    packed: bool,
}

fn cases() -> Vec<Case> {
    let lora = || Lora { r: 4, ..Default::default() };
    let narrow = |form| AnyMethod::Bottleneck(Bottleneck { form, size: 3, ..Default::default() });
    let case = |name, method, rests, merges| Case { name, method, rests, merges, packed: false };
    vec![
        case("lora", AnyMethod::Lora(lora()), true, true),
        case("rslora", AnyMethod::Lora(Lora { rslora: true, ..lora() }), true, true),
        case("dora", AnyMethod::Lora(Lora { dora: true, ..lora() }), true, true),
        case(
            "lora-plus",
            AnyMethod::LoraPlus(LoraPlus { lora: lora(), ..Default::default() }),
            true,
            true,
        ),
        case("lora-fa", AnyMethod::LoraFa(LoraFa { lora: lora() }), true, true),
        case(
            "dylora",
            AnyMethod::Dylora(DyLora { lora: lora(), ..Default::default() }),
            true,
            true,
        ),
        Case { packed: true, ..case("qlora", AnyMethod::Lora(lora()), true, true) },
        Case {
            packed: true,
            ..case("qdora", AnyMethod::Lora(Lora { dora: true, ..lora() }), true, true)
        },
        case("ia3", AnyMethod::Ia3(Ia3::default()), true, true),
        case("series", narrow(Form::Series), true, false),
        case("pfeiffer", narrow(Form::Pfeiffer), true, false),
        case("parallel", narrow(Form::Parallel), true, false),
        case(
            "prefix",
            AnyMethod::Prefix(Prefix { tokens: 3, start: PrefixStart::Zero }),
            false,
            false,
        ),
        case("prompt", AnyMethod::Prompt(Prompt { tokens: 2, ..Default::default() }), false, false),
        case("eas", eas(vec![1], true), false, false),
        case("eas without a router", eas(vec![0], false), false, false),
        case("memvp", memvp(true, 0), false, false),
        case("memvp, each block its own", memvp(false, 0), false, false),
        case("memvp, the tower too", memvp(true, 3), false, false),
    ]
}

fn eas(layers: Vec<usize>, router: bool) -> AnyMethod {
    AnyMethod::Eas(Eas { layers, router, size: 4, dropout: 0.0, ..Default::default() })
}

/// For a model that sees 16 rows of 16 values of a picture.
fn memvp(shared: bool, tower_size: usize) -> AnyMethod {
    let sight = Some(Sight { width: 16, rows: 16, blocks: 2 });
    let slots = Some(18);
    AnyMethod::Memvp(Memvp {
        slots,
        size: 6,
        dropout: 0.0,
        shared,
        tower_size,
        sight,
        lambda: 0.5,
        ..Default::default()
    })
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let count = x.dims().iter().product::<usize>();
    x.reshape([count])
}

fn floats(x: Tensor<1>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

/// All values of a model's own weights, those of four bits as they are stored.
fn own<M: Module>(model: &M) -> BTreeMap<String, Vec<u8>> {
    let mut values = BTreeMap::new();
    let (plain, all) = adapter::take(model.clone());
    params::read(&plain, &mut |path, data| {
        values.insert(path.to_owned(), data.iter::<f32>().flat_map(f32::to_le_bytes).collect());
    });
    for (path, adapters) in all {
        let Some(packed) = adapters.packed else { continue };
        values.insert(path, packed.to_host().packed);
    }
    values
}

/// The model with four bits in all maps of its blocks.
fn packed<M: Module>(model: M) -> M {
    let source = model.clone();
    let packed = adapter::pack(model, &mut |path, [input, output]| {
        let chosen = path.contains("stack.blocks.") && path.ends_with(".weight");
        let values = || -> Vec<f32> {
            let data = params::read_one(&source, path);
            assert_eq!(data.shape().to_vec(), [input, output]);
            Tensor::<2>::from_data(data, &Device::flex()).transpose().into_data().iter().collect()
        };
        Ok::<_, ()>(chosen.then(|| FourBitConfig::default().quantise(&values())))
    });
    packed.unwrap()
}

fn trained<M: Module>(model: M, say: &dyn Fn(&M) -> Tensor<1>, steps: usize) -> M {
    let config = OptimConfig { lr: 0.02, weight_decay: 0.0, clip: 0.0, ..Default::default() };
    let mut rule = AdamW::new(config, &Device::flex());
    (0..steps).fold(model, |model, _| {
        let said = say(&model);
        let mut grads = Grads::default();
        grads.add((said.clone() * said).sum().backward(), &model, 1.0);
        rule.step(model, &mut grads, 0.02, 1.0)
    })
}

fn hold<M: Module>(
    family: &str,
    model: &M,
    names: &dyn Fn(&str, usize) -> Option<String>,
    say: &dyn Fn(&M) -> Tensor<1>,
) {
    for Case { name, method, rests, merges, packed: four_bit } in cases() {
        let case = format!("{family} {name}");
        // It is the model of pictures and text that knows of it.
        if name.starts_with("memvp") && family != "llava" {
            continue;
        }
        let base = if four_bit { packed(model.clone()) } else { model.clone() };
        let (before, values) = (floats(say(&base)), own(&base));
        let (adapted, adapter) = match attach(base.clone(), "one", &method, None, names, 1) {
            Ok(both) => both,
            // Pictures have no tokens that a prompt could stand before.
            Err(Error::NoTarget { .. }) if family == "clip" && name == "prompt" => continue,
            Err(error) => panic!("{case}: {error}"),
        };
        let start = floats(say(&adapted));
        let same = apart(&start, &before) < 1e-5;
        assert!(same == rests, "{case}: at the start {}", apart(&start, &before));

        // Only what the method lists gets a gradient, and all of it does.
        let said = say(&adapted);
        let grads = (said.clone() * said).sum().backward();
        let mut mine = 0;
        for param in params::list(&adapted) {
            let inside = adapter::is_inside(&param.path);
            let last = param.path.rsplit('.').next().unwrap();
            assert_eq!(
                param.trainable,
                inside && method.get().trains(last),
                "{case} {}",
                param.path
            );
            mine += usize::from(param.trainable);
        }
        assert!(mine > 0, "{case}");
        let mut taken = Grads::default();
        taken.add(grads, &adapted, 1.0);
        let (_, norms) = taken.norms(&adapted);
        assert!(norms.len() <= mine, "{case}: {} gradients of {mine}", norms.len());

        let adapted = trained(adapted, say, 3);
        assert!(own(&adapted) == values, "{case}: training changed the model itself");
        let after = floats(say(&adapted));
        assert!(apart(&after, &before) > 1e-4, "{case}: learned nothing");

        check_files(&case, &base, (&adapted, &adapter), names, say);
        match merge(adapted.clone(), &adapter) {
            Ok(merged) => {
                assert!(merges, "{case} was merged");
                let merged = floats(say(&merged));
                assert!(apart(&merged, &after) < 1e-4, "{case} merged: {}", apart(&merged, &after));
            }
            Err(Error::Unmergeable { .. }) => assert!(!merges, "{case} cannot be merged"),
            Err(error) => panic!("{case}: {error}"),
        }
        let bare = detach(adapted, "one").unwrap();
        assert!(attached(&bare).is_empty());
        assert!(floats(say(&bare)) == before, "{case}: something is left of it");
    }
}

/// What is written and read again says the same.
fn check_files<M: Module>(
    case: &str,
    base: &M,
    (adapted, adapter): (&M, &Adapter),
    names: &dyn Fn(&str, usize) -> Option<String>,
    say: &dyn Fn(&M) -> Tensor<1>,
) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("adapter");
    let shape = Shape { layers: 2, heads: 4, kv_heads: 2 };
    let about = Base { text: Some(shape), ..Base::default() };
    save(adapted, adapter, &about, &dir, Float::F32).unwrap();
    let (again, _) = load(base.clone(), "again", &dir, names, &device())
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(floats(say(&again)) == floats(say(adapted)), "{case} is another once it is read again");
}

fn tokens(vocabulary: i64) -> Tensor<2, Int> {
    let ids: Vec<i64> = (0..14).map(|i| (7 * (i / 7) + 5 * (i % 7) + 3) % vocabulary).collect();
    Tensor::from_data(TensorData::new(ids, [2, 7]), &device())
}

fn pixels(rows: usize, side: usize) -> Tensor<4> {
    let count = rows * 3 * side * side;
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, 3, side, side]), &device())
}

#[test]
fn llava() {
    let dir = golden("vlm-fusion/tests/golden/generative/llava-clip");
    let folder = GenerativeFolder::open(&dir, &Device::flex()).unwrap();
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    let image = folder.plan.spec.image_token;
    hold("llava", &folder.model.clone().train(), &names, &|model| {
        let pictures = if model.memory().is_some() { 0 } else { 16 };
        let places = std::iter::repeat_n(image, pictures);
        let ids: Vec<i64> = [3, 8].into_iter().chain(places).chain([20, 21, 22]).collect();
        let count = ids.len();
        let row = Row {
            ids,
            positions: (0..count).collect(),
            part: vec![0; count],
            // The last four, which each model has.
            answers: (count - 4..count).map(|place| (place, 0)).collect(),
            shared: 0,
        };
        let states = model.look_at(pixels(1, 16));
        flat(
            model
                .foretell(&[row], Some(Seen { states, size: (16, 16), of_rows: vec![1] }), None)
                .unwrap(),
        )
    });
}

fn text(name: &str) -> (impl Fn(&str, usize) -> Option<String>, TextModel) {
    let dir = golden("vlm-encoders/tests/golden/encoders").join(name);
    match Weights::open(&dir, &Device::flex()).unwrap() {
        Weights::Text(plan, model) => {
            (move |path: &str, rank: usize| Some(plan.named(path, rank).name), model)
        }
        _ => panic!("{name} is no text model"),
    }
}

#[test]
fn llama() {
    let (names, model) = text("llama");
    hold("llama", &model.train(), &names, &|model| {
        flat(model.text.logits(model.text.states(tokens(40), None, None, false).last))
    });
}

#[test]
fn bert() {
    let (names, model) = text("bert");
    hold("bert", &model.train(), &names, &|model| {
        flat(model.text.states(tokens(40), None, None, false).last)
    });
}

#[test]
fn clip() {
    let dir = golden("vlm-encoders/tests/golden/encoders/clip-vision");
    let Weights::Vision(plan, model) = Weights::open(&dir, &Device::flex()).unwrap() else {
        panic!("no vision model")
    };
    let side = plan.spec.image.0;
    let names = |path: &str, rank: usize| Some(plan.named(path, rank).name);
    hold("clip", &model.train(), &names, &|model| {
        flat(model.features(&model.vision.states(pixels(2, side), false)))
    });
}
