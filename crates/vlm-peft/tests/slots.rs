//! What stands in place of an attention, in front of one and beside a feed-forward, against the formulas written
//! down anew in PyTorch (xtask/golden/slots.py).

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use vlm_nn::adapter::{
    self, Adapters, Bottleneck, Bypass, Grouped, Map, Memory, Named, NormOf, Part, Place,
    Propagation, Skips,
};
use vlm_nn::ops::MASKED;
use vlm_nn::params::{self, PathStack};
use vlm_nn::{Activation, Block, BlockConfig, Cache, NormKind, NormPlace, Pass};
use vlm_store::TensorFiles;

const WIDTH: usize = 8;

struct Golden {
    files: TensorFiles,
    case: String,
}

impl Golden {
    fn of(case: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/slots");
        let files = TensorFiles::open_file(&dir.join("expected.safetensors")).unwrap();
        Golden { files, case: case.to_owned() }
    }

    fn read(&self, name: &str) -> TensorData {
        self.files.read(&format!("{}.{name}", self.case)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.files.shape(&format!("{}.{name}", self.case)).is_some()
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.read(name), &device())
    }

    /// As we have it: maps the other way round, those in groups by group. `start` is empty or `grad.`.
    fn turned(&self, start: &str, name: &str) -> TensorData {
        let data = self.read(&format!("{start}{name}"));
        let shape = data.shape().to_vec();
        match shape[..] {
            [out, input] if is_grouped(name) => {
                let x = Tensor::<2>::from_data(data, &Device::flex());
                x.reshape([2, out / 2, input]).swap_dims(1, 2).into_data()
            }
            [_, _] => Tensor::<2>::from_data(data, &Device::flex()).transpose().into_data(),
            _ => data,
        }
    }

    fn param<const D: usize>(&self, name: &str) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(self.turned("", name), &device()).require_grad())
    }
}

fn is_grouped(name: &str) -> bool {
    ["bypass.up", "bypass.other", "front.up", "front.other"]
        .iter()
        .any(|start| name.starts_with(start))
        && name.ends_with("weight")
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() < 1e-5 * largest, "{what}[{i}]: {g} and {w}");
    }
}

fn block(golden: &Golden, gated: bool) -> Block {
    let config = BlockConfig {
        width: WIDTH,
        heads: 2,
        inner: 12,
        gated,
        causal: gated,
        activation: if gated { Activation::Silu } else { Activation::Gelu },
        norm: if gated { NormKind::Rms } else { NormKind::Layer },
        qkv_bias: !gated,
        out_bias: !gated,
        bias: !gated,
        ..Default::default()
    };
    let block = Block::new(&config, &device());
    params::replace(block, &mut |path, _| Ok::<_, ()>(Some(golden.turned("", path)))).unwrap()
}

fn propagation(golden: &Golden, kind: &str) -> Propagation {
    let map = |name: &str| Map {
        weight: golden.param(&format!("{kind}.{name}.weight")),
        bias: golden.param(&format!("{kind}.{name}.bias")),
    };
    let grouped = |name: &str| Grouped {
        weight: golden.param(&format!("{kind}.{name}.weight")),
        bias: golden.param(&format!("{kind}.{name}.bias")),
    };
    let has = |name: &str| golden.has(&format!("{kind}.{name}.weight"));
    Propagation {
        global: has("global").then(|| map("global")),
        local: map("local"),
        up: grouped("up"),
        other: has("other").then(|| grouped("other")),
        router: has("router").then(|| map("router")),
        scale: 0.8,
        temperature: 3.0,
        dropout: 0.0,
        norm: match golden.case.starts_with("renormed") {
            true => NormOf::FeedForward,
            false => NormOf::Attention,
        },
    }
}

/// Compares the gradients of everything in a model that the file has.
fn gradients<M: Module>(golden: &Golden, model: &M, grads: &Gradients) -> usize {
    struct Compare<'a> {
        stack: PathStack,
        golden: &'a Golden,
        grads: &'a Gradients,
        found: usize,
    }
    impl ModuleVisitor for Compare<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.stack.path();
            let name = path
                .replace("attention.q.weight.adapters.parts.0.part.Bypass.instead", "bypass")
                .replace("attention.q.weight.adapters.parts.0.part.Bypass.front", "front")
                .replace("cross.q.weight.adapters.parts.0.part.Bypass.instead", "bypass")
                .replace("cross.q.weight.adapters.parts.0.part.Bypass.front", "front")
                .replace(
                    "feed_forward.up.weight.adapters.parts.0.part.Bottleneck.down",
                    "fc1.weight",
                )
                .replace("feed_forward.up.weight.adapters.parts.0.part.Bottleneck.up", "fc2.weight")
                .replace("first.", "fc1.")
                .replace("second.", "fc2.")
                .replace("keys", "emb1")
                .replace("values", "emb2");
            if !self.golden.has(&format!("grad.{name}")) {
                return;
            }
            let grad =
                param.base().grad(self.grads).unwrap_or_else(|| panic!("{path}: no gradient"));
            let want: Vec<f32> = self.golden.turned("grad.", &name).iter().collect();
            close(&format!("{} grad {name}", self.golden.case), &host(grad), &want);
            self.found += 1;
        }
    }
    let mut compare = Compare { stack: PathStack::default(), golden, grads, found: 0 };
    model.visit(&mut compare);
    compare.found
}

