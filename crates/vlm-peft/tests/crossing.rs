//! Attentions that look at something else than their own rows, skipped like others: in models that have both.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_encoders::NewDecoder;
use vlm_encoders::image::load;
use vlm_fusion::decode::{Decode, Sampling, generate};
use vlm_fusion::fuse::FusionConfig;
use vlm_fusion::task::{Row, Seen};
use vlm_fusion::{Assembly, GenerativeFolder, GenerativeModel};
use vlm_nn::params::{self, Init};
use vlm_peft::{Adapter, AnyMethod, Base, Eas, attach, fold, load as load_adapter, save};
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};

/// Two gates before two blocks; a picture's stream of two layers and a text's of one; a Q-Former of two layers, of
/// which the first looks.
const KINDS: [(&str, usize, usize); 3] = [
    (
        r#"{"kind": "gated", "every": 1, "heads": 2, "head_dim": 4, "inner": 2,
        "resampler": {"latents": 3, "layers": 1, "heads": 2, "head_dim": 4}}"#,
        2,
        2,
    ),
    (r#"{"kind": "co-attention", "width": 8, "layers": 2, "heads": 2, "inner": 12}"#, 6, 3),
    (
        r#"{"kind": "q-former", "queries": 3, "width": 8, "layers": 2, "heads": 2, "inner": 12}"#,
        3,
        1,
    ),
];

fn golden(name: &str) -> PathBuf {
    let folder = "../vlm-fusion/tests/golden/generative";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name)
}

/// The folder of the image tower of a LLaVA folder.
fn tower(dir: &Path) -> PathBuf {
    let llava = golden("llava-dinov2");
    let config = std::fs::read_to_string(llava.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let files = TensorFiles::open_dir(&llava, "model").unwrap();
    let dir = dir.join("vision");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("config.json"), config["vision_config"].to_string()).unwrap();
    let images = "preprocessor_config.json";
    std::fs::copy(llava.join(images), dir.join(images)).unwrap();
    let prefix = "vision_tower.";
    let specs: Vec<TensorSpec> = (files.names().filter_map(|name| name.strip_prefix(prefix)))
        .map(|name| TensorSpec {
            name: name.to_owned(),
            shape: files.shape(&format!("{prefix}{name}")).unwrap().to_vec(),
        })
        .collect();
    let mut read = |name: &str| files.read(&format!("{prefix}{name}")).unwrap();
    write_tensors(&dir.join("model.safetensors"), Float::F32, &[], &specs, &mut read).unwrap();
    dir
}

/// A model of a kind whose gates stand open, and whose other weights are anything.
fn assembled(vision: &Path, kind: &str) -> GenerativeFolder {
    let fusion: FusionConfig = serde_json::from_str(kind).unwrap();
    let decoder =
        NewDecoder { width: 16, layers: 2, heads: 2, inner: None, vocabulary: 300, context: 64 };
    let assembly =
        Assembly { language: None, decoder: Some(decoder), fusion, ..Assembly::new(vision, "") };
    let texts = ["What color is the star?", "red", "How many?"].map(str::to_owned);
    let mut folder = assembly.assemble(texts.into_iter(), 3, &Device::flex()).unwrap();
    folder.model = filled(folder.model, |path| !path.starts_with("vision."));
    folder
}

fn filled(model: GenerativeModel, is_one: impl Fn(&str) -> bool) -> GenerativeModel {
    let fill = &mut |path: &str, shape: &[usize]| {
        let init = match path.rsplit('.').next() {
            Some("gate1" | "gate2") => Init::Constant(0.7),
            Some("weight") if shape.len() == 1 => return Ok(None),
            _ => Init::Normal(0.3),
        };
        Ok::<_, ()>(is_one(path).then(|| params::drawn(init, shape, 5, path)))
    };
    params::replace(model, fill).unwrap()
}

fn eas(layers: Vec<usize>, router: bool) -> AnyMethod {
    AnyMethod::Eas(Eas { layers, router, size: 4, dropout: 0.0, ..Default::default() })
}

fn hung(folder: &GenerativeFolder, method: &AnyMethod) -> (GenerativeModel, Adapter) {
    let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
    attach(folder.model.clone().train(), "one", method, None, &names, 1).unwrap()
}

/// The same with an adapter whose values are all anything.
fn adapted(folder: &GenerativeFolder, method: &AnyMethod) -> (GenerativeModel, Adapter) {
    let (model, adapter) = hung(folder, method);
    (filled(model, |path| path.contains(".adapters.parts.")), adapter)
}

/// What a model makes of a question about a picture.
fn foretold(folder: &GenerativeFolder, model: &GenerativeModel) -> Tensor<1> {
    let prepared = folder.prepare("How many?", &[load(&golden("wide.png")).unwrap()]).unwrap();
    let ids = prepared.ids().to_vec();
    let count = ids.len();
    let row = Row {
        ids,
        positions: (0..count).collect(),
        part: vec![0; count],
        answers: (count - 4..count).map(|place| (place, 0)).collect(),
        shared: 0,
    };
    let size = folder.images.output_size().unwrap();
    let values: Vec<f32> = (0..3 * size.0 * size.1).map(|i| (i as f32 * 0.37).sin()).collect();
    let pixels =
        Tensor::from_data(TensorData::new(values, [1, 3, size.0, size.1]), &model.device());
    let seen = Seen { states: model.look_at(pixels), size, of_rows: vec![1] };
    let said = model.foretell(&[row], Some(seen), None).unwrap();
    let count = said.dims().iter().product::<usize>();
    said.reshape([count])
}

