//! Adapters on a stack of blocks: what holds for every method.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vlm_nn::{Block, BlockConfig, Stack, params};
use vlm_peft::{
    AnyMethod, Bottleneck, DyLora, Error, Form, Ia3, Lora, LoraFa, LoraPlus, Start, Targets,
    attach, attached, detach, merge, own_names, sites, switch, train_only,
};

fn device() -> Device {
    Device::flex().autodiff()
}

fn stack() -> Stack {
    let config = BlockConfig { width: 16, heads: 4, inner: 24, ..Default::default() };
    params::initialize(Stack::new(&config, 2, &device()), 7, &|_, _| params::Init::Normal(0.3))
}

fn x() -> Tensor<3> {
    let row: Vec<f32> = (0..5 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::<1>::from_floats(&row[..], &device()).reshape([1, 5, 16])
}

fn said(stack: &Stack) -> Vec<f32> {
    stack.forward(x(), None).into_data().iter().collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// Every method, and the maps that it hangs on here.
fn methods() -> Vec<(AnyMethod, Targets)> {
    let lora = || Lora { r: 4, ..Default::default() };
    let attention = || Targets::of(&["attention.q", "attention.v"]);
    let inner = || Targets::of(&["feed_forward.up", "feed_forward.down"]);
    let ia3 = Ia3 { feedforward: Targets::of(&["down"]) };
    let narrow = |form| Bottleneck { form, size: 3, ..Default::default() };
    vec![
        (AnyMethod::Lora(lora()), attention()),
        (AnyMethod::Lora(Lora { rslora: true, ..lora() }), Targets::all()),
        (AnyMethod::Lora(Lora { dora: true, ..lora() }), inner()),
        (AnyMethod::LoraPlus(LoraPlus { lora: lora(), ..Default::default() }), attention()),
        (AnyMethod::LoraFa(LoraFa { lora: lora() }), Targets::all()),
        (AnyMethod::Dylora(DyLora { lora: lora(), ..Default::default() }), attention()),
        (AnyMethod::Ia3(ia3), Targets::of(&["k", "v", "down"])),
        (AnyMethod::Bottleneck(narrow(Form::Series)), inner()),
        (AnyMethod::Bottleneck(narrow(Form::Parallel)), attention()),
    ]
}

fn with(method: &AnyMethod, targets: &Targets) -> (Stack, vlm_peft::Adapter) {
    attach(stack(), "one", method, Some(targets), &own_names, 1).unwrap()
}

/// Moves every value that trains.
fn moved(stack: Stack) -> Stack {
    let trains: Vec<String> = params::list(&stack)
        .into_iter()
        .filter(|param| param.trainable)
        .map(|param| param.path)
        .collect();
    let mut old = std::collections::BTreeMap::new();
    params::read(&stack, &mut |path, data| {
        old.insert(path.to_owned(), data);
    });
    let moved = params::replace(stack, &mut |path, shape| {
        let values = trains.iter().any(|trained| trained == path).then(|| {
            let wave = |(i, x): (usize, f32)| x + 0.1 * (i as f32).cos();
            let values: Vec<f32> = old[path].iter::<f32>().enumerate().map(wave).collect();
            burn::tensor::TensorData::new(values, shape.to_vec())
        });
        Ok::<_, Error>(values)
    });
    moved.unwrap()
}

#[test]
fn a_method_begins_without_effect_and_trains_what_it_says() {
    let before = said(&stack());
    for (method, targets) in methods() {
        let name = method.get().name();
        let (adapted, adapter) = with(&method, &targets);
        assert!(close(&said(&adapted), &before), "{name} is no identity at first");
        let adapted = moved(adapted);
        assert!(!close(&said(&adapted), &before), "{name} has no effect");
        let grads = adapted.forward(x(), None).powf_scalar(2.0).sum().backward();
        for param in params::list(&adapted) {
            let inside = param.path.contains(".adapters.");
            let last = param.path.rsplit('.').next().unwrap();
            let trains = inside && method.get().trains(last);
            assert_eq!(param.trainable, trains, "{name} {}", param.path);
        }
        let mut got = burn::optim::GradientsParams::from_grads(grads, &adapted);
        for param in params::list(&adapted).into_iter().filter(|param| param.trainable) {
            let there = match param.shape.len() {
                1 => got.remove::<1>(param.id).is_some(),
                _ => got.remove::<2>(param.id).is_some(),
            };
            assert!(there, "{name}: no gradient for {}", param.path);
        }
        assert!(got.is_empty(), "{name}: a gradient for what is locked");
        assert!(
            adapter
                .sites
                .iter()
                .all(|site| params::list(&stack()).iter().any(|p| p.path == site.path))
        );
    }
}

#[test]
fn merged_says_the_same_and_detached_is_as_before() {
    let before = said(&stack());
    for (method, targets) in methods() {
        let name = method.get().name();
        let (adapted, adapter) = with(&method, &targets);
        let adapted = moved(adapted);
        match merge(adapted.clone(), &adapter) {
            Ok(merged) => {
                assert!(close(&said(&merged), &said(&adapted)), "{name}");
                assert_eq!(attached(&merged), [""; 0]);
            }
            Err(error) => {
                assert!(matches!(method, AnyMethod::Bottleneck(_)), "{name}: {error}");
                assert!(error.to_string().contains("cannot be merged"), "{error}");
            }
        }
        assert_eq!(said(&detach(adapted, "one").unwrap()), before, "{name}");
    }
}

#[test]
fn several_stand_by_name_and_those_count_that_are_chosen() {
    let lora = AnyMethod::Lora(Lora { r: 2, ..Default::default() });
    let (one, _) = with(&lora, &Targets::of(&["q"]));
    let one = moved(one);
    let alone = said(&one);
    let narrow = AnyMethod::Bottleneck(Bottleneck { size: 3, ..Default::default() });
    let (two, second) =
        attach(one, "two", &narrow, Some(&Targets::of(&["q", "down"])), &own_names, 2).unwrap();
    assert_eq!(attached(&two), ["one", "two"]);
    let two = moved(two);
    let both = said(&two);
    assert!(!close(&both, &alone));
    let first_only = switch(two.clone(), &["one"]).unwrap();
    assert!(close(&said(&first_only), &alone));
    assert!(close(&said(&switch(two.clone(), &[]).unwrap()), &said(&stack())));
    assert!(close(&said(&switch(first_only, &["one", "two"]).unwrap()), &both));
    let trains = |stack: &Stack| {
        params::list(stack).iter().filter(|param| param.trainable).map(|param| param.len()).sum()
    };
    let of_second: usize = trains(&train_only(two.clone(), &second).unwrap());
    assert_eq!(of_second, trains(&two));
    let error = switch(two, &["three"]).unwrap_err().to_string();
    assert!(error.contains("no adapter `three`; it has one, two"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |method: AnyMethod, targets: &Targets| {
        attach(stack(), "one", &method, Some(targets), &own_names, 1).unwrap_err().to_string()
    };
    let all = Targets::all();
    let lora = |r| AnyMethod::Lora(Lora { r, ..Default::default() });
    assert!(refused(lora(0), &all).contains("r is 0"));
    let error = refused(lora(17), &all);
    assert!(error.contains("r is 17, but `blocks.0.attention.q` has only 16"), "{error}");
    let error = refused(lora(2), &Targets::of(&["q_proj"]));
    assert!(error.contains("fits `q_proj`; near are q"), "{error}");
    let (one, _) = with(&lora(2), &all);
    let again = attach(one, "one", &lora(2), None, &own_names, 1).unwrap_err().to_string();
    assert!(again.contains("already has an adapter `one`"), "{again}");
}

#[test]
fn settings_are_read_as_they_are_written() {
    let lora: AnyMethod =
        serde_json::from_str(r#"{ "method": "lora", "r": 4, "dora": true }"#).unwrap();
    assert_eq!(lora.get().name(), "dora");
    let plus: AnyMethod =
        serde_json::from_str(r#"{ "method": "lora-plus", "ratio": 4.0, "r": 2 }"#).unwrap();
    let AnyMethod::LoraPlus(plus) = plus else { panic!("{plus:?}") };
    assert_eq!((plus.ratio, plus.lora.r, plus.lora.alpha), (4.0, 2, 8.0));
    let narrow = r#"{ "method": "bottleneck", "form": "parallel", "start": "bert" }"#;
    let AnyMethod::Bottleneck(narrow) = serde_json::from_str(narrow).unwrap() else { panic!() };
    assert_eq!((narrow.form, narrow.start), (Form::Parallel, Start::Bert));
    for wrong in [r#"{ "method": "lora", "rank": 4 }"#, r#"{ "method": "lora-fa", "rank": 4 }"#] {
        assert!(serde_json::from_str::<AnyMethod>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn linear_maps_are_found_with_their_widths() {
    let all = sites(&stack(), &own_names);
    assert_eq!(all.len(), 12);
    let up = all.iter().find(|site| site.module == "blocks.1.feed_forward.up").unwrap();
    assert_eq!((up.input, up.output, up.bias), (16, 24, true));
    // A block alone is a model too.
    let config = BlockConfig { width: 8, heads: 2, inner: 8, bias: false, ..Default::default() };
    let block = Block::new(&config, &Device::flex()).no_grad();
    assert_eq!(sites(&block, &own_names).iter().filter(|site| !site.bias).count(), 2);
}