fn hang(block: Block, at: &str, part: Part) -> Block {
    let named = Named { name: "one".into(), active: true, part };
    let adapters = Adapters { parts: vec![named], packed: None };
    adapter::put(block, [(at.to_owned(), adapters)].into())
}

/// Where ways past attentions hang.
const QUERIES: &str = "attention.q.weight";

#[test]
fn attentions_are_skipped_as_the_paper_has_it() {
    for (gated, kind) in [(true, "gated"), (false, "plain")] {
        for (case, front) in [
            (format!("skipped-{kind}"), false),
            (format!("skipped-{kind}-bare"), false),
            (format!("renormed-{kind}"), false),
            (format!("renormed-{kind}-bare"), false),
            (format!("kept-{kind}"), true),
        ] {
            let golden = Golden::of(&case);
            let said = propagation(&golden, if front { "front" } else { "bypass" });
            let (instead, front) = if front { (None, Some(said)) } else { (Some(said), None) };
            let part = Bypass { instead, front, folded: None, layer: 0, skips: None };
            let block = hang(block(&golden, gated), QUERIES, Part::Bypass(part));
            let x = golden.tensor::<3>("x").require_grad();
            let y = block.forward(x.clone(), None);
            let want: Vec<f32> = golden.read("y").iter().collect();
            close(&case, &host(y.clone()), &want);
            let grads = ((y.clone() * y).sum() * 0.5).backward();
            let wanted: Vec<f32> = golden.read("grad.x").iter().collect();
            close(&format!("{case} grad x"), &host(x.grad(&grads).unwrap()), &wanted);
            let found = gradients(&golden, &block, &grads);
            assert!(found >= 10, "{case}: {found} gradients");

            // In a pass, at once and token by token, it is the same.
            let x = x.inner();
            let block = block.valid();
            let at_once = block.extend(x.clone(), 0, &mut Pass::new());
            close(&format!("{case} in a pass"), &host(at_once), &want);
            if !gated {
                continue;
            }
            let mut cache = Cache::new();
            let parts: Vec<Tensor<3>> = [0..2, 2..3, 3..4, 4..5]
                .into_iter()
                .map(|tokens| {
                    let some = x.clone().narrow(1, tokens.start, tokens.len());
                    block.extend(some, 0, &mut Pass::new().with_cache(&mut cache))
                })
                .collect();
            close(&format!("{case} by token"), &host(Tensor::cat(parts, 1)), &want);
            if !case.starts_with("kept") {
                // A sum and a number for each text, after the first pass and after the last.
                let values = if case.ends_with("bare") { 6 } else { 6 + WIDTH };
                assert_eq!(cache.bytes(), 2 * 2 * 4 * (values + 1), "{case}");
            }
            // Cut back to where the first pass ended, it goes on as if the rest had not been.
            assert_eq!(cache.truncate(3), 2);
            let rest =
                block.extend(x.clone().narrow(1, 2, 3), 0, &mut Pass::new().with_cache(&mut cache));
            let whole = golden.tensor::<3>("y").inner().narrow(1, 2, 3);
            close(&format!("{case} cut back"), &host(rest), &host(whole));
        }
    }
}