fn host(x: Tensor<1>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// Those of the decoder come first, by its blocks.
#[test]
fn all_attentions_of_stacks_that_look_across_may_be_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let vision = tower(dir.path());
    for (kind, fusion, across) in KINDS {
        let folder = assembled(&vision, kind);
        let all: Vec<usize> = (0..2 + fusion).collect();
        let (_, adapter) = hung(&folder, &eas(all, true));
        let AnyMethod::Eas(eas) = &adapter.method else { panic!("eas") };
        let crosses = adapter.sites.iter().filter(|site| site.path.ends_with(".cross.q.weight"));
        assert_eq!(crosses.count(), across, "{kind}");
        for (number, block) in [(0, "text.stack.blocks.0"), (1, "text.stack.blocks.1")] {
            let path = format!("{block}.attention.q.weight");
            assert_eq!(eas.found.number(&path), Some(number), "{kind}");
        }
        let numbers: BTreeSet<_> =
            adapter.sites.iter().map(|site| eas.found.number(&site.path)).collect();
        assert_eq!(numbers.len(), 2 + fusion, "{kind}");
    }
}

#[test]
fn what_is_skipped_changes_nothing_but_what_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let vision = tower(dir.path());
    for (kind, fusion, _) in KINDS {
        let folder = assembled(&vision, kind);
        for skipped in [vec![0], vec![2], vec![1 + fusion], (0..2 + fusion).collect()] {
            let case = format!("{kind}, {skipped:?} skipped");
            let method = eas(skipped, true);
            let (model, adapter) = adapted(&folder, &method);

            // All that trains gets a gradient.
            let said = foretold(&folder, &model);
            let grads = (said.clone() * said).sum().backward();
            let mut taken = vlm_train::Grads::default();
            taken.add(grads, &model, 1.0);
            let trains: Vec<_> =
                params::list(&model).into_iter().filter(|param| param.trainable).collect();
            let (_, norms) = taken.norms(&model);
            assert_eq!(norms.len(), trains.len(), "{case}");

            // Written and read again it is the same.
            let out = dir.path().join("adapter");
            let model = model.valid();
            save(&model, &adapter, &Base::default(), &out, Float::F32).unwrap();
            let names = |path: &str, rank: usize| folder.plan.in_memory(path, rank);
            let (again, _) =
                load_adapter(folder.model.clone(), "again", &out, &names, &Device::flex())
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(host(foretold(&folder, &again)), host(foretold(&folder, &model)), "{case}");
            std::fs::remove_dir_all(&out).unwrap();

            // Cached or not, alone or beside another.
            let prepared: Vec<_> =
                [("wide.png", "How many?"), ("tall.png", "What color is it? red")]
                    .into_iter()
                    .map(|(name, text)| {
                        folder.prepare(text, &[load(&golden(name)).unwrap()]).unwrap()
                    })
                    .collect();
            let say = |rows: &[vlm_fusion::Prepared], cached| -> Vec<Vec<i64>> {
                let prompt = model.prompt(rows).unwrap();
                let sampling = Sampling { max_tokens: 12, cached, ..Default::default() };
                let mut quiet = |_: usize, _: i64| ControlFlow::Continue(());
                let all = generate(&model, &prompt, &sampling, &mut quiet).unwrap();
                all.into_iter().map(|one| one.ids).collect()
            };
            let both = say(&prepared, true);
            assert_eq!(both, say(&prepared, false), "{case}: without a cache");
            for (row, said) in both.iter().enumerate() {
                assert_eq!(*said, say(&prepared[row..=row], true)[0], "{case}: alone");
            }
        }
    }
}

/// A text hears of its own pictures, and of none before the first.
#[test]
fn a_skipped_gate_hears_of_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let folder = assembled(&tower(dir.path()), KINDS[0].0);
    let (model, _) = adapted(&folder, &eas(vec![2, 3], false));
    let model = model.valid();
    let logits = |name: &str, text: &str| -> Vec<Vec<f32>> {
        let prepared = folder.prepare(text, &[load(&golden(name)).unwrap()]).unwrap();
        let logits = model.logits(&prepared).unwrap();
        let width = logits.dims()[1];
        let all: Vec<f32> = logits.into_data().iter().collect();
        all.chunks(width).map(<[f32]>::to_vec).collect()
    };
    let text = "red<image> How many?";
    let (wide, tall) = (logits("wide.png", text), logits("tall.png", text));
    let same: Vec<bool> = wide.iter().zip(&tall).map(|(a, b)| a == b).collect();
    let first = same.iter().position(|same| !same).unwrap();
    assert!(first > 0, "no token stands before the picture");
    assert!(same[first..].iter().all(|same| !same), "{same:?}");
}

/// What stands in place of the decoder's own attention is taken up, the rest stays as it is.
#[test]
fn folded_is_unfolded() {
    let dir = tempfile::tempdir().unwrap();
    let vision = tower(dir.path());
    for (kind, fusion, _) in KINDS {
        let folder = assembled(&vision, kind);
        let (model, adapter) = adapted(&folder, &eas((0..2 + fusion).collect(), false));
        let model = model.valid();
        let blocks = &folder.plan.spec.text.blocks[0];
        let folded = fold(model.clone(), &adapter, blocks).unwrap();
        let (a, b) = (host(foretold(&folder, &model)), host(foretold(&folder, &folded)));
        let largest = a.iter().fold(1f32, |most, x| most.max(x.abs()));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5 * largest, "{kind}: {a} and, folded, {b}");
        }
    }
}