#[test]
fn attentions_to_others_are_skipped_as_meter_has_it() {
    let config = BlockConfig {
        width: WIDTH,
        heads: 2,
        inner: 12,
        activation: Activation::Gelu,
        place: NormPlace::Post,
        cross_width: Some(6),
        ..Default::default()
    };
    // Of the second text the last two rows of the other stream are padding.
    let mask = [[0.0; 4], [0.0, 0.0, MASKED, MASKED]].concat();
    let mask = Tensor::<3>::from_data(TensorData::new(mask, [2, 1, 4]), &device());
    for (case, front) in [("across", false), ("across-bare", false), ("asked", true)] {
        let golden = Golden::of(case);
        let said = propagation(&golden, if front { "front" } else { "bypass" });
        let (instead, front) = if front { (None, Some(said)) } else { (Some(said), None) };
        let part = Bypass { instead, front, folded: None, layer: 0, skips: None };
        let block = Block::new(&config, &device());
        let block =
            params::replace(block, &mut |path, _| Ok::<_, ()>(Some(golden.turned("", path))))
                .unwrap();
        let block = hang(block, "cross.q.weight", Part::Bypass(part));
        let x = golden.tensor::<3>("x").require_grad();
        let context = golden.tensor::<3>("context").require_grad();
        let other = Some((context.clone(), Some(mask.clone())));
        let y = block.forward_cross(x.clone(), None, other);
        let want: Vec<f32> = golden.read("y").iter().collect();
        close(case, &host(y.clone()), &want);
        let grads = ((y.clone() * y).sum() * 0.5).backward();
        for (name, grad) in
            [("x", host(x.grad(&grads).unwrap())), ("context", host(context.grad(&grads).unwrap()))]
        {
            let want: Vec<f32> = golden.read(&format!("grad.{name}")).iter().collect();
            close(&format!("{case} grad {name}"), &grad, &want);
        }
        assert!(gradients(&golden, &block, &grads) >= 20, "{case}");
    }
}

#[test]
fn a_switch_decides_between_two() {
    let golden = Golden::of("skipped-gated");
    let other = Golden::of("kept-gated");
    let skips = Skips::default();
    let part = Bypass {
        instead: Some(propagation(&golden, "bypass")),
        front: Some(propagation(&other, "front")),
        folded: None,
        layer: 3,
        skips: Some(skips.clone()),
    };
    let x = golden.tensor::<3>("x");
    let block = |golden: &Golden| hang(block(golden, true), QUERIES, Part::Bypass(part.clone()));
    skips.set([3]);
    let want: Vec<f32> = golden.read("y").iter().collect();
    close("skipped", &host(block(&golden).forward(x, None)), &want);
    skips.set([2]);
    let want: Vec<f32> = other.read("y").iter().collect();
    close("kept", &host(block(&other).forward(other.tensor("x"), None)), &want);
}

#[test]
fn pictures_are_remembered_as_the_paper_has_it() {
    for (gated, kind) in [(true, "gated"), (false, "plain")] {
        let golden = Golden::of(&format!("memory-{kind}"));
        let map = |name: &str| Map {
            weight: golden.param(&format!("{name}.weight")),
            bias: golden.param(&format!("{name}.bias")),
        };
        let memory = Memory {
            first: map("fc1"),
            second: map("fc2"),
            keys: golden.param("emb1"),
            values: golden.param("emb2"),
            lambda: 0.6,
            scale: 0.7,
            dropout: 0.0,
        };
        let block = block(&golden, gated);
        let x = golden.tensor::<3>("x").require_grad();
        let picture = golden.tensor::<2>("picture").require_grad();
        let entries = memory.entries(&[Some(picture.clone()), None], &device());
        let y = block.extend(x.clone(), 0, &mut Pass::new().with_memory(Some(&entries)));
        let want: Vec<f32> = golden.read("y").iter().collect();
        close(kind, &host(y.clone()), &want);
        let grads = ((y.clone() * y).sum() * 0.5).backward();
        for (name, grad) in
            [("x", host(x.grad(&grads).unwrap())), ("picture", host(picture.grad(&grads).unwrap()))]
        {
            let want: Vec<f32> = golden.read(&format!("grad.{name}")).iter().collect();
            close(&format!("{kind} grad {name}"), &grad, &want);
        }
        assert_eq!(gradients(&golden, &memory, &grads), 6);
        assert!(gradients(&golden, &block, &grads) >= 8);
    }
}

#[test]
fn feed_forwards_of_a_tower_have_narrow_ones_beside_them() {
    for (gated, kind) in [(true, "gated"), (false, "plain")] {
        let golden = Golden::of(&format!("beside-{kind}"));
        let part = Part::Bottleneck(Bottleneck {
            down: golden.param("fc1.weight"),
            up: golden.param("fc2.weight"),
            activation: Activation::Gelu,
            scale: 0.6,
            place: Place::Around,
            dropout: 0.0,
        });
        let block = hang(block(&golden, gated), "feed_forward.up.weight", part);
        let x = golden.tensor::<3>("x").require_grad();
        let y = block.forward(x.clone(), None);
        let want: Vec<f32> = golden.read("y").iter().collect();
        close(kind, &host(y.clone()), &want);
        let grads = ((y.clone() * y).sum() * 0.5).backward();
        let wanted: Vec<f32> = golden.read("grad.x").iter().collect();
        close(&format!("{kind} grad x"), &host(x.grad(&grads).unwrap()), &wanted);
        assert!(gradients(&golden, &block, &grads) >= 10);
    }
}
